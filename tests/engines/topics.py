"""Houses on a topic of a real broker, for the tests of engines: filled once, worked off as a test likes."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

from bench.standard_work import write

from tests.services.kafka import Broker
from tests.test_cli import tickhouse
from tickhouse.engines.ranges import Job, Range, RangeResult, State, work_off
from tickhouse.house import House
from tickhouse.quality.digest import table_digest
from tickhouse.runs.spark import spark_job
from tickhouse.settings import Settings, load
from tickhouse.sinks.lake import Lake, LakeTables
from tickhouse.tables import TABLES

__all__ = ["Cluster", "TopicHouse", "embedded", "row_digests"]


def row_digests(house: Path) -> dict[str, str]:
    """Return one digest a table, of all rows without their causes."""
    lake = LakeTables(house / "lake")
    return {name: table_digest(lake.table(name), TABLES[name]) for name in TABLES}


def embedded(recorded: Path, house: Path) -> dict[str, str]:
    """Work a recording off on the embedded engine; return the digests of a proven house."""
    tickhouse("replay", recorded, "--house", house)
    tickhouse("verify", "--house", house)
    return row_digests(house)


class TopicHouse:
    """A house on a topic of its own, filled with the standard work.

    Args:
        broker: Where.
        folder: For the recording and the house.
        partitions: Of the topic.
        form: `json` or `arrow`.
        lines: Of the standard work.
        seed: The same seed, the same lines.
        recorded: A recording to send instead.
    """

    def __init__(
        self,
        broker: Broker,
        folder: Path,
        partitions: int = 4,
        form: str = "json",
        lines: int = 3_000,
        seed: int = 1,
        recorded: Path | None = None,
    ) -> None:
        self.path = folder / "house"
        self.recorded = recorded or folder / "market.ndjson"
        if recorded is None:
            write(self.recorded, lines, 20, seed)
        self.environment = {
            "KAFKA_SERVER": broker.servers,
            "KAFKA_TOPIC": f"t-{uuid.uuid4().hex[:12]}",
            "TICKHOUSE_KAFKA__PARTITIONS": str(partitions),
            "TICKHOUSE_KAFKA__FORM": form,
        }
        self("replay", self.recorded, "--to", "kafka", "--house", self.path)

    def __call__(self, *words: str | Path, code: int = 0) -> str:
        """Run the command line for this house's topic."""
        with patch.dict(os.environ, self.environment):
            return tickhouse(*words, code=code)

    def settings(self, overrides: Mapping[str, object] | None = None) -> Settings:
        """Return the settings of this house."""
        with patch.dict(os.environ, self.environment):
            return load(None, dict(overrides or {}))[0]

    def digests(self) -> dict[str, str]:
        """Return the digests of the house, proven."""
        self("verify", "--house", self.path)
        return row_digests(self.path)


class Cluster:
    """Works a house off range by range, as executors and a driver do, in this process.

    Args:
        house: Which one.
    """

    def __init__(self, house: TopicHouse) -> None:
        self.house = House(house.path)
        self.lake = Lake(self.house.lake_path)
        journal = self.house.live(house.settings({"journal.kind": "kafka"}))
        self.job: Job = spark_job(self.house, house.settings(), journal, self.lake, house.path / "spark" / "checkpoint")
        self.ends = [journal.topic.ends(partition).high for partition in range(journal.partitions)]
        journal.close()
        self.states: list[State | None] = [None for _ in self.ends]

    def executed(self, ranges: Sequence[Range]) -> tuple[list[RangeResult], list[State]]:
        """Work ranges off; nothing is committed."""
        done = [work_off(self.job, part, self.states[part.partition]) for part in ranges]
        return [result for result, _ in done], [state for _, state in done]

    def commit(self, results: Sequence[RangeResult]) -> None:
        """Commit what came out."""
        for result in results:
            self.lake.take(result.range.partition, result.rows)
        self.lake.commit(everything=True)

    def batch(self, ranges: Sequence[Range]) -> None:
        """Work off a micro-batch: rows and states."""
        results, states = self.executed(ranges)
        self.commit(results)
        for part, state in zip(ranges, states, strict=True):
            self.states[part.partition] = state

    def ranges(self, steps: int) -> list[list[Range]]:
        """Return everything cut into so many micro-batches."""
        cuts = [[end * step // steps for step in range(steps + 1)] for end in self.ends]
        return [[Range(p, cut[step], cut[step + 1]) for p, cut in enumerate(cuts)] for step in range(steps)]
