"""The Parquet files of the lake: how rows are ordered, encoded and described.

The lake sink hands rows over as they come; a `FileWriter` gathers them into row groups, sorts each by symbol and writes them
into one open file a date. What comes out, a `DataFile`, is what a commit adds to a table's log. Nothing here is visible to any
reader before that commit.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickhouse.sinks.parquet_encode import sorted_index
from tickhouse.sinks.parquet_file import Extremes, ParquetFile
from tickhouse.tables import Table

__all__ = ["ROW_GROUP_ROWS", "DataFile", "FileWriter", "SymbolOrder", "TableWriter", "date_of", "days_of", "stamp"]

ROW_GROUP_ROWS = 131_072
"""A row group has at most this many rows."""

_ENCODED_ROWS = 32_768
"""Rows are sorted and encoded when there are this many: few, so that they are still in the processor's cache."""

_DAY_US = 86_400_000_000
_EPOCH = date(1970, 1, 1)
_WRITE_ONCE = frozenset({"trade_ref", "payload", "sha256", "detail"})
_PLAIN_NAME = re.compile(r"[^A-Za-z0-9.-]")
_NAME_CHARACTERS = 100  # of a folder: file systems take 255 bytes; symbols that share one lie in files of their own
_CODED = pa.dictionary(pa.int32(), pa.string())

Index = npt.NDArray[np.int64]


@dataclass(slots=True)
class DataFile:
    """A finished Parquet file."""

    path: str
    """Relative to its table's folder."""
    day: date
    size_bytes: int
    rows: int
    smallest: dict[str, Any] = field(default_factory=dict)
    """By column, for those that readers skip files by: symbol, times, offset."""
    largest: dict[str, Any] = field(default_factory=dict)
    nulls: dict[str, int] = field(default_factory=dict)


def date_of(day: int) -> date:
    """Return the date that is `day` days after 1970-01-01."""
    return _EPOCH + timedelta(days=day)


def days_of(table: Table, rows: pa.Table) -> npt.NDArray[np.int64]:
    """Return for each row its lake partition, as days since 1970-01-01."""
    days: npt.NDArray[np.int64] = _stamps(rows.column(table.date_from)) // _DAY_US
    return days


def _only_day(table: Table, rows: pa.Table) -> int | None:
    """Return the day of all rows; None where there are several. Dividing the bounds is cheaper than dividing every row."""
    first, last = None, None
    for chunk in rows.column(table.date_from).chunks:
        stamps = _stamps(chunk)
        if len(stamps):
            low, high = int(stamps.min()) // _DAY_US, int(stamps.max()) // _DAY_US
            first, last = low if first is None else min(first, low), high if last is None else max(last, high)
    return first if first == last else None


def _stamps(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.int64]:
    stamps = column.cast(pa.int64())
    stamps = stamps.fill_null(0) if stamps.null_count else stamps
    values: npt.NDArray[np.int64] = stamps.to_numpy()
    return values


def _column(chunked: pa.ChunkedArray, field: pa.Field) -> pa.Array:
    if pa.types.is_string(field.type) and field.name not in _WRITE_ONCE:
        return _coded(chunked)
    if chunked.type != field.type:
        chunked = chunked.cast(field.type)
    return chunked.combine_chunks() if chunked.num_chunks != 1 else chunked.chunk(0)


def _coded(chunked: pa.ChunkedArray) -> pa.Array:
    if not pa.types.is_dictionary(chunked.type):
        chunked = chunked.cast(pa.string()).dictionary_encode()
    return chunked.unify_dictionaries().combine_chunks() if chunked.num_chunks != 1 else chunked.chunk(0)


class SymbolOrder:
    """Sorts rows by symbol; remembers how the last words stood, because a house's symbols seldom change.

    Args:
        table: Whose rows.
    """

    def __init__(self, table: Table) -> None:
        self._symbol = table.schema.get_field_index("symbol") if table.sort_by else -1
        self._words = pa.array([], pa.string())
        self._ranks = np.zeros(1, np.int32)

    def index(self, columns: Sequence[pa.Array]) -> Index:
        """Return the stable order of rows by symbol (those without one first), otherwise as they stand."""
        count = len(columns[0])
        if self._symbol < 0:
            return np.arange(count)
        column = columns[self._symbol]
        if len(column.dictionary) == 1 and not column.null_count:
            return np.arange(count)
        if not column.dictionary.equals(self._words):
            self._words = column.dictionary
            self._ranks = np.zeros(len(self._words) + 1, np.int32)
            self._ranks[pc.array_sort_indices(self._words).to_numpy()] = np.arange(1, len(self._words) + 1)
        codes = column.indices.fill_null(len(self._words)) if column.null_count else column.indices
        index = np.empty(count, np.int64)
        places = np.zeros(len(self._ranks) + 1, np.int64)
        sorted_index(np.array(codes.to_numpy(), np.int32), self._ranks, places, index)
        return index


def _file_schema(table: Table) -> pa.Schema:
    return pa.schema(
        [
            field.with_type(_CODED) if pa.types.is_string(field.type) and field.name not in _WRITE_ONCE else field
            for field in table.schema
        ]
    )


