"""The Parquet files of the lake: how rows are ordered, encoded and described.

The lake sink hands rows over as they come; a `FileWriter` gathers them into row groups, sorts each by symbol and writes them
into one open file a date. What comes out, a `DataFile`, is what a commit adds to a table's log. Nothing here is visible to any
reader before that commit.
"""

from __future__ import annotations

import re
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tickhouse.tables import Table

__all__ = ["ROW_GROUP_ROWS", "DataFile", "FileWriter", "TableWriter", "arranged", "date_of", "days_of", "stamp"]

ROW_GROUP_ROWS = 131_072
"""A row group has at most this many rows."""

_ENCODED_ROWS = 32_768
"""Rows are sorted and encoded when there are this many: few, so that they are still in the processor's cache."""

_BATCH_ROWS = 65_536
_DAY_US = 86_400_000_000
_EPOCH = date(1970, 1, 1)
_WRITE_ONCE = frozenset({"trade_ref", "payload", "sha256", "detail"})
_PLAIN_NAME = re.compile(r"[^A-Za-z0-9.-]")
_NAME_CHARACTERS = 100  # of a folder: file systems take 255 bytes; symbols that share one lie in files of their own
_CODED = pa.dictionary(pa.int32(), pa.string())

Codes = npt.NDArray[Any]


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
    days: npt.NDArray[np.int64] = _stamps(table, rows).to_numpy() // _DAY_US
    return days


def _stamps(table: Table, rows: pa.Table) -> pa.ChunkedArray:
    stamps = rows.column(table.date_from).cast(pa.int64())
    return stamps.fill_null(0) if stamps.null_count else stamps


def _only_day(table: Table, rows: pa.Table) -> int | None:
    """Return the day of all rows; None where there are several. Dividing the bounds is cheaper than dividing every row."""
    bounds = pc.min_max(_stamps(table, rows)).as_py()
    first, last = bounds["min"] // _DAY_US, bounds["max"] // _DAY_US
    return first if first == last else None


def arranged(table: Table, rows: pa.Table) -> pa.Table:
    """Return rows sorted by symbol, otherwise in the order given; text columns dictionary-coded, in one chunk."""
    columns = [_column(rows.column(field.name), field) for field in table.schema]
    order = _order(table, columns)
    if order is not None:
        taken = pa.array(order)
        columns = [column if _is_constant(column) else column.take(taken) for column in columns]
    return pa.table(columns, schema=_file_schema(table))


def _column(chunked: pa.ChunkedArray, field: pa.Field) -> pa.Array:
    if pa.types.is_string(field.type) and field.name not in _WRITE_ONCE:
        return _coded(chunked)
    if chunked.type != field.type:
        chunked = chunked.cast(field.type)
    return chunked.combine_chunks() if chunked.num_chunks != 1 else chunked.chunk(0)


def _coded(chunked: pa.ChunkedArray) -> pa.Array:
    if not pa.types.is_dictionary(chunked.type):
        chunked = chunked.cast(pa.string()).dictionary_encode()
    column = chunked.unify_dictionaries().combine_chunks() if chunked.num_chunks != 1 else chunked.chunk(0)
    if len(column.dictionary) > 4 * len(column) + 64:  # a small file should not carry every symbol of the house
        column = column.cast(pa.string()).dictionary_encode()
    return column if column.type == _CODED else column.cast(_CODED)


def _order(table: Table, columns: list[pa.Array]) -> Codes | None:
    """Return the stable order by symbol; None where the rows are already in it."""
    if not table.sort_by:
        return None
    column = columns[table.schema.get_field_index("symbol")]
    ranks = _ranks(column)
    if ranks is None or not (ranks[1:] < ranks[:-1]).any():
        return None
    # numpy sorts 16-bit integers by radix: several times faster than wider ones.
    narrow = ranks.astype(np.uint16) if len(column.dictionary) < 65_535 else ranks
    return np.argsort(narrow, kind="stable")


def _ranks(column: pa.Array) -> Codes | None:
    values = column.dictionary
    if len(values) <= 1 and not column.null_count:
        return None
    rank = np.empty(len(values) + 1, np.int32)
    rank[pc.array_sort_indices(values).to_numpy()] = np.arange(1, len(values) + 1)
    rank[len(values)] = 0
    codes = column.indices.fill_null(len(values)) if column.null_count else column.indices
    ranks: Codes = rank[codes.to_numpy(zero_copy_only=False)]
    return ranks


