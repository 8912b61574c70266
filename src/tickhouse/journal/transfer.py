"""Sends one journal's records through another: `replay --to` a recording into a live journal, `repartition` topic into topic.

The records keep their order and their heartbeats, so the tables come out the same. How far it came is stored with the records:
a killed transfer goes on after the last one (in a topic, after the last one of each partition).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import numpy as np

from tickhouse.columns import take_trades
from tickhouse.journal.base import Progress
from tickhouse.model import Batch, Event, Feeds, Rejected, Trades

__all__ = ["Origin", "OriginReader", "Target", "transfer"]

_AFTER_ALL_ROWS = 1 << 31


class Target(Protocol):
    """The writer of the other journal."""

    def resume(self, recording: str) -> int:
        """Say which recording is sent; return the line to begin with."""
        ...

    def place(self, line: int, row: int) -> None:
        """Say where in the recording the next record stands; trades in columns say it themselves."""
        ...

    def columns(self, trades: Trades, feeds: Feeds) -> None:
        """Append trades with feed codes of `feeds`; their offsets and rows are their places."""
        ...

    def rejected(self, rejected: Rejected) -> None:
        """Append a payload that became no trade."""
        ...

    def event(self, event: Event) -> None:
        """Append a feed event."""
        ...

    def heartbeat(self, clock: int) -> None:
        """Append a heartbeat."""
        ...

    def ignored(self, count: int) -> None:
        """Count documented messages that are not taken."""
        ...

    def reached(self, line: int) -> None:
        """Say that every line below this one was appended; called before each flush."""
        ...

    def flush(self) -> None:
        """Make everything appended durable."""
        ...

    def close(self) -> None:
        """Flush and release."""
        ...


class Origin(Protocol):
    """What is sent: a recording, or a topic merged into one sequence."""

    def name(self) -> str:
        """Name it; no other one has the name."""
        ...

    def reader(self, partition: int, start: int, feeds: Feeds, /) -> OriginReader:
        """Return a reader of its one partition."""
        ...


class OriginReader(Protocol):
    """Reads it, and says how far it has come."""

    def read(self, timeout_s: float, /) -> Batch | None:
        """Return the next records; None where nothing came, or at the end."""
        ...

    @property
    def exhausted(self) -> bool:
        """True once the end was read."""
        ...

    def close(self) -> None:
        """Release what the reader holds."""
        ...

    @property
    def progress(self) -> Progress:
        """In bytes, or messages."""
        ...


def transfer(recording: Origin, target: Target, stop: threading.Event, progress: Callable[[float, float], None] | None) -> int:
    """Append what the target does not have of the recording (or topic) yet, and close it; return the line reached."""
    feeds = Feeds()
    try:
        line = target.resume(recording.name())
        reader = recording.reader(0, line, feeds)
        try:
            while not stop.is_set():
                batch = reader.read(0.0)
                if batch is None:
                    if reader.exhausted:
                        break
                    continue
                _append(batch, feeds, target)
                line = batch.next_offset
                target.reached(line)
                target.flush()
                if progress is not None:
                    progress(reader.progress.bytes_read, reader.progress.bytes_total)
        finally:
            reader.close()
    finally:
        target.close()
    return line


def _append(batch: Batch, feeds: Feeds, target: Target) -> None:
    """Append a batch in the order of its places, trades between two other records as one piece.

    A killed transfer goes on after the last place that arrived, so nothing may overtake a record that stands before it.
    """
    beats = batch.beats
    columns = (beats.offset.tolist(), beats.row.tolist(), beats.at.tolist(), beats.clock.tolist())
    points: list[tuple[tuple[int, int], int, object]] = [
        ((offset, row), at, clock) for offset, row, at, clock in zip(*columns, strict=True)
    ]
    points += [((event.offset, event.row), event.at, event) for event in batch.events if event.event != "rules"]
    points += [((record.offset, record.row), _before(batch.trades, record), record) for record in batch.rejected]
    points.sort(key=lambda point: point[0])
    done = 0
    for place, at, what in points:
        if at > done:
            target.columns(take_trades(batch.trades, np.arange(done, at, dtype=np.int64)), feeds)
            done = at
        target.place(*place)
        if isinstance(what, Event):
            target.event(what)
        elif isinstance(what, Rejected):
            target.rejected(what)
        else:
            assert isinstance(what, int)
            target.heartbeat(what)
    if done < len(batch.trades):
        target.columns(take_trades(batch.trades, np.arange(done, len(batch.trades), dtype=np.int64)), feeds)
    if batch.ignored:
        target.place(batch.next_offset - 1, _AFTER_ALL_ROWS)
        target.ignored(batch.ignored)


def _before(trades: Trades, record: Rejected) -> int:
    """Return how many trades stand before a rejected record."""
    begin, end = np.searchsorted(trades.offset, (record.offset, record.offset + 1)).tolist()
    return int(begin + np.searchsorted(trades.row[begin:end], record.row))
