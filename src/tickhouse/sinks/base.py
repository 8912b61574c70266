"""What a sink is: a store of tables in which rows and the position they reach are committed together.

That is all there is to exactly-once: an engine restarts from its last snapshot and offers everything after it again; each table
skips the rows whose cause it already has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from tickhouse.model import Position

__all__ = ["Outputs", "Sink"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a pipeline made of one or more batches of one partition."""

    partition: int
    position: Position
    """Reached with these rows."""
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    """By table name; columns as in `tables.TABLES` (strings may be dictionary-coded), absent = no rows. Rows stand in the order
    of their cause, but trades made in bulk by symbol and then by cause."""


class Sink(Protocol):
    """A store of tables; used by one engine at a time, from one thread."""

    name: str

    def positions(self, partition: int) -> dict[str, Position]:
        """Return how far each table is committed, read from the store; Position() for one never committed."""
        ...

    def write(self, outputs: Outputs) -> None:
        """Take rows; may buffer or encode, may block. Rows whose offset is below their table's position are skipped."""
        ...

    def commit(self, *, everything: bool = False) -> None:
        """Make what was written durable, each table with its position in the same transaction.

        Args:
            everything: also move the position of tables without new rows (before a snapshot is stored, and only then).

        Raises:
            TransientError: try again; nothing of the failed table is half visible.
        """
        ...

    def check(self) -> str:
        """Return a line that says the store is usable.

        Raises:
            TickhouseError: it is not; the text says why.
        """
        ...

    def close(self) -> None:
        """Release the store without committing."""
        ...
