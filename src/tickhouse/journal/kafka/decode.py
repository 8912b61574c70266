"""Turns messages of a partition into a batch: trades as columns, heartbeats, events, and what cannot be read, as rejected.

The reader hands over what it consumed; nothing here knows how messages come. Feeds are interned in the order in which their
first trades stand in the partition, however the messages are cut into batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from tickhouse.columns import TradesBuilder
from tickhouse.errors import DataError
from tickhouse.journal.codec import bounded
from tickhouse.journal.kafka.avro import AvroReader
from tickhouse.journal.kafka.forms import decode_arrow, decode_json
from tickhouse.journal.kafka.messages import FOREIGN_SOURCE, FeedReader, Message, event_of, rejected_of, rules_of, trade_of
from tickhouse.journal.kafka.received import Received
from tickhouse.journal.kafka.scan import MessageScanner, Scanned
from tickhouse.model import HEARTBEAT_US, I32, I64, NO_TIME, Batch, Beats, Event, Feeds, Rejected, Trades
from tickhouse.rules import Rules

__all__ = ["Decoder"]

_FEW = 16
"""Messages that are not worth compiled code; the first call of it costs."""
_FRAME_BYTES = 5
"""Of an Avro message: a zero, the number of its schema."""


class Decoder:
    """Reads the messages of one partition, in order.

    Args:
        partition: Which one.
        feeds: The pipeline's.
        avro: Reads Avro; None = there is no schema registry.
        clock: The last heartbeat so far.
        makes_beats: Heartbeats are made from the records' times (rule R3); None = unless the first message is ours.
    """

    def __init__(self, partition: int, feeds: Feeds, avro: AvroReader | None, clock: int, *, makes_beats: bool | None) -> None:
        self.clock = clock
        self.makes_beats = makes_beats
        self._partition = partition
        self._feeds = feeds
        self._feed_reader = FeedReader()
        self._scanner: MessageScanner | None = None
        self._codes: I32 = np.empty(0, np.int32)
        self._avro = avro

    @property
    def wants_times(self) -> bool:
        """Whether heartbeats are made from the records' times, or may have to be."""
        return self.makes_beats is not False

    def batch(self, messages: Received, next_offset: int) -> Batch:
        """Return what messages hold.

        Args:
            messages: In order, with their record times where `wants_times`.
            next_offset: The offset after the last.
        """
        found = _Found(messages.offsets)
        for line in self._scan(messages, found):
            value, time = messages.value(line), int(messages.times[line])
            if self.makes_beats is None:
                self.makes_beats = not self._is_ours(value)
            if self.makes_beats and time > 0:
                self._beat(time // HEARTBEAT_US * HEARTBEAT_US, line, -1, found)
            try:
                self._read(line, value, found)
            except DataError as error:
                received_at = time if time > 0 else NO_TIME
                rejected = Rejected(FOREIGN_SOURCE, received_at, error.reason, value or b"", int(messages.offsets[line]))
                found.rejected.append(bounded(rejected))
        self._take(found, len(messages))
        return Batch(
            self._partition,
            found.trades.build(),
            _beats(found.beats),
            found.rejected,
            found.events,
            found.ignored,
            next_offset,
        )

    def message(self, payload: bytes | None) -> Message | None:
        """Return a message that is one record; None where it is a batch of trades, or nothing that can be read."""
        try:
            return None if payload is None or payload[:1] == b"\xff" else self._message(payload)
        except DataError:
            return None

    def _scan(self, messages: Received, found: _Found) -> Sequence[int]:
        """Read what can be read at once; return which messages are left to be read one by one."""
        if self.makes_beats is not False or len(messages) < _FEW:
            return range(len(messages))
        self._scanner = self._scanner or MessageScanner()
        found.scanned, left = self._scanner.scan(messages, self._own_schema(messages))
        rest: list[int] = left.tolist()
        return rest

    def _own_schema(self, messages: Received) -> int:
        """Return the number of our Avro schema, where the first Avro message of a batch has it; else -1."""
        if self._avro is None:
            return -1
        framed = np.flatnonzero(messages.sizes > _FRAME_BYTES)
        framed = framed[messages.buffer[messages.begins[framed]] == 0]
        if not len(framed):
            return -1
        begin = int(messages.begins[framed[0]])
        number = int.from_bytes(messages.buffer[begin + 1 : begin + _FRAME_BYTES].tobytes(), "big")
        return number if self._avro.is_own(number) else -1

    def _take(self, found: _Found, line: int) -> None:
        """Put the scanned trades that stand before a message among the others."""
        begin, end = found.taken, found.scanned_before(line)
        if found.scanned is None or begin == end:
            return
        found.taken = end
        part = found.scanned.cut(slice(begin, end))
        rows = end - begin
        found.trades.extend(
            Trades(
                feed=self._head_codes(part.head)[part.head],
                ts=part.ts,
                received_at=part.received_at,
                price=part.price,
                size=part.size,
                trade_id=part.trade_id,
                trade_id_hi=np.zeros(rows, np.int64),
                side=part.side,
                kind=np.zeros(rows, np.int8),
                backfilled=np.zeros(rows, np.int8),
                offset=found.offsets[part.line],
                row=np.zeros(rows, np.int32),
            )
        )

    def _head_codes(self, heads: I32) -> I32:
        """Return the feed code of each head known so far; those of `heads` are interned as they come."""
        assert self._scanner is not None
        more = len(self._scanner.feeds) - len(self._codes)
        if more:
            self._codes = np.append(self._codes, np.full(more, -1, np.int32))
        new = heads[self._codes[heads] < 0]
        if len(new):
            found, first = np.unique(new, return_index=True)
            for head in found[np.argsort(first)].tolist():
                feed = self._scanner.feeds[head]
                assert feed is not None
                self._codes[head] = self._feeds.code(feed)
        return self._codes

    def _read(self, line: int, payload: bytes | None, found: _Found) -> None:
        offset = int(found.offsets[line])
        if payload is None:
            raise DataError("tombstone", "a message without a value")
        if payload[:1] == b"\xff":
            self._take(found, line)
            found.trades.extend(self._arrow(payload, offset))
            return
        message = self._message(payload)
        if message.type == "trade":
            self._take(found, line)
            trade, received_at = trade_of(message, self._feed_reader)
            found.trades.add(trade, self._feeds.code(trade.feed), received_at, offset, 0)
        elif message.type == "heartbeat":
            if message.clock is None or message.clock % HEARTBEAT_US:
                raise DataError("schema", f"a heartbeat's clock must be a multiple of {HEARTBEAT_US}, not {message.clock}")
            self._beat(message.clock, line, 0, found)
        elif message.type == "event":
            found.events.append(event_of(message, offset, found.before(line)))
        elif message.type == "rejected":
            found.rejected.append(rejected_of(message, offset))
        elif message.type == "rules":
            found.events.append(_rules_event(rules_of(message), offset, found.before(line)))
        else:
            found.ignored += message.count or 0

    def _message(self, payload: bytes) -> Message:
        if payload[:1] == b"\x00":
            if self._avro is None:
                raise DataError("schema", "Avro, but [kafka] registry names no schema registry")
            return self._avro.message(payload)
        return decode_json(payload)

    def _arrow(self, payload: bytes, offset: int) -> Trades:
        arrays, text, named = decode_arrow(payload)
        codes = np.array([self._feeds.find(feed) for feed in named], np.int32)
        if codes.min() < 0:  # in the order of their first trades, and only those that have some
            used, first = np.unique(arrays["feed"], return_index=True)
            for code in used[np.argsort(first)].tolist():
                codes[code] = self._feeds.code(named[code])
        rows = len(arrays["feed"])
        arrays["feed"] = codes[arrays["feed"]]
        return Trades(**arrays, offset=np.full(rows, offset, np.int64), row=np.arange(rows, dtype=np.int32), text=text)

    def _beat(self, clock: int, line: int, row: int, found: _Found) -> None:
        if clock > self.clock:
            self.clock = clock
            found.beats.append((clock, found.before(line), int(found.offsets[line]), row))

    def _is_ours(self, payload: bytes | None) -> bool:
        message = self.message(payload)
        return message is not None and message.type in {"rules", "heartbeat"}


class _Found:
    """What a batch holds so far."""

    def __init__(self, offsets: I64) -> None:
        self.offsets = offsets
        self.trades = TradesBuilder()
        self.scanned: Scanned | None = None
        self.taken = 0
        """How many of the scanned trades are among the others."""
        self.beats: list[tuple[int, int, int, int]] = []
        """(clock, trades before it, offset, row)."""
        self.rejected: list[Rejected] = []
        self.events: list[Event] = []
        self.ignored = 0

    def scanned_before(self, line: int) -> int:
        """Return how many scanned trades stand before a message."""
        return 0 if self.scanned is None else int(np.searchsorted(self.scanned.line, line))

    def before(self, line: int) -> int:
        """Return how many trades stand before a message that is being read."""
        return len(self.trades) + self.scanned_before(line) - self.taken


def _rules_event(rules: Rules, offset: int, at: int) -> Event:
    return Event("rules", detail=msgspec.to_builtins(rules), offset=offset, at=at)


def _beats(beats: list[tuple[int, int, int, int]]) -> Beats:
    columns = np.array(beats, np.int64).reshape(-1, 4)
    clock, at, offset, row = (np.ascontiguousarray(columns[:, i]) for i in range(4))
    return Beats(clock, at, offset, row.astype(np.int32))