def _is_constant(column: pa.Array) -> bool:
    """Say cheaply whether every row is equal, so that sorting can leave the column alone; False where it would take long."""
    if column.null_count:
        return bool(column.null_count == len(column))
    if pa.types.is_dictionary(column.type):
        return len(column.dictionary) == 1
    if pa.types.is_boolean(column.type):
        trues = column.true_count
        return trues in (0, len(column))
    if pa.types.is_int32(column.type):
        values = column.to_numpy()
        return bool(values[0] == values[-1] and (values == values[0]).all())
    return False


def _file_schema(table: Table) -> pa.Schema:
    return pa.schema(
        [
            field.with_type(_CODED) if pa.types.is_string(field.type) and field.name not in _WRITE_ONCE else field
            for field in table.schema
        ]
    )


def _encodings(table: Table) -> dict[str, str]:
    found = {}
    for column in table.schema:
        if pa.types.is_integer(column.type) or pa.types.is_timestamp(column.type):
            found[column.name] = "DELTA_BINARY_PACKED"
        elif pa.types.is_floating(column.type):
            found[column.name] = "BYTE_STREAM_SPLIT"
    return found


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
    """

    def __init__(self, table: Table, root: Path, day: date, symbol: str | None = None, prefix: str = "part") -> None:
        folder = f"date={day.isoformat()}"
        if symbol is not None:
            folder += f"/symbol={_PLAIN_NAME.sub('_', symbol)[:_NAME_CHARACTERS]}"
        self._table = table
        self._file = DataFile(f"{folder}/{prefix}-{uuid.uuid4().hex}.parquet", day, 0, 0)
        self._full = root / self._file.path
        self._full.parent.mkdir(parents=True, exist_ok=True)
        encodings = _encodings(table)
        self._footers: list[pq.FileMetaData] = []
        self._writer = pq.ParquetWriter(
            self._full,
            _file_schema(table),
            compression="lz4",
            use_dictionary=[name for name in table.schema.names if name not in encodings and name not in _WRITE_ONCE],
            column_encoding=encodings,
            write_statistics=_described(table),
            write_batch_size=_BATCH_ROWS,
            store_schema=False,  # a stored Arrow schema would bring dictionary types back to readers
            metadata_collector=self._footers,
        )

    def write(self, rows: pa.Table) -> None:
        """Write `arranged` rows as row groups."""
        if not len(rows):
            return
        self._writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
        self._file.rows += len(rows)

    def finish(self) -> DataFile:
        """Close the file and return what it holds."""
        self._writer.close()
        self._file.size_bytes = self._full.stat().st_size
        self._describe(self._footers[0])
        return self._file

    def abandon(self) -> None:
        """Close and remove the file."""
        with suppress(OSError, pa.ArrowException, RuntimeError):  # a full disk takes no footer either, and then there is none
            self._writer.close()
        self._full.unlink(missing_ok=True)

    def _describe(self, footer: pq.FileMetaData) -> None:
        """Take from the row groups' statistics what the log is to say of the file."""
        file, places = self._file, range(footer.num_columns)
        for group in range(footer.num_row_groups):
            for column in map(footer.row_group(group).column, places):
                name, told = column.path_in_schema, column.statistics
                if told is None:
                    continue
                file.nulls[name] = file.nulls.get(name, 0) + told.null_count
                if told.has_min_max:
                    file.smallest[name] = min(told.min, file.smallest.get(name, told.min))
                    file.largest[name] = max(told.max, file.largest.get(name, told.max))


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

    def write(self, rows: pa.Table) -> None:
        """Take rows, each time those of later causes; encodes whenever there are enough."""
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
            self._writer(only).write(arranged(self._table, rows))
            return
        days = days_of(self._table, rows)
        for day in np.unique(days):
            self._writer(int(day)).write(arranged(self._table, rows.filter(pa.array(days == day))))

    def _writer(self, day: int) -> FileWriter:
        if day not in self._open:
            self._open[day] = FileWriter(self._table, self._root, date_of(day))
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
