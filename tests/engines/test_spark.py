"""Real Spark over a real topic: the tables of the embedded engine, whatever stops a micro-batch where.

Starting Spark takes longer than all the rest, so one session serves every test here; tests/faults kills whole processes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from pyspark.sql import SparkSession

from tests.api.live import eventually
from tests.engines.clusters import SMALL_JVM, SparkHouse
from tests.parity.ways import digests
from tests.services.kafka import Broker
from tests.test_cli import tickhouse
from tickhouse.engines.ranges import RangeResult
from tickhouse.engines.spark import partition_keys
from tickhouse.engines.spark_session import spark_session
from tickhouse.errors import ConfigError, FatalError, LogCorruptError, SchemaMismatchError
from tickhouse.history import caused
from tickhouse.house import House
from tickhouse.house.journals import open_live
from tickhouse.model import I32, Batch, Offsets
from tickhouse.runs.spark import SparkRun
from tickhouse.serving.hub import Hub
from tickhouse.settings import SparkSettings
from tickhouse.sinks.base import Outputs
from tickhouse.sinks.lake import LakeTables
from tickhouse.tables import TABLES

pytestmark = [pytest.mark.timeout(1_800), pytest.mark.slow]

LINES = 3_000
MARKET = (LINES, 12, 7)

Commit = Callable[[SparkRun, Sequence[RangeResult]], None]


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One Spark for all tests."""
    with spark_session(SparkSettings(master="local[2,4]", conf=SMALL_JVM), tmp_path_factory.mktemp("spark")) as session:
        yield session


