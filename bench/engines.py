"""How fast through a topic: sending and working off, for each form and number of partitions, in one run (`make bench`).

The same recording goes (a) through the journal in a file, (b) directly, (c) through Kafka as JSON with 1 and 4 partitions,
(d) as Avro, (e) as Arrow. `work` is from the first message read to the last commit, lake included, with start-up apart (loading
libraries, compiled code, joining the broker); `process` is everything. The broker runs on the same machine.

The standard work has 35 trades between two heartbeats, which is where the Arrow form does not pay; `--dense` (the default)
puts the same lines into a thousandth of the time, as dense as a large house has them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import standard_work
from rich.console import Console
from rich.table import Table
from run import KEPT, machine

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.services.kafka import Broker
from tests.services.registry import Registry

__all__ = ["Way", "dense"]

_TIME = re.compile(rb'"t":(\d+)')
_FIRST_MS = 1_768_516_200_000


class Way(NamedTuple):
    """One way through."""

    name: str
    to: str | None
    form: str = "json"
    partitions: int = 1


WAYS = (
    Way("(b) recording", None),
    Way("(a) SQLite", "sqlite"),
    Way("(c) Kafka json, 1 partition", "kafka"),
    Way("(c) Kafka json, 4 partitions", "kafka", "json", 4),
    Way("(c) Kafka json, 16 partitions", "kafka", "json", 16),
    Way("(d) Kafka avro, 4 partitions", "kafka", "avro", 4),
    Way("(e) Kafka arrow, 1 partition", "kafka", "arrow", 1),
    Way("(e) Kafka arrow, 4 partitions", "kafka", "arrow", 4),
)


def dense(file: Path, factor: int) -> Path:
    """Write the lines of a recording in a `factor`-th of the time, so that more of them share a heartbeat."""
    out = file.with_name(f"{file.stem}_dense{factor}.ndjson")
    if not out.exists():
        text = _TIME.sub(lambda found: b'"t":%d' % (_FIRST_MS + (int(found[1]) - _FIRST_MS) // factor), file.read_bytes())
        out.write_bytes(text)
    return out


def _tickhouse(words: list[str], environment: dict[str, str]) -> tuple[float, float, dict[str, object]]:
    """Run a command; return (wall seconds, CPU seconds, what it printed)."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tickhouse", *words, "--json"], stdout=subprocess.PIPE, env={**os.environ, **environment}
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"tickhouse {' '.join(words)} ended with {process.returncode}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, json.loads(said)


def _measured(way: Way, file: Path, out: Path, servers: tuple[str, str]) -> dict[str, object]:
    environment = {
        "TICKHOUSE_KAFKA__SERVERS": servers[0],
        "TICKHOUSE_KAFKA__REGISTRY": servers[1],
        "TICKHOUSE_KAFKA__TOPIC": f"bench-{time.monotonic_ns()}",
        "TICKHOUSE_KAFKA__FORM": way.form,
        "TICKHOUSE_KAFKA__PARTITIONS": str(way.partitions),
    }
    house = ["--house", str(out)]
    shutil.rmtree(out, ignore_errors=True)
    if way.to != "kafka":
        wall, cpu, told = _tickhouse(["replay", str(file), *house, *(["--to", way.to] if way.to else [])], environment)
        return {"way": way.name, "work_s": told["seconds"], "process_s": wall, "cpu_s": cpu, "received": told["received"]}
    sent, sent_cpu, told_sent = _tickhouse(["replay", str(file), "--to", "kafka", *house], environment)
    wall, cpu, told = _tickhouse(["work", "--until-drained", *house], environment)
    return {
        "way": way.name, "send_s": told_sent["seconds"], "send_cpu_s": sent_cpu, "send_process_s": sent,
        "work_s": told["seconds"], "process_s": wall, "cpu_s": cpu, "received": told["received"],
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--dense", type=int, default=1_000)
    parser.add_argument("--only", default="", help="ways whose names hold this")
    given = parser.parse_args()
    console = Console()
    KEPT.mkdir(exist_ok=True)
    file = KEPT / f"standard_{given.n}_{given.symbols}_1.ndjson"
    if not file.exists():
        standard_work.write(file, given.n, given.symbols, 1)
    if given.dense > 1:
        file = dense(file, given.dense)
    scratch = KEPT / "engines"
    shutil.rmtree(scratch, ignore_errors=True)
    found = []
    with Broker(scratch / "kafka") as broker, Registry(scratch / "registry") as registry:
        for way in WAYS:
            if given.only in way.name:
                found.append(_measured(way, file, scratch / "house", (broker.servers, registry.url)))
                console.print(json.dumps(found[-1]), style="dim", highlight=False)
    table = Table(title=f"{given.n:,} lines, {given.symbols} symbols, {given.dense}x dense, {machine()['cores']} cores")
    for column in ("way", "sent/s", "worked/s", "start-up s", "CPU us a trade: send", "work"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for row in found:
        count = float(row["received"])  # type: ignore[arg-type]
        start = float(row["process_s"]) - float(row["work_s"])  # type: ignore[arg-type]
        send = f"{count / float(row['send_s']):,.0f}" if "send_s" in row else ""  # type: ignore[arg-type]
        send_cpu = f"{1e6 * float(row['send_cpu_s']) / count:.2f}" if "send_s" in row else ""  # type: ignore[arg-type]
        table.add_row(
            str(row["way"]), send, f"{count / float(row['work_s']):,.0f}", f"{start:.1f}", send_cpu,  # type: ignore[arg-type]
            f"{1e6 * float(row['cpu_s']) / count:.2f}",  # type: ignore[arg-type]
        )  # fmt: skip
    console.print(table)
    (KEPT / "engines.json").write_text(
        json.dumps({"machine": machine(), "given": vars(given), "ways": found}, indent=1), "utf-8"
    )


if __name__ == "__main__":
    main()
