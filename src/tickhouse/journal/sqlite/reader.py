"""Reads the embedded journal: an engine's batches from any offset on, while another process appends."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from tickhouse.columns import empty_trades
from tickhouse.errors import FatalError
from tickhouse.journal.codec import Kind, decode_event, decode_rejected, decode_trades
from tickhouse.journal.sqlite.tables import Message, load_feeds
from tickhouse.journal.sqlite_file import connect, connect_read_only, corrupt, translated
from tickhouse.model import I32, MAX_MESSAGE_ROWS, Batch, Beats, Event, Feed, Feeds, Rejected, Trades

__all__ = ["SqliteReader"]

_UNREADABLE = (pa.ArrowException, OSError, EOFError, msgspec.MsgspecError, ValueError, IndexError)
"""What is raised of bytes that are no message; Arrow also raises what files do."""
_POLL_S = 0.001
_WITH_TRADES = (Kind.TRADES, Kind.TRADES_TEXT)
_IDLE_POLL_S = 0.005
_IDLE_AFTER = 200
"""Looks without news, after which they come at the idle pace."""
_BATCH_BYTES = 32 << 20


class SqliteReader:
    """Reads the journal forward from an offset; several small messages make one batch."""

    exhausted = False
    drained = True
    """A read takes what there is, or a large part of it."""

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

    def at_end(self) -> bool:
        """Return whether nothing was committed since the last read that gave nothing."""
        with translated(self._file):
            return self._version() == self._seen

    def close(self) -> None:
        """Release the file."""
        self._closed = True
        self._connection.close()

    def _version(self) -> int:
        version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return version

    def _take(self) -> list[Message]:
        query = "SELECT offset, kind, rows, ignored, clock, payload FROM messages WHERE offset >= ? ORDER BY offset LIMIT ?"
        taken: list[Message] = []
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

    def _batch(self, messages: list[Message]) -> Batch:
        try:
            return self._decoded(messages)
        except _UNREADABLE as error:
            raise corrupt(self._file, f"a message from {messages[0][0]} on cannot be read: {error}") from error

    def _decoded(self, messages: list[Message]) -> Batch:
        trades: list[tuple[int, Kind, int, bytes]] = []
        beats: list[tuple[int, int, int]] = []
        rejected: list[Rejected] = []
        events: list[Event] = []
        ignored = at = 0
        for offset, number, rows, dropped, clock, payload in messages:
            ignored += dropped
            kind = Kind(number)
            if (rows > 0) != (kind in _WITH_TRADES):
                raise ValueError(f"{rows} trades in a message of kind {kind.name}")
            if rows:
                trades.append((offset, kind, rows, payload))
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
