"""Sends one journal's records through another: `replay --to sqlite` puts a recording into a live house's journal.

The records keep their order and their heartbeats, so the tables come out the same. How far it came is stored in the same
transaction as the records: a killed transfer goes on after the last one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import numpy as np

from tickhouse.columns import take_trades
from tickhouse.journal.recording import Recording
from tickhouse.journal.sqlite import SqliteJournal
from tickhouse.model import Batch, Event, Feeds, Rejected, Trades

__all__ = ["transfer"]

_MARK = "transfer"


class _Target(Protocol):
    def columns(self, trades: Trades, feeds: Feeds) -> None: ...
    def rejected(self, rejected: Rejected) -> None: ...
    def event(self, event: Event) -> None: ...
    def heartbeat(self, clock: int) -> None: ...
    def ignored(self, count: int) -> None: ...


def transfer(
    recording: Recording, journal: SqliteJournal, stop: threading.Event, progress: Callable[[float, float], None] | None
) -> int:
    """Append what the journal does not have of the recording yet; return the line reached."""
    feeds = Feeds()
    line = int(journal.mark(_MARK) or 0)
    reader = recording.reader(0, line, feeds)
    appender = journal.appender()
    try:
        while not stop.is_set():
            batch = reader.read(0.0)
            if batch is None:
                if reader.exhausted:
                    break
                continue
            _append(batch, feeds, appender)
            line = batch.next_offset
            appender.set_mark(_MARK, str(line))
            appender.flush()
            if progress is not None:
                progress(reader.progress.bytes_read, reader.progress.bytes_total)
    finally:
        reader.close()
        appender.close()
    return line


def _append(batch: Batch, feeds: Feeds, target: _Target) -> None:
    """Append a batch record by record where order matters: trades between two heartbeats or events go as one piece."""
    beats = batch.beats
    columns = (beats.offset.tolist(), beats.row.tolist(), beats.at.tolist(), beats.clock.tolist())
    points: list[tuple[tuple[int, int], int, object]] = [
        ((offset, row), at, clock) for offset, row, at, clock in zip(*columns, strict=True)
    ]
    points += [((event.offset, event.row), event.at, event) for event in batch.events if event.event != "rules"]
    points += [((record.offset, record.row), -1, record) for record in batch.rejected]
    points.sort(key=lambda point: point[0])
    done = 0
    target.ignored(batch.ignored)
    for _, at, what in points:
        if at > done:
            target.columns(take_trades(batch.trades, np.arange(done, at, dtype=np.int64)), feeds)
            done = at
        if isinstance(what, Event):
            target.event(what)
        elif isinstance(what, Rejected):
            target.rejected(what)
        else:
            assert isinstance(what, int)
            target.heartbeat(what)
    if done < len(batch.trades):
        target.columns(take_trades(batch.trades, np.arange(done, len(batch.trades), dtype=np.int64)), feeds)
