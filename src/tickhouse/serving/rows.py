"""Rows of tables as records, and as JSON: the one spelling that the API and its stream have for them.

Keys are the columns of `tables.TABLES`; times are UTC microseconds as integers; what is missing is null.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import repeat, starmap
from types import MappingProxyType
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa

from tickhouse.tables import CAUSE, TABLES

__all__ = ["Record", "encode", "joined", "records", "row_objects", "shown_columns", "wide_name", "with_plain_times"]

Record = dict[str, Any]
"""One row."""

_LONG = 1_000
"""Rows from which on numbers are read faster by way of numpy."""
_FLOATS = (pa.DoubleArray, pa.FloatArray, pa.HalfFloatArray)
_NUMBERS = (pa.DoubleArray, pa.Int64Array, pa.Int32Array)
_MANY_TEXTS = 16
"""A text by itself costs as much as so many with all others."""
_encoder = msgspec.json.Encoder()
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def shown_columns(name: str) -> list[str]:
    """Return the columns of a table that are shown: its cause only where that is what makes a row unique."""
    table = TABLES[name]
    return table.schema.names if CAUSE[1] in table.key else table.values


def wide_name(indicator: str, output: str) -> str:
    """Return the column of an indicator's output in wide form, e.g. `bbands_20_2_upper`."""
    text = indicator if output == "value" else f"{indicator}_{output}"
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def records(table: pa.Table, columns: Sequence[str] | None = None) -> list[Record]:
    """Return the rows of a table as records.

    Args:
        table: Strings may be dictionary-coded.
        columns: In this order; None = all.
    """
    names = list(columns if columns is not None else table.column_names)
    values = [_plain(table.column(name)) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def row_objects(table: pa.Table, columns: Sequence[str], fixed: Mapping[str, Any] = _NOTHING) -> list[Any]:
    """Return the rows of a table as objects with an attribute a column: made and spelled in half the time that records take.

    Args:
        table: Strings may be dictionary-coded.
        columns: In this order.
        fixed: Columns that have one value; those that are not among `columns` come after them.
    """
    names = tuple(dict.fromkeys((*columns, *fixed)))
    values = [repeat(fixed[name], len(table)) if name in fixed else _plain(table.column(name)) for name in names]
    return list(starmap(_row_type(names), zip(*values, strict=True)))


@cache
def _row_type(names: tuple[str, ...]) -> type[msgspec.Struct]:
    return msgspec.defstruct("Row", names, frozen=True, gc=False)


def with_plain_times(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with its times as integer microseconds, and bytes as text where they are."""
    return frame.with_columns(pl.selectors.temporal().exclude(pl.Date, pl.Time, pl.Duration).dt.epoch("us"))


def encode(value: Any) -> bytes:
    """Return JSON; what is no number is null."""
    return _encoder.encode(value)


def joined(rows: Sequence[Any]) -> bytes:
    """Return records or row objects as JSON, with commas between and no brackets around."""
    return _encoder.encode(rows)[1:-1]


def _plain(column: pa.ChunkedArray) -> list[Any]:
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if not isinstance(array, pa.DictionaryArray):
        return _plain_array(array)
    texts, codes = array.dictionary, array.indices.to_pylist()
    if len(texts) > _MANY_TEXTS * len(codes):
        return [None if code is None else texts[code].as_py() for code in codes]
    known = texts.to_pylist()
    return [None if code is None else known[code] for code in codes]


def _plain_array(array: pa.Array) -> list[Any]:
    if isinstance(array, pa.TimestampArray):
        kind = array.type
        array = (array if kind.unit == "us" else array.cast(pa.timestamp("us", kind.tz))).view(pa.int64())
    by_numpy = len(array) > _LONG and array.null_count == 0 and isinstance(array, _NUMBERS)
    values: list[Any] = array.to_numpy().tolist() if by_numpy else array.to_pylist()
    # Nearly always all are finite, and then so is their sum: the cheapest way to see it.
    if not isinstance(array, _FLOATS) or (array.null_count == 0 and math.isfinite(sum(values))):
        return values
    return [value if value is not None and math.isfinite(value) else None for value in values]
