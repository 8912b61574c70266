"""The embedded journal: one SQLite file in WAL mode that holds what was received, checkpoints and quotas.

Ingest writes it through the one appender, a group of messages a transaction; engines read batches from any offset, as a rule
in another process, and look for news every millisecond. A killed process loses nothing that was flushed; a file torn
anywhere opens with a prefix of whole flushes.
"""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from tickhouse.columns import TradesBuilder, empty_trades, take_trades
from tickhouse.errors import ConfigError, FatalError
from tickhouse.journal.codec import (
    Kind,
    decode_event,
    decode_rejected,
    decode_trades,
    encode_event,
    encode_rejected,
    encode_trades,
)
from tickhouse.journal.sqlite_file import (
    JOURNAL_FILE,
    Sync,
    connect,
    connect_read_only,
    corrupt,
    create_or_check,
    journal_file,
    load_feeds,
    stored_rules,
    transaction,
    translated,
)
from tickhouse.model import I32, MAX_MESSAGE_ROWS, Batch, Beats, Event, Feed, Feeds, Position, Rejected, Trade, Trades
from tickhouse.rules import Rules

__all__ = ["JOURNAL_FILE", "SqliteAppender", "SqliteJournal", "SqliteReader"]

_POLL_S = 0.001
_IDLE_POLL_S = 0.005
_IDLE_AFTER = 200
"""Looks without news, after which they come at the idle pace."""
_BATCH_BYTES = 32 << 20
_PRUNE_MESSAGES = 1_000
_WAL_BYTES = 64 << 20

_TRANSFER = "transfer"

