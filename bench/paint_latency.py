"""How live the screen is: from receiving a trade to the frame that shows it, in a real Chromium, through the whole house.

A synthetic market runs into a house; the API follows it, the dashboard relays, the chart page is open. Measured in the page,
for every message on the trade channel: `received_at` of its newest trade to the end of the animation frame that painted it, on
the clock of one machine. Beside it: what the dashboard's relay adds (the same messages, from the API itself and through it),
how long after opening the page moves, and whether zoom is kept over all updates.

`python bench/paint_latency.py --rate 1000 --seconds 60` prints percentiles and writes .bench/paint_latency.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import ClientSession
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browser.house import House

PERCENTILES = (50, 90, 99, 100)
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
RANGE = "node => node.component.bars.chart.timeScale().getVisibleLogicalRange()"
KEPT = Path(".bench")
BEHIND_US = 1_000_000


def painted(page: Page, house: House, seconds: float) -> dict[str, Any]:
    """Open the chart, zoom, watch; return latencies in ms and what became of the zoom."""
    began = time.monotonic()
    page.goto(f"{house.dashboard}/chart?symbol=BTC-USD&interval=1s")
    loaded = time.monotonic()
    page.locator(".state.live").wait_for()
    said = page.locator(".legend .C").inner_text()
    while page.locator(".legend .C").inner_text() == said:
        page.wait_for_timeout(10)
    moved = time.monotonic()
    box = page.locator(".canvas").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(2000)
    part = page.locator(".house")
    chosen, updates = part.evaluate(RANGE), part.evaluate("node => node.component.updates")
    page.evaluate("window.tickhousePaints = []")
    page.wait_for_timeout(seconds * 1000)
    frames: list[tuple[list[int], float]] = page.evaluate("window.tickhousePaints")
    kept = part.evaluate(RANGE)
    ages = np.array([done - received / 1000 for messages, done in frames for received in messages])
    return {
        "messages": len(ages),
        "frames": len(frames),
        "frames_per_s": round(len(frames) / seconds, 1),
        "updates": part.evaluate("node => node.component.updates") - updates,
        "paint_ms": percentiles(ages),
        "load_s": round(loaded - began, 2),
        "moves_after_load_s": round(moved - loaded, 2),
        "zoom_kept": abs((kept["to"] - kept["from"]) - (chosen["to"] - chosen["from"])) < 1e-6,
    }


async def relayed(house: House, seconds: float) -> dict[str, float]:
    """Return by how many ms messages come later through the dashboard than from the API itself."""
    ask = {"op": "subscribe", "id": "t", "channel": "trades", "symbol": "BTC-USD"}
    at: list[dict[int, float]] = [{}, {}]
    async with ClientSession() as session:

        async def listen(address: str, times: dict[int, float]) -> None:
            async with session.ws_connect(address) as socket:
                await socket.send_json(ask)
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    message = json.loads((await socket.receive(timeout=20)).data)
                    if message["type"] == "delta":
                        times[message["rows"][-1]["trade_id"]] = time.perf_counter()

        await asyncio.gather(listen(f"{house.api}/v1/stream", at[0]), listen(f"{house.dashboard}/api/v1/stream", at[1]))
    both = sorted(at[0].keys() & at[1].keys())
    return percentiles(np.array([(at[1][key] - at[0][key]) * 1000 for key in both]))


def percentiles(values: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return them by name."""
    return {f"p{each}": round(float(np.percentile(values, each)), 2) for each in PERCENTILES}


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--rate", type=float, default=1000, help="trades a second, all of the symbol that is shown")
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        print("no chromium here; on Debian: apt-get install chromium", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, House(Path(folder)) as house, sync_playwright() as playwright:
        house.run(intervals=("1s", "1m", "5m", "1h", "1d"), rate=given.rate, symbols=1)
        house.serve()
        house.show()
        house.wait_for_trades(1)
        # A first start compiles the kernel: what has come in meanwhile is worked off before anything is measured.
        house.wait(f"{house.api}/v1/health", lambda body: (json.loads(body)["lag_us"] or BEHIND_US) < BEHIND_US)
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(house.dashboard)  # once before, as for a reader who comes back
        page.locator(".state.live").wait_for()
        result = painted(page, house, given.seconds)
        browser.close()
        with ThreadPoolExecutor() as apart:  # Playwright's loop runs in this thread
            result["relay_adds_ms"] = apart.submit(asyncio.run, relayed(house, min(15.0, given.seconds))).result()
        health = house.ask("health")
    result |= {"rate": given.rate, "seconds": given.seconds, "received": health["received"], "load_average": os.getloadavg()}
    show(result)
    KEPT.mkdir(exist_ok=True)
    kept = {"when": datetime.now(UTC).isoformat(timespec="seconds"), **result}
    (KEPT / "paint_latency.json").write_text(json.dumps(kept, indent=2) + "\n")
    return 0 if result["zoom_kept"] else 1


def show(result: dict[str, Any]) -> None:
    """Print it."""
    table = Table(box=None, header_style="bold")
    for name in ("ms", *(f"p{each}" for each in PERCENTILES)):
        table.add_column(name, justify="left" if name == "ms" else "right")
    for title, name in (("received -> painted", "paint_ms"), ("added by the relay", "relay_adds_ms")):
        table.add_row(title, *(f"{value:,.1f}" for value in result[name].values()))
    console = Console(width=100)
    console.print(table)
    console.print(
        f"{result['messages']:,} messages in {result['frames']:,} frames at {result['rate']:,.0f} trades/s over "
        f"{result['seconds']:g} s; {result['updates']:,} updates; zoom kept: {result['zoom_kept']}; page loaded in "
        f"{result['load_s']} s, moves {result['moves_after_load_s']} s later; load average {result['load_average'][0]:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
