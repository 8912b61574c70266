"""How live: the time from receiving a trade to having what it became, at a given rate, with journal and lake on.

A venue on loopback (`venue.py`) sends single Binance frames by WebSocket to `tickhouse run`, whose processes receive, parse,
append to the journal (SQLite on disk, or with `--journal kafka` a topic of a broker on the same machine) and commit the tables
of the lake every second. This process follows the journal as `tickhouse serve` does. Measured is, for each trade, from
`received_at` to the call that hands what the pipeline made of it to the hub.

`python bench/latency.py --rate 20000 --seconds 20` prints percentiles and writes .bench/latency.json; exit code 1 where
trades were lost.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import venue
from rich.console import Console
from rich.table import Table
from run import KEPT, machine

sys.path.insert(0, str(Path(__file__).parents[1]))  # the broker is that of the tests
from tests.services.kafka import Broker

from tickhouse.house import House
from tickhouse.model import I32, Batch
from tickhouse.serving.hub import Hub
from tickhouse.settings import KafkaSettings
from tickhouse.sinks.base import Outputs

__all__ = ["measure"]

PERCENTILES = (50, 90, 99, 99.9, 100)


class _Watch(Hub):
    """A hub without subscribers: notes how old each trade is when it gets it."""

    def __init__(self) -> None:
        super().__init__(lambda: None)
        self.ages: list[np.ndarray[Any, Any]] = []
        self.seen = 0
        self.measures = False

    def publish(self, batch: Batch, outputs: Outputs, instruments: I32) -> None:
        now = time.time_ns() // 1000
        self.seen += len(batch.trades)
        if len(batch.trades) and self.measures:
            self.ages.append(now - batch.trades.received_at)


def _cpu_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def measure(
    folder: Path, kafka: KafkaSettings | None, rate: int, symbols: int, seconds: float, warm_up_s: float
) -> dict[str, Any]:
    """Run a new house in `folder` on made trades; return the percentiles in ms and the balance.

    Args:
        folder: Where the house goes.
        kafka: The topic that is its journal; None = SQLite.
        rate: Trades a second.
        symbols: Of how many symbols.
        seconds: How long to measure.
        warm_up_s: How long to run before.
    """
    server, address = venue.start(rate, symbols, warm_up_s + seconds + 1.0)
    folder.mkdir()
    config = folder / "tickhouse.toml"
    lines = ["[sources]", 'enabled = ["binance"]', "[sources.options.binance]", f'ws_url = "{address}"']
    if kafka is not None:
        given = kafka.model_dump(include={"servers", "topic", "form", "partitions", "registry"}, exclude_none=True)
        lines += ["[journal]", 'kind = "kafka"', "[kafka]", *(f"{name} = {json.dumps(value)}" for name, value in given.items())]
    config.write_text("\n".join(lines))
    words = [sys.executable, "-m", "tickhouse", "run", "--no-serve", "--json", "--house", folder / "house", "--config", config]
    run = subprocess.Popen(words, stdout=subprocess.PIPE)
    gc.set_threshold(20_000, 20, 100)  # as the command line does
    house, watch = House(folder / "house", kafka), _Watch()
    follower = house.follower(watch)
    follower.start()
    while not watch.seen:
        time.sleep(0.01)
    time.sleep(warm_up_s)
    processes = {
        "venue": server.pid,
        "ingest": int((house.path / "ingest.lock").read_text()),
        "tables": run.pid,
        "follower": os.getpid(),
    }  # fmt: skip
    before = {name: _cpu_s(pid) for name, pid in processes.items()}
    watch.measures = True
    time.sleep(seconds)
    watch.measures = False
    cores = {name: round((_cpu_s(pid) - before[name]) / seconds, 2) for name, pid in processes.items()}
    server.wait()
    assert server.stdout is not None
    sent = int(server.stdout.readline())
    follower.stop()
    run.send_signal(signal.SIGINT)
    accepted = json.loads(run.communicate(timeout=60)[0])["accepted"]
    ages = np.concatenate(watch.ages) / 1000
    return {
        "rate": rate,
        "symbols": symbols,
        "sent": sent,
        "accepted": accepted,
        "measured": len(ages),
        "trades_a_batch": round(len(ages) / len(watch.ages), 1),
        "latency_ms": {f"p{p:g}" if p < 100 else "max": round(float(np.percentile(ages, p)), 2) for p in PERCENTILES},
        "cores": cores,
    }


def main() -> None:
    """Measure once, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=int, default=20_000, help="trades a second")
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm-up", type=float, default=5.0)
    parser.add_argument("--journal", choices=("sqlite", "kafka"), default="sqlite")
    parser.add_argument("--form", choices=("json", "arrow"), default="json", help="of the topic")
    parser.add_argument("--partitions", type=int, default=4, help="of the topic")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        broker = stack.enter_context(Broker(folder / "kafka")) if given.journal == "kafka" else None

        def topic(name: str) -> KafkaSettings | None:
            if broker is None:
                return None
            return KafkaSettings(servers=broker.servers, topic=name, form=given.form, partitions=given.partitions)

        measure(folder / "first", topic("first"), 500, 5, 2.0, 0.0)  # what compiles, compiles here
        result = measure(folder / "house", topic("house"), given.rate, given.symbols, given.seconds, given.warm_up)
    journal = given.journal if broker is None else f"{given.form} on {given.partitions} partitions of kafka"
    result = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), "journal": journal, **result}
    table = Table(title=f"received -> output, {given.rate:,} trades/s, {given.symbols} symbols, journal: {journal}")
    for name in (*result["latency_ms"], "accepted / sent"):
        table.add_column(name, justify="right")
    milliseconds = [f"{value:,.1f} ms" for value in result["latency_ms"].values()]
    table.add_row(*milliseconds, f"{result['accepted']:,} / {result['sent']:,}")
    table.caption = "cores busy: " + ", ".join(f"{name} {cores:.2f}" for name, cores in result["cores"].items())
    Console().print(table)
    KEPT.mkdir(exist_ok=True)
    (KEPT / "latency.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(result["accepted"] != result["sent"])


if __name__ == "__main__":
    main()
