"""What a trade costs a core, and how that grows with partitions and symbols; how large the state is: figures of docs/scale.md.

One process works a topic off range by range, as an executor of the Spark engine does and a thread of `work`: fetch, decode,
pipeline, Parquet, state. CPU time of the whole process is counted, the client library's threads too, after all code was loaded.
`reading` is the same topic only read into columns. Ranges are committed between, which is counted apart: that is the driver's.
What a partition costs however few trades it has (a connection opened and closed, a pipeline made, files begun in each
micro-batch) is measured with a small recording, told apart, and taken off.

Lines are those of the standard work at 20,000 a second of market time (`--dense 144`), so that an Arrow message is a batch.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from engines import recording
from rich.console import Console
from rich.table import Table
from run import KEPT, machine

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.engines.clusters import Cluster
from tests.parity.ways import Servers
from tests.services.kafka import Broker

from tickhouse.model import NO_TIME, Feeds

STEPS = 3
_FEW = 5_000
_CASES = [("json", parts, 50) for parts in (1, 2, 4, 16)] + [("arrow", parts, 50) for parts in (1, 2, 4, 16)]
_CASES += [("arrow", 4, symbols) for symbols in (500, 5_000, 50_000)]


class Spent(NamedTuple):
    """What one run over a topic took, in CPU seconds."""

    trades: int
    reading_s: float
    """Reading into columns."""
    whole_s: float
    """Everything an executor does."""
    committing_s: float
    """What the driver does."""
    state_bytes: int
    """Of all partitions' snapshots together."""
    seen: int
    """Symbols that had a trade."""


class Cost(NamedTuple):
    """What one case costs."""

    form: str
    partitions: int
    symbols: int
    reading_us: float
    """CPU of reading into columns, a trade."""
    whole_us: float
    """CPU of everything an executor does, a trade."""
    fixed_ms: float
    """CPU of a partition with next to no trades, for the whole run."""
    commit_ms: float
    """CPU of the driver's commit of a micro-batch."""
    state_bytes: int
    seen: int

    @classmethod
    def of(cls, form: str, partitions: int, symbols: int, spent: Spent, small: Spent) -> Cost:
        """Return the cost of a trade more."""
        trades = (spent.trades - small.trades) / 1e6
        return cls(
            form, partitions, symbols, (spent.reading_s - small.reading_s) / trades, (spent.whole_s - small.whole_s) / trades,
            1e3 * small.whole_s / partitions, 1e3 * spent.committing_s / STEPS, spent.state_bytes, spent.seen,
        )  # fmt: skip


def measure(file: Path, folder: Path, servers: Servers, form: str, partitions: int) -> Spent:
    """Work a recording off on a topic of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    cluster = Cluster(file, folder / "house", servers, form, partitions)
    began = time.process_time()
    _read(cluster)
    reading = time.process_time() - began
    results, executing, committing = [], 0.0, 0.0
    for batch in cluster.ranges(STEPS):
        began = time.process_time()
        results, cluster.states = cluster.execute(batch)
        executed = time.process_time()
        cluster.commit(results)
        executing += executed - began
        committing += time.process_time() - executed
    trades = sum(result.counts.received for result in results)
    states = [state for state in cluster.states if state is not None]
    seen = cluster.house.sql("SELECT count(DISTINCT symbol) AS n FROM bronze.trades")["n"].item()
    return Spent(trades, reading, executing, committing, sum(len(state.snapshot) for state in states), seen)


def _read(cluster: Cluster) -> None:
    """Read the whole topic into columns."""
    with closing(cluster.job.open_topic()) as topic:
        for partition, end in enumerate(cluster.ends):
            with topic.reader(partition, 0, Feeds(), clock=NO_TIME, until=end, makes_beats=False) as reader:
                while not reader.exhausted:
                    reader.read(1.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=600_000, help="lines of each input")
    parser.add_argument("--dense", type=float, default=144.0, help="how many times as dense as the standard work")
    given = parser.parse_args()
    scratch, console = KEPT / "scale", Console(stderr=True)
    shutil.rmtree(scratch, ignore_errors=True)
    found = []
    with Broker(scratch / "kafka") as broker:
        servers = Servers(broker.servers, "")
        small = recording(_FEW, 50, given.dense)
        for form in ("json", "arrow"):
            measure(small, scratch / "warm-up", servers, form, 2)
        for form, partitions, symbols in _CASES:
            nothing = measure(small, scratch / "small", servers, form, partitions)
            file = recording(given.n, symbols, given.dense)
            spent = measure(file, scratch / "case", servers, form, partitions)
            found.append(Cost.of(form, partitions, symbols, spent, nothing))
            console.print(json.dumps(found[-1]._asdict()), style="dim", highlight=False, soft_wrap=True)
    host, date = machine(), datetime.now(UTC).isoformat(timespec="seconds")
    table = Table(title=f"{given.n:,} lines; {host['cpu']}, {host['cores']} cores, Python {host['python']}, {date}")
    for column in ("form", "partitions", "symbols", "reading us", "all us", "fixed ms", "commit ms", "state kB", "kB a symbol"):
        table.add_column(column, justify="left" if column == "form" else "right")
    for cost in found:
        table.add_row(
            cost.form, str(cost.partitions), f"{cost.symbols:,}", f"{cost.reading_us:.2f}", f"{cost.whole_us:.2f}",
            f"{cost.fixed_ms:.0f}", f"{cost.commit_ms:.0f}",
            f"{cost.state_bytes / 1e3:,.0f}", f"{cost.state_bytes / 1e3 / cost.seen:.2f}",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    results = {"date": date, "machine": host, "given": vars(given), "cases": [cost._asdict() for cost in found]}
    (KEPT / "scale.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
