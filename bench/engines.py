"""How fast through each journal and engine: one recording in every way, in one run, with Spark's own aggregation as the peer.

The recording goes (a) through the journal in a file, (b) directly, through Kafka (c) as JSON, (d) as Avro, (e) as Arrow, each
worked off by `tickhouse work`, and (f) by `tickhouse spark`; then Spark alone aggregates the JSON topic. The broker and all
others share this machine. Every table of every way must be equal to the recording's, to the last bit.

Start-up is apart: `work` counts from the first message asked for to the last commit, Spark (ours and its own) from the end of
the first micro-batch to the end of the last.

The lines are those of the standard work, but at 20,000 a second of market time (`--dense 144`): whoever needs a cluster has
many trades in a heartbeat's quarter second, and the Arrow form makes messages of them. `--dense 1` is the standard work itself.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import standard_work
from rich.console import Console
from rich.table import Table
from run import KEPT, machine

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.kafka_topics import ends
from tests.parity.ways import digests
from tests.services.kafka import Broker
from tests.services.registry import Registry
from tests.services.spark_kafka import jars

from tickhouse.settings import KafkaSettings

__all__ = ["Figures", "Topic", "Way", "recording", "send", "work_off"]

PEER = Path(__file__).parent / "peers" / "spark_windows.py"


class Way(NamedTuple):
    """One way through."""

    name: str
    engine: str
    """`replay`, `work`, `spark`, `run` (which is live), or `peer`: Spark's own."""
    form: str = ""
    """Of the messages; `sqlite` = the journal in a file, empty = none."""
    partitions: int = 1


WAYS = (
    Way("(b) recording", "replay"),
    Way("(a) SQLite", "replay", "sqlite"),
    Way("(c) json, 1 partition: work", "work", "json", 1),
    Way("(c) json, 4 partitions: work", "work", "json", 4),
    Way("(d) avro, 4 partitions: work", "work", "avro", 4),
    Way("(e) arrow, 1 partition: work", "work", "arrow", 1),
    Way("(e) arrow, 4 partitions: work", "work", "arrow", 4),
    Way("(f) json, 4 partitions: spark", "spark", "json", 4),
    Way("(f) arrow, 4 partitions: spark", "spark", "arrow", 4),
    Way("Spark's own on json, 4 partitions", "peer", "json", 4),
)
PEER_WAY = WAYS[-1]


class Figures(NamedTuple):
    """What a way took."""

    rows: int
    """Trades and rejected messages that were measured."""
    seconds: float
    """Of the work, start-up apart."""
    process_s: float
    """From the call to the exit."""
    cpu_s: float
    """Of the process, start-up and all."""
    equal: bool | None
    """Whether the tables are the recording's; None where there are none."""


class Topic(NamedTuple):
    """A topic that holds the recording."""

    settings: KafkaSettings
    sent_s: float
    sent_cpu_s: float
    messages: int

    @property
    def environment(self) -> dict[str, str]:
        """What makes a house read it."""
        given = self.settings.model_dump(include={"servers", "registry", "topic", "form", "partitions"})
        return {f"TICKHOUSE_KAFKA__{name.upper()}": str(value) for name, value in given.items() if value}


def recording(n: int, symbols: int, dense: float) -> Path:
    """Return the input, written where it is not kept from an earlier run."""
    file = KEPT / f"standard_{n}_{symbols}_1{f'_dense{dense:g}' if dense != 1 else ''}.ndjson"
    if not file.exists():
        KEPT.mkdir(exist_ok=True)
        standard_work.write(file, n, symbols, 1, dense=dense)
    return file


def _called(words: list[str], environment: dict[str, str]) -> tuple[float, float, dict[str, Any]]:
    """Run a command; return (seconds, CPU seconds, what it printed)."""
    began = time.perf_counter()
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as complained:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=complained, env={**inherited, **environment})
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        complained.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}: {complained.read().decode()[-2_000:]}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, json.loads(said)


def _tickhouse(*words: str | Path, environment: dict[str, str]) -> tuple[float, float, dict[str, Any]]:
    return _called([sys.executable, "-m", "tickhouse", *map(str, words), "--json"], environment)


def send(file: Path, form: str, partitions: int, servers: tuple[str, str], scratch: Path) -> Topic:
    """Send the recording to a topic of its own."""
    settings = KafkaSettings(
        servers=servers[0],
        registry=servers[1] or None,
        topic=f"bench-{form}-{partitions}-{time.monotonic_ns()}",
        form=form,  # type: ignore[arg-type]
        partitions=partitions,
    )
    topic = Topic(settings, 0.0, 0.0, 0)
    house = scratch / f"sender-{settings.topic}"
    _, cpu, told = _tickhouse("replay", file, "--to", "kafka", "--house", house, environment=topic.environment)
    shutil.rmtree(house)
    return Topic(settings, told["seconds"], cpu, ends(settings))


