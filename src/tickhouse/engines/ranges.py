"""One range of a topic's partition worked off by itself: read, fed to the pipeline, its rows encoded into files.

This is what an executor does, wherever it runs: it needs the brokers, the lake's folder and the state that the range begins
with, and hands back the state it ends with and the files, which another process commits. A process keeps the partitions it
worked on, so that a range that follows the last one starts at once; from the state alone, as where the last one was another
process's, it gives the same rows.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path

import msgspec
import structlog

from tickhouse.engines.job import Job, Range
from tickhouse.errors import FatalError, LogCorruptError, SchemaMismatchError
from tickhouse.history import LakeHistory
from tickhouse.journal.kafka.reader import KafkaReader
from tickhouse.journal.kafka.topic import KafkaTopic
from tickhouse.model import Position
from tickhouse.pipeline import Counts, Pipeline
from tickhouse.sinks.lake import LakeTables
from tickhouse.sinks.lake_encode import EncodedRows, RangeEncoder
from tickhouse.sinks.lake_tail import LakeTail
from tickhouse.tables import TABLES

__all__ = ["RangeResult", "State", "work_off"]

_KEPT = 16
"""Partitions that a process keeps at most; one executor core rarely has more."""
_READ_S = 0.5
_WARN_S = 10.0

_log = structlog.get_logger(__name__)


class State(msgspec.Struct, frozen=True):
    """A partition between two ranges."""

    house: str
    """State of another house is never taken."""
    position: Position
    snapshot: bytes


class RangeResult(msgspec.Struct, frozen=True):
    """What became of a range."""

    range: Range
    clock: int
    """The last heartbeat below its end."""
    rows: dict[str, EncodedRows]
    """By table; tables that have everything already are left out."""
    counts: Counts
    """The partition's balance since the house began."""
    snapshot: bytes | None = None
    """The state at its end, where the range says to keep it."""


def work_off(job: Job, part: Range, state: State | None) -> tuple[RangeResult, State]:
    """Work off a range that begins where a state ends.

    Args:
        job: For which house.
        part: The range.
        state: None = the partition has none yet.

    Raises:
        LogCorruptError: the range does not follow the state, messages are gone, or the lake has less than the state.
        SchemaMismatchError: the state is of another house, of other rules, or the topic is another one.
    """
    _must_follow(job, part, state)
    kept = _kept_of(job)
    worker = kept.partitions.pop(part.partition, None)
    if worker is None or worker.position.offset != part.start:
        if worker is not None:
            worker.close()
        worker = _Partition(kept, part.partition, state)
    try:
        result = worker.work_off(part)
    except BaseException:
        worker.close()
        raise
    kept.partitions[part.partition] = worker
    if len(kept.partitions) > _KEPT:
        kept.partitions.popitem(last=False)[1].close()
    state = State(job.house, worker.position, worker.pipeline.snapshot())
    if part.keep:
        result = msgspec.structs.replace(result, snapshot=state.snapshot)
    return result, state


def _must_follow(job: Job, part: Range, state: State | None) -> None:
    name = f"partition {part.partition} of {job.topic.topic}"
    if state is not None and state.house != job.house:
        raise SchemaMismatchError(f"the state kept for {name} is that of another house; {_REPAIR}")
    reached = job.begin[part.partition] if state is None else state.position.offset
    if part.start != reached:
        raise LogCorruptError(
            f"records from {part.start} on of {name} are to be worked off, but its state ends at {reached}: "
            f"{'some would be left out' if part.start > reached else 'some would count twice'}; {_REPAIR}"
        )


_REPAIR = "`tickhouse spark --from-beginning` makes the state anew from the topic; the tables keep what they have"


