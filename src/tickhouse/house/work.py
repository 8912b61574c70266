"""A house at work: its journal, a pipeline a partition, its sinks and the engine, put together where the last run left off."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from tickhouse.columns import EMPTY_BEATS, empty_trades
from tickhouse.engines.embedded import EmbeddedEngine, Listener
from tickhouse.errors import TickhouseError
from tickhouse.history import LakeHistories, LakeHistory
from tickhouse.house.folder import HouseFolder
from tickhouse.house.journals import producer_name
from tickhouse.journal.base import Journal
from tickhouse.model import Batch, Position
from tickhouse.pipeline import Counts, Pipeline
from tickhouse.rules import Rules, parse_duration
from tickhouse.settings import Settings
from tickhouse.sinks.base import Sink
from tickhouse.sinks.lake import Lake, LakeTables

__all__ = ["Work", "load_code", "open_work"]


class Work(NamedTuple):
    """A house opened for writing, ready to run."""

    engine: EmbeddedEngine
    pipelines: list[Pipeline]
    """One a partition."""
    journal: Journal
    starts: list[Position]
    """Where each pipeline's snapshot was taken."""
    sinks: list[Sink]

    @property
    def counts(self) -> Counts:
        """The balance since the house began."""
        return Counts.total(pipeline.counts for pipeline in self.pipelines)

    def close(self) -> None:
        """Release the sinks."""
        for sink in self.sinks:
            sink.close()


def open_work(
    house: HouseFolder,
    journal: Journal,
    rules: Rules,
    settings: Settings,
    listener: Listener | None = None,
    *,
    pace_s: float = 0.0,
) -> Work:
    """Return the engine over a journal of a house, with the house's sinks.

    Args:
        house: Held for writing.
        journal: Its own; closed by the caller.
        rules: Those of the journal.
        settings: All of them; with `journal.sync = "full"` commits survive a power cut.
        listener: See `EmbeddedEngine`.
        pace_s: See `EmbeddedEngine`.
    """
    lake = Lake(house.lake_path, durable=settings.journal.sync == "full")
    histories = LakeHistories(house.lake_path, journal.partitions)
    pipelines, starts = [], []
    for partition, history in enumerate(histories.of):
        start, state = _resumed(journal, lake, partition)
        pipelines.append(Pipeline(partition, rules, history, state))
        starts.append(start)
    sinks: list[Sink] = [lake]
    if settings.kafka.publish:
        from tickhouse.journal.kafka.publisher import KafkaPublisher

        sinks.append(KafkaPublisher(settings.kafka, journal.partitions, producer_name(house), starts))
    engine = EmbeddedEngine(
        journal,
        pipelines,
        histories,
        sinks,
        commit_every_s=parse_duration(settings.engine.commit_every) / 1e6,
        snapshot_every_s=parse_duration(settings.engine.snapshot_every) / 1e6,
        listener=listener,
        pace_s=pace_s,
    )
    return Work(engine, pipelines, journal, starts, sinks)


def load_code(house: HouseFolder, rules: Rules) -> None:
    """Load the compiled code that pipelines call; in a thread of its own, while something else is waited for."""
    with suppress(TickhouseError):  # the run meets it again
        pipeline = Pipeline(0, rules, LakeHistory(LakeTables(house.lake_path), 0))
        pipeline.feed(Batch(0, empty_trades(), EMPTY_BEATS))


def _resumed(journal: Journal, lake: Lake, partition: int) -> tuple[Position, bytes | None]:
    """Return where a partition is taken up again, and its state there."""
    stored = journal.checkpoint(partition)
    if stored is not None and min(lake.positions(partition).values()).offset < stored[0].offset:
        # A table lost what it had: it is filled again from the journal's beginning on, the others skip what they have.
        stored = None
    return stored or (journal.beginning(partition), None)
