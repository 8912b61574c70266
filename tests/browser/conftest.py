"""A browser, and houses to look at with it. One worker runs all of these tests: they share what takes long to start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.house import House

expect.set_options(timeout=90_000)
TOGETHER = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(480)]
"""The marks of every module here."""
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DAY = 1_768_435_200_000_000
"""2026-01-15 00:00 UTC, when the recording begins."""
MINUTES = 1_000
MADE_LATE = 60
"""The minute that a late trade changes."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the test that waits for a minute after the others of its module, beside which the minute passes."""
    places = [place for place, item in enumerate(items) if item.path == Path(__file__).with_name("test_chart.py")]
    ordered = sorted((items[place] for place in places), key=lambda item: "over_a_minute" in item.name)
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


@pytest.fixture(scope="package")
def chromium() -> str:
    """Where the browser is."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no chromium here; on Debian: apt-get install chromium")
    return found


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    """The browser; not beyond this package, because Playwright keeps an event loop running that other tests would meet."""
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield found
        found.close()


@contextmanager
def opened(browser: Browser) -> Iterator[Page]:
    """A page that fails whoever leaves it if a script failed, or if anything was asked of another host."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, color_scheme="light", reduced_motion="reduce")
    made = context.new_page()
    made.set_default_timeout(90_000)
    made.set_default_navigation_timeout(90_000)
    failed: list[str] = []
    made.on("pageerror", lambda error: failed.append(str(error)))
    made.on("request", lambda asked: None if _is_here(asked.url) else failed.append(f"asked elsewhere: {asked.url}"))
    yield made
    context.close()
    assert failed == []


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page for one test."""
    with opened(browser) as made:
        yield made


def _is_here(address: str) -> bool:
    return address.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:http://127.0.0.1:"))


@pytest.fixture(scope="package")
def live(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house that is being written, with a few faults in its feed."""
    with House(tmp_path_factory.mktemp("live")) as house:
        house.run(rate=100, duplicates=0.01, late=0.01, gaps=0.005, malformed=0.01)
        house.serve()
        house.show()
        house.wait_for_trades()
        yield house


@pytest.fixture(scope="package")
def recorded(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house of a recording: 1,000 minutes of one symbol, with a trade that comes five minutes late."""
    folder = tmp_path_factory.mktemp("recorded")
    with House(folder) as house:
        house.replay(recording(folder))
        house.serve()
        house.show()
        house.wait(f"{house.api}/v1/symbols", lambda body: "SLOW-USD" in body)
        yield house


def recording(folder: Path) -> Path:
    """Write it; return where."""
    lines = []
    for minute in range(MINUTES):
        for second in (5, 25, 45):
            ts = DAY + minute * 60_000_000 + second * 1_000_000
            lines.append({"price": 100 + minute % 50 / 10 + second / 100, "size": 1 + second / 10, "ts": ts})
        if minute == MADE_LATE + 5:
            lines.append({"price": 250.0, "size": 9.0, "ts": DAY + MADE_LATE * 60_000_000 + 50_000_000})
    file = folder / "slow.ndjson"
    named = ({"venue": "TEST", "symbol": "SLOW-USD", "trade_id": f"t{place}", **line} for place, line in enumerate(lines))
    file.write_text("".join(json.dumps(line) + "\n" for line in named))
    return file
