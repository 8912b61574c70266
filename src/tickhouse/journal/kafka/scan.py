"""Reads the JSON messages that our own appender writes at memory speed, many at once, straight into columns.

A trade's message is a head that names its feed, the same bytes for every trade of it, and a tail of numbers. Heads are
interned as they are; a message that differs in any way from this layout is handed back and read one by one, with the same
result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from tickhouse.errors import DataError
from tickhouse.journal.kafka.forms import decode_json
from tickhouse.journal.kafka.messages import FeedReader
from tickhouse.model import F64, I8, I32, I64, NO_TIME, Feed
from tickhouse.scanning import HASH_PRIME, byte, decimal, digits, text_code

__all__ = ["MessageScanner", "Scanned"]

_SLOTS, _MAX_HEADS, _ARENA_BYTES = 1 << 17, 1 << 16, 1 << 24
_LITERALS = (b',"ts":', b',"price":', b',"size":', b',"received_at":', b',"trade_id":', b',"side":"', b'buy"', b'sell"')
_LITERAL_BYTES = np.frombuffer(b"".join(_LITERALS), np.uint8).copy()
_ENDS = np.cumsum([0, *map(len, _LITERALS)], dtype=np.int64)


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
        self._slots = np.full(_SLOTS, -1, np.int32)
        self._arena = np.empty(_ARENA_BYTES, np.uint8)
        self._bounds = np.zeros(_MAX_HEADS + 1, np.int64)
        self._texts = np.zeros(1, np.int64)
        self._is_known = np.empty(0, np.bool_)
        self._has_ids = np.empty(0, np.bool_)
        self.feeds: list[Feed | None] = []
        """By head; None where it is none of ours."""

    def scan(self, joined: bytes, count: int) -> tuple[Scanned, I64]:
        """Return what was read of `count` messages, one a line, and which were not.

        Args:
            joined: The messages, each followed by a newline, and without one inside.
            count: How many.
        """
        text = np.frombuffer(joined, np.uint8)
        out = Scanned(
            np.empty(count, np.int64), np.empty(count, np.int32), np.empty(count, np.int64), np.empty(count, np.int64),
            np.empty(count, np.float64), np.empty(count, np.float64), np.empty(count, np.int64), np.empty(count, np.int8),
        )  # fmt: skip
        odd = np.empty(count, np.int64)
        literals = _LITERAL_BYTES.ctypes.data
        good, unusual = _scan(
            text.ctypes.data, len(text), literals, _ENDS, self._slots, self._arena, self._bounds, self._texts, *out, odd
        )
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
        for number in range(len(self.feeds), int(self._texts[0])):
            head = self._arena[self._bounds[number] : self._bounds[number + 1]].tobytes()
            self.feeds.append(_feed_of(head))
        if len(self._is_known) < len(self.feeds):
            self._is_known = np.array([feed is not None for feed in self.feeds], np.bool_)
            self._has_ids = np.array([feed is not None and feed.identity != "none" for feed in self.feeds], np.bool_)


def _feed_of(head: bytes) -> Feed | None:
    """Return the feed of a head that names all of it; None of any other."""
    try:
        message = decode_json(head + b',"ts":0}')
        whole = (message.source, message.venue, message.symbol, message.id_space, message.identity, message.provider_symbol)
        is_plain = message.kind == "trade" and not message.backfilled and message.conditions is None
        if message.type != "trade" or None in whole or not message.symbol or not is_plain:
            return None
        if any(
            field is not None for field in (message.price, message.size, message.trade_id, message.side, message.received_at)
        ):
            return None
        return FeedReader().feed(message)
    except DataError:
        return None


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _after(buf: Any, at: Any, literals: Any, ends: Any, which: Any) -> Any:
    """Return where the literal at `at` ends; -1 where another text stands."""
    for i in range(ends[which], ends[which + 1]):
        if byte(buf, at) != byte(literals, i):
            return -1
        at += 1
    return at


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _scan(
    buf: Any, total: Any, literals: Any, ends: Any, slots: Any, arena: Any, bounds: Any, texts: Any,
    out_line: Any, out_head: Any, out_ts: Any, out_received: Any, out_price: Any, out_size: Any, out_id: Any, out_side: Any,
    odd: Any,
) -> Any:  # fmt: skip
    """Return (messages read, messages handed back); `buf` and `literals` are addresses, the last byte is a newline."""
    start, line, good, unusual = 0, 0, 0, 0
    while start < total:
        at = start
        hashed = np.int64(1)
        letter: Any = byte(buf, at)
        while letter != 10:
            if letter == 44 and byte(buf, at + 1) == 34 and byte(buf, at + 2) == 116 and byte(buf, at + 3) == 115:
                break
            hashed = (hashed ^ letter) * HASH_PRIME
            at += 1
            letter = byte(buf, at)
        head_end = at
        ts, price, size, received, trade_id, side = 0, 0.0, 0.0, NO_TIME, 0, 0
        at = _after(buf, at, literals, ends, 0)
        if at >= 0:
            ts, at = digits(buf, at)
        if at >= 0:
            at = _after(buf, at, literals, ends, 1)
        if at >= 0:
            price, at = decimal(buf, at)
        if at >= 0:
            at = _after(buf, at, literals, ends, 2)
        if at >= 0:
            size, at = decimal(buf, at)
        if at >= 0:
            then = _after(buf, at, literals, ends, 3)
            if then >= 0:
                received, at = digits(buf, then)
        if at >= 0:
            then = _after(buf, at, literals, ends, 4)
            if then >= 0:
                trade_id, at = digits(buf, then)
        if at >= 0:
            then = _after(buf, at, literals, ends, 5)
            if then >= 0:
                at = _after(buf, then, literals, ends, 6)
                side = 1
                if at < 0:
                    at = _after(buf, then, literals, ends, 7)
                    side = 2
        if at >= 0 and byte(buf, at) == 125 and byte(buf, at + 1) == 10:
            head = text_code(buf, start, head_end, hashed, slots, arena, bounds, texts)
            at = at + 1 if head >= 0 else -1
        else:
            at = -1
        if at >= 0:
            out_line[good] = line
            out_head[good] = head
            out_ts[good] = ts
            out_received[good] = received
            out_price[good] = price
            out_size[good] = size
            out_id[good] = trade_id
            out_side[good] = side
            good += 1
        else:
            odd[unusual] = line
            unusual += 1
            at = head_end
            while byte(buf, at) != 10:
                at += 1
        start = at + 1
        line += 1
    return good, unusual
