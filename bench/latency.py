"""How live: the time from receiving a trade to having what it became, at a given rate, by every journal and engine.

A venue on loopback (`venue.py`) sends single Binance frames by WebSocket to the processes of Tickhouse, which receive, parse,
append to the journal - (a) SQLite on disk, or a topic of a broker on the same machine: (c) JSON, (d) Avro, (e) Arrow - and
commit the tables of the lake: `tickhouse run` once a second, (f) `tickhouse spark` in micro-batches of `--trigger`. This
process follows the journal as `tickhouse serve` does, but beside Spark, which wants the cores. (A recording, way (b), is not
live.)

Measured is, for each trade, from `received_at` to the call that hands what the pipeline made of it to the hub, and to the
moment at which the commit that holds it appears in the table's log.

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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import venue
from engines import Way
from rich.console import Console
from rich.table import Table
from run import KEPT, cpu_s, machine

sys.path.insert(0, str(Path(__file__).parents[1]))  # the broker is that of the tests
from tests.services.kafka import Broker
from tests.services.registry import Registry

from tickhouse.house import House
from tickhouse.model import I32, Batch
from tickhouse.serving.hub import Hub
from tickhouse.settings import KafkaSettings
from tickhouse.sinks.base import Outputs

__all__ = ["WAYS", "measure"]

PERCENTILES = (50, 90, 99, 99.9, 100)
PATIENCE_S = 120.0


WAYS = (
    Way("(a) SQLite", "run", "sqlite"),
    Way("(c) json, 1 partition", "run", "json", 1),
    Way("(c) json, 4 partitions", "run", "json", 4),
    Way("(d) avro, 4 partitions", "run", "avro", 4),
    Way("(e) arrow, 4 partitions", "run", "arrow", 4),
    Way("(f) json, 4 partitions: spark", "spark", "json", 4),
    Way("(f) arrow, 4 partitions: spark", "spark", "arrow", 4),
)


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


class _Log:
    """The log of `bronze.trades`: each commit with the moment it appeared, its rows and its files."""

    def __init__(self, house: House) -> None:
        self._table = house.lake_path / "bronze" / "trades"

    def commits(self) -> Iterator[tuple[float, int, list[Path]]]:
        for entry in sorted((self._table / "_delta_log").glob("*.json")):
            actions = [json.loads(line) for line in entry.read_text("utf-8").splitlines()]
            added = [action["add"] for action in actions if "add" in action and action["add"]["dataChange"]]
            rows = sum(json.loads(add["stats"])["numRecords"] for add in added)
            yield entry.stat().st_mtime, rows, [self._table / add["path"] for add in added]

    def rows(self) -> int:
        return sum(rows for _, rows, _ in self.commits())

    def ages(self, since: float, until: float) -> np.ndarray[Any, Any]:
        """Return how old the trades were, in microseconds, that appeared between two moments."""
        found = [np.empty(0, np.int64)]
        for at, _, files in self.commits():
            for file in files if since <= at < until else []:
                received = pq.read_table(file, columns=["received_at"], partitioning=None).column("received_at")
                found.append(int(at * 1e6) - received.cast("int64").to_numpy())
        return np.concatenate(found)


def _used(way: Way, pids: dict[str, int]) -> dict[str, float]:
    """Return the CPU seconds of each part of a way."""
    return {name: cpu_s(pid, with_children=way.engine == "spark" and name == "tables") for name, pid in pids.items()}


def _wait(what: str, true: Any) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > limit:
            raise RuntimeError(f"{what}: not after {PATIENCE_S:g} s")
        time.sleep(0.01)


@contextmanager
def _processes(way: Way, words: list[str], trigger: str) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Run what a way consists of; what ends is asked in order: who receives first."""

    def started(*command: str) -> subprocess.Popen[bytes]:
        command = (sys.executable, "-m", "tickhouse", *command, *words)
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        if way.engine == "spark":
            running["tables"] = started("spark", "--trigger", trigger, "--master", "local[2,4]")
            running["ingest"] = started("ingest")
        else:
            running["tables"] = started("run", "--no-serve", "--json")
        yield running
    finally:
        for process in reversed(running.values()):
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE_S)


