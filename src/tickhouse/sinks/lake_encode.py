"""Rows on their way into the lake: encoded into files, with the positions they reach, not yet visible to anyone.

Whoever runs pipelines encodes; the one process that writes the lake commits. In the embedded engine both are the lake sink; in
a cluster an executor encodes a range of one partition (`RangeEncoder`) and the driver commits what came out (`Lake.take`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tickhouse.errors import ConfigError, FatalError
from tickhouse.model import Position
from tickhouse.sinks.base import Outputs
from tickhouse.sinks.lake_files import DataFile, TableWriter
from tickhouse.sinks.lake_log import disk_error, table_path
from tickhouse.tables import TABLES, Table

__all__ = ["EncodedRows", "RangeEncoder", "TableEncoder", "known_tables"]


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Finished files with the rows that one partition made for one table, waiting for their commit."""

    since: int
    """The rows with this offset and those above it are in the files."""
    position: Position
    """Reached with them."""
    files: list[DataFile]


class TableEncoder:
    """Encodes rows of one table, and knows how far they reach.

    Args:
        table: Which one.
        root: Its folder.
    """

    def __init__(self, table: Table, root: Path) -> None:
        self._table = table
        self._root = root
        self._writer = TableWriter(table, root)
        self._broken: FatalError | None = None
        self.positions: dict[int, Position] = {}
        """By partition: reached by what was written since `clear`."""
        self.files: list[DataFile] = []
        """Finished since `clear`."""
        self.has_rows = False
        """Whether there was any row since `clear`."""

    def write(self, partition: int, reached: Position, position: Position, rows: pa.Table | None) -> None:
        """Take rows.

        Args:
            partition: Whose.
            reached: What the table has: rows below it are skipped.
            position: Reached with these rows.
            rows: None = none.

        Raises:
            FatalError: the disk is full or refuses.
        """
        reached = self.positions.get(partition, reached)
        new = _from_offset(rows, reached.offset) if rows is not None and len(rows) else None
        if new is not None and len(new):
            self.has_rows = True
            self._encoding(lambda: self._writer.write(new))
        if position.offset > reached.offset:
            self.positions[partition] = position

    def add(self, partition: int, position: Position, files: Sequence[DataFile]) -> None:
        """Take rows that were encoded elsewhere."""
        self.files += files
        self.has_rows = self.has_rows or bool(files)
        self.positions[partition] = position

    def finish(self) -> None:
        """Close what is open, so that `files` holds everything.

        Raises:
            FatalError: the disk is full or refuses, now or before.
        """
        self._encoding(lambda: self.files.extend(self._writer.finish()))

    def clear(self) -> None:
        """Begin anew; the files now belong to whoever took them."""
        self.files, self.positions, self.has_rows = [], {}, False

    def abandon(self) -> None:
        """Remove everything that was not taken."""
        self._writer.abandon()
        for file in self.files:
            (self._root / file.path).unlink(missing_ok=True)
        self.clear()

    def must_be_whole(self) -> None:
        """Raise again what the disk refused: rows are missing since.

        Raises:
            FatalError: it did.
        """
        if self._broken is not None:
            raise self._broken

    def _encoding(self, work: Callable[[], None]) -> None:
        self.must_be_whole()
        try:
            work()
        except OSError as error:
            self._broken = disk_error(error, self._table.name, self._root)
            self._writer.abandon()
            raise self._broken from error


class RangeEncoder:
    """Encodes what one partition makes of one range of the journal, all tables of it.

    Args:
        lake: The lake's folder.
        partition: Which one.
        reached: By table: what it has. Rows below that are skipped.
    """

    def __init__(self, lake: Path, partition: int, reached: Mapping[str, Position]) -> None:
        self._partition = partition
        self._reached = reached
        self._tables = {name: TableEncoder(table, table_path(lake, table)) for name, table in TABLES.items()}

    def write(self, outputs: Outputs) -> None:
        """Encode rows.

        Raises:
            ConfigError: a table that the house does not know.
            FatalError: the disk is full or refuses.
        """
        known_tables(outputs)
        for name, table in self._tables.items():
            table.write(self._partition, self._reached[name], outputs.position, outputs.tables.get(name))

    def finish(self) -> dict[str, EncodedRows]:
        """Close the files and return what is to be committed, by table; those that have everything already are left out."""
        done = {}
        for name, table in self._tables.items():
            table.finish()
            if self._partition in table.positions:
                done[name] = EncodedRows(self._reached[name].offset, table.positions[self._partition], table.files)
            table.clear()
        return done

    def abandon(self) -> None:
        """Remove everything."""
        for table in self._tables.values():
            table.abandon()


def known_tables(outputs: Outputs) -> None:
    """See that every table of outputs is one of the house.

    Raises:
        ConfigError: one is not.
    """
    for name in outputs.tables:
        if name not in TABLES:
            raise ConfigError(f"outputs for a table {name!r} that is none of {sorted(TABLES)}")


def _from_offset(rows: pa.Table, offset: int) -> pa.Table:
    offsets = rows.column("offset")
    if pc.min(offsets).as_py() >= offset:
        return rows
    return rows.filter(pc.greater_equal(offsets, offset))
