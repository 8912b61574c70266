"""Numbers and texts straight from the bytes of JSON, compiled: what scanners of files and of messages are made of.

Each reads at an address, eight bytes at a time and without checking bounds: the text ends with a byte that none of them takes,
and `PADDING` bytes follow it. The first of eight bytes is the lowest, as on all machines that run this.

A decimal of mantissa m and f fractional digits is m / 10^f, one correctly rounded division, where m < 2^53 and f <= 22 (the
fast path of Clinger, "How to read floating point numbers accurately", 1990). Looking at eight bytes in one number: Mycroft's
test for a zero byte, and three multiplications for eight digits (Lemire, "Quickly parsing eight digits", 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from tickhouse.model import I64

__all__ = ["PADDING", "Literals", "Texts", "after", "byte", "decimal", "digits", "find", "literals", "text_code", "text_end"]

PADDING = 16
"""Bytes that must follow a text in its buffer, whatever they are."""

_POW10 = np.array([float(f"1e{i}") for i in range(23)])
_WHOLE_POW10 = np.array([10**i for i in range(9)], np.int64)
_EXACT = 1 << 53
_SLOT_BITS = 17
_ONES = 0x0101010101010101
_HIGH = 0x8080808080808080 - (1 << 64)
_ZEROS = 0x3030303030303030
_PAST_NINE = 0x7676767676767676
_PAIRS = 0x000000FF000000FF
_SPACES = 0x2020202020202020
_QUOTES = 0x2222222222222222
_BACKSLASHES = 0x5C5C5C5C5C5C5C5C
_MIX = 0x9E3779B97F4A7C15 - (1 << 64)


@intrinsic  # type: ignore[untyped-decorator]
def byte(_typing: Any, address: Any, at: Any) -> Any:  # noqa: ARG001 - their types are declared
    """Return the byte at `address` + `at`: an index into an array costs a check for negative ones, half of a scan."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        where = builder.inttoptr(builder.add(args[0], args[1]), ir.IntType(8).as_pointer())
        return builder.zext(builder.load(where), ir.IntType(64))

    return types.int64(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _word(_typing: Any, address: Any, at: Any) -> Any:  # noqa: ARG001 - their types are declared
    """Return the eight bytes at `address` + `at`, the first one lowest."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        loaded = builder.load(builder.inttoptr(builder.add(args[0], args[1]), ir.IntType(64).as_pointer()))
        loaded.align = 1
        return loaded

    return types.int64(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _lowest(_typing: Any, bits: Any) -> Any:  # noqa: ARG001 - its type is declared
    """Return the place of the lowest bit that is set; 64 where none is."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64), generate


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _none_of(word: Any) -> Any:
    """Return bits of which the lowest set one is the high bit of the first byte that is 0."""
    return (word - _ONES) & ~word & _HIGH


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _run(buf: Any, at: Any, value: Any) -> Any:
    """Return (value followed by the digits at `at`, where they end); looks at 24 digits at most, more than 18 overflow."""
    begin = at
    count: Any = 8
    while count == 8 and at - begin <= 16:
        word = _word(buf, at) ^ _ZEROS
        count = _lowest(((word + _PAST_NINE) | word) & _HIGH) >> 3
        if count:
            word <<= 64 - 8 * count
            word = word * 10 + (word >> 8)
            word = (word & _PAIRS) * 0x000F424000000064 + ((word >> 16) & _PAIRS) * 0x0000271000000001
            value = value * _WHOLE_POW10[count] + (word >> 32)
            at += count
    return value, at


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def digits(buf: Any, at: Any) -> Any:
    """Return (value, end) of an unsigned whole number without leading zeros; end = -1 where there is none."""
    value, end = _run(buf, at, 0)
    length = end - at
    if length == 0 or length > 18 or (byte(buf, at) == 48 and length > 1):
        return value, -1
    return value, end


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def decimal(buf: Any, at: Any) -> Any:
    """Return (value, end) of a plain decimal; end = -1 where there is none that is exact, and for a negative zero."""
    is_negative = byte(buf, at) == 45
    if is_negative:
        at += 1
    mantissa, end = _run(buf, at, 0)
    length = end - at
    if length == 0 or length > 18 or (byte(buf, at) == 48 and length > 1):
        return 0.0, -1
    fraction = 0
    if byte(buf, end) == 46:
        point = end + 1
        mantissa, end = _run(buf, point, mantissa)
        fraction = end - point
        if fraction == 0:
            return 0.0, -1
    if length + fraction > 18 or mantissa >= _EXACT:
        return 0.0, -1
    value = np.float64(mantissa) / _POW10[fraction]
    if is_negative:
        return (-value, end) if mantissa else (0.0, -1)
    return value, end


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def text_end(buf: Any, at: Any) -> Any:
    """Return where the plain ASCII text from `at` on ends (its closing quote); -1 where it is not plain."""
    count: Any = 8
    while count == 8:
        word = _word(buf, at)
        odd = word | ((word - _SPACES) & ~word) | _none_of(word ^ _QUOTES) | _none_of(word ^ _BACKSLASHES)
        count = _lowest(odd & _HIGH) >> 3
        at += count
    return at if byte(buf, at) == 34 else -1


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def find(buf: Any, at: Any, letter: Any) -> Any:
    """Return where a byte stands next, or a newline before it."""
    wanted = letter * _ONES
    count: Any = 8
    while count == 8:
        word = _word(buf, at)
        count = _lowest(_none_of(word ^ wanted) | _none_of(word ^ (10 * _ONES))) >> 3
        at += count
    return at


class Literals(NamedTuple):
    """Texts to be compared with, for `after`."""

    words: I64
    """Eight bytes each, zeros after the end of a text."""
    masks: I64
    """Which bits of them count."""
    bounds: I64
    """Where in both a text begins, and the last one ends."""
    lengths: I64


def literals(texts: Sequence[bytes]) -> Literals:
    """Return texts as `after` takes them."""
    words = [text[at : at + 8] for text in texts for at in range(0, len(text), 8)]
    return Literals(
        np.array([int.from_bytes(word, "little") for word in words], np.uint64).view(np.int64),
        np.array([(1 << 8 * len(word)) - 1 for word in words], np.uint64).view(np.int64),
        np.cumsum([0, *(-(-len(text) // 8) for text in texts)], dtype=np.int64),
        np.array([len(text) for text in texts], np.int64),
    )


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def after(buf: Any, at: Any, which: Any, words: Any, masks: Any, bounds: Any, lengths: Any) -> Any:
    """Return where literal `which` ends that stands at `at`; -1 where another text stands."""
    place = at
    for i in range(bounds[which], bounds[which + 1]):
        if _word(buf, place) & masks[i] != words[i]:
            return -1
        place += 8
    return at + lengths[which]


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _masked(buf: Any, at: Any, end: Any) -> Any:
    """Return eight bytes, or as many as there are before `end`, zeros after them."""
    word, left = _word(buf, at), end - at
    return word & ((np.int64(1) << 8 * left) - 1) if left < 8 else word


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def text_code(buf: Any, at: Any, end: Any, slots: Any, arena: Any, bounds: Any, lengths: Any, texts: Any) -> Any:
    """Return the number of the text in `at` to `end` of `buf`, interning a new one; -1 where there is no room.

    The last five are `Texts.arrays`.
    """
    hashed: Any = end - at
    for place in range(at, end, 8):
        hashed ^= _masked(buf, place, end)
        hashed = (hashed ^ (hashed >> 32)) * _MIX
    slot = ((hashed ^ (hashed >> 32)) * _MIX) >> (64 - _SLOT_BITS) & (len(slots) - 1)
    while True:
        code = np.int64(slots[slot])
        if code < 0:
            break
        if lengths[code] == end - at:
            same, word = True, bounds[code]
            for place in range(at, end, 8):
                if arena[word] != _masked(buf, place, end):
                    same = False
                    break
                word += 1
            if same:
                return code
        slot = (slot + 1) & (len(slots) - 1)
    count = texts[0]
    word = bounds[count]
    if count >= len(lengths) or word + (end - at + 7) // 8 > len(arena):
        return np.int64(-1)
    for place in range(at, end, 8):
        arena[word] = _masked(buf, place, end)
        word += 1
    bounds[count + 1] = word
    lengths[count] = end - at
    slots[slot] = count
    texts[0] = count + 1
    return np.int64(count)


class Texts:
    """Texts that a scan has met, numbered in the order they came; `text_code` takes them in.

    Args:
        count: Of how many there is room; fewer than the hash table has slots.
        size_bytes: How long they may be, together, each counted in whole eight bytes.
    """

    def __init__(self, count: int, size_bytes: int) -> None:
        self.arrays = (
            np.full(1 << _SLOT_BITS, -1, np.int32),
            np.empty(size_bytes // 8, np.int64),
            np.zeros(count + 1, np.int64),
            np.zeros(count, np.int64),
            np.zeros(1, np.int64),
        )
        """A hash table of numbers, -1 where empty; the texts, eight bytes each; where in them each begins; how long it is; how
        many there are."""

    def __len__(self) -> int:
        return int(self.arrays[4][0])

    def __getitem__(self, number: int) -> bytes:
        _, arena, bounds, lengths, _ = self.arrays
        return arena[bounds[number] : bounds[number + 1]].tobytes()[: lengths[number]]
