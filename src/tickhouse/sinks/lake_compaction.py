"""Merging the lake's files: the many small ones of live commits into fewer, and a closed day into large sorted ones.

Rows, positions and encodings stay as they are; a merge is one commit that swaps files, so a reader sees the old ones or the new
ones. A kill leaves files that no log names; `vacuum` removes them. Runs beside the writer, on a handle of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tickhouse.sinks.lake_files import DataFile, FileWriter, arranged
from tickhouse.sinks.lake_log import TableLog, disk_error
from tickhouse.tables import Table

__all__ = ["Layout", "close_day", "merge_small"]

Layout = Literal["date", "date/symbol"]

MERGE_FILES = 16
"""So many files of about one size are merged into one."""

_LARGE_ROWS = 1_000_000
_CLOSED_ROWS = 4_000_000
_TIER_BITS = 4
_CLOSED = "closed"


def merge_small(lake: Path, table: Table) -> int:
    """Merge small files of one date and about one size; return how many files went.

    Sizes go in steps of 16, so a row is rewritten a few times in its life however small the commits are.
    """
    log = TableLog(lake, table)
    tiers: dict[tuple[date, int], list[DataFile]] = {}
    for file in log.files():
        if file.rows < _LARGE_ROWS and "/symbol=" not in file.path:
            tiers.setdefault((file.day, file.rows.bit_length() // _TIER_BITS), []).append(file)
    gone = 0
    for files in tiers.values():
        if len(files) < MERGE_FILES:
            continue
        for group in _groups(sorted(files, key=_age), 2 * _LARGE_ROWS):
            if len(group) > 1:
                rows = arranged(table, _read(log.root, table, group))
                log.swap(group, _written(table, log.root, group[0].day, [(None, rows)], "merged"))
                gone += len(group) - 1
    if gone:
        log.checkpoint()
    return gone


def close_day(lake: Path, table: Table, day: date, layout: Layout) -> tuple[int, int]:
    """Rewrite one date of a table into large files sorted by symbol, time and cause; return how many files there were and are.

    A day of more than 4 million rows becomes several files, each sorted.
    """
    log = TableLog(lake, table)
    files = sorted((file for file in log.files() if file.day == day), key=_age)
    if not files or _is_closed(table, files, layout):
        return len(files), len(files)
    written: list[DataFile] = []
    for group in _groups(files, _CLOSED_ROWS):
        rows = _closed_order(table, _read(log.root, table, group))
        pieces = _by_symbol(rows) if layout == "date/symbol" and table.sort_by else [(None, arranged(table, rows))]
        written += _written(table, log.root, day, pieces, _CLOSED)
    log.swap(files, written)
    log.checkpoint()
    return len(files), len(written)


def _is_closed(table: Table, files: Sequence[DataFile], layout: Layout) -> bool:
    by_symbol = layout == "date/symbol" and bool(table.sort_by)
    return all(file.path.rpartition("/")[2].startswith(_CLOSED) and ("/symbol=" in file.path) == by_symbol for file in files)


def _age(file: DataFile) -> tuple[int, str]:
    """Order of commit, as far as the causes in a file tell it."""
    return int(file.smallest.get("offset", 0)), file.path


def _groups(files: Sequence[DataFile], most_rows: int) -> Iterator[list[DataFile]]:
    group: list[DataFile] = []
    rows = 0
    for file in files:
        if group and rows + file.rows > most_rows:
            yield group
            group, rows = [], 0
        group.append(file)
        rows += file.rows
    if group:
        yield group


def _read(root: Path, table: Table, files: Sequence[DataFile]) -> pa.Table:
    coded = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pieces = [pq.ParquetFile(root / file.path, read_dictionary=coded).read() for file in files]
    return pa.concat_tables(pieces, promote_options="permissive").unify_dictionaries()


def _closed_order(table: Table, rows: pa.Table) -> pa.Table:
    time = next((name for name in ("ts", "start") if name in table.schema.names), table.date_from)
    keys = [*table.sort_by, time, "partition", "offset", "row"]
    plain = pa.table({name: _decoded(rows.column(name)) for name in keys})
    return rows.take(pc.sort_indices(plain, sort_keys=[(name, "ascending") for name in keys]))


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _by_symbol(rows: pa.Table) -> list[tuple[str | None, pa.Table]]:
    """Cut rows sorted by symbol into one piece a symbol (the rows without one come last)."""
    symbols = _decoded(rows.column("symbol")).combine_chunks()
    ends = pc.run_end_encode(symbols)
    pieces, begin = [], 0
    for end, symbol in zip(ends.run_ends.to_pylist(), ends.values.to_pylist(), strict=True):
        pieces.append((symbol if symbol is not None else "none", rows.slice(begin, end - begin)))
        begin = end
    return pieces


def _written(table: Table, root: Path, day: date, pieces: Sequence[tuple[str | None, pa.Table]], prefix: str) -> list[DataFile]:
    done: list[DataFile] = []
    writer: FileWriter | None = None
    try:
        for symbol, rows in pieces:
            writer = FileWriter(table, root, day, symbol, prefix)
            writer.write(arranged(table, rows))
            done.append(writer.finish())
    except OSError as error:
        if writer is not None:
            writer.abandon()
        for file in done:
            (root / file.path).unlink(missing_ok=True)
        raise disk_error(error, f"merged files of {table.name}", root) from error
    return done
