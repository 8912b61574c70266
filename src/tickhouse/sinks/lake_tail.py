"""Follows how far the tables of a lake are committed, reading no more of their logs than what is new.

Opening a table reads its whole log; whoever asks once a second whether there is more, beside live work, asks here: two looks at
the disk for a table that has nothing new, one small file for each new commit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tickhouse.model import Position
from tickhouse.sinks.lake_log import named_position, open_table, stored_position, table_path
from tickhouse.tables import TABLES

__all__ = ["LakeTail"]


class LakeTail:
    """The positions of some tables; used by one thread at a time.

    Args:
        path: The lake's folder; it need not exist yet.
        names: Which tables.
        partitions: Whose positions.
    """

    def __init__(self, path: Path, names: Sequence[str], partitions: Sequence[int]) -> None:
        self._tables = {name: _Tail(path, name, partitions) for name in names}

    def look(self) -> bool:
        """See what was committed since the last call; return whether anything was.

        Raises:
            FatalError: a log cannot be read.
        """
        return sum(tail.look() for tail in self._tables.values()) > 0

    def position(self, name: str, partition: int) -> Position:
        """Return the position committed as of the last look; Position() where there is none."""
        return self._tables[name].reached.get(partition, Position())


class _Tail:
    def __init__(self, lake: Path, name: str, partitions: Sequence[int]) -> None:
        self._lake = lake
        self._table = TABLES[name]
        self._log = table_path(lake, self._table) / "_delta_log"
        self._partitions = partitions
        self._version = -1
        self._checkpoint: int | None = None
        self.reached: dict[int, Position] = {}

    def look(self) -> bool:
        had = self._version
        if had < 0:
            self._open()
        else:
            while self._follow():
                self._version += 1
            # A commit that was removed under a later checkpoint never comes: the table is opened anew.
            checkpoint = self._checkpointed()
            if checkpoint != self._checkpoint:
                self._checkpoint = checkpoint
                if not self._has(self._version):
                    self._open()
        return self._version != had

    def _follow(self) -> bool:
        """Take up the next commit; False where there is none."""
        try:
            actions = self._commit(self._version + 1).read_bytes().splitlines()
        except FileNotFoundError:
            return False
        for action in actions:
            if action.startswith(b'{"txn":'):
                self._take(json.loads(action)["txn"])
        return True

    def _take(self, transaction: dict[str, object]) -> None:
        found = named_position(str(transaction["appId"]))
        if found is not None and found[0] in self._partitions:
            partition, which = found
            value = transaction["version"]
            assert isinstance(value, int)
            self.reached[partition] = self.reached.get(partition, Position())._replace(**{which: value})

    def _open(self) -> None:
        self._checkpoint = self._checkpointed()
        handle = open_table(self._lake, self._table)
        if handle is not None:
            self._version = int(handle.version())
            self.reached = {partition: stored_position(handle, partition) for partition in self._partitions}

    def _has(self, version: int) -> bool:
        return self._commit(version).exists()

    def _commit(self, version: int) -> Path:
        return self._log / f"{version:020}.json"

    def _checkpointed(self) -> int | None:
        """Return what changes with each checkpoint."""
        try:
            return (self._log / "_last_checkpoint").stat().st_mtime_ns
        except OSError:
            return None
