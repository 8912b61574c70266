"""The other pages: lists, feeds, history as it was known, SQL; on a phone, in the dark, by keyboard."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import DAY, MADE_LATE, TOGETHER
from tests.browser.house import House

pytestmark = TOGETHER

PATHS = ("", "chart", "feeds", "history", "sql")


def test_markets_are_searched_starred_and_opened(page: Page, live: House):
    page.goto(live.dashboard)
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(12)
    expect(page.locator(".state.live")).to_be_visible()
    said = rows.first.locator(".trades").inner_text()
    expect(rows.first.locator(".trades")).not_to_have_text(said)
    expect(rows.first.locator(".spark polyline")).to_have_attribute("points", re.compile(r"\d"))
    page.get_by_label("Search symbols").fill("doge")
    expect(rows).to_have_count(1)
    rows.get_by_label("watch SYNTHETIC:DOGE-USD").click()
    page.reload()
    expect(rows).to_have_count(12)
    expect(rows.first).to_contain_text("DOGE-USD")
    page.get_by_label("Search symbols").fill("nothing like it")
    expect(page.get_by_text("No symbol has “NOTHING LIKE IT” in its name.")).to_be_visible()
    page.get_by_label("Search symbols").fill("eth-usd")
    page.locator("tbody a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/chart?symbol=SYNTHETIC%3AETH-USD**")
    expect(page.get_by_label("Symbol")).to_have_value("ETH-USD  ·  SYNTHETIC")


def test_feeds_show_the_balance_and_each_instrument(page: Page, live: House):
    page.goto(f"{live.dashboard}/feeds")
    expect(page.locator("tbody tr")).to_have_count(12)
    expect(page.locator("td.feed.on").first).to_contain_text("synthetic")
    figures = page.locator(".figure strong")
    expect(figures.first).not_to_have_text("–")
    received, accepted, duplicate, rejected = (int(text.replace(",", "")) for text in figures.all_inner_texts())
    assert received == accepted + duplicate + rejected
    assert min(duplicate, rejected) > 0
    expect(figures.first).not_to_have_text(f"{received:,}")
    expect(page.locator(".off")).to_be_hidden()
    expect(page.get_by_text("new ids").first).to_be_visible()


def test_history_shows_a_day_as_it_was_known(page: Page, recorded: House):
    page.goto(f"{recorded.dashboard}/history?symbol=SLOW-USD&interval=1m")
    revised = f"node => node.component.bars?.rows.find(row => row.start === {DAY + MADE_LATE * 60_000_000})"
    expect(page.get_by_text("Each is a bar issued again").first).to_be_visible()
    bar = _ask(page, revised)
    assert (bar["revision"], bar["high"]) == (1, 250.0)
    page.get_by_text("As known at").click()
    instant = page.get_by_role("group", name="Instant (UTC)")
    expect(instant).to_be_visible()
    page.goto(f"{recorded.dashboard}/history?symbol=SLOW-USD&interval=1m&as_of=2026-01-15T01:03")
    expect(page.get_by_text("No 1m bar of this day was revised")).to_be_visible()
    bar = _ask(page, revised)
    assert bar["revision"] == 0
    assert bar["high"] < 110
    assert _ask(page, "node => node.component.bars?.rows.length") == MADE_LATE + 2, "later bars were not known then"


def _ask(page: Page, script: str) -> object:
    house = page.locator(".house")
    for _ in range(600):
        if (said := house.evaluate(script)) is not None:
            return said
        page.wait_for_timeout(50)
    raise AssertionError(script)


def test_sql_answers_in_a_table_and_as_a_file(page: Page, recorded: House, tmp_path: Path):
    page.goto(f"{recorded.dashboard}/sql")
    page.get_by_text("Newest bars").click()
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()
    expect(page.get_by_text("100 rows in")).to_be_visible()
    _run(page, "SELECT symbol, count(*) AS n FROM silver.trades GROUP BY 1")
    expect(page.get_by_text("1 row in")).to_be_visible()
    with page.expect_download() as file:
        page.get_by_role("button", name="CSV", exact=True).click()
    file.value.save_as(tmp_path / "result.csv")
    assert (tmp_path / "result.csv").read_text().split() == ["symbol,n", "SLOW-USD,3001"]


@pytest.mark.parametrize("question", ["DROP TABLE gold.bars", "SELECT * FROM read_csv('/etc/passwd')", "SELECT nonsense"])
def test_sql_that_is_refused_says_why(page: Page, recorded: House, question: str):
    page.goto(f"{recorded.dashboard}/sql")
    _run(page, question)
    expect(page.get_by_test_id("stAlert")).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def _run(page: Page, question: str) -> None:
    page.get_by_label("One SELECT, in DuckDB's SQL").fill(question)
    page.keyboard.press("Control+Enter")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phone_and_follows_the_scheme(browser: Browser, live: House, path: str, scheme: str):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)
    page = context.new_page()
    page.goto(f"{live.dashboard}/{path}")
    what = {"sql": page.get_by_label("One SELECT, in DuckDB's SQL"), "history": page.locator(".canvas table")}
    expect(what.get(path, page.locator(".state.live"))).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = "nodes => nodes.filter(node => node.getBoundingClientRect().right > 391).map(node => node.outerHTML.slice(0, 200))"
    assert page.locator(".house > *").evaluate_all(wide) == []
    colour = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", colour)[:3])) > 600) is (scheme == "light")
    context.close()


def test_what_has_the_keyboard_is_seen(page: Page, live: House):
    page.goto(live.dashboard)
    page.get_by_label("Search symbols").focus()
    page.keyboard.press("Tab")
    outline = (
        "() => { const node = document.activeElement.shadowRoot.activeElement; return getComputedStyle(node).outlineStyle }"
    )
    assert page.evaluate(outline) == "solid"
