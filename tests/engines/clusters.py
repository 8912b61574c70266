"""Houses on topics for tests of the Spark engine: worked off range by range without Spark, or by it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tests.parity.ways import Servers, send
from tests.services.kafka import Broker
from tickhouse.engines.job import Range
from tickhouse.engines.ranges import RangeResult, State, work_off
from tickhouse.house import House
from tickhouse.house.journals import open_live
from tickhouse.runs.spark import SparkRun, spark_job
from tickhouse.settings import Settings, load
from tickhouse.sinks.lake import Lake

__all__ = ["SMALL_JVM", "Cluster", "SparkHouse"]

SMALL_JVM = {
    "spark.driver.memory": "640m",
    "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -Xshare:auto",
}
"""Several of these run beside each other, and none for long."""


class Cluster:
    """What Spark would do, without it.

    Args:
        recorded: Sent to a topic of the house's own.
        path: The house.
        servers: The broker.
        form: Of the messages.
        partitions: Of the topic.
    """

    def __init__(self, recorded: Path, path: Path, servers: Servers, form: str = "json", partitions: int = 4) -> None:
        self.options = send([recorded], path, servers, form, partitions)
        self.path = path
        self.settings = load(Path(self.options[-1]))[0]
        self.house = House(path)
        self.begin_anew()
        journal = open_live(self.house, self.settings)
        self.ends = [journal.topic.ends(partition).high for partition in range(partitions)]  # type: ignore[union-attr]
        journal.close()

    def begin_anew(self) -> None:
        """Start over as another process: no state, the tables as they are."""
        journal = open_live(self.house, self.settings)
        self.lake = Lake(self.house.lake_path)
        self.job = spark_job(self.house, self.settings, journal, self.path / "spark" / "checkpoint")
        journal.close()
        self.states: list[State | None] = [None] * self.job.topic.partitions

    def ranges(self, steps: int) -> list[list[Range]]:
        """Return everything cut into so many micro-batches."""
        cuts = [[end * step // steps for step in range(steps + 1)] for end in self.ends]
        return [[Range(number, cut[step], cut[step + 1]) for number, cut in enumerate(cuts)] for step in range(steps)]

    def execute(self, ranges: Sequence[Range]) -> tuple[list[RangeResult], list[State | None]]:
        """Work ranges off; nothing is committed, no state kept."""
        done = [work_off(self.job, part, self.states[part.partition]) for part in ranges]
        return [result for result, _ in done], [state for _, state in done]

    def commit(self, results: Sequence[RangeResult]) -> None:
        """Commit what came out."""
        for result in results:
            self.lake.take(result.range.partition, result.rows)
        self.lake.commit(everything=True)

    def batch(self, ranges: Sequence[Range]) -> None:
        """Work off one micro-batch, rows and states."""
        results, self.states = self.execute(ranges)
        self.commit(results)


class SparkHouse:
    """What Spark does: a recording on a topic of its own, and a house for it.

    Args:
        recorded: Sent to the topic.
        broker: Where to.
        folder: The house is in it.
        max_records: Of a micro-batch.
        partitions: Of the topic.
    """

    def __init__(self, recorded: Path, broker: Broker, folder: Path, max_records: int, partitions: int = 2) -> None:
        self.options = send([recorded], folder / "house", Servers(broker.servers, ""), "json", partitions)
        self.path = folder / "house"
        self._max_records = max_records

    @property
    def settings(self) -> Settings:
        """Its settings: work off what is there on this machine, then end."""
        overrides = {"spark.trigger": "availableNow", "spark.max_records": self._max_records, "spark.master": "local[2,4]"}
        return load(Path(self.options[-1]), overrides)[0]

    def begin(self) -> None:
        """Make the checkpoint, as a run does before it starts Spark."""
        house = House(self.path)
        with closing(open_live(house, self.settings)) as journal:
            spark_job(house, self.settings, journal, self.path / "spark" / "checkpoint")

    def run(self, *, from_beginning: bool = False) -> SparkRun:
        """Work off what is there."""
        run = SparkRun(House(self.path), self.settings, from_beginning=from_beginning)
        with run:
            while run.running:
                time.sleep(0.05)
        return run
