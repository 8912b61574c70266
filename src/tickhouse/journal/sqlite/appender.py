"""Writes the embedded journal; used by ingest's writer thread alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from tickhouse.columns import TradesBuilder, take_trades
from tickhouse.errors import FatalError
from tickhouse.journal.codec import Kind, encode_event, encode_rejected, encode_trades
from tickhouse.journal.sqlite.tables import Message, load_feeds
from tickhouse.journal.sqlite_file import Sync, connect, transaction, translated
from tickhouse.model import I32, MAX_MESSAGE_ROWS, Event, Feeds, Rejected, Trade, Trades

__all__ = ["SqliteAppender"]

_TRANSFER = "transfer"
_COUNTED = ("next_offset", "last_clock", "trades", "rejected", "ignored")
# One statement: each lets other threads run, and then waits for its turn again.
_COUNT = (
    f"UPDATE counters SET value = CASE name {' '.join(f'WHEN {name!r} THEN ?' for name in _COUNTED)} END "
    f"WHERE name IN {_COUNTED}"
)


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
        self._messages: list[Message] = []
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
        connection.execute(_COUNT, [self._counters[name] for name in _COUNTED])
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

    def _put(self, kind: Kind, rows: int, payload: bytes) -> None:
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
