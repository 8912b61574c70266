"""A recording as those read it who follow a house of recordings that another process writes.

A house of recordings has no live log: its lines have been there all along, and how far the house has come is how far its tables
have. So a follower's reader stops where they do and goes on when they do, also into files that are added meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tickhouse.journal.recording.journal import Recording
from tickhouse.journal.recording.pace import at_heartbeats
from tickhouse.journal.recording.reader import RecordingReader
from tickhouse.model import Batch, Feeds, Position
from tickhouse.rules import Rules

__all__ = ["FollowedReader", "FollowedRecording"]

_LOOK_S = 0.1


class FollowedRecording:
    """A recording of which nothing beyond what the tables have reached is read; changes nothing.

    Args:
        recording: Opened read-only.
        reached: Tells the offset that the tables have reached.
    """

    partitions = 1

    def __init__(self, recording: Recording, reached: Callable[[], int]) -> None:
        self._recording = recording
        self._reached = reached

    def rules(self) -> Rules | None:
        """Return the rules the house was made with."""
        return self._recording.rules()

    def reader(self, partition: int, start: int, feeds: Feeds) -> FollowedReader:
        """Return a reader from line `start` on, interning into `feeds`."""
        return FollowedReader(self._recording, self._reached, partition, start, feeds)

    def beginning(self, partition: int) -> Position:
        """Return where a recording begins."""
        return self._recording.beginning(partition)

    def checkpoint(self, partition: int) -> tuple[Position, bytes] | None:
        """Return the newest stored snapshot and where it was taken."""
        return self._recording.checkpoint(partition)

    def store_checkpoint(self, partition: int, position: Position, snapshot: bytes) -> None:
        """Keep nothing: the house is another process's."""

    def last_clock(self) -> int:
        """Return the last heartbeat in the journal."""
        return self._recording.last_clock()

    def close(self) -> None:
        """Release the files."""
        self._recording.close()


class FollowedReader:
    """Reads on as the tables come on; see `FollowedRecording`."""

    exhausted = False
    drained = True
    """A read takes what the tables have reached."""

    def __init__(self, recording: Recording, reached: Callable[[], int], partition: int, start: int, feeds: Feeds) -> None:
        self._recording = recording
        self._reached = reached
        self._partition = partition
        self._feeds = feeds
        self._next = start
        self._limit = start
        self._pieces: list[Batch] = []
        self._files = 0
        self._reader: RecordingReader | None = None

    def read(self, timeout_s: float) -> Batch | None:
        """Return the next batch that the tables have reached; None where they have not within `timeout_s`."""
        until = time.monotonic() + timeout_s
        while True:
            piece = self._piece()
            if piece is not None:
                self._next = piece.next_offset
                return piece
            left = until - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(left, _LOOK_S))

    def _piece(self) -> Batch | None:
        if self._next >= self._limit:
            self._limit = self._reached()
            if self._next >= self._limit:
                return None
        if not self._pieces:
            batch = self._read()
            if batch is None:
                return None
            self._pieces = [batch] if batch.next_offset <= self._limit else at_heartbeats(batch)
        if self._pieces[0].next_offset > self._limit:
            self._limit = self._reached()
        return self._pieces.pop(0) if self._pieces[0].next_offset <= self._limit else None

    def _read(self) -> Batch | None:
        if self._reader is None:
            files = self._recording.files()
            if len(files) == self._files:
                return None
            self._files = len(files)
            self._reader = self._recording.reader(self._partition, self._next, self._feeds)
        batch = self._reader.read(0.0)
        if batch is None:
            self._reader.close()
            self._reader = None
        return batch

    def at_end(self) -> bool:
        """Return whether the tables have reached nothing more, which is so when `read` gives nothing."""
        return True

    def close(self) -> None:
        """Close the file at hand."""
        if self._reader is not None:
            self._reader.close()