def work_off(topic: Topic, engine: str, house: Path, batches: int) -> Figures:
    """Work a topic off into a new house."""
    shutil.rmtree(house, ignore_errors=True)
    if engine == "work":
        wall, cpu, told = _tickhouse(
            "work", "--until-drained", "--journal", "kafka", "--house", house, environment=topic.environment
        )
        return Figures(told["received"], told["seconds"], wall, cpu, None)
    words = ["--trigger", "availableNow", "--master", "local[2,4]", "--max-records", str(-(-topic.messages // batches))]
    wall, cpu, _ = _tickhouse("spark", *words, "--house", house, environment=topic.environment)
    rows, seconds = _after_the_first(house / "lake" / "bronze" / "trades")
    return Figures(rows, seconds, wall, cpu, None)


def _after_the_first(table: Path) -> tuple[int, float]:
    """Return (rows, seconds) of the commits of a table after its first one."""
    commits = []
    for entry in sorted((table / "_delta_log").glob("*.json")):
        actions = [json.loads(line) for line in entry.read_text("utf-8").splitlines()]
        rows = sum(json.loads(action["add"]["stats"])["numRecords"] for action in actions if "add" in action)
        at = next(action["commitInfo"]["timestamp"] for action in actions if "commitInfo" in action)
        if rows:
            commits.append((at, rows))
    return sum(rows for _, rows in commits[1:]), (commits[-1][0] - commits[0][0]) / 1e3


def _peer(topic: Topic, batches: int) -> Figures:
    words = [sys.executable, str(PEER), topic.settings.servers, topic.settings.topic, "--jars", jars()]
    words += ["--partitions", str(topic.settings.partitions), "--max-records", str(-(-topic.messages // batches))]
    wall, cpu, told = _called(words, {"PYSPARK_PYTHON": sys.executable})
    return Figures(told["rows"], told["seconds"], wall, cpu, None)


def _measured(way: Way, file: Path, house: Path, topic: Topic | None, batches: int) -> Figures:
    if way.engine == "peer":
        assert topic is not None
        return _peer(topic, batches)
    if topic is not None:
        return work_off(topic, way.engine, house, batches)
    to = ["--to", way.form] if way.form else []
    wall, cpu, told = _tickhouse("replay", file, *to, "--house", house, environment={})
    return Figures(told["received"], told["seconds"], wall, cpu, None)


def _table(found: dict[Way, Figures], topics: dict[tuple[str, int], Topic], title: str) -> Table:
    table = Table(
        title=title, caption="ratio: to Spark's own; start-up and exit are apart; sent: `replay --to kafka`, CPU of all"
    )
    for column in ("way", "trades/s", "ratio", "start-up s", "CPU us a trade", "sent/s", "CPU us a trade sent", "tables"):
        table.add_column(column, justify="left" if column in {"way", "tables"} else "right")
    own = found.get(PEER_WAY)
    for way, figures in found.items():
        rate = figures.rows / figures.seconds
        topic = topics.get((way.form, way.partitions)) if way.engine == "work" else None
        table.add_row(
            way.name,
            f"{rate:,.0f}",
            f"{rate * own.seconds / own.rows:.2f}" if own else "",
            f"{figures.process_s - figures.seconds:.1f}",
            f"{1e6 * figures.cpu_s / figures.rows:.2f}" if way.engine in {"work", "replay"} else "",
            f"{figures.rows / topic.sent_s:,.0f}" if topic else "",
            f"{1e6 * topic.sent_cpu_s / figures.rows:.2f}" if topic else "",
            {None: "", True: "equal", False: "DIFFERENT"}[figures.equal],
        )
    return table


def main() -> None:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=1_000_000, help="lines of the input")
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--dense", type=float, default=144.0, help="how many times as dense as the standard work")
    parser.add_argument("--batches", type=int, default=4, help="micro-batches of Spark; the first is not counted")
    parser.add_argument("--only", default="", help="ways whose names hold this")
    given = parser.parse_args()
    console, file = Console(stderr=True), recording(given.n, given.symbols, given.dense)
    scratch = KEPT / "engines"
    shutil.rmtree(scratch, ignore_errors=True)
    found: dict[Way, Figures] = {}
    topics: dict[tuple[str, int], Topic] = {}
    expected: dict[str, str] | None = None
    with Broker(scratch / "kafka") as broker, Registry(scratch / "registry") as registry:
        for way in WAYS:
            if (way.engine != "replay" or way.form or given.only) and given.only not in way.name:
                continue
            place = (way.form, way.partitions)
            if way.engine != "replay" and place not in topics:
                topics[place] = send(file, *place, (broker.servers, registry.url), scratch)
            house = scratch / "house"
            shutil.rmtree(house, ignore_errors=True)
            figures = _measured(way, file, house, topics.get(place), given.batches)
            if way.engine != "peer":
                tables = digests(house)
                expected = expected or tables
                figures = figures._replace(equal=tables == expected)
            found[way] = figures
            console.print(f"{way.name}: {json.dumps(figures._asdict())}", style="dim", highlight=False, soft_wrap=True)
    host, date = machine(), datetime.now(UTC).isoformat(timespec="seconds")
    versions = ", ".join(f"{name} {version(name)}" for name in ("pyspark", "confluent-kafka", "pyarrow", "deltalake", "numba"))
    title = (
        f"{given.n:,} lines, {given.symbols:,} symbols, {given.dense:g} times as dense as the standard work\n"
        f"{host['cpu']}, {host['cores']} cores, {host['system']}, Python {host['python']}, {date}\n{versions}"
    )
    Console(width=None if sys.stdout.isatty() else 150).print(_table(found, topics, title))
    results = {
        "date": date,
        "machine": host,
        "given": vars(given),
        "topics": {topic.settings.topic: topic._asdict() | {"settings": None} for topic in topics.values()},
        "ways": {way.name: figures._asdict() for way, figures in found.items()},
    }
    (KEPT / "engines.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    if any(figures.equal is False for figures in found.values()):
        sys.exit("the tables are not equal")


if __name__ == "__main__":
    main()
