"""How live: the time from receiving a trade to having what it became, at a given rate, with journal and lake on.

A venue on loopback (`venue.py`) sends single Binance frames over a WebSocket to the processes of `tickhouse run`: one that
receives, parses and appends to the SQLite journal on disk, and this one: engine, kernel and indicators, and the lake behind
them. Measured is, for each trade, from `received_at` to the call that hands the engine's outputs on.

`python bench/latency.py --rate 20000 --seconds 20` prints percentiles and writes .bench/latency.json; exit code 1 where
trades were lost.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import venue
from rich.console import Console
from rich.table import Table
from run import KEPT, machine

from tickhouse.house import House
from tickhouse.model import Batch
from tickhouse.processes import Child
from tickhouse.rules import Rules
from tickhouse.settings import Settings, Sources
from tickhouse.sinks.base import Outputs

__all__ = ["measure"]

PERCENTILES = (50, 90, 99, 99.9, 100)


class _Watch:
    """The engine's listener: notes how old each trade is when its outputs are there."""

    def __init__(self) -> None:
        self.ages: list[np.ndarray[Any, Any]] = []
        self.seen = self.batches = 0
        self.measures = False

    def __call__(self, batch: Batch, outputs: Outputs) -> None:
        now = time.time_ns() // 1000
        self.seen += len(batch.trades)
        if len(batch.trades) and self.measures:
            self.batches += 1
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
    house, rules, watch = House(folder), Rules(), _Watch()
    server, address = venue.start(rate, symbols, warm_up_s + seconds)
    settings = Settings(sources=Sources(enabled=("binance",), options={"binance": {"ws_url": address}}))
    with house.writing("sqlite"), Child(["ingest", "--house", str(folder)], settings) as ingest:
        journal = house.sqlite(rules, settings)
        work = house.work(journal, rules, settings, watch)
        engine = threading.Thread(target=work.engine.run, args=(work.start,), name="engine")
        engine.start()
        ingest.first_line(60)
        while not watch.seen:
            time.sleep(0.01)
        time.sleep(warm_up_s)
        cpu, watch.measures = time.process_time(), True
        time.sleep(seconds)
        watch.measures, cpu = False, time.process_time() - cpu
        server.wait()
        assert server.stdout is not None
        sent = int(server.stdout.readline())
        ingest.stop()
        work.engine.finish(30.0)
        engine.join()
        work.close()
        journal.close()
    ages = np.concatenate(watch.ages) / 1000
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "rate": rate,
        "symbols": symbols,
        "sent": sent,
        "accepted": work.pipeline.counts.accepted,
        "measured": len(ages),
        "trades_a_batch": round(len(ages) / watch.batches, 1),
        "latency_ms": {f"p{p:g}" if p < 100 else "max": round(float(np.percentile(ages, p)), 2) for p in PERCENTILES},
        "engine_cores": round(cpu / seconds, 2),
        "venue_and_ingest_cpu_s": round(children.ru_utime + children.ru_stime, 1),
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
    for name in (*result["latency_ms"], "engine's cores", "accepted / sent"):
        table.add_column(name, justify="right")
    milliseconds = [f"{value:,.1f} ms" for value in result["latency_ms"].values()]
    table.add_row(*milliseconds, str(result["engine_cores"]), f"{result['accepted']:,} / {result['sent']:,}")
    Console().print(table)
    KEPT.mkdir(exist_ok=True)
    (KEPT / "latency.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(result["accepted"] != result["sent"])


if __name__ == "__main__":
    main()
