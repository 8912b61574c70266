"""Real Spark over a real topic: the tables of the embedded engine, whatever stops a micro-batch where.

Starting Spark takes longer than all the rest, so one session serves every test here; tests/faults kills whole processes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from bench.standard_work import write
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from pyspark.sql import SparkSession

from tests.parity.ways import Servers, digests, send
from tests.services.kafka import Broker
from tests.test_cli import tickhouse
from tickhouse.engines.ranges import RangeResult
from tickhouse.engines.spark import partition_keys
from tickhouse.engines.spark_session import spark_session
from tickhouse.errors import ConfigError, FatalError, LogCorruptError, SchemaMismatchError
from tickhouse.house import House
from tickhouse.runs.spark import SparkRun, spark_job
from tickhouse.settings import Settings, SparkSettings, load

pytestmark = [pytest.mark.timeout(1_800), pytest.mark.slow]

LINES = 3_000
SMALL_JVM = {
    "spark.driver.memory": "640m",
    "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto",
}
"""Several of these run beside each other, and none for long."""

Commit = Callable[[SparkRun, Sequence[RangeResult]], None]


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One Spark for all tests."""
    with spark_session(SparkSettings(master="local[2,4]", conf=SMALL_JVM), tmp_path_factory.mktemp("spark")) as session:
        yield session


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording with all disorder."""
    file = tmp_path_factory.mktemp("market") / "market.ndjson"
    write(file, LINES, 12, 7)
    return file


@pytest.fixture(scope="module")
def expected(market: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the embedded engine makes of it."""
    house = tmp_path_factory.mktemp("expected") / "house"
    tickhouse("replay", market, "--house", house)
    return digests(house)


class Sent:
    """A recording on a topic of its own, and a house for it."""

    def __init__(self, market: Path, broker: Broker, folder: Path, partitions: int = 2) -> None:
        self.options = send([market], folder / "house", Servers(broker.servers, ""), "json", partitions)
        self.path = folder / "house"

    @property
    def settings(self) -> Settings:
        """Its settings: three micro-batches, then an end."""
        overrides = {"spark.trigger": "availableNow", "spark.max_records": LINES // 2, "spark.master": "local[2,4]"}
        return load(Path(self.options[-1]), overrides)[0]

    def begin(self) -> None:
        """Make the checkpoint, as a run does before it starts Spark."""
        house = House(self.path)
        with closing(house.live(self.settings)) as journal:
            spark_job(house, self.settings, journal, self.path / "spark" / "checkpoint")

    def run(self, *, from_beginning: bool = False) -> SparkRun:
        """Work off what is there."""
        run = SparkRun(House(self.path), self.settings, from_beginning=from_beginning)
        with run:
            while run.running:
                time.sleep(0.05)
        return run


@pytest.fixture
def sent(market: Path, broker: Broker, tmp_path: Path) -> Sent:
    """A house on a topic with 2 partitions."""
    return Sent(market, broker, tmp_path)


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
    sent: Sent, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch, *, after_commit: bool
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


@pytest.mark.usefixtures("spark")
def test_from_beginning_makes_the_state_anew_and_changes_no_row(
    sent: Sent, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
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
    sent: Sent, broker: Broker, monkeypatch: pytest.MonkeyPatch
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


def test_a_checkpoint_of_another_house_is_refused(sent: Sent, market: Path, broker: Broker, tmp_path: Path) -> None:
    other = Sent(market, broker, tmp_path / "other")
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


def test_settings_that_cannot_be_used_are_refused(sent: Sent, tmp_path: Path) -> None:
    assert "use availableNow" in tickhouse("spark", "--trigger", "often", *sent.options, code=2)
    (tmp_path / "small.ndjson").write_text('{"s":"A","p":1,"v":1,"t":1768516200000}\n')
    tickhouse("replay", tmp_path / "small.ndjson", "--house", tmp_path / "recorded")
    with pytest.raises(ConfigError, match="has a recording journal, and Spark reads topics"):
        SparkRun(House(tmp_path / "recorded"), sent.settings)
