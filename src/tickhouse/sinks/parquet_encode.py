"""The encodings of Parquet that the lake uses, as compiled loops that also put values into order.

`parquet_file.py` calls these for every column of a row group. `index` says which value stands where: sorting and encoding
are one pass. Output arrays are large enough for the worst case, with 8 bytes to spare.

Reference: https://parquet.apache.org/docs/file-format/data-pages/encodings/
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

__all__ = ["BLOCK", "delta", "delta_room", "gathered", "hybrid", "hybrid_room", "plain_text", "sorted_index", "split_bytes"]

BLOCK = 128
"""Values of a block of DELTA_BINARY_PACKED; four miniblocks of 32."""

_MINI, _MINIS = 32, 4
_WORD = 64
_LOWEST, _HIGHEST = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)
_RUN = 16
"""From so many equal indices on, a run is shorter than packing them."""

_compiled = njit(cache=True, nogil=True, _nrt=False)


@intrinsic  # type: ignore[untyped-decorator]
def _store(_typing: Any, address: Any, at: Any, word: Any) -> Any:  # noqa: ARG001 - their types are declared
    """Write 8 bytes at `address` + `at`, which need not be aligned."""

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        where = builder.inttoptr(builder.add(args[0], args[1]), ir.IntType(64).as_pointer())
        builder.store(args[2], where).align = 1
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _shifted_right(_typing: Any, word: Any, bits: Any) -> Any:  # noqa: ARG001 - their types are declared
    """Return the 64 bits of `word` shifted, zeros coming in."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.lshr(args[0], args[1])

    return types.int64(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _bit_length(_typing: Any, word: Any) -> Any:  # noqa: ARG001 - its type is declared
    """Return how many bits the 64 bits of `word` need as an unsigned number."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        zeros = builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0))
        return builder.sub(ir.Constant(ir.IntType(64), _WORD), zeros)

    return types.int64(types.int64), generate


@_compiled  # type: ignore[untyped-decorator]
def _varint(out: Any, at: Any, value: Any) -> Any:
    """Write an unsigned number of 64 bits, seven at a time; return the place after it."""
    while value & ~127:
        out[at] = (value & 127) | 128
        value = _shifted_right(value, 7)
        at += 1
    out[at] = value
    return at + 1


@_compiled  # type: ignore[untyped-decorator]
def delta(values: Any, index: Any, is_narrow: Any, differences: Any, out: Any, address: Any) -> Any:
    """Write values as DELTA_BINARY_PACKED; return how many bytes.

    Args:
        values: int64.
        index: int64, at least one.
        is_narrow: The column has 32 bits: differences wrap around as such.
        differences: int64, room for a block.
        out: uint8, `delta_room(len(index))` of them.
        address: Of `out`.
    """
    count = len(index)
    at = _varint(out, 0, BLOCK)
    at = _varint(out, at, _MINIS)
    at = _varint(out, at, count)
    before = values[index[0]]
    at = _varint(out, at, (before << 1) ^ (before >> 63))
    for begin in range(1, count, BLOCK):
        many = min(BLOCK, count - begin)
        least = _HIGHEST
        for k in range(many):
            value = values[index[begin + k]]
            difference = value - before
            if is_narrow:
                difference = np.int64(np.int32(difference))
            differences[k] = difference
            least = min(least, difference)
            before = value
        for k in range(many, BLOCK):
            differences[k] = least
        at = _varint(out, at, (least << 1) ^ (least >> 63))
        widths = at
        at += _MINIS
        for mini in range(_MINIS):
            first = mini * _MINI
            any_bits = np.int64(0)
            for k in range(first, first + _MINI):
                difference = differences[k] - least
                if is_narrow:
                    difference &= 0xFFFFFFFF
                differences[k] = difference
                any_bits |= difference
            width = _bit_length(any_bits) if first < many else 0
            out[widths + mini] = width
            if width == 0:
                continue
            word = np.int64(0)
            filled = 0
            for k in range(first, first + _MINI):
                difference = differences[k]
                word |= difference << filled
                filled += width
                if filled >= _WORD:
                    _store(address, at, word)
                    at += 8
                    filled -= _WORD
                    word = _shifted_right(difference, width - filled) if filled > 0 else np.int64(0)
            if filled > 0:
                _store(address, at, word)
                at += 4
    return at


def delta_room(count: int) -> int:
    """Return how many bytes `delta` may need."""
    return 64 + (count // BLOCK + 1) * (10 + _MINIS + 8 * BLOCK)


@_compiled  # type: ignore[untyped-decorator]
def _swapped(low: Any, high: Any, bits: Any, mask: Any) -> Any:
    """Return both words, the upper parts of one (as `mask` and `bits` say) in exchange for the lower parts of the other."""
    change = (_shifted_right(low, bits) ^ high) & mask
    return low ^ (change << bits), high ^ change


@_compiled  # type: ignore[untyped-decorator]
def split_bytes(words: Any, index: Any, out: Any, address: Any) -> None:
    """Write the bits of floats (int64) as BYTE_STREAM_SPLIT: all first bytes, all second ones, and so on.

    Eight values are a square of bytes, transposed in three steps that swap ever smaller blocks.

    Args:
        words: int64.
        index: int64.
        out: uint8, eight for each.
        address: Of `out`.
    """
    count = len(index)
    whole = count - count % 8
    for i in range(0, whole, 8):
        a, b, c, d = words[index[i]], words[index[i + 1]], words[index[i + 2]], words[index[i + 3]]
        e, f, g, h = words[index[i + 4]], words[index[i + 5]], words[index[i + 6]], words[index[i + 7]]
        a, e = _swapped(a, e, 32, 0x00000000FFFFFFFF)
        b, f = _swapped(b, f, 32, 0x00000000FFFFFFFF)
        c, g = _swapped(c, g, 32, 0x00000000FFFFFFFF)
        d, h = _swapped(d, h, 32, 0x00000000FFFFFFFF)
        a, c = _swapped(a, c, 16, 0x0000FFFF0000FFFF)
        b, d = _swapped(b, d, 16, 0x0000FFFF0000FFFF)
        e, g = _swapped(e, g, 16, 0x0000FFFF0000FFFF)
        f, h = _swapped(f, h, 16, 0x0000FFFF0000FFFF)
        a, b = _swapped(a, b, 8, 0x00FF00FF00FF00FF)
        c, d = _swapped(c, d, 8, 0x00FF00FF00FF00FF)
        e, f = _swapped(e, f, 8, 0x00FF00FF00FF00FF)
        g, h = _swapped(g, h, 8, 0x00FF00FF00FF00FF)
        _store(address, i, a)
        _store(address, count + i, b)
        _store(address, 2 * count + i, c)
        _store(address, 3 * count + i, d)
        _store(address, 4 * count + i, e)
        _store(address, 5 * count + i, f)
        _store(address, 6 * count + i, g)
        _store(address, 7 * count + i, h)
    for i in range(whole, count):
        word = words[index[i]]
        for k in range(8):
            out[k * count + i] = word & 255
            word >>= 8


@_compiled  # type: ignore[untyped-decorator]
def gathered(codes: Any, index: Any, used: Any, out: Any) -> None:
    """Put codes (int32) into order, and mark those that stand in some row."""
    for i in range(len(index)):
        code = codes[index[i]]
        out[i] = code
        used[code] = True


@_compiled  # type: ignore[untyped-decorator]
def hybrid(codes: Any, places: Any, width: Any, out: Any) -> Any:
    """Write small numbers as runs and bit-packed groups of eight (RLE); return how many bytes.

    Args:
        codes: int32.
        places: int32, what to write for each code; below 2^width.
        width: 1 to 32.
        out: uint8, `hybrid_room(len(codes), width)` of them.
    """
    count = len(codes)
    at = 0
    i = 0
    while i < count:
        code = codes[i]
        end = i + 1
        while end < count and codes[end] == code:
            end += 1
        if end - i >= _RUN or end == count:
            at = _varint(out, at, np.int64(end - i) << 1)
            for byte in range((width + 7) >> 3):
                out[at] = (places[code] >> (8 * byte)) & 255
                at += 1
            i = end
            continue
        stop = i + 8
        same = 0
        while stop < count and same < _RUN:
            same = 1
            while same < _RUN and stop + same < count and codes[stop + same] == codes[stop]:
                same += 1
            if same < _RUN:
                stop += 8
        groups = np.int64((stop - i) >> 3)
        at = _varint(out, at, (groups << 1) | 1)
        word = np.int64(0)
        filled = 0
        for k in range(i, stop):
            if k < count:
                word |= np.int64(places[codes[k]]) << filled
            filled += width
            while filled >= 8:
                out[at] = word & 255
                word >>= 8
                filled -= 8
                at += 1
        i = stop
    return at


def hybrid_room(count: int, width: int) -> int:
    """Return how many bytes `hybrid` may need."""
    return (count // 8 + 2) * (width + 10) + 16


@_compiled  # type: ignore[untyped-decorator]
def plain_text(data: Any, offsets: Any, index: Any, out: Any) -> Any:
    """Write byte strings, each after its length; return how many bytes.

    Args:
        data: uint8, all strings.
        offsets: int32, where each begins, and one more.
        index: int64, which to write.
        out: uint8, 4 more than the bytes of each.
    """
    at = 0
    for i in index:
        begin = offsets[i]
        length = offsets[i + 1] - begin
        for byte in range(4):
            out[at + byte] = (length >> (8 * byte)) & 255
        at += 4
        for k in range(length):
            out[at + k] = data[begin + k]
        at += length
    return at


@_compiled  # type: ignore[untyped-decorator]
def sorted_index(codes: Any, ranks: Any, places: Any, index: Any) -> bool:
    """Put rows into the order of their codes' ranks, otherwise as they stand; False: they are in it already.

    Args:
        codes: int32, one a row.
        ranks: int32, of each code.
        places: int64 zeros, one more than there are ranks.
        index: int64, to be filled: which row stands where.
    """
    count = len(codes)
    falls = False
    before = 0
    for i in range(count):
        rank = ranks[codes[i]]
        falls = falls or rank < before
        before = rank
        places[rank + 1] += 1
    if not falls:
        for i in range(count):
            index[i] = i
        return False
    for rank in range(1, len(places)):
        places[rank] += places[rank - 1]
    for i in range(count):
        rank = ranks[codes[i]]
        index[places[rank]] = i
        places[rank] += 1
    return True
