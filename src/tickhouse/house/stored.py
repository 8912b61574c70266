"""What `verify` reads of a house: its tables, each up to the smallest of all their positions."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from tickhouse.errors import LogCorruptError, SchemaMismatchError
from tickhouse.house.folder import HouseFolder
from tickhouse.model import Position
from tickhouse.rules import Rules
from tickhouse.sinks.lake import LakeTables
from tickhouse.tables import TABLES

__all__ = ["StoredTables"]


class StoredTables:
    """A `quality.verify.Store` of the house in a folder; a writer may go on meanwhile."""

    def __init__(self, house: HouseFolder) -> None:
        self._house = house
        # Before the tables are looked at: a writer moves them first.
        self._snapshots = [house.snapshot_offset(partition) for partition in range(house.partitions())]
        self._lake = LakeTables(house.lake_path)

    def rules(self) -> Rules:
        """Return the rules that the house was made with."""
        rules = self._house.stored_rules()
        if rules is None:
            raise SchemaMismatchError(f"{self._house.journal_path} holds no rules; nothing can be recomputed without them")
        return rules

    def partitions(self) -> int:
        """Return the number of partitions."""
        return len(self._snapshots)

    def position(self, partition: int) -> Position:
        """Return the smallest position over the tables.

        Raises:
            LogCorruptError: a table has lost rows that it had.
        """
        position, name = min((self._lake.position(name, partition), name) for name in TABLES)
        snapshot = self._snapshots[partition]
        if position.offset < snapshot:
            raise LogCorruptError(
                f"{name} reaches record {position.offset} only, though it had reached {snapshot}: rows were lost; "
                "the next `tickhouse run` or `replay` fills it again from the journal, or restore the lake from a backup"
            )
        return position

    def read(self, table: str, partition: int, below: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of a partition whose offset is below the given one."""
        return self._lake.table(table, columns=columns, below={partition: below})
