"""A Parquet file, written column by column with what the lake's tables need and no more.

pyarrow's writer spends 2 to 5 ns a value on columns that hold one value only, which is half of what a trade's columns do; here
these cost nothing, and putting rows into order is part of encoding them. Files have row groups of one page a column: constants
and coded text as dictionaries, integers as differences, floats with their bytes split, each compressed with LZ4 where that
pays. Any reader of Parquet 2 reads them.

Reference: https://github.com/apache/parquet-format
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickhouse.sinks.parquet_encode import BLOCK, delta, delta_room, gathered, hybrid, hybrid_room, plain_text, split_bytes

__all__ = ["Extremes", "ParquetFile"]

_MAGIC = b"PAR1"
_BOOLEAN, _INT32, _INT64, _DOUBLE, _BYTE_ARRAY = 0, 1, 2, 5, 6
_PLAIN, _RLE, _DELTA_BINARY_PACKED, _RLE_DICTIONARY, _BYTE_STREAM_SPLIT = 0, 3, 5, 8, 9
_UNCOMPRESSED, _LZ4_RAW = 0, 7
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_UTF8, _TIMESTAMP_MICROS = 0, 10
_WORTH = 0.88
"""Pages are compressed where they then have at most this share of their size: what saves less costs more than it saves."""
_TRY_EVERY = 16
"""After so many row groups, a column that was not worth it is tried again."""

_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12
"""Types of the compact Thrift protocol."""

Index = npt.NDArray[np.int64]
Numbers = npt.NDArray[Any]


class Extremes(NamedTuple):
    """What a row group says of a column that reads are limited by."""

    nulls: int
    smallest: Any = None
    """int (times in microseconds) or str; None where every value is null."""
    largest: Any = None


class _Page(NamedTuple):
    """The values of one column of a row group, before compression."""

    encoding: int
    body: bytes | memoryview
    dictionary: bytes | None = None
    words: int = 0
    """Entries of the dictionary."""


class ParquetFile:
    """One file being written.

    Args:
        path: Of the file; it is made.
        schema: Its columns: int32, int64, timestamps in UTC microseconds, float64, bool, string, binary. Text columns may be
            handed over dictionary-coded.
        described: The columns whose extremes each row group names: integers, times, coded text.
    """

    def __init__(self, path: Path, schema: pa.Schema, described: Sequence[str]) -> None:
        self._schema = schema
        self._described = frozenset(described)
        self._groups: list[bytes] = []
        self._rows = 0
        self._at = len(_MAGIC)
        self._codec = pa.Codec("lz4_raw")
        self._is_worth: dict[str, bool] = {}
        self._differences = np.empty(BLOCK, np.int64)
        self._file = path.open("wb")
        self._file.write(_MAGIC)

    def write(self, columns: Sequence[pa.Array], index: Index) -> dict[str, Extremes]:
        """Write a row group; return what it says of the described columns.

        Args:
            columns: As in the schema.
            index: Which of their rows, in which order; at least one.

        Raises:
            OSError: the disk is full or refuses.
        """
        chunks, total, told = [], 0, {}
        for field, column in zip(self._schema, columns, strict=True):
            extremes = None
            if field.name in self._described:
                extremes = told[field.name] = _extremes(column, index)
            chunk, size = self._chunk(field, column, index, extremes)
            chunks.append(chunk)
            total += size
        self._groups.append(_fields((1, _LIST, (_STRUCT, chunks)), (2, _I64, total), (3, _I64, len(index))))
        self._rows += len(index)
        return told

    def close(self) -> int:
        """Write what the file holds at its end; return the size of the file in bytes."""
        names = [_fields((4, _BINARY, b"schema"), (5, _I32, len(self._schema)))]
        footer = _fields(
            (1, _I32, 2),
            (2, _LIST, (_STRUCT, names + [_element(field) for field in self._schema])),
            (3, _I64, self._rows),
            (4, _LIST, (_STRUCT, self._groups)),
            (6, _BINARY, b"tickhouse"),
            (7, _LIST, (_STRUCT, [_fields((1, _STRUCT, _fields()))] * len(self._schema))),
        )
        self._file.write(footer + struct.pack("<I", len(footer)) + _MAGIC)
        self._file.close()
        return self._at + len(footer) + 8

    def abandon(self) -> None:
        """Leave the file as it is."""
        self._file.close()

    def _chunk(self, field: pa.Field, column: pa.Array, index: Index, extremes: Extremes | None) -> tuple[bytes, int]:
        """Write a column of a row group; return its description and its size before compression."""
        count = len(index)
        levels, kept = _levels(field, column, index)
        page = _page(column, kept, self._differences) if len(kept) else _Page(_PLAIN, b"")
        body = b"".join((levels, page.body)) if levels else page.body
        packed, codec = None, _UNCOMPRESSED
        if self._is_worth.get(field.name, True) or len(self._groups) % _TRY_EVERY == 0:
            packed = self._codec.compress(body, asbytes=True)
            codec = _LZ4_RAW if len(packed) <= _WORTH * len(body) else _UNCOMPRESSED
            self._is_worth[field.name] = codec == _LZ4_RAW
        begin, size = self._at, 0
        encodings = {_RLE, page.encoding}
        if page.dictionary is not None:
            header = _fields((1, _I32, page.words), (2, _I32, _PLAIN))
            size += self._put(_DICTIONARY_PAGE, (7, _STRUCT, header), page.dictionary, None, codec)
            encodings.add(_PLAIN)
        data_at = self._at
        header = _fields((1, _I32, count), (2, _I32, page.encoding), (3, _I32, _RLE), (4, _I32, _RLE))
        size += self._put(_DATA_PAGE, (5, _STRUCT, header), body, packed, codec)
        about = _fields(
            (1, _I32, _physical(field.type)),
            (2, _LIST, (_I32, [_zigzag(each) for each in sorted(encodings)])),
            (3, _LIST, (_BINARY, [_varint(len(name := field.name.encode())) + name])),
            (4, _I32, codec),
            (5, _I64, count),
            (6, _I64, size),
            (7, _I64, self._at - begin),
            (9, _I64, data_at),
            (11, _I64, None if page.dictionary is None else begin),
            (12, _STRUCT, None if extremes is None else _statistics(field.type, extremes)),
        )
        return _fields((2, _I64, 0), (3, _STRUCT, about)), size

    def _put(self, kind: int, about: _Field, body: bytes | memoryview, packed: bytes | None, codec: int) -> int:
        """Write a page; return its size before compression."""
        stored: bytes | memoryview = body
        if codec == _LZ4_RAW:
            stored = self._codec.compress(body, asbytes=True) if packed is None else packed
        header = _fields((1, _I32, kind), (2, _I32, len(body)), (3, _I32, len(stored)), about)
        self._file.write(header)
        self._file.write(stored)
        self._at += len(header) + len(stored)
        return len(header) + len(body)


def _levels(field: pa.Field, column: pa.Array, index: Index) -> tuple[bytes, Index]:
    """Return which values are there, as Parquet spells it, and the index of these."""
    if not field.nullable:
        return b"", index
    if not column.null_count:
        return _sized(_varint(len(index) << 1) + b"\x01"), index
    if column.null_count == len(column):
        return _sized(_varint(len(index) << 1) + b"\x00"), index[:0]
    valid = column.is_valid().to_numpy(zero_copy_only=False)[index]
    packed = np.packbits(valid, bitorder="little").tobytes()
    return _sized(_varint((len(packed) << 1) | 1) + packed), index[valid]


def _sized(levels: bytes) -> bytes:
    return struct.pack("<I", len(levels)) + levels


def _page(column: pa.Array, index: Index, differences: Numbers) -> _Page:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _coded_page(column, index)
    if pa.types.is_boolean(kind):
        return _Page(_PLAIN, np.packbits(_flags(column)[index], bitorder="little").tobytes())
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _Page(_PLAIN, _texts(column, index))
    numbers = _numbers(column)
    bits = numbers.view(np.int64) if pa.types.is_floating(kind) else numbers
    if bits[index[0]] == bits[index[-1]] and bits[0] == bits[-1] and (bits == bits[index[0]]).all():
        return _constant(numbers[index[:1]].tobytes(), len(index))
    if pa.types.is_floating(kind):
        out = np.empty(8 * len(index), np.uint8)
        split_bytes(bits, index, out, out.ctypes.data)
        return _Page(_BYTE_STREAM_SPLIT, out.data)
    out = np.empty(delta_room(len(index)), np.uint8)
    size = delta(_readable(bits.astype(np.int64, copy=False)), index, bits.itemsize == 4, differences, out, out.ctypes.data)
    return _Page(_DELTA_BINARY_PACKED, out[:size].data)


def _constant(value: bytes, count: int) -> _Page:
    return _Page(_RLE_DICTIONARY, b"\x01" + _varint(count << 1) + b"\x00", value, 1)


def _coded_page(column: pa.DictionaryArray, index: Index) -> _Page:
    """Write text by a dictionary of the words that stand in some row."""
    words = column.dictionary
    if len(words) == 1:
        return _constant(_texts(words, np.zeros(1, np.int64)), len(index))
    used, codes = np.zeros(len(words), np.bool_), np.empty(len(index), np.int32)
    gathered(_readable(_numbers(column.indices).astype(np.int32, copy=False)), index, used, codes)
    kept = np.flatnonzero(used)
    if len(kept) == 1:
        return _constant(_texts(words, kept), len(index))
    places = np.cumsum(used, dtype=np.int32) - np.int32(1)
    width = (len(kept) - 1).bit_length()
    out = np.empty(1 + hybrid_room(len(codes), width), np.uint8)
    out[0] = width
    size = hybrid(codes, places, width, out[1:])
    return _Page(_RLE_DICTIONARY, out[: 1 + size].data, _texts(words, kept), len(kept))


def _numbers(column: pa.Array) -> Numbers:
    """Return the values as they lie in memory, whatever stands where one is null."""
    kind = {_INT32: np.int32, _INT64: np.int64, _DOUBLE: np.float64}
    wide = (
        np.dtype(column.type.to_pandas_dtype()) if pa.types.is_integer(column.type) else np.dtype(kind[_physical(column.type)])
    )
    begin = column.offset
    return _readable(np.frombuffer(column.buffers()[1], wide)[begin : begin + len(column)])


def _flags(column: pa.Array) -> Numbers:
    bits = np.unpackbits(np.frombuffer(column.buffers()[1], np.uint8), bitorder="little")
    return bits[column.offset : column.offset + len(column)]


def _texts(column: pa.Array, index: Index) -> bytes:
    _, offsets, data = column.buffers()
    begins = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    content = np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8)
    out = np.empty(int((begins[index + 1] - begins[index]).sum()) + 4 * len(index), np.uint8)
    plain_text(_readable(content), _readable(begins), index, out)
    return out.tobytes()


def _readable(array: Numbers) -> Numbers:
    """Return a read-only view: one type for the compiled loops."""
    view = array.view()
    view.flags.writeable = False
    return view


def _extremes(column: pa.Array, index: Index) -> Extremes:
    kept = index
    if column.null_count:
        kept = index[column.is_valid().to_numpy(zero_copy_only=False)[index]]
    nulls = len(index) - len(kept)
    return Extremes(nulls, *_bounds(column, kept)) if len(kept) else Extremes(nulls)


def _bounds(column: pa.Array, index: Index) -> tuple[Any, Any]:
    if not pa.types.is_dictionary(column.type):
        numbers = _numbers(column)
        chosen = numbers if len(index) == len(column) else numbers[index]
        return int(chosen.min()), int(chosen.max())
    used = np.zeros(len(column.dictionary), np.bool_)
    used[_numbers(column.indices)[index]] = True
    found = pc.min_max(column.dictionary.filter(pa.array(used))).as_py()
    return found["min"], found["max"]


def _statistics(kind: pa.DataType, extremes: Extremes) -> bytes:
    def spelled(value: Any) -> bytes | None:
        if value is None or isinstance(value, str):
            return None if value is None else value.encode()
        return struct.pack("<i" if _physical(kind) == _INT32 else "<q", value)

    return _fields((3, _I64, extremes.nulls), (5, _BINARY, spelled(extremes.largest)), (6, _BINARY, spelled(extremes.smallest)))


def _physical(kind: pa.DataType) -> int:
    if pa.types.is_boolean(kind):
        return _BOOLEAN
    if pa.types.is_int32(kind):
        return _INT32
    if pa.types.is_floating(kind):
        return _DOUBLE
    return _INT64 if pa.types.is_integer(kind) or pa.types.is_timestamp(kind) else _BYTE_ARRAY


def _element(field: pa.Field) -> bytes:
    """Return a column's place in the schema."""
    converted, logical = None, None
    if pa.types.is_timestamp(field.type):
        micros = _fields((2, _STRUCT, _fields()))
        converted, logical = _TIMESTAMP_MICROS, _fields((8, _STRUCT, _fields((1, _TRUE, b""), (2, _STRUCT, micros))))
    elif pa.types.is_string(field.type) or pa.types.is_dictionary(field.type):
        converted, logical = _UTF8, _fields((1, _STRUCT, _fields()))
    return _fields(
        (1, _I32, _physical(field.type)),
        (3, _I32, int(field.nullable)),
        (4, _BINARY, field.name.encode()),
        (6, _I32, converted),
        (10, _STRUCT, logical),
    )


_TRUE = 1
_Field = tuple[int, int, Any]


def _fields(*fields: _Field) -> bytes:
    """Return a Thrift struct in the compact protocol, without the fields that are None."""
    out = bytearray()
    last = 0
    for number, kind, value in fields:
        if value is None:
            continue
        out.append((number - last) << 4 | kind)
        last = number
        if kind in (_I32, _I64):
            out += _zigzag(value)
        elif kind == _BINARY:
            out += _varint(len(value)) + value
        elif kind == _LIST:
            of, items = value
            out += bytes([len(items) << 4 | of]) if len(items) < 15 else bytes([0xF0 | of]) + _varint(len(items))
            for item in items:
                out += item
        else:
            out += value
    out.append(0)
    return bytes(out)


def _zigzag(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


_SHORT = [bytes([value]) for value in range(0x80)]


def _varint(value: int) -> bytes:
    if value < len(_SHORT):
        return _SHORT[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
