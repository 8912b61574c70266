"""The embedded journal as a whole: made or opened, its appender and readers, checkpoints, and what keeps the file small."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

from tickhouse.errors import ConfigError
from tickhouse.journal.sqlite.appender import SqliteAppender
from tickhouse.journal.sqlite.reader import SqliteReader
from tickhouse.journal.sqlite.tables import create_or_check, stored_rules
from tickhouse.journal.sqlite_file import (
    BUSY_MS,
    Sync,
    connect,
    connect_read_only,
    corrupt,
    journal_file,
    transaction,
    translated,
    write_back,
)
from tickhouse.model import Feeds, Position
from tickhouse.rules import Rules

__all__ = ["SqliteJournal"]

_PRUNE_MESSAGES = 1_000
_WAL_BYTES = 64 << 20
_PATIENCE_MS = 50


class SqliteJournal:
    """A house's journal in one SQLite file; one partition. Use `create_or_open` or `open`."""

    partitions = 1

    def __init__(self, file: Path, rules: Rules, sync: Sync, *, read_only: bool = False) -> None:
        self.file = file
        self._rules = rules
        self._sync: Sync = sync
        self._read_only = read_only
        self._lock = threading.Lock()
        self._connection = connect_read_only(file) if read_only else connect(file, sync)

    @classmethod
    def create_or_open(cls, path: Path, rules: Rules, sync: Sync = "normal") -> SqliteJournal:
        """Return the journal of a house, made anew where there is none.

        Args:
            path: The house's folder, or the journal's file in it (`*.db`).
            rules: The rules of a new journal; an old one must have the same.
            sync: `normal` survives a killed process, `full` also a power cut, at one disk flush a flush.

        Raises:
            ConfigError: the house was made with other rules.
            SchemaMismatchError: the file is no SQLite journal of this version.
            LogCorruptError: the file is damaged.
        """
        file = journal_file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        create_or_check(file, rules)
        return cls(file, rules, sync)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> SqliteJournal:
        """Return the journal of an existing house, with the rules it was made with.

        Args:
            path: The house's folder, or the journal's file in it (`*.db`).
            read_only: Change nothing; for those who follow a house that another process writes.

        Raises:
            ConfigError: there is no journal at `path`.
        """
        file = journal_file(path)
        if not file.is_file():
            raise ConfigError(f"there is no journal at {file}; start one with `tickhouse run` or name another house")
        with translated(file), closing(connect_read_only(file) if read_only else connect(file, "normal")) as connection:
            rules = stored_rules(connection, file)
        return cls(file, rules, "normal", read_only=read_only)

    def rules(self) -> Rules:
        """Return the rules the house was made with."""
        return self._rules

    def appender(self, at_least: int = 0) -> SqliteAppender:
        """Return the writer; a house has one at a time.

        Args:
            at_least: The first offset it may use. After a power cut without `sync="full"` the tables may be ahead of the
                journal: give the largest of their offsets, so that none is used twice.
        """
        return SqliteAppender(self.file, self._sync, at_least)

    def reader(self, partition: int, start: int, feeds: Feeds) -> SqliteReader:
        """Return a reader from offset `start` on, interning into `feeds`.

        Raises:
            FatalError: messages from `start` on were pruned.
        """
        if partition:
            raise ConfigError(f"a SQLite journal has the one partition 0, not {partition}")
        return SqliteReader(self.file, start, feeds, read_only=self._read_only)

    def beginning(self, partition: int) -> Position:  # noqa: ARG002  (one partition)
        """Return the beginning: what was pruned, every table had."""
        return Position()

    def checkpoint(self, partition: int) -> tuple[Position, bytes] | None:  # noqa: ARG002  (one partition)
        """Return the newest stored snapshot and where it was taken."""
        with self._lock, translated(self.file):
            query = "SELECT offset, clock, snapshot FROM checkpoints ORDER BY offset DESC LIMIT 1"
            row = self._connection.execute(query).fetchone()
        return None if row is None else (Position(row[0], row[1]), row[2])

    def store_checkpoint(self, partition: int, position: Position, snapshot: bytes) -> None:  # noqa: ARG002  (it has one partition)
        """Keep a snapshot in place of the older ones; called once every table of every sink has reached `position`."""
        with self._lock, translated(self.file), transaction(self._connection) as connection:
            connection.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)", (*position, snapshot))
            connection.execute("DELETE FROM checkpoints WHERE offset < ?", (position.offset,))

    def last_clock(self) -> int:
        """Return the last heartbeat in the journal, NO_TIME where there is none."""
        return self.counters()["last_clock"]

    def next_offset(self) -> int:
        """Return the offset after the last message."""
        return self.counters()["next_offset"]

    def counters(self) -> dict[str, int]:
        """Return the totals since the house began: `trades`, `rejected`, `ignored`, and where the journal stands."""
        with self._lock, translated(self.file):
            return dict(self._connection.execute("SELECT name, value FROM counters"))

    def mark(self, name: str) -> str | None:
        """Return what `SqliteAppender.set_mark` last stored under `name`."""
        with self._lock, translated(self.file):
            row = self._connection.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def maintain(self) -> None:
        """Move the write-ahead log into the file; for the engine's commit thread, about once a second.

        No append waits for it, except for a moment once the log has grown beyond 64 MiB: under steady appends the log's end is
        never met in passing, and it would grow for ever.
        """
        if self._move_log("PASSIVE") > _WAL_BYTES:
            write_back(self.file)  # what was moved reaches the disk before, not while appends wait
            self._move_log("PASSIVE")
            self._move_log("RESTART")

    def _move_log(self, how: str) -> int:
        """Move the write-ahead log into the file; return how many bytes of it were in use.

        Appends wait while it waits for somebody who reads in the log: not for long, the next try may meet nobody.
        """
        with self._lock, translated(self.file):
            self._connection.execute(f"PRAGMA busy_timeout = {_PATIENCE_MS}").fetchall()
            try:
                _, pages, _ = self._connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
            finally:
                self._connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}").fetchall()
            return int(pages) * int(self._connection.execute("PRAGMA page_size").fetchone()[0])

    def prune(self, below_offset: int, older_than_us: int) -> int:
        """Delete messages that nobody needs again, and return how many.

        Args:
            below_offset: The smallest position of all tables; nothing from the newest checkpoint on is deleted either.
            older_than_us: Age by the journal's own heartbeats, microseconds.
        """
        newest = self.checkpoint(0)
        below = min(below_offset, newest[0].offset if newest else 0)
        limit = self.last_clock() - older_than_us
        query = "SELECT offset, clock FROM messages WHERE offset < ? ORDER BY offset LIMIT ?"
        deleted = 0
        while True:
            with self._lock, translated(self.file), transaction(self._connection) as connection:
                old = [offset for offset, clock in connection.execute(query, (below, _PRUNE_MESSAGES)) if clock < limit]
                if not old:
                    return deleted
                connection.execute("DELETE FROM messages WHERE offset <= ?", (old[-1],))
                connection.execute("UPDATE counters SET value = ? WHERE name = 'pruned_below'", (old[-1] + 1,))
            deleted += len(old)

    def check(self) -> str:
        """Return a line that says the journal is usable.

        Raises:
            LogCorruptError: it is damaged.
        """
        with self._lock, translated(self.file):
            found = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise corrupt(self.file, found)
        counters = self.counters()
        return f"SQLite journal {self.file}: {counters['next_offset']} messages, {counters['trades']} trades"

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._connection.close()
