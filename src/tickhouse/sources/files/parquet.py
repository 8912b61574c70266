"""Reads Parquet files of trades; a row is a line.

A step of `files.py`. Only the columns in use are read; typed timestamps and decimals are taken for what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tickhouse.errors import ConfigError

__all__ = ["ParquetRows"]

_BATCH_ROWS = 16_384


class ParquetRows:
    """One pass over a file's rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size
        self.bytes_read = 0
        """An estimate: the share of rows read, of the file's size."""
        self.torn = False
        """What comes next is damaged; known once `batches` has ended."""
        try:
            schema = pq.read_schema(path)
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"{path} is no readable Parquet file: {error}") from error
        self.names: list[str] = schema.names
        self.timed = {field.name for field in schema if pa.types.is_timestamp(field.type) or pa.types.is_date(field.type)}
        """Columns that are times by their type; their values come in microseconds."""

    def batches(self, names: Sequence[str], rows: int = _BATCH_ROWS) -> Iterator[list[Mapping[str, Any]]]:
        """Yield records of the columns `names`; nulls are left out. Ends before a part that cannot be read."""
        with pq.ParquetFile(self._path) as file:
            total, done = max(file.metadata.num_rows, 1), 0
            for batch in self._readable(file.iter_batches(batch_size=rows, columns=list(names))):
                done += batch.num_rows
                self.bytes_read = self._size * done // total
                columns = [(name, _values(batch.column(name))) for name in batch.schema.names]
                yield [{name: values[i] for name, values in columns if values[i] is not None} for i in range(batch.num_rows)]

    def _readable(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except (pa.ArrowException, OSError):
            self.torn = True


def _values(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _values(column.dictionary_decode())
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return list(column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_pylist())
    if pa.types.is_decimal(kind):
        # Arrow's own cast is not correctly rounded: 61737.63 became 61737.630000000005.
        return [None if value is None else float(value) for value in column.to_pylist()]
    return list(column.to_pylist())
