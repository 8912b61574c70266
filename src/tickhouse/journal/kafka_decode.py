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
from tickhouse.journal.kafka_avro import AvroReader
from tickhouse.journal.kafka_forms import decode_arrow, decode_json
from tickhouse.journal.kafka_messages import FOREIGN_SOURCE, FeedReader, Message, event_of, rejected_of, rules_of, trade_of
from tickhouse.model import HEARTBEAT_US, NO_TIME, Batch, Beats, Event, Feeds, Rejected, Trades
from tickhouse.rules import Rules

__all__ = ["Decoder"]


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
        self._avro = avro

    @property
    def wants_times(self) -> bool:
        """Whether heartbeats are made from the records' times, or may have to be."""
        return self.makes_beats is not False

    def batch(self, offsets: Sequence[int], values: Sequence[bytes | None], times: Sequence[int], next_offset: int) -> Batch:
        """Return what messages hold.

        Args:
            offsets: Of each message.
            values: The payload of each; None in a tombstone.
            times: The record time of each, UTC microseconds; 0 or less = none. Needed only where `wants_times`.
            next_offset: The offset after the last.
        """
        found = _Found()
        for i, (offset, value) in enumerate(zip(offsets, values, strict=True)):
            if self.makes_beats is None:
                self.makes_beats = not self._is_ours(value)
            if self.makes_beats and times[i] > 0:
                self._beat(times[i] // HEARTBEAT_US * HEARTBEAT_US, offset, -1, found)
            try:
                self._read(offset, value, found)
            except DataError as error:
                received_at = times[i] if times and times[i] > 0 else NO_TIME
                rejected = Rejected(FOREIGN_SOURCE, received_at, error.reason, value or b"", offset)
                found.rejected.append(bounded(rejected))
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

    def _read(self, offset: int, payload: bytes | None, found: _Found) -> None:
        if payload is None:
            raise DataError("tombstone", "a message without a value")
        if payload[:1] == b"\xff":
            found.trades.extend(self._arrow(payload, offset))
            return
        message = self._message(payload)
        if message.type == "trade":
            trade, received_at = trade_of(message, self._feed_reader)
            found.trades.add(trade, self._feeds.code(trade.feed), received_at, offset, 0)
        elif message.type == "heartbeat":
            if message.clock is None or message.clock % HEARTBEAT_US:
                raise DataError("schema", f"a heartbeat's clock must be a multiple of {HEARTBEAT_US}, not {message.clock}")
            self._beat(message.clock, offset, 0, found)
        elif message.type == "event":
            found.events.append(event_of(message, offset, len(found.trades)))
        elif message.type == "rejected":
            found.rejected.append(rejected_of(message, offset))
        elif message.type == "rules":
            found.events.append(_rules_event(rules_of(message), offset, len(found.trades)))
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
        used, first = np.unique(arrays["feed"], return_index=True)
        codes = np.zeros(len(named), np.int32)
        for code in used[np.argsort(first)].tolist():
            codes[code] = self._feeds.code(named[code])
        rows = len(arrays["feed"])
        arrays["feed"] = codes[arrays["feed"]]
        return Trades(**arrays, offset=np.full(rows, offset, np.int64), row=np.arange(rows, dtype=np.int32), text=text)

    def _beat(self, clock: int, offset: int, row: int, found: _Found) -> None:
        if clock > self.clock:
            self.clock = clock
            found.beats.append((clock, len(found.trades), offset, row))

    def _is_ours(self, payload: bytes | None) -> bool:
        message = self.message(payload)
        return message is not None and message.type in {"rules", "heartbeat"}


class _Found:
    """What a batch holds so far."""

    def __init__(self) -> None:
        self.trades = TradesBuilder()
        self.beats: list[tuple[int, int, int, int]] = []
        """(clock, trades before it, offset, row)."""
        self.rejected: list[Rejected] = []
        self.events: list[Event] = []
        self.ignored = 0


def _rules_event(rules: Rules, offset: int, at: int) -> Event:
    return Event("rules", detail=msgspec.to_builtins(rules), offset=offset, at=at)


def _beats(beats: list[tuple[int, int, int, int]]) -> Beats:
    columns = np.array(beats, np.int64).reshape(-1, 4)
    clock, at, offset, row = (np.ascontiguousarray(columns[:, i]) for i in range(4))
    return Beats(clock, at, offset, row.astype(np.int32))
