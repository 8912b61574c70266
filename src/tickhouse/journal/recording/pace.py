"""A reader that hands out a recording at recorded speed, or any multiple of it.

It stands between a journal's reader and an engine: batches are cut at heartbeats, which are borders between messages, and each
piece waits for its instant. The rows are the same at any speed.
"""

from __future__ import annotations

import time
from dataclasses import replace

import msgspec
import numpy as np

from tickhouse.columns import take_trades
from tickhouse.journal.base import Journal, Reader
from tickhouse.model import Batch, Feeds, Position
from tickhouse.rules import Rules

__all__ = ["PacedJournal", "PacedReader", "at_heartbeats"]


class PacedReader:
    """Wraps a reader.

    Args:
        reader: Hands out batches as fast as it can.
        multiple: 1 = recorded speed, 10 = ten times faster.
    """

    def __init__(self, reader: Reader, multiple: float) -> None:
        self._reader = reader
        self._multiple = multiple
        self._pieces: list[Batch] = []
        self._origin: tuple[float, int] | None = None

    @property
    def exhausted(self) -> bool:
        """True once everything was read and handed out."""
        return not self._pieces and self._reader.exhausted

    def read(self, timeout_s: float) -> Batch | None:
        """Return the next piece when its instant has come; None while it has not."""
        if not self._pieces:
            batch = self._reader.read(timeout_s)
            if batch is None:
                return None
            self._pieces = at_heartbeats(batch)
        piece = self._pieces[0]
        wait_s = self._wait_s(piece)
        if wait_s > timeout_s:
            time.sleep(timeout_s)
            return None
        time.sleep(max(0.0, wait_s))
        return self._pieces.pop(0)

    @property
    def progress(self) -> object:
        """How far the wrapped reader has come, where it says so."""
        return getattr(self._reader, "progress", None)

    @property
    def drained(self) -> bool:
        """True where nothing more is there, nor held back."""
        return self._reader.drained and not self._pieces

    def at_end(self) -> bool:
        """Return whether nothing more is there, nor held back."""
        return not self._pieces and self._reader.at_end()

    def close(self) -> None:
        """Close the wrapped reader."""
        self._reader.close()

    def _wait_s(self, piece: Batch) -> float:
        if not len(piece.beats):
            return 0.0
        clock = int(piece.beats.clock[0])
        if self._origin is None:
            self._origin = (time.monotonic(), clock)
        began, first = self._origin
        return began + (clock - first) / 1e6 / self._multiple - time.monotonic()


def at_heartbeats(batch: Batch) -> list[Batch]:
    """Return a batch cut before each of its heartbeats."""
    beats = batch.beats
    if not len(beats):
        return [batch]
    borders = [0, *beats.offset.tolist()[1:], batch.next_offset]
    cuts = [0, *beats.at.tolist()[1:], len(batch.trades)]
    pieces = []
    for i in range(len(beats)):
        low, high = (borders[i] if i else -1), borders[i + 1]
        pieces.append(
            Batch(
                partition=batch.partition,
                trades=take_trades(batch.trades, np.arange(cuts[i], cuts[i + 1], dtype=np.int64)),
                beats=replace(
                    beats,
                    clock=beats.clock[i : i + 1],
                    at=beats.at[i : i + 1] - cuts[i],
                    offset=beats.offset[i : i + 1],
                    row=beats.row[i : i + 1],
                ),
                rejected=[record for record in batch.rejected if low <= record.offset < high],
                events=[
                    msgspec.structs.replace(event, at=event.at - cuts[i])
                    for event in batch.events
                    if low <= event.offset < high
                ],
                ignored=batch.ignored if i == 0 else 0,
                next_offset=high,
            )
        )
    return pieces


class PacedJournal:
    """A journal whose readers are paced; all else is the journal's own.

    Args:
        journal: Usually a recording.
        multiple: 1 = recorded speed.
    """

    def __init__(self, journal: Journal, multiple: float) -> None:
        self._journal = journal
        self._multiple = multiple
        self.partitions = journal.partitions

    def rules(self) -> Rules | None:
        """Return the rules the house was made with."""
        return self._journal.rules()

    def reader(self, partition: int, start: int, feeds: Feeds) -> Reader:
        """Return a paced reader from offset `start` on."""
        return PacedReader(self._journal.reader(partition, start, feeds), self._multiple)

    def beginning(self, partition: int) -> Position:
        """Return where the journal begins."""
        return self._journal.beginning(partition)

    def checkpoint(self, partition: int) -> tuple[Position, bytes] | None:
        """Return the newest stored snapshot and where it was taken."""
        return self._journal.checkpoint(partition)

    def store_checkpoint(self, partition: int, position: Position, snapshot: bytes) -> None:
        """Keep a snapshot."""
        self._journal.store_checkpoint(partition, position, snapshot)

    def last_clock(self) -> int:
        """Return the last heartbeat in the journal."""
        return self._journal.last_clock()

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()
