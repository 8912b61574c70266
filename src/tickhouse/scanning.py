"""Numbers and texts straight from the bytes of JSON, compiled: what scanners of files and of messages are made of.

Each reads at an address without checking bounds: the text ends with a byte that none of them takes.

A decimal of mantissa m and f fractional digits is m / 10^f, one correctly rounded division, where m < 2^53 and f <= 22 (the
fast path of Clinger, "How to read floating point numbers accurately", 1990).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

__all__ = ["HASH_PRIME", "Texts", "byte", "decimal", "digits", "text_code"]

HASH_PRIME = 1_099_511_628_211
"""Of the hash that `text_code` is given: h = (h ^ byte) * HASH_PRIME, from 1 on."""

_POW10 = np.array([float(f"1e{i}") for i in range(23)])
_EXACT = 1 << 53
_SLOTS = 1 << 17


@intrinsic  # type: ignore[untyped-decorator]
def byte(_typing: Any, address: Any, at: Any) -> Any:  # noqa: ARG001 - their types are declared
    """Return the byte at `address` + `at`: an index into an array costs a check for negative ones, half of a scan."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        where = builder.inttoptr(builder.add(args[0], args[1]), ir.IntType(8).as_pointer())
        return builder.zext(builder.load(where), ir.IntType(64))

    return types.int64(types.int64, types.int64), generate


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def digits(buf: Any, at: Any) -> Any:
    """Return (value, end) of an unsigned whole number without leading zeros; end = -1 where there is none."""
    begin = at
    value: Any = 0
    while True:
        digit = byte(buf, at) - 48
        if digit < 0 or digit > 9:
            break
        value = value * 10 + digit
        at += 1
    length = at - begin
    if length == 0 or length > 18 or (byte(buf, begin) == 48 and length > 1):
        return value, -1
    return value, at


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def decimal(buf: Any, at: Any) -> Any:
    """Return (value, end) of a plain decimal; end = -1 where there is none that is exact, and for a negative zero."""
    is_negative = byte(buf, at) == 45
    if is_negative:
        at += 1
    begin = at
    mantissa: Any = 0
    fraction = 0
    while True:
        digit = byte(buf, at) - 48
        if digit < 0 or digit > 9:
            break
        mantissa = mantissa * 10 + digit
        at += 1
    length = at - begin
    if length == 0 or (byte(buf, begin) == 48 and length > 1):
        return 0.0, -1
    if byte(buf, at) == 46:
        at += 1
        point = at
        while True:
            digit = byte(buf, at) - 48
            if digit < 0 or digit > 9:
                break
            mantissa = mantissa * 10 + digit
            at += 1
        fraction = at - point
        if fraction == 0:
            return 0.0, -1
    if length + fraction > 18 or mantissa >= _EXACT:
        return 0.0, -1
    value = np.float64(mantissa) / _POW10[fraction]
    if is_negative:
        return (-value, at) if mantissa else (0.0, -1)
    return value, at


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def text_code(buf: Any, at: Any, end: Any, hashed: Any, slots: Any, arena: Any, bounds: Any, texts: Any) -> Any:
    """Return the number of the text in `at` to `end` of `buf`, interning a new one; -1 where there is no room.

    The last four are `Texts.arrays`.
    """
    length = end - at
    slot = (hashed ^ (hashed >> 29)) & (len(slots) - 1)
    while True:
        code = slots[slot]
        if code < 0:
            break
        begin = bounds[code]
        if bounds[code + 1] - begin == length:
            same = True
            for i in range(length):
                if np.int64(arena[begin + i]) != byte(buf, at + i):
                    same = False
                    break
            if same:
                return np.int64(code)
        slot = (slot + 1) & (len(slots) - 1)
    count = texts[0]
    begin = bounds[count]
    if count + 1 >= len(bounds) or begin + length > len(arena):
        return np.int64(-1)
    for i in range(length):
        arena[begin + i] = byte(buf, at + i)
    bounds[count + 1] = begin + length
    slots[slot] = count
    texts[0] = count + 1
    return np.int64(count)


class Texts:
    """Texts that a scan has met, numbered in the order they came; `text_code` takes them in.

    Args:
        count: Of how many there is room.
        size_bytes: How long they may be, together.
    """

    def __init__(self, count: int, size_bytes: int) -> None:
        self.arrays = (
            np.full(_SLOTS, -1, np.int32),
            np.empty(size_bytes, np.uint8),
            np.zeros(count + 1, np.int64),
            np.zeros(1, np.int64),
        )
        """A hash table of numbers, -1 where empty; the texts one after the other; where each begins and ends; how many."""

    def __len__(self) -> int:
        return int(self.arrays[3][0])

    def __getitem__(self, number: int) -> bytes:
        _, arena, bounds, _ = self.arrays
        return arena[bounds[number] : bounds[number + 1]].tobytes()
