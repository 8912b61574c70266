"""A house on a topic, worked off range by range in this process, as executors and a driver do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.parity.ways import Servers, send
from tickhouse.engines.job import Range
from tickhouse.engines.ranges import RangeResult, State, work_off
from tickhouse.house import House
from tickhouse.runs.spark import spark_job
from tickhouse.settings import load
from tickhouse.sinks.lake import Lake

__all__ = ["Cluster"]


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
        journal = self.house.live(self.settings)
        self.ends = [journal.topic.ends(partition).high for partition in range(partitions)]  # type: ignore[union-attr]
        journal.close()

    def begin_anew(self) -> None:
        """Start over as another process: no state, the tables as they are."""
        journal = self.house.live(self.settings)
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
