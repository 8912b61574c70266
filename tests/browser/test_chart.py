"""The chart page moves with the market, keeps what the reader has set, and costs the server no script."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Page, WebSocket, expect

from tests.browser.conftest import MINUTES, TOGETHER, opened
from tests.browser.house import House

pytestmark = TOGETHER

VIEW = "node => ({ ...node.component.bars.chart.timeScale().getVisibleLogicalRange(), bars: node.component.bars.rows.length })"
ROWS = "node => node.component.bars?.rows.length"
UPDATES = "node => node.component.updates"


def open_chart(page: Page, house: House, more: str = "") -> None:
    """Open the page and wait until it is live."""
    page.goto(f"{house.dashboard}/chart{more}")
    expect(page.locator(".state.live")).to_be_visible()
    expect(page.locator(".tape li .price").first).to_be_visible()


def part(page: Page, script: str) -> Any:
    """Ask the component."""
    return page.locator(".house").evaluate(script)


def until(page: Page, script: str, wanted: Callable[[Any], bool], within_s: float = 60) -> Any:
    """Ask the component until it says what is wanted."""
    ends = time.monotonic() + within_s
    while not wanted(said := part(page, script)):
        assert time.monotonic() < ends, f"{script} is {said}"
        page.wait_for_timeout(50)
    return said


def wait_for_updates(page: Page, count: int) -> None:
    """Wait until the component was told of so many changes."""
    before = part(page, UPDATES)
    until(page, UPDATES, lambda updates: updates >= before + count)


class Zoomed(NamedTuple):
    """A page on which a reader has zoomed and panned, and what was in view then."""

    page: Page
    at: float
    chosen: dict[str, float]
    updates: int


@pytest.fixture(scope="module", autouse=True)
def zoomed(browser: Browser, live: House) -> Iterator[Zoomed]:
    """Opened before the tests, so that its minute passes beside them."""
    with opened(browser) as page:
        open_chart(page, live)
        box = page.locator(".canvas").bounding_box()
        assert box
        page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 3)
        before = part(page, VIEW)
        for _ in range(3):
            page.mouse.wheel(0, -300)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] / 3, steps=5)
        page.mouse.up()
        page.wait_for_timeout(1000)  # the library lets a pan glide to its end
        chosen = part(page, VIEW)
        assert chosen["to"] - chosen["from"] < (before["to"] - before["from"]) * 0.9
        yield Zoomed(page, time.monotonic(), chosen, part(page, UPDATES))


def test_bars_and_tape_move_within_two_seconds_of_being_there(page: Page, live: House):
    open_chart(page, live)
    canvas, moved = page.locator(".canvas table"), []
    drawn = canvas.screenshot()
    for _ in range(3):  # the machine may be busy with other things for a moment
        began = time.monotonic()
        for changing in (page.locator(".tape ol"), page.locator(".legend .C")):
            said = changing.inner_text()
            expect(changing).not_to_have_text(said)
        moved.append(time.monotonic() - began)
    assert canvas.screenshot() != drawn
    assert min(moved) < 2.0


def test_trades_are_painted_soon_after_they_were_received(page: Page, live: House):
    """A bound for sanity; how fast it is, `bench/paint_latency.py` says."""
    open_chart(page, live, "?symbol=BTC-USD")
    page.evaluate("window.tickhousePaints = []")
    wait_for_updates(page, 200)
    frames = page.evaluate("window.tickhousePaints")
    ages = sorted(done - received / 1000 for messages, done in frames for received in messages)
    assert len(ages) > 20
    assert 0 < ages[len(ages) // 2] < 5000


def test_no_script_runs_for_a_tick(page: Page, live: House):
    frames: list[str] = []

    def watch(socket: WebSocket) -> None:
        if "_stcore/stream" in socket.url:
            socket.on("framereceived", lambda _: frames.append("from the server"))
            socket.on("framesent", lambda _: frames.append("to the server"))

    page.on("websocket", watch)
    open_chart(page, live)
    page.wait_for_load_state("networkidle")
    frames.clear()
    wait_for_updates(page, 200)
    assert frames == []


def test_indicators_and_intervals_are_those_of_the_house(page: Page, live: House):
    open_chart(page, live)
    house, catalogue = live.ask("house"), live.ask("indicators/catalogue")["rows"]
    for name in house["intervals"]:
        expect(page.get_by_test_id("stButtonGroup").get_by_text(name, exact=True)).to_be_visible()
    columns = [output["column"] for entry in catalogue for output in entry["outputs"]]
    assert part(page, "node => node.component.bars.lines.map(line => line.column)") == columns
    own = [entry for entry in catalogue if entry["pane"] == "own"]
    assert part(page, "node => node.component.bars.chart.panes().length") == 1 + len(own)
    page.get_by_test_id("stButtonGroup").get_by_text(own[0]["indicator"], exact=True).click()
    expect(page.locator(".legend .indicators .label", has_text=own[0]["indicator"])).to_have_count(0)
    assert part(page, "node => node.component.bars.chart.panes().length") == len(own)
    page.get_by_test_id("stButtonGroup").get_by_text("5m", exact=True).click()
    page.wait_for_url("**interval=5m**")
    expect(page.get_by_text("Indicators are computed on 1m only.")).to_be_visible()


def test_flagged_trades_are_listed_marked_and_brought_into_view(page: Page, live: House):
    live.wait(f"{live.api}/v1/anomalies?symbol=BTC-USD", lambda body: '"score"' in body)
    open_chart(page, live, "?symbol=BTC-USD")
    first = page.locator(".anomalies li button").first
    expect(first).to_contain_text("σ")
    until(page, "node => node.component.bars.markers.markers().length", lambda marks: marks > 0)
    first.click()
    expect(page.locator(".state.live")).to_be_visible()


def test_tape_is_held_while_pointed_at(page: Page, live: House):
    open_chart(page, live)
    page.locator(".tape").hover()
    expect(page.get_by_text("held while you point at it")).to_be_visible()
    said = page.locator(".tape ol").inner_text()
    wait_for_updates(page, 60)
    assert page.locator(".tape ol").inner_text() == said
    page.mouse.move(5, 5)
    expect(page.locator(".tape ol")).not_to_have_text(said)


def test_older_bars_come_when_one_scrolls_back(page: Page, recorded: House):
    page.goto(f"{recorded.dashboard}/chart?symbol=SLOW-USD")
    until(page, ROWS, lambda rows: rows in (500, 501))  # with the open bar
    newest = part(page, "node => node.component.bars.rows.at(-1).start")
    part(page, "node => node.component.bars.chart.timeScale().setVisibleLogicalRange({ from: 5, to: 105 })")
    until(page, ROWS, lambda rows: rows >= MINUTES - 1)
    rows = part(page, "node => node.component.bars.rows.map(row => row.start)")
    assert rows == sorted(set(rows))
    assert rows[-1] == newest
    kept = part(page, VIEW)
    assert abs((kept["to"] - kept["from"]) - 100) < 1
    assert kept["from"] > 400, "what was in view stays in view"


def test_a_house_that_nobody_writes_is_not_called_live(page: Page, recorded: House):
    page.goto(f"{recorded.dashboard}/chart?symbol=SLOW-USD")
    expect(page.locator(".state.quiet")).to_contain_text("nobody writes this house")
    expect(page.locator(".state.live")).to_have_count(0)


def test_zoom_and_pan_are_kept_over_a_minute_of_updates(zoomed: Zoomed):
    page, chosen = zoomed.page, zoomed.chosen
    page.wait_for_timeout(max(0.0, zoomed.at + 60 - time.monotonic()) * 1000)
    until(page, UPDATES, lambda updates: updates >= zoomed.updates + 300)
    last = page.locator(".legend .C").inner_text()
    expect(page.locator(".legend .C")).not_to_have_text(last)  # it is painted, not only told of
    kept = part(page, VIEW)
    more = kept["bars"] - chosen["bars"]
    assert more > 0, "a bar began meanwhile"
    assert abs((kept["to"] - kept["from"]) - (chosen["to"] - chosen["from"])) < 1e-6
    assert min(abs(kept["from"] - chosen["from"] - moved) for moved in range(int(more) + 1)) < 1e-6, "by whole bars, if at all"