@pytest.fixture
def sent(market: Path, broker: Broker, tmp_path: Path) -> SparkHouse:
    """A house on a topic with 2 partitions."""
    return SparkHouse(market, broker, tmp_path, LINES // 2)


def stop_in_batch(monkeypatch: pytest.MonkeyPatch, number: int, *, after_commit: bool) -> None:
    """Let the commit of micro-batch `number` (from 1) fail, before or after the tables have its rows; once."""
    commit: Commit = SparkRun._commit
    count = 0

    def failing(run: SparkRun, results: Sequence[RangeResult]) -> None:
        nonlocal count
        count += 1
        if count != number or after_commit:
            commit(run, results)
        if count == number:
            raise FatalError("stopped by the test")

    monkeypatch.setattr(SparkRun, "_commit", failing)


def test_each_partition_has_a_task_of_its_own(spark: SparkSession) -> None:
    for tasks in (1, 2, 4, 16):
        keys = partition_keys(tasks)
        rows = (
            spark.createDataFrame([(key,) for key in keys], "key int").selectExpr(f"pmod(hash(key), {tasks}) AS task").collect()
        )
        assert [row["task"] for row in rows] == list(range(tasks))


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("after_commit", [False, True], ids=["before", "after"])
def test_a_batch_stopped_around_its_commit_changes_no_row(
    sent: SparkHouse, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch, *, after_commit: bool
) -> None:
    with monkeypatch.context() as patched:
        stop_in_batch(patched, 2, after_commit=after_commit)
        with pytest.raises(FatalError, match=r"^stopped by the test$"):
            sent.run()
    assert digests(sent.path) != expected
    run = sent.run()
    assert digests(sent.path) == expected
    assert run.counts.received == LINES
    assert not sent.run().positions  # nothing was left
    tickhouse("verify", "--house", sent.path)
    # Who follows the house, or works on without Spark, begins where it ended.
    with closing(open_live(House(sent.path), sent.settings)) as journal:
        kept = [journal.checkpoint(partition) for partition in range(2)]
    assert [stored[0] for stored in kept if stored is not None] == run.positions
    tickhouse("work", "--until-drained", *sent.options)
    assert digests(sent.path) == expected


class Followed(Hub):
    """A hub without subscribers: keeps where the pipelines began, and what they made."""

    def __init__(self) -> None:
        super().__init__(lambda: None)
        self.starts: tuple[int, ...] = ()
        self.made: dict[str, list[pa.Table]] = {"silver.trades": [], "gold.bars": []}

    def begin(self, position: Offsets, *_: Any, **__: Any) -> None:
        self.starts = position

    def publish(self, batch: Batch, outputs: Outputs, instruments: I32) -> None:
        for name, parts in self.made.items():
            parts += [table for table in [outputs.tables.get(name)] if table is not None]


@pytest.mark.usefixtures("spark")
def test_who_follows_begins_at_the_state_that_the_driver_keeps_and_makes_what_spark_makes(
    sent: SparkHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stop_in_batch(patched, 2, after_commit=False)
        with pytest.raises(FatalError, match="stopped"):
            sent.run()
    house, hub = House(sent.path, sent.settings.kafka), Followed()
    with closing(open_live(House(sent.path), sent.settings)) as journal:
        ends = sum(journal.topic.ends(partition).high for partition in range(journal.partitions))
    follower = house.follower(hub)
    follower.start()
    eventually(lambda: follower.state.position >= ends, 120)
    follower.stop()
    sent.run()
    lake = LakeTables(house.lake_path)
    assert min(hub.starts) > 0
    for name, parts in hub.made.items():
        made, stored = (
            pl.DataFrame(rows).sort(pl.all())
            for rows in (
                pa.concat_tables([part.cast(TABLES[name].schema) for part in parts]),
                lake.table(name, filters=caused(hub.starts, None)),
            )
        )
        assert len(made) > 20
        assert made.equals(stored)


@pytest.mark.usefixtures("spark")
def test_from_beginning_makes_the_state_anew_and_changes_no_row(
    sent: SparkHouse, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stop_in_batch(patched, 2, after_commit=True)
        with pytest.raises(FatalError, match="stopped"):
            sent.run()
    run = sent.run(from_beginning=True)
    assert run.counts.received == LINES
    assert digests(sent.path) == expected


@pytest.mark.usefixtures("spark")
def test_what_an_executor_or_the_planner_finds_wrong_is_one_clear_line(
    sent: SparkHouse, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stop_in_batch(patched, 2, after_commit=False)
        with pytest.raises(FatalError, match="stopped"):
            sent.run()
    lake = sent.path / "lake"
    lake.rename(sent.path / "elsewhere")
    with pytest.raises(LogCorruptError, match="the lake has lost rows, or is another one; `tickhouse spark --from-beginning`"):
        sent.run()  # an executor's
    shutil.rmtree(lake)
    (sent.path / "elsewhere").rename(lake)
    topic = sent.settings.kafka.topic
    admin = AdminClient({"bootstrap.servers": broker.servers, "log_level": 0})
    gone = [TopicPartition(topic, partition, -1) for partition in range(2)]
    for future in admin.delete_records(gone).values():
        future.result(30)
    with pytest.raises(LogCorruptError, match=r"messages of partition \d of .* are lost: .* deleted by retention"):
        sent.run()  # the planner's
    with pytest.raises(LogCorruptError, match="state of partition 0 is to be made anew, but retention has deleted"):
        sent.run(from_beginning=True)


def test_a_checkpoint_of_another_house_is_refused(sent: SparkHouse, market: Path, broker: Broker, tmp_path: Path) -> None:
    other = SparkHouse(market, broker, tmp_path / "other", LINES // 2)
    for house in (sent, other):
        house.begin()
    checkpoint = sent.path / "spark" / "checkpoint"
    shutil.rmtree(checkpoint)
    shutil.copytree(other.path / "spark" / "checkpoint", checkpoint)
    with pytest.raises(SchemaMismatchError, match="is the checkpoint of another house; `tickhouse spark --from-beginning`"):
        sent.run()
    (checkpoint / "tickhouse.json").write_text("{}")
    with pytest.raises(SchemaMismatchError, match="damaged"):
        sent.run()
    (checkpoint / "tickhouse.json").unlink()
    (checkpoint / "offsets").mkdir()
    with pytest.raises(SchemaMismatchError, match="no checkpoint of Tickhouse"):
        sent.run()


def test_settings_that_cannot_be_used_are_refused(sent: SparkHouse, tmp_path: Path) -> None:
    assert "use availableNow" in tickhouse("spark", "--trigger", "often", *sent.options, code=2)
    (tmp_path / "small.ndjson").write_text('{"s":"A","p":1,"v":1,"t":1768516200000}\n')
    tickhouse("replay", tmp_path / "small.ndjson", "--house", tmp_path / "recorded")
    with pytest.raises(ConfigError, match="has a recording journal, and Spark reads topics"):
        SparkRun(House(tmp_path / "recorded"), sent.settings)