def _described(table: Table) -> list[str]:
    """The columns whose smallest and largest value a file names: those that reads are limited by."""
    limiting = {"symbol", "interval", "ts", "start", "available_at", "offset", table.date_from}
    return [name for name in table.schema.names if name in limiting]


class FileWriter:
    """One Parquet file being written.

    Args:
        table: Whose rows.
        root: The table's folder.
        day: The lake partition.
        symbol: For the layout `date/symbol`: the one symbol in the file.
        prefix: What the file's name begins with.
        order: That of the writer's other files.
    """

    def __init__(
        self,
        table: Table,
        root: Path,
        day: date,
        symbol: str | None = None,
        prefix: str = "part",
        *,
        order: SymbolOrder | None = None,
    ) -> None:
        folder = f"date={day.isoformat()}"
        if symbol is not None:
            folder += f"/symbol={_PLAIN_NAME.sub('_', symbol)[:_NAME_CHARACTERS]}"
        self._table = table
        self._order = order or SymbolOrder(table)
        self._file = DataFile(f"{folder}/{prefix}-{uuid.uuid4().hex}.parquet", day, 0, 0)
        self._full = root / self._file.path
        self._full.parent.mkdir(parents=True, exist_ok=True)
        self._writer = ParquetFile(self._full, table.schema, _described(table))

    def write(self, rows: pa.Table) -> None:
        """Write rows sorted by symbol, otherwise in the order given, as row groups."""
        if not len(rows):
            return
        columns = [_column(rows.column(field.name), field) for field in self._table.schema]
        index = self._order.index(columns)
        for begin in range(0, len(index), ROW_GROUP_ROWS):
            for name, extremes in self._writer.write(columns, index[begin : begin + ROW_GROUP_ROWS]).items():
                self._describe(name, extremes)
        self._file.rows += len(rows)

    def finish(self) -> DataFile:
        """Close the file and return what it holds."""
        self._file.size_bytes = self._writer.close()
        return self._file

    def abandon(self) -> None:
        """Close and remove the file."""
        with suppress(OSError):  # a full disk cannot take what is buffered either
            self._writer.abandon()
        self._full.unlink(missing_ok=True)

    def _describe(self, name: str, extremes: Extremes) -> None:
        file = self._file
        file.nulls[name] = file.nulls.get(name, 0) + extremes.nulls
        if extremes.smallest is None:
            return
        kind = self._table.schema.field(name).type
        smallest, largest = (pa.scalar(each, kind).as_py() for each in (extremes.smallest, extremes.largest))
        file.smallest[name] = min(smallest, file.smallest.get(name, smallest))
        file.largest[name] = max(largest, file.largest.get(name, largest))


class TableWriter:
    """Gathers the rows of one table into row groups and writes them into one open file a date.

    Args:
        table: Whose rows.
        root: The table's folder.
    """

    def __init__(self, table: Table, root: Path) -> None:
        self._table = table
        self._root = root
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._open: dict[int, FileWriter] = {}
        self._order = SymbolOrder(table)

    def write(self, rows: pa.Table) -> None:
        """Take rows in the order of their cause; encodes whenever a row group is full."""
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
        if self._waiting_rows >= _ENCODED_ROWS:
            self._encode()

    def finish(self) -> list[DataFile]:
        """Write what waits, close the files and return them."""
        self._encode()
        files = []
        while self._open:
            _, writer = self._open.popitem()
            files.append(writer.finish())
        return files

    def abandon(self) -> None:
        """Drop everything not finished."""
        self._waiting, self._waiting_rows = [], 0
        while self._open:
            self._open.popitem()[1].abandon()

    def _encode(self) -> None:
        if not self._waiting_rows:
            return
        rows = pa.concat_tables(_alike(self._table, self._waiting))
        self._waiting, self._waiting_rows = [], 0
        only = _only_day(self._table, rows)
        if only is not None:
            self._writer(only).write(rows)
            return
        days = days_of(self._table, rows)
        for day in np.unique(days):
            self._writer(int(day)).write(rows.filter(pa.array(days == day)))

    def _writer(self, day: int) -> FileWriter:
        if day not in self._open:
            self._open[day] = FileWriter(self._table, self._root, date_of(day), order=self._order)
        return self._open[day]


def _alike(table: Table, pieces: list[pa.Table]) -> list[pa.Table]:
    """Return pieces of one schema, so that they can stand in one table: text that is coded in some is coded in all."""
    first = pieces[0].schema
    if all(piece.schema.equals(first) for piece in pieces):
        return pieces
    target = _file_schema(table)
    return [pa.table([_recoded(piece.column(field.name), field.type) for field in target], schema=target) for piece in pieces]


def _recoded(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(column.type):
        return column.cast(pa.string()).dictionary_encode()
    return column.cast(kind)


def stamp(at: datetime, *, up: bool) -> str:
    """Return a time as Delta's statistics spell it, whole milliseconds, rounded outwards."""
    at = at.astimezone(UTC)
    cut = at.replace(microsecond=at.microsecond // 1000 * 1000)
    if up and cut != at:
        cut += timedelta(milliseconds=1)
    return cut.strftime("%Y-%m-%dT%H:%M:%S.") + f"{cut.microsecond // 1000:03d}Z"
