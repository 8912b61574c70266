"""All partitions of a topic as one sequence of records, which another topic with other partitions can be filled from.

A heartbeat stands in every partition, and what a record's clock is, is all that partitions have in common: so the sequence has
all records of one clock, partition after partition, then the next heartbeat. Its lines are the heartbeats, its rows count what
stands between two of them: the same topic always gives the same places, and a killed `repartition` goes on after the last.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np

from tickhouse.columns import concat_trades, take_trades
from tickhouse.journal.base import Progress
from tickhouse.journal.kafka.reader import KafkaReader
from tickhouse.journal.kafka.topic import KafkaTopic
from tickhouse.model import HEARTBEAT_US, NO_TIME, Batch, Beats, Event, Feeds, Rejected, Trades

__all__ = ["MergedReader", "MergedTopic"]

_ROWS, _BEATS = 1 << 16, 1 << 12
"""A batch is given out when it has so many rows, or heartbeats."""
_READ_S = 0.5


class MergedTopic:
    """What `transfer` sends: a topic as it is now.

    Args:
        topic: The one to read.
    """

    def __init__(self, topic: KafkaTopic) -> None:
        self._topic = topic

    def name(self) -> str:
        """Return the id of the topic: no other one has it."""
        return self._topic.identity.topic_id

    def reader(self, _partition: int, _line: int, feeds: Feeds) -> MergedReader:
        """Return a reader from the beginning on; whoever is filled leaves out what it has."""
        return MergedReader(self._topic, feeds)


class _Piece(NamedTuple):
    """Records of one partition between two heartbeats, or a part of them."""

    trades: Trades
    others: list[tuple[int, Event | Rejected]]
    """(trades before it, record)."""
    ignored: int
    clock: int | None
    """The heartbeat that follows; None = none yet."""


class MergedReader:
    """Reads every partition up to where it ends when the reader is made.

    Raises:
        LogCorruptError: the beginning of a partition is gone.
    """

    def __init__(self, topic: KafkaTopic, feeds: Feeds) -> None:
        self._stack = ExitStack()
        self._ends = [topic.ends(partition).high for partition in range(topic.partitions)]
        makes_beats = topic.makes_beats()
        self._readers = [
            self._stack.enter_context(
                topic.reader(partition, 0, feeds, clock=NO_TIME, until=end, makes_beats=bool(makes_beats))
            )
            for partition, end in enumerate(self._ends)
        ]
        self._batches = self._merged()
        self.exhausted = False

    @property
    def progress(self) -> Progress:
        """How far it has come, in messages."""
        done = sum(reader.position for reader in self._readers)
        return Progress(done, sum(self._ends), done)

    def read(self, _timeout_s: float) -> Batch | None:
        """Return the next records; None at the end."""
        batch = next(self._batches, None)
        self.exhausted = batch is None
        return batch

    def close(self) -> None:
        """Release the connections."""
        self._batches.close()
        self._stack.close()

    def _merged(self) -> Generator[Batch, None, None]:
        """Yield the sequence, cut only where a heartbeat follows."""
        sequences = [_pieces(reader) for reader in self._readers]
        coming: dict[int, int] = {}
        """By partition that has more: its next heartbeat."""
        merged, waiting = _Merged(), set(range(len(sequences)))
        while True:
            for partition in sorted(waiting):
                coming.pop(partition, None)
                for piece in sequences[partition]:
                    merged.add(piece)
                    if piece.clock is not None:
                        coming[partition] = piece.clock
                        break
            if not coming or merged.is_large:
                yield merged.batch()
            if not coming:
                return
            clock = min(coming.values())
            merged.beat(clock)
            waiting = {partition for partition, following in coming.items() if following == clock}


class _Merged:
    """Gathers a batch of the sequence."""

    def __init__(self) -> None:
        self._line = self._row = 0
        self._begin()

    def _begin(self) -> None:
        self._trades: list[Trades] = []
        self._count = 0
        self._beats: list[tuple[int, int, int, int]] = []
        self._rejected: list[Rejected] = []
        self._events: list[Event] = []
        self._ignored = 0

    @property
    def is_large(self) -> bool:
        """Whether there is enough for a batch."""
        return self._count >= _ROWS or len(self._beats) >= _BEATS

    def beat(self, clock: int) -> None:
        """Add a heartbeat, which begins a line."""
        self._line, self._row = clock // HEARTBEAT_US, 1
        self._beats.append((clock, self._count, self._line, 0))

    def add(self, piece: _Piece) -> None:
        """Add records, each with a place of its own."""
        count = len(piece.trades)
        standing = np.array([before for before, _ in piece.others], np.int64)
        numbers = np.arange(count, dtype=np.int64)
        rows = self._row + numbers + np.searchsorted(standing, numbers, side="right")
        if count:
            lines = np.full(count, self._line, np.int64)
            self._trades.append(replace(piece.trades, offset=lines, row=rows.astype(np.int32)))
        for number, (before, record) in enumerate(piece.others):
            place = {"offset": self._line, "row": self._row + before + number}
            if isinstance(record, Event):
                self._events.append(msgspec.structs.replace(record, **place, at=self._count + before))
            else:
                self._rejected.append(msgspec.structs.replace(record, **place))
        self._count += count
        self._row += count + len(piece.others)
        self._ignored += piece.ignored

    def batch(self) -> Batch:
        """Return what was gathered, and begin anew."""
        columns = np.array(self._beats, np.int64).reshape(-1, 4)
        clock, at, offset, row = (np.ascontiguousarray(columns[:, i]) for i in range(4))
        beats = Beats(clock, at, offset, row.astype(np.int32))
        trades = concat_trades(self._trades)
        made = Batch(0, trades, beats, self._rejected, self._events, self._ignored, next_offset=self._line + 1)
        self._begin()
        return made


def _pieces(reader: KafkaReader) -> Iterator[_Piece]:
    """Yield the records of a partition, cut at its heartbeats."""
    while not reader.exhausted:
        batch = reader.read(_READ_S)
        if batch is None:
            continue
        others = _others(batch)
        begin = first = 0
        for clock, at, offset, row in zip(*_columns(batch.beats), strict=True):
            last = first
            while last < len(others) and _place(others[last][1]) < (offset, row):
                last += 1
            yield _piece(batch, begin, at, others[first:last], 0, clock)
            begin, first = at, last
        yield _piece(batch, begin, len(batch.trades), others[first:], batch.ignored, None)


def _piece(
    batch: Batch, begin: int, end: int, others: Sequence[tuple[int, Event | Rejected]], ignored: int, clock: int | None
) -> _Piece:
    trades = take_trades(batch.trades, slice(begin, end))
    return _Piece(trades, [(before - begin, record) for before, record in others], ignored, clock)


def _columns(beats: Beats) -> tuple[list[int], list[int], list[int], list[int]]:
    return beats.clock.tolist(), beats.at.tolist(), beats.offset.tolist(), beats.row.tolist()


def _place(record: Event | Rejected) -> tuple[int, int]:
    return record.offset, record.row


def _others(batch: Batch) -> list[tuple[int, Event | Rejected]]:
    """Return what is no trade, in order, each with the number of trades before it."""
    found: list[tuple[int, Event | Rejected]] = [(event.at, event) for event in batch.events]
    found += [(int(np.searchsorted(batch.trades.offset, record.offset)), record) for record in batch.rejected]
    return sorted(found, key=lambda one: _place(one[1]))
