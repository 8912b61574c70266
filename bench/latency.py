"""How live: the time from receiving a trade to having what it became, at a given rate, with the journal on.

Frames as Binance sends them, one trade each, take the way of `tickhouse run`: the source's `parse`, ingest, the SQLite
journal on disk, the engine, kernel and indicators, and the lake behind them. Measured is, for each trade, from `received_at`
to the call that hands the engine's outputs to whoever shows them. The frames are made in the same process, which costs a few
percent of a core.

`python bench/latency.py --rate 20000 --seconds 20` prints percentiles and writes .bench/latency.json; exit code 1 where
trades were lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from run import KEPT, machine

from tickhouse.clock import SystemClock
from tickhouse.house import House
from tickhouse.ingest import Ingest
from tickhouse.model import Batch
from tickhouse.rules import Rules
from tickhouse.settings import Settings
from tickhouse.sinks.base import Outputs
from tickhouse.sources.base import Frame, Parsed
from tickhouse.sources.binance import Binance

__all__ = ["measure"]

TICK_S = 0.001
PERCENTILES = (50, 90, 99, 99.9, 100)
FRAME = b'{"e":"trade","E":%d,"s":"%s","t":%d,"p":"%.2f","q":"%.5f","T":%d,"m":false,"M":true}'


class _Feed:
    """A source that sends single trades at a steady rate, then ends."""

    name = "binance"

    def __init__(self, rate: int, symbols: int, seconds: float) -> None:
        self._rate = rate
        self._symbols = [b"S%03dUSDT" % i for i in range(symbols)]
        self._seconds = seconds
        self._binance = Binance()
        self.sent = 0

    def parse(self, payload: bytes, received_at: int) -> Parsed:
        return self._binance.parse(payload, received_at)

    def recognises(self, payload: bytes) -> bool:
        return self._binance.recognises(payload)

    async def check(self) -> str:
        return "made here"

    async def stream(self) -> AsyncIterator[Frame]:
        rng, began = random.Random(1), time.perf_counter()
        prices = [rng.uniform(1, 1_000) for _ in self._symbols]
        while (elapsed := time.perf_counter() - began) < self._seconds:
            for _ in range(int(elapsed * self._rate) - self.sent):
                i = min(int(rng.expovariate(4 / len(self._symbols))), len(self._symbols) - 1)
                prices[i] *= 1 + rng.gauss(0, 1e-4)
                now = time.time_ns() // 1000
                self.sent += 1
                payload = FRAME % (now // 1000, self._symbols[i], self.sent, prices[i], rng.uniform(0, 2), now // 1000)
                yield Frame(payload, now)
            await asyncio.sleep(TICK_S)


class _Watch:
    """The engine's listener: notes how old each trade is when its outputs are there."""

    def __init__(self, from_s: float) -> None:
        self._from = time.monotonic() + from_s
        self.ages: list[np.ndarray[Any, Any]] = []
        self.seen = 0

    def __call__(self, batch: Batch, outputs: Outputs) -> None:
        now = time.time_ns() // 1000
        self.seen += len(batch.trades)
        if len(batch.trades) and time.monotonic() >= self._from:
            self.ages.append(now - batch.trades.received_at)


def measure(folder: Path, rate: int, symbols: int, seconds: float, warm_up_s: float) -> dict[str, Any]:
    """Run a new house in `folder` on made trades; return the percentiles in ms and the balance.

    Args:
        folder: Where the house goes.
        rate: Trades a second.
        symbols: Of how many symbols.
        seconds: How long to measure.
        warm_up_s: How long to run before.
    """
    house, settings, rules = House(folder), Settings(), Rules()
    watch, feed = _Watch(warm_up_s), _Feed(rate, symbols, warm_up_s + seconds)
    with house.writing("sqlite"):
        journal = house.sqlite(rules, settings)
        work = house.work(journal, rules, settings, watch)
        appender = journal.appender(at_least=work.highest)
        ingest = Ingest(feed, appender, SystemClock(), last_clock=journal.last_clock())
        engine = threading.Thread(target=work.engine.run, args=(work.start,), name="engine")
        cpu = time.process_time()
        ingest.start()
        engine.start()
        deadline = time.monotonic() + warm_up_s + seconds + 30
        while not (ingest.drained and watch.seen >= feed.sent) and time.monotonic() < deadline:
            time.sleep(0.1)
        cpu = time.process_time() - cpu
        ingest.stop()
        ingest.join()
        work.engine.stop()
        engine.join()
        appender.close()
        work.close()
        journal.close()
    ages = np.concatenate(watch.ages) / 1000
    return {
        "rate": rate,
        "symbols": symbols,
        "sent": feed.sent,
        "accepted": work.pipeline.counts.accepted,
        "measured": len(ages),
        "latency_ms": {f"p{p:g}" if p < 100 else "max": round(float(np.percentile(ages, p)), 2) for p in PERCENTILES},
        "cores_busy": round(cpu / (warm_up_s + seconds), 2),
        "peak_rss_mb": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))
        ),
    }


def main() -> None:
    """Measure once, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=int, default=20_000, help="trades a second")
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm-up", type=float, default=5.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        measure(Path(folder) / "first", 500, 5, 2.0, 0.0)  # what compiles, compiles here
        result = measure(Path(folder) / "house", given.rate, given.symbols, given.seconds, given.warm_up)
    result = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), **result}
    table = Table(title=f"received -> output, {given.rate:,} trades/s, {given.symbols} symbols, journal on")
    for name in (*result["latency_ms"], "cores busy", "accepted / sent"):
        table.add_column(name, justify="right")
    milliseconds = [f"{value:,.1f} ms" for value in result["latency_ms"].values()]
    table.add_row(*milliseconds, str(result["cores_busy"]), f"{result['accepted']:,} / {result['sent']:,}")
    Console().print(table)
    KEPT.mkdir(exist_ok=True)
    (KEPT / "latency.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(result["accepted"] != result["sent"])


if __name__ == "__main__":
    main()