class _Kept:
    """What this process keeps of a job: its topic, what it knows of the lake, and the partitions it worked on."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.lake = Path(job.lake)
        self.tail = LakeTail(self.lake, tuple(TABLES), range(job.topic.partitions))
        self.tables = LakeTables(self.lake)
        self.partitions: OrderedDict[int, _Partition] = OrderedDict()
        self._topic: KafkaTopic | None = None

    @property
    def topic(self) -> KafkaTopic:
        """The topic, open."""
        if self._topic is None:
            self._topic = self.job.open_topic()
        return self._topic

    def look(self) -> None:
        """See what the lake has by now."""
        if self.tail.look():
            self.tables = LakeTables(self.lake)

    def close(self) -> None:
        """Release the connections."""
        for partition in self.partitions.values():
            partition.close()
        if self._topic is not None:
            self._topic.close()


class _Partition:
    """A partition at work in this process: its pipeline, what that reads back, and a reader that stands where it ends."""

    def __init__(self, kept: _Kept, partition: int, state: State | None) -> None:
        self._kept = kept
        self._job = kept.job
        self._partition = partition
        self._reached: dict[str, Position] = {}
        self.position = Position(self._job.begin[partition]) if state is None else state.position
        self._history = LakeHistory(kept.tables, partition)
        self.pipeline = Pipeline(partition, self._job.rules, self._history, None if state is None else state.snapshot)
        self._reader: KafkaReader | None = None

    def work_off(self, part: Range) -> RangeResult:
        """Read the range, feed it, encode what it makes."""
        self._kept.look()
        self._history.take_up(self._kept.tables, self._kept.tail)
        if not self._reached:
            self._reached = self._stored(part)
        encoder = RangeEncoder(self._kept.lake, part.partition, self._reached)
        try:
            self._feed(part, encoder)
            rows = encoder.finish()
        except BaseException:
            encoder.abandon()
            raise
        # A range that follows in this process comes after the commit of this one: nobody has to be asked.
        self._reached = {name: max(reached, self.position) for name, reached in self._reached.items()}
        return RangeResult(part, self.position.clock, rows, self.pipeline.counts)

    def close(self) -> None:
        """Release the connection."""
        if self._reader is not None:
            self._reader.close()

    def _feed(self, part: Range, encoder: RangeEncoder) -> None:
        reader, heard = self._reading(part), time.monotonic()
        while not reader.exhausted:
            batch = reader.read(_READ_S)
            if batch is not None:
                outputs = self.pipeline.feed(batch, catching_up=True)
                encoder.write(outputs)
                self.position, heard = outputs.position, time.monotonic()
            elif time.monotonic() > heard + _WARN_S:
                about = msgspec.to_builtins(part)
                _log.warning("kafka_silent", **about, read=reader.position, hint="waiting for the brokers")
                heard = float("inf")
        if self.position.offset != part.end:
            raise FatalError(f"{part} was read up to {self.position.offset}: report this, it must never happen")

    def _reading(self, part: Range) -> KafkaReader:
        if self._reader is None:
            known = self.position.offset > self._job.begin[part.partition]
            self._reader = self._kept.topic.reader(
                part.partition,
                part.start,
                self.pipeline.feeds,
                clock=self.position.clock if known else None,
                until=part.end,
                makes_beats=self._job.makes_beats,
            )
        self._reader.read_on(part.end)
        return self._reader

    def _stored(self, part: Range) -> dict[str, Position]:
        """Return what each table has of the partition.

        Raises:
            LogCorruptError: a table has less than the state.
        """
        reached = {name: self._kept.tail.position(name, part.partition) for name in TABLES}
        least, name = min((position, name) for name, position in reached.items())
        if part.start > self._job.begin[part.partition] and part.start > least.offset:
            raise LogCorruptError(
                f"{name} has partition {part.partition} up to record {least.offset} only, but the state goes on from "
                f"{part.start}: the lake has lost rows, or is another one; {_REPAIR}"
            )
        return reached


_kept: dict[str, _Kept] = {}
"""One job at most, by its key."""


def _kept_of(job: Job) -> _Kept:
    """Return what this process keeps of a job; what it kept of another one is let go."""
    if job.key not in _kept:
        for other in _kept.values():
            other.close()
        _kept.clear()
        _kept[job.key] = _Kept(job)
    return _kept[job.key]
