"""What a journal is to those who read it, and to ingest, which writes it.

Ingest appends; engines read batches from an offset and store checkpoints. Nothing else moves the house (idea 1 of the design).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tickhouse.model import Batch, Event, Feeds, Position, Rejected, Trade
from tickhouse.rules import Rules

__all__ = ["Appender", "Journal", "Progress", "Reader"]


class Progress(NamedTuple):
    """How far a reader has come."""

    bytes_read: int
    bytes_total: int
    lines: int
    """Lines given out or passed over, of all files."""


class Reader(Protocol):
    """Reads one partition, forward only."""

    def read(self, timeout_s: float) -> Batch | None:
        """Return whatever has arrived, whole messages; a journal bounds the rows of a batch (a live one at MAX_MESSAGE_ROWS).

        Blocks up to `timeout_s` for something to arrive; None when nothing did, or at the end of a recording.
        """
        ...

    @property
    def exhausted(self) -> bool:
        """True once the end of a finite journal (a recording) was read; a live one never is."""
        ...

    @property
    def drained(self) -> bool:
        """True where nothing more is there, as far as is known without asking; asked after each batch."""
        ...

    def at_end(self) -> bool:
        """Return whether nothing more is there now; who is about to leave asks, when `read` gave nothing."""
        ...

    def close(self) -> None:
        """Release what the reader holds."""
        ...


class Appender(Protocol):
    """The one writer of a journal. Called from ingest's thread; records become durable, in order, at `flush`."""

    def trades(self, trades: Sequence[Trade], received_at: int) -> None:
        """Append the trades of one payload, in order."""
        ...

    def rejected(self, rejected: Rejected) -> None:
        """Append a payload that became no trade."""
        ...

    def event(self, event: Event) -> None:
        """Append a feed event."""
        ...

    def heartbeat(self, clock: int) -> None:
        """Append a heartbeat to every partition; `clock` is a multiple of HEARTBEAT_US above the last."""
        ...

    def ignored(self, count: int) -> None:
        """Count documented messages that are not taken."""
        ...

    def flush(self) -> None:
        """Make everything appended durable and visible to readers."""
        ...

    def close(self) -> None:
        """Flush and release."""
        ...


class Journal(Protocol):
    """One house's journal."""

    partitions: int

    def rules(self) -> Rules | None:
        """Return the rules the house was made with; None in a new journal."""
        ...

    def reader(self, partition: int, start: int, feeds: Feeds) -> Reader:
        """Return a reader from offset `start` on, interning into `feeds`."""
        ...

    def beginning(self, partition: int) -> Position:
        """Return where the house begins to read a partition of which it has no snapshot."""
        ...

    def checkpoint(self, partition: int) -> tuple[Position, bytes] | None:
        """Return the newest stored snapshot and where it was taken."""
        ...

    def store_checkpoint(self, partition: int, position: Position, snapshot: bytes) -> None:
        """Keep a snapshot, durably; called once every table of every sink has reached `position`."""
        ...

    def last_clock(self) -> int:
        """Return the last heartbeat in the journal, NO_TIME where there is none."""
        ...

    def close(self) -> None:
        """Release the files."""
        ...
