"""Makes the pictures of the dashboard in docs/images, from a real run of the synthetic market; `make screenshots` runs it."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browser.house import House

IMAGES = Path(__file__).parent / "images"
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
MINUTES = 4
"""How long the market runs before: enough for bars of a second to fill the chart."""


def take(browser: Browser, house: House, name: str, path: str, scheme: str, size: dict[str, int]) -> None:
    """Take one picture."""
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"{house.dashboard}/{path}")
    if path == "sql":
        page.get_by_text("Newest bars").click()
        expect(page.get_by_test_id("stDataFrame")).to_be_visible()
        page.wait_for_timeout(1000)
    elif path.startswith("history"):
        expect(page.locator(".canvas table")).to_be_visible()
    else:
        expect(page.locator(".state.live")).to_be_visible()
    if path == "":
        star(page, "BTC-USD", "SOL-USD")
    page.mouse.move(1, 1)
    page.wait_for_timeout(2500)
    page.screenshot(path=IMAGES / f"{name}.png")
    context.close()


def star(page: Page, *symbols: str) -> None:
    """Put some instruments on the watchlist."""
    for symbol in symbols:
        page.get_by_label(f"watch SYNTHETIC:{symbol}", exact=True).click()


def main() -> None:
    """Run the market, take the pictures."""
    expect.set_options(timeout=60_000)
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no chromium here; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder, House(Path(folder)) as house, sync_playwright() as playwright:
        house.run(intervals=("1s", "1m", "5m", "15m", "1h", "1d"), rate=60, duplicates=0.002, late=0.002, malformed=0.001)
        house.serve()
        house.show()
        house.wait_for_trades()
        print(f"the market runs for {MINUTES} minutes first", flush=True)
        time.sleep(MINUTES * 60)
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        chart = "chart?symbol=BTC-USD&interval=1s"
        for name, path, scheme, size in (
            ("chart-light", chart, "light", DESKTOP),
            ("chart-dark", chart, "dark", DESKTOP),
            ("markets-light", "", "light", DESKTOP),
            ("markets-dark", "", "dark", DESKTOP),
            ("feeds-light", "feeds", "light", DESKTOP),
            ("history-dark", "history?symbol=BTC-USD&interval=1s", "dark", DESKTOP),
            ("sql-light", "sql", "light", DESKTOP),
            ("chart-phone", chart, "dark", PHONE),
            ("markets-phone", "", "light", PHONE),
        ):
            take(browser, house, name, path, scheme, size)
            print(f"{name}.png {(IMAGES / f'{name}.png').stat().st_size // 1024} kB", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