def measure(
    folder: Path, way: Way, kafka: KafkaSettings | None, given: argparse.Namespace, seconds: float, warm_up_s: float
) -> dict[str, Any]:
    """Run a new house in `folder` on made trades; return the percentiles in ms and the balance.

    Args:
        folder: Where the house goes.
        way: Which processes.
        kafka: The topic that is its journal; None = SQLite.
        given: Rate, symbols and trigger.
        seconds: How long to measure.
        warm_up_s: How long to run before.
    """
    lead_s = 60.0 if way.engine == "spark" else 0.0  # until a new Spark has had its first micro-batches
    server, address = venue.start(given.rate, given.symbols, lead_s + warm_up_s + seconds + 1.0)
    folder.mkdir()
    config = folder / "tickhouse.toml"
    lines = ["[sources]", 'enabled = ["binance"]', "[sources.options.binance]", f'ws_url = "{address}"']
    if kafka is not None:
        named = kafka.model_dump(include={"servers", "topic", "form", "partitions", "registry"}, exclude_none=True)
        lines += ["[journal]", 'kind = "kafka"', "[kafka]", *(f"{name} = {json.dumps(value)}" for name, value in named.items())]
    config.write_text("\n".join(lines))
    gc.set_threshold(20_000, 20, 100)  # as the command line does
    house, watch = House(folder / "house", kafka), _Watch()
    log, follower = _Log(house), house.follower(watch)
    follows = way.engine == "run"
    with _processes(way, ["--house", str(house.path), "--config", str(config)], given.trigger) as running:
        began = time.monotonic()
        if follows:
            follower.start()
            _wait("the first trade", lambda: watch.seen)
        _wait("the first commit", lambda: any(rows for _, rows, _ in log.commits()))
        time.sleep(max(lead_s - (time.monotonic() - began), 0.0) + warm_up_s)
        lock = (house.path / "ingest.lock").read_text()
        pids = {"venue": server.pid, "ingest": int(lock), "tables": running["tables"].pid}
        pids |= {"follower": os.getpid()} if follows else {}
        before, since = _used(way, pids), time.time()
        watch.measures = True
        time.sleep(seconds)
        watch.measures = False
        until = time.time()
        cores = {name: round((used - before[name]) / seconds, 2) for name, used in _used(way, pids).items()}
        server.wait()
        assert server.stdout is not None
        sent = int(server.stdout.readline())
        _wait("the last commit", lambda: log.rows() >= sent)
        if follows:
            _wait("the last trade", lambda: watch.seen >= sent)
            follower.stop()
    return {
        "rate": given.rate,
        "symbols": given.symbols,
        "sent": sent,
        "stored": log.rows(),
        "latency_ms": _percentiles(np.concatenate(watch.ages or [np.empty(0)])),
        "stored_ms": _percentiles(log.ages(since, until)),
        "cores": cores,
    }


def _percentiles(ages: np.ndarray[Any, Any]) -> dict[str, float]:
    known = ages if len(ages) else np.array([np.nan])
    return {f"p{p:g}" if p < 100 else "max": round(float(np.percentile(known / 1000, p)), 2) for p in PERCENTILES}


def _table(found: dict[str, dict[str, Any]], given: argparse.Namespace) -> Table:
    table = Table(
        title=f"received -> output of the pipeline, and -> seen in the tables, in ms; {given.symbols} symbols",
        caption=f"tables are committed every second, by Spark in micro-batches of {given.trigger}; all on this machine",
    )
    for name in ("way", "trades/s", "p50", "p90", "p99", "p99.9", "max", "tables p50", "p99", "accepted / sent", "cores busy"):
        table.add_column(name, justify="left" if name in {"way", "cores busy"} else "right")
    for name, result in found.items():
        table.add_row(
            name,
            f"{result['rate']:,}",
            *(f"{value:,.1f}" for value in result["latency_ms"].values()),
            *(f"{result['stored_ms'][p]:,.0f}" for p in ("p50", "p99")),
            f"{result['stored']:,} / {result['sent']:,}",
            ", ".join(f"{part} {cores:.2f}" for part, cores in result["cores"].items()),
        )
    return table


def main() -> None:
    """Measure each way, print and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=int, default=20_000, help="trades a second")
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm-up", type=float, default=5.0)
    parser.add_argument("--trigger", default="1s", help="of Spark's micro-batches")
    parser.add_argument("--only", default="", help="ways whose names hold this, e.g. '(a)'")
    given = parser.parse_args()
    ways = [way for way in WAYS if given.only in way.name]
    found: dict[str, dict[str, Any]] = {}
    console = Console(stderr=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        compiling = argparse.Namespace(**{**vars(given), "rate": 500, "symbols": 5})
        measure(folder / "first", WAYS[0], None, compiling, 2.0, 0.0)  # what compiles, compiles here
        servers = registry = ""
        if any(way.form != "sqlite" for way in ways):
            servers = stack.enter_context(Broker(folder / "kafka")).servers
            registry = stack.enter_context(Registry(folder / "registry")).url
        for number, way in enumerate(ways):
            kafka = None
            if way.form != "sqlite":
                kafka = KafkaSettings(
                    servers=servers,
                    registry=registry if way.form == "avro" else None,
                    topic=f"latency-{number}",
                    form=way.form,  # type: ignore[arg-type]
                    partitions=way.partitions,
                )
            result = measure(folder / f"house-{number}", way, kafka, given, given.seconds, given.warm_up)
            found[way.name] = result
            console.print(f"{way.name}: {json.dumps(result)}", style="dim", highlight=False, soft_wrap=True)
    Console(width=None if sys.stdout.isatty() else 200).print(_table(found, given))
    KEPT.mkdir(exist_ok=True)
    kept = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), "ways": found}
    (KEPT / "latency.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(result["stored"] != result["sent"] for result in found.values()))


if __name__ == "__main__":
    main()
