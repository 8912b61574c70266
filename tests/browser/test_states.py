"""What a page says when there is nothing live to show: empty, lost, unknown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import TOGETHER, recording
from tests.browser.house import House

pytestmark = TOGETHER

STARTS = "node => node.component.bars.rows.map(row => row.start)"


@pytest.fixture
def house(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as made:
        yield made


def test_no_connection_then_empty_then_filled_all_in_words_and_by_itself(page: Page, house: House):
    house.show()
    for path in ("", "feeds", "history", "sql", "chart"):
        page.goto(f"{house.dashboard}/{path}")
        expect(page.get_by_text("No connection to the house.")).to_be_visible()
        expect(page.get_by_test_id("stException")).to_have_count(0)
    house.serve()
    expect(page.get_by_text("The house is empty.")).to_be_visible()
    house.replay(recording(house.folder))
    expect(page.locator(".canvas table")).to_be_visible(timeout=60_000)
    expect(page.locator(".legend .C")).not_to_have_text("–")


def test_unknown_symbol_is_said_and_a_near_one_named(page: Page, recorded: House):
    page.goto(f"{recorded.dashboard}/chart?symbol=SLOV-USD")
    expect(page.get_by_text("Unknown symbol.")).to_be_visible()
    expect(page.get_by_text("Did you mean SLOW-USD?")).to_be_visible()
    page.get_by_text("Show the symbols it has").click()
    expect(page.locator("tbody tr")).to_have_count(1)


def test_lost_connection_is_said_and_comes_back_without_a_hole(page: Page, live: House):
    page.goto(f"{live.dashboard}/chart?symbol=BTC-USD")
    expect(page.locator(".state.live")).to_be_visible()
    live.stop("serve")
    expect(page.locator(".state.lost")).to_contain_text("connection lost")
    expect(page.locator(".house.stale")).to_be_visible()
    live.serve()
    expect(page.locator(".state.live")).to_be_visible(timeout=90_000)
    expect(page.locator(".house.stale")).to_have_count(0)
    said = page.locator(".tape ol").inner_text()
    expect(page.locator(".tape ol")).not_to_have_text(said)
    starts = page.locator(".house").evaluate(STARTS)
    assert starts == list(range(starts[0], starts[-1] + 1, 60_000_000))


def test_dashboard_that_was_restarted_is_found_again(page: Page, live: House):
    page.goto(f"{live.dashboard}/chart?symbol=BTC-USD")
    expect(page.locator(".state.live")).to_be_visible()
    live.stop("dashboard")
    expect(page.locator(".state.lost")).to_be_visible()
    live.show()
    expect(page.locator(".state.live")).to_be_visible(timeout=90_000)


OPEN, CLOSED = {"connected": True, "market": None}, {"connected": True, "market": "closed"}


@pytest.mark.parametrize(
    ("age_s", "feeds", "says"),
    [
        (5, [OPEN], "live"),
        (200, [OPEN], "no trade for 3 min · feed connected"),
        (200, [], "no trade for 3 min"),
        (200, [CLOSED, CLOSED], "market closed · last trade 3 min ago"),
        (200, [CLOSED, OPEN], "no trade for 3 min · feed connected"),
        (5, [CLOSED], "live"),
        (200, [{"connected": False, "market": "closed"}], "the feed is disconnected"),
    ],
)
def test_a_quiet_market_is_told_from_a_closed_one_and_from_a_feed_that_is_down(
    page: Page, recorded: House, age_s: int, feeds: list[dict[str, Any]], says: str
):
    page.goto(recorded.dashboard)
    words = page.evaluate(
        """async ([age, rows]) => {
          const { StateLine } = await import("/web/state.js");
          const line = new StateLine();
          line.connected({ state: "live" });
          line.traded((Date.now() / 1000 - age) * 1e6);
          line.feeds(rows);
          line.paint();
          line.close();
          return line.node.innerText || line.node.textContent;
        }""",
        [age_s, feeds],
    )
    assert words == says