_Message = tuple[int, int, int, int, int, Any]
"""A row of `messages`."""


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

        No append waits for it, except for a moment once the log has grown beyond 64 MiB.
        """
        with self._lock, translated(self.file):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            wal = self.file.with_name(self.file.name + "-wal")
            if wal.exists() and wal.stat().st_size > _WAL_BYTES:
                # Under steady appends a passive checkpoint never meets the log's end, and the log would grow for ever.
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

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


class SqliteAppender:
    """Writes the journal: buffers messages, and makes them durable and visible in one transaction a `flush`."""

    def __init__(self, file: Path, sync: Sync, at_least: int) -> None:
        self._file = file
        with translated(file):
            self._connection = connect(file, sync)
            self._counters: dict[str, int] = dict(self._connection.execute("SELECT name, value FROM counters"))
            self._feeds = Feeds(load_feeds(self._connection, 0))
        self._stored_feeds = len(self._feeds)
        self._next = max(self._counters["next_offset"], at_least)
        self._builder = TradesBuilder()
        self._messages: list[_Message] = []
        self._marks: dict[str, str] = {}
        self._ignored = 0

    def trades(self, trades: Sequence[Trade], received_at: int) -> None:
        """Append the trades of one payload, in order."""
        builder = self._builder
        if len(builder) + len(trades) > MAX_MESSAGE_ROWS:
            self._seal()
        code = self._feeds.code
        for trade in trades:
            if len(self._builder) == MAX_MESSAGE_ROWS:
                self._seal()
            self._builder.add(trade, code(trade.feed), received_at, 0, 0)

    def columns(self, trades: Trades, feeds: Feeds) -> None:
        """Append trades that are columns already, with feed codes of `feeds`."""
        self._seal()
        codes = self._own_codes(trades.feed, feeds)
        for start in range(0, len(trades), MAX_MESSAGE_ROWS):
            part = slice(start, start + MAX_MESSAGE_ROWS)
            self._put_trades(take_trades(trades, part), codes[part])

    def rejected(self, rejected: Rejected) -> None:
        """Append a payload that became no trade."""
        self._seal()
        self._counters["rejected"] += 1
        self._put(Kind.REJECTED, 0, encode_rejected(rejected))

    def event(self, event: Event) -> None:
        """Append a feed event."""
        self._seal()
        self._put(Kind.EVENT, 0, encode_event(event))

    def heartbeat(self, clock: int) -> None:
        """Append a heartbeat; `clock` is above the last."""
        if clock <= self._counters["last_clock"]:
            raise FatalError(f"a heartbeat of {clock} after one of {self._counters['last_clock']}: the clock never goes back")
        self._seal()
        self._counters["last_clock"] = clock
        self._put(Kind.HEARTBEAT, 0, b"")

    def ignored(self, count: int) -> None:
        """Count documented messages that are not taken; stored with the next message."""
        self._ignored += count
        self._counters["ignored"] += count

    def resume(self, recording: str) -> int:  # noqa: ARG002  (a house has one list of recordings)
        """Return the line of its recording from which a killed transfer goes on."""
        row = self._connection.execute("SELECT value FROM marks WHERE name = ?", (_TRANSFER,)).fetchone()
        return int(row[0]) if row else 0

    def place(self, line: int, row: int) -> None:
        """Take note of nothing: a flush is whole, so `reached` says enough."""

    def reached(self, line: int) -> None:
        """Store with the next flush how far a transfer has come."""
        self.set_mark(_TRANSFER, str(line))

    def set_mark(self, name: str, value: str) -> None:
        """Store a mark in the transaction of the next flush: how far a producer has come, for its next life."""
        self._marks[name] = value

    def flush(self) -> None:
        """Make everything appended durable and visible to readers.

        Raises:
            FatalError: the disk is full; nothing flushed before is lost.
            TransientError: another process holds the file; everything is kept for the next flush.
        """
        self._seal()
        if not self._messages and not self._marks:
            return
        self._attach_ignored()
        self._counters["next_offset"] = self._next
        with translated(self._file), transaction(self._connection) as connection:
            self._write(connection)
        self._messages.clear()
        self._marks.clear()
        self._stored_feeds = len(self._feeds)

    def close(self) -> None:
        """Flush and release."""
        try:
            self._seal()
            if self._ignored and not self._messages:
                self._put(Kind.IGNORED, 0, b"")
            self.flush()
        finally:
            self._connection.close()

    def _write(self, connection: sqlite3.Connection) -> None:
        if self._stored_feeds < len(self._feeds):
            new = enumerate(self._feeds.feeds[self._stored_feeds :], self._stored_feeds)
            rows = [(code, msgspec.json.encode(feed).decode()) for code, feed in new]
            connection.executemany("INSERT INTO feeds VALUES (?, ?)", rows)
        connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", self._messages)
        names = ("next_offset", "last_clock", "trades", "rejected", "ignored")
        values = [(self._counters[name], name) for name in names]
        connection.executemany("UPDATE counters SET value = ? WHERE name = ?", values)
        if self._marks:
            connection.executemany("INSERT OR REPLACE INTO marks VALUES (?, ?)", self._marks.items())

    def _seal(self) -> None:
        if len(self._builder):
            trades = self._builder.build()
            self._builder = TradesBuilder()
            self._put_trades(trades, trades.feed)

    def _put_trades(self, trades: Trades, codes: I32) -> None:
        kind, payload = encode_trades(trades, codes)
        self._counters["trades"] += len(trades)
        self._put(kind, len(trades), payload)

    def _put(self, kind: Kind, rows: int, payload: bytes | memoryview) -> None:
        self._messages.append((self._next, int(kind), rows, 0, self._counters["last_clock"], payload))
        self._next += 1

    def _attach_ignored(self) -> None:
        if self._ignored and self._messages:
            offset, kind, rows, _, clock, payload = self._messages[-1]
            self._messages[-1] = (offset, kind, rows, self._ignored, clock, payload)
            self._ignored = 0

    def _own_codes(self, codes: I32, feeds: Feeds) -> I32:
        found, first = np.unique(codes, return_index=True)
        own = np.zeros(len(feeds), np.int32)
        for code in found[np.argsort(first)].tolist():
            own[code] = self._feeds.code(feeds.feeds[code])
        return own[codes]


class SqliteReader:
    """Reads the journal forward from an offset; several small messages make one batch."""

    exhausted = False
    drained = True
    """When `read` gives nothing, nothing is there."""

    def __init__(self, file: Path, start: int, feeds: Feeds, *, read_only: bool = False) -> None:
        self._file = file
        self._feeds = feeds
        self._feed_codes: I32 = np.empty(0, np.int32)
        self._journal_feeds: list[Feed] = []
        self._next = start
        self._closed = False
        self._seen = -1
        """SQLite's `data_version` when there was nothing more to read; it changes with every commit of another connection."""
        with translated(file):
            self._connection = connect_read_only(file) if read_only else connect(file, "normal")
            self._check_kept(start)

    def read(self, timeout_s: float) -> Batch | None:
        """Return whatever has arrived, at most MAX_MESSAGE_ROWS rows of trades; None when nothing came in `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with translated(self._file):
            for looks in itertools.count():
                version = self._version()
                if version != self._seen:
                    messages = self._take()
                    if messages:
                        return self._batch(messages)
                    self._seen = version
                left = deadline - time.monotonic()
                if left <= 0 or self._closed:
                    return None
                time.sleep(min(left, _POLL_S if looks < _IDLE_AFTER else _IDLE_POLL_S))
        return None

    def close(self) -> None:
        """Release the file."""
        self._closed = True
        self._connection.close()

    def _version(self) -> int:
        version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return version

    def _take(self) -> list[_Message]:
        query = "SELECT offset, kind, rows, ignored, clock, payload FROM messages WHERE offset >= ? ORDER BY offset LIMIT ?"
        taken: list[_Message] = []
        rows = size = 0
        cursor = self._connection.execute(query, (self._next, MAX_MESSAGE_ROWS))
        try:
            for message in cursor:
                rows += message[2]
                size += len(message[5])
                if taken and (rows > MAX_MESSAGE_ROWS or size > _BATCH_BYTES):
                    break
                taken.append(message)
        finally:
            cursor.close()
        if taken and taken[0][0] != self._next:
            self._check_kept(self._next)
        return taken

    def _check_kept(self, start: int) -> None:
        row = self._connection.execute("SELECT value FROM counters WHERE name = 'pruned_below'").fetchone()
        if start < row[0]:
            raise FatalError(
                f"{self._file} keeps messages from {row[0]} on, but {start} was asked for: start again from the newest snapshot"
            )

    def _batch(self, messages: list[_Message]) -> Batch:
        try:
            return self._decoded(messages)
        except (pa.ArrowException, msgspec.MsgspecError, ValueError, IndexError) as error:
            raise corrupt(self._file, f"a message from {messages[0][0]} on cannot be read: {error}") from error

    def _decoded(self, messages: list[_Message]) -> Batch:
        trades: list[tuple[int, Kind, bytes]] = []
        beats: list[tuple[int, int, int]] = []
        rejected: list[Rejected] = []
        events: list[Event] = []
        ignored = at = 0
        for offset, number, rows, dropped, clock, payload in messages:
            ignored += dropped
            kind = Kind(number)
            if rows:
                trades.append((offset, kind, payload))
                at += rows
            elif kind is Kind.HEARTBEAT:
                beats.append((clock, at, offset))
            elif kind is Kind.EVENT:
                events.append(decode_event(payload, offset, at))
            elif kind is Kind.REJECTED:
                rejected.append(decode_rejected(payload, offset))
        columns = self._interned(decode_trades(trades)) if trades else empty_trades()
        self._next = messages[-1][0] + 1
        return Batch(0, columns, _beats(beats), rejected, events, ignored, self._next)

    def _interned(self, trades: Trades) -> Trades:
        """Exchange the journal's feed codes for the reader's.

        The journal numbers feeds as they first appear. Interning up to the highest code read, and no further, makes the
        reader's codes depend on what was read alone, not on how it was cut into batches.
        """
        highest = int(trades.feed.max())
        known = len(self._feed_codes)
        if highest >= known:
            if highest >= len(self._journal_feeds):
                self._journal_feeds += load_feeds(self._connection, len(self._journal_feeds))
            new = [self._feeds.code(feed) for feed in self._journal_feeds[known : highest + 1]]
            self._feed_codes = np.append(self._feed_codes, np.array(new, np.int32))
        trades.feed[:] = self._feed_codes[trades.feed]
        return trades


def _beats(beats: list[tuple[int, int, int]]) -> Beats:
    clocks, at, offsets = zip(*beats, strict=True) if beats else ((), (), ())
    return Beats(
        np.array(clocks, np.int64), np.array(at, np.int64), np.array(offsets, np.int64), np.zeros(len(beats), np.int32)
    )
