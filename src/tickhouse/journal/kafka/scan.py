"""Reads the trades that our own appender writes, as JSON or Avro, at memory speed, many at once, straight into columns.

A trade's message is a head that names its feed, the same bytes for every trade of it, and a tail of numbers. Heads are
interned as they are; a message that differs in any way from this layout (`scan_trades.py`) is handed back and read one by one,
with the same result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from tickhouse.errors import DataError
from tickhouse.journal.kafka.avro import decode_head
from tickhouse.journal.kafka.forms import decode_json
from tickhouse.journal.kafka.messages import FeedReader
from tickhouse.journal.kafka.received import Received
from tickhouse.journal.kafka.scan_trades import avro_trade, json_trade
from tickhouse.model import F64, I8, I32, I64, Feed
from tickhouse.scanning import Texts, byte, text_code

__all__ = ["MessageScanner", "Scanned"]

_MAX_HEADS, _HEAD_BYTES = 1 << 16, 1 << 24


class Scanned(NamedTuple):
    """What was read, in order: one entry a message read."""

    line: I64
    """Which message."""
    head: I32
    """Number of its head."""
    ts: I64
    received_at: I64
    price: F64
    size: F64
    trade_id: I64
    side: I8

    def cut(self, which: Any) -> Scanned:
        """Return some of the messages, by a slice or a mask."""
        columns: list[Any] = [column[which] for column in self]
        return Scanned(*columns)


class MessageScanner:
    """Scans the messages of one partition."""

    def __init__(self) -> None:
        self._heads = Texts(_MAX_HEADS, _HEAD_BYTES)
        self._is_known = np.empty(0, np.bool_)
        self._has_ids = np.empty(0, np.bool_)
        self.feeds: list[Feed | None] = []
        """By head; None where it is none of ours."""

    def scan(self, messages: Received, schema: int) -> tuple[Scanned, I64]:
        """Return what was read of messages, and which were not.

        Args:
            messages: In order.
            schema: The number of our own Avro schema in the registry; negative = not known.
        """
        count = len(messages)
        out = Scanned(
            np.empty(count, np.int64), np.empty(count, np.int32), np.empty(count, np.int64), np.empty(count, np.int64),
            np.empty(count, np.float64), np.empty(count, np.float64), np.empty(count, np.int64), np.empty(count, np.int8),
        )  # fmt: skip
        odd = np.empty(count, np.int64)
        good, unusual = _scan(
            messages.buffer.ctypes.data, np.ascontiguousarray(messages.begins), np.ascontiguousarray(messages.ends), schema,
            *self._heads.arrays, *out, odd,
        )  # fmt: skip
        self._learn()
        read = out.cut(slice(0, good))
        known = self._is_known[read.head]
        rest = odd[:unusual]
        if not known.all():
            rest = np.sort(np.concatenate([rest, read.line[~known]]))
            read = read.cut(known)
        read.trade_id[~self._has_ids[read.head]] = 0
        return read, rest

    def _learn(self) -> None:
        self.feeds += [_feed_of(self._heads[number]) for number in range(len(self.feeds), len(self._heads))]
        if len(self._is_known) < len(self.feeds):
            self._is_known = np.array([feed is not None for feed in self.feeds], np.bool_)
            self._has_ids = np.array([feed is not None and feed.identity != "none" for feed in self.feeds], np.bool_)


def _feed_of(head: bytes) -> Feed | None:
    """Return the feed of a head that names all of it; None of any other."""
    try:
        message = decode_json(head + b',"ts":0}') if head[:1] == b"{" else decode_head(head)
        whole = (message.source, message.venue, message.symbol, message.id_space, message.identity, message.provider_symbol)
        is_plain = message.kind == "trade" and not message.backfilled and message.conditions is None
        if message.type != "trade" or None in whole or not message.symbol or not is_plain:
            return None
        numbers = (message.price, message.size, message.trade_id, message.side, message.received_at)
        if any(field is not None for field in numbers):
            return None
        return FeedReader().feed(message)
    except DataError:
        return None


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _scan(
    buf: Any, begins: Any, ends: Any, schema: Any, slots: Any, arena: Any, bounds: Any, lengths: Any, texts: Any,
    out_line: Any, out_head: Any, out_ts: Any, out_received: Any, out_price: Any, out_size: Any, out_id: Any, out_side: Any,
    odd: Any,
) -> Any:  # fmt: skip
    """Return (messages read, messages handed back); `buf` is an address."""
    good, unusual = 0, 0
    for line in range(len(begins)):
        begin, end = begins[line], ends[line]
        head = np.int64(-1)
        if end > begin:
            found = json_trade(buf, begin, end) if byte(buf, begin) == 123 else avro_trade(buf, begin, end, schema)
            head_begin, head_end, ts, received, price, size, trade_id, side = found
            if head_end >= 0:
                head = text_code(buf, head_begin, head_end, slots, arena, bounds, lengths, texts)
        if head < 0:
            odd[unusual] = line
            unusual += 1
            continue
        out_line[good] = line
        out_head[good] = head
        out_ts[good] = ts
        out_received[good] = received
        out_price[good] = price
        out_size[good] = size
        out_id[good] = trade_id
        out_side[good] = side
        good += 1
    return good, unusual
