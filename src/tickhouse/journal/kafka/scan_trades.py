"""The layouts of a trade's message that the scanner knows, compiled: what `forms.py` and `avro.py` write, and nothing else.

Each function returns (begin of the head, its end, ts, received_at, price, size, trade_id, side) of the message between two
places of a buffer; an end of -1 says that it is laid out otherwise. Whoever calls has seen to it that a newline follows each
message, and `PADDING` bytes the last one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from tickhouse.model import NO_TIME
from tickhouse.scanning import after, byte, decimal, digits, find, literals

__all__ = ["avro_trade", "json_trade"]

_WORDS, _MASKS, _BOUNDS, _LENGTHS = literals((
    *(b',"ts":', b',"price":', b',"size":', b',"received_at":', b',"trade_id":', b',"side":"', b'buy"', b'sell"'),
    *(b"\x0atrade\x00" + bytes(8), b"\x06buy", b"\x08sell"),  # Avro: kind, not backfilled, eight fields that are null
))  # fmt: skip
_FRAME = 5
_NAMES = 6
"""Fields between the type and the time: source to provider_symbol."""


@intrinsic  # type: ignore[untyped-decorator]
def _double(_typing: Any, address: Any, at: Any) -> Any:  # noqa: ARG001 - their types are declared
    """Return the eight bytes at `address` + `at` as a double, the lowest first."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        where = builder.inttoptr(builder.add(args[0], args[1]), ir.DoubleType().as_pointer())
        value = builder.load(where)
        value.align = 1
        return value

    return types.float64(types.int64, types.int64), generate


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _after(buf: Any, at: Any, which: Any) -> Any:
    """Return where the literal at `at` ends; -1 where another text stands."""
    return after(buf, at, which, _WORDS, _MASKS, _BOUNDS, _LENGTHS)


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def json_trade(buf: Any, begin: Any, end: Any) -> Any:
    """Read a JSON object."""
    at = find(buf, begin, 44)
    while byte(buf, at) == 44 and _after(buf, at, 0) < 0:
        at = find(buf, at + 1, 44)
    head_end = at
    ts, price, size, received, trade_id, side = 0, 0.0, 0.0, NO_TIME, 0, 0
    at = _after(buf, at, 0)
    if at >= 0:
        ts, at = digits(buf, at)
    if at >= 0:
        at = _after(buf, at, 1)
    if at >= 0:
        price, at = decimal(buf, at)
    if at >= 0:
        at = _after(buf, at, 2)
    if at >= 0:
        size, at = decimal(buf, at)
    if at >= 0:
        then = _after(buf, at, 3)
        if then >= 0:
            received, at = digits(buf, then)
    if at >= 0:
        then = _after(buf, at, 4)
        if then >= 0:
            trade_id, at = digits(buf, then)
    if at >= 0:
        then = _after(buf, at, 5)
        if then >= 0:
            at = _after(buf, then, 6)
            side = 1
            if at < 0:
                at = _after(buf, then, 7)
                side = 2
    if at < 0 or byte(buf, at) != 125 or at + 1 != end:
        head_end = np.int64(-1)
    return begin, head_end, ts, received, price, size, trade_id, side


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _varint(buf: Any, at: Any) -> Any:
    """Return (value, end) of Avro's whole number of up to nine bytes; end = -1 where it is longer."""
    value, shift = np.int64(0), np.int64(0)
    while shift < 63:
        part: Any = byte(buf, at)
        at += 1
        value |= (part & 127) << shift
        if part < 128:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
    return np.int64(0), np.int64(-1)


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _text_end(buf: Any, at: Any, end: Any) -> Any:
    """Return where the text at `at` ends, -1 where that is beyond `end`."""
    length, at = _varint(buf, at)
    if at < 0 or length < 0 or length > end - at:
        return np.int64(-1)
    return at + length


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _optional(buf: Any, at: Any) -> Any:
    """Return (is there, end) of the number that says whether an optional field is there; end = -1 where it is another."""
    which: Any = byte(buf, at)
    if which > 2 or which & 1:
        return False, np.int64(-1)
    return which == 2, at + 1


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def avro_trade(buf: Any, begin: Any, end: Any, schema: Any) -> Any:
    """Read an Avro record of our schema, whose number in the registry is `schema`, as Confluent's clients frame it."""
    head_begin = begin + _FRAME
    ts, price, size, received, trade_id, side = np.int64(0), 0.0, 0.0, np.int64(NO_TIME), np.int64(0), 0
    failed = (head_begin, np.int64(-1), ts, received, price, size, trade_id, side)
    if end - begin < _FRAME or byte(buf, begin) != 0:
        return failed
    number = byte(buf, begin + 1) << 24 | byte(buf, begin + 2) << 16 | byte(buf, begin + 3) << 8 | byte(buf, begin + 4)
    if number != schema:
        return failed
    at = _text_end(buf, head_begin, end)
    for _ in range(_NAMES):
        if at < 0 or byte(buf, at) != 2:
            return failed
        at = _text_end(buf, at + 1, end)
    if at < 0:
        return failed
    head_end = at
    # From here on a number reads at most a few bytes beyond the message, and its end is looked at before that of the next.
    if byte(buf, at) != 2:
        return failed
    ts, at = _varint(buf, at + 1)
    if at < 0 or at > end:
        return failed
    there, at = _optional(buf, at)
    if at >= 0 and there:
        received, at = _varint(buf, at)
    if at < 0 or at + 18 > end or byte(buf, at) != 2 or byte(buf, at + 9) != 2:
        return failed
    price, size = _double(buf, at + 1), _double(buf, at + 10)
    there, at = _optional(buf, at + 18)
    if at >= 0 and there:
        trade_id, at = _varint(buf, at)
    if at < 0 or at > end:
        return failed
    there, at = _optional(buf, at)
    if at >= 0 and there:
        side, then = 1, _after(buf, at, 9)
        if then < 0:
            side, then = 2, _after(buf, at, 10)
        at = then
    if at < 0 or byte(buf, at) != 0 or _after(buf, at + 1, 8) != end:
        return failed
    return head_begin, head_end, ts, received, price, size, trade_id, side
