"""Our Parquet files, read by three readers that we did not write: the same values, the same types, true statistics."""

from __future__ import annotations

import datetime as dt

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tickhouse.sinks.parquet_file import ParquetFile
from tickhouse.tables import TABLES, TIME

TEXT = pa.string()
SCHEMA = pa.schema(
    [
        pa.field("symbol", TEXT, nullable=False),
        pa.field("side", TEXT),
        pa.field("number", pa.int64(), nullable=False),
        pa.field("small", pa.int32()),
        pa.field("ts", TIME),
        pa.field("price", pa.float64()),
        pa.field("late", pa.bool_(), nullable=False),
        pa.field("reference", TEXT),
        pa.field("payload", pa.binary(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("threshold", pa.float64(), nullable=False),
        pa.field("never", TEXT),
    ]
)
WORDS = pa.array(["BTC-USDT", "ETH-USDT", "", "é", "never used", "x" * 300])


def random_columns(rng, n):
    """Columns of every kind, in the shapes that encodings find hard: full range, runs, nulls, constants, slices."""

    def spread(low, high):
        return rng.integers(low, high, n) if rng.random() < 0.5 else np.sort(rng.integers(low, high, n))

    def nulls():
        return rng.random(n) < rng.choice([0.0, 0.3, 1.0])

    codes = rng.integers(0, 4, n) if rng.random() < 0.5 else np.repeat(rng.integers(0, 4, n // 20 + 1), 20)[:n]
    codes[codes == 3] = 5
    side = pa.DictionaryArray.from_arrays(
        pa.array(rng.integers(0, 2, n).astype(np.int8), mask=nulls()), pa.array(["buy", "sell"])
    )
    wide = rng.choice([2, 1 << 20, 1 << 63])
    columns = [
        pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), WORDS),
        side,
        pa.array(spread(-int(wide), int(wide) - 1)),
        pa.array(spread(-(2**31), 2**31 - 1).astype(np.int32), mask=nulls()),
        pa.array(spread(10**15, 2 * 10**15), mask=nulls()).view(TIME),
        pa.array(
            rng.choice([0.0, -0.0, np.inf, np.nan, 1e-300, 0.1], n) if rng.random() < 0.5 else rng.normal(0, 1, n), mask=nulls()
        ),
        pa.array(rng.random(n) < rng.choice([0.0, 0.01, 0.5, 1.0])),
        pa.array([None if rng.random() < 0.5 else "q" * int(rng.integers(0, 9)) for _ in range(n)], TEXT),
        pa.array([bytes(rng.integers(0, 256, int(rng.integers(0, 9))).tolist()) for _ in range(n)], pa.binary()),
        pa.array(np.full(n, 3, np.int32)),
        pa.array(np.full(n, 3.0)),
        pa.nulls(n, TEXT),
    ]
    if n > 10 and rng.random() < 0.5:
        columns = [column.slice(3) for column in columns]
    return columns


def plain(column, index):
    column = column.cast(TEXT) if pa.types.is_dictionary(column.type) else column
    return column.take(pa.array(index))


def written(path, seed, sizes):
    rng = np.random.default_rng(seed)
    file = ParquetFile(path, SCHEMA, ["symbol", "number", "ts"])
    expected, told = [], []
    for size in sizes:
        columns = random_columns(rng, size)
        count = len(columns[0])
        index = rng.permutation(count)[: max(1, count - int(rng.integers(0, 3)))] if rng.random() < 0.7 else np.arange(count)
        told.append(file.write(columns, index))
        expected.append(pa.table([plain(column, index) for column in columns], schema=SCHEMA))
    assert file.close() == path.stat().st_size
    return pa.concat_tables(expected), told


def bits(table):
    """Floats as their bits, so that a NaN equals itself and -0.0 does not equal 0.0."""
    at = table.schema.get_field_index("price")
    price = table.column(at).combine_chunks()
    asked = pa.array(price.fill_null(0.5).to_numpy().view(np.int64), mask=price.is_null().to_numpy(zero_copy_only=False))
    return table.set_column(at, "price", asked)


@pytest.mark.parametrize("seed", range(8))
def test_three_readers_read_what_was_written(tmp_path, seed):
    path = tmp_path / "file.parquet"
    expected, _ = written(path, seed, [1, 2, 7, 8, 9, 31, 33, 127, 128, 129, 130, 257, 1_000, 3_000])
    found = pq.read_table(path)
    assert found.schema == SCHEMA
    assert bits(found).equals(bits(expected))
    assert bits(pl.read_parquet(path).to_arrow().cast(SCHEMA)).equals(bits(expected))
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        read = connection.sql(f"select * from read_parquet('{path}')").to_arrow_table().cast(SCHEMA)
    assert bits(read).equals(bits(expected))


def test_statistics_are_those_of_the_rows_written(tmp_path):
    path = tmp_path / "file.parquet"
    _, told = written(path, 1, [50, 600, 1])
    metadata = pq.ParquetFile(path).metadata
    for group in range(3):
        rows = pq.ParquetFile(path).read_row_group(group)
        for name in ("symbol", "number", "ts"):
            column = rows.column(name).drop_null().to_pylist()
            stored = metadata.row_group(group).column(SCHEMA.get_field_index(name)).statistics
            assert stored.null_count == told[group][name].nulls == rows.column(name).null_count
            if column:
                assert (stored.min, stored.max) == (min(column), max(column))
                smallest = pa.scalar(told[group][name].smallest, SCHEMA.field(name).type).as_py()
                assert smallest == min(column)
        assert metadata.row_group(group).column(SCHEMA.get_field_index("price")).statistics is None


def test_constant_columns_cost_next_to_nothing(tmp_path):
    path = tmp_path / "file.parquet"
    written(path, 2, [100_000])
    group = pq.ParquetFile(path).metadata.row_group(0)
    for name in ("partition", "threshold", "never"):
        assert group.column(SCHEMA.get_field_index(name)).total_compressed_size < 100


def test_every_table_of_the_house_can_be_written(tmp_path):
    instant = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    samples = {TEXT: "a", TIME: instant, pa.int32(): 1, pa.int64(): 2, pa.float64(): 0.5, pa.bool_(): True, pa.binary(): b"b"}
    for name, table in TABLES.items():
        rows = pa.table([pa.array([samples[field.type]] * 3, field.type) for field in table.schema], schema=table.schema)
        file = ParquetFile(tmp_path / f"{name}.parquet", table.schema, [])
        file.write([column.chunk(0) for column in rows.columns], np.arange(3))
        file.close()
        assert pq.read_table(tmp_path / f"{name}.parquet").equals(rows)
