"""DuckDB over the files of a lake: views of its tables, each over one commit, and answers as polars frames.

A session lives for one question. It can write nothing, reads no file outside the lake, and keeps to limits where it answers for
others. `queries.py` asks through it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from tickhouse.errors import ConfigError, LogCorruptError
from tickhouse.serving.conditions import When, instant
from tickhouse.serving.rows import wide_name
from tickhouse.sinks.lake import LakeTables
from tickhouse.tables import TABLES, Table

__all__ = ["BAR_KEY", "INDICATOR_KEY", "fetch", "lake_session", "only_latest", "select", "unreadable"]

BAR_KEY = "venue, symbol, interval, start, origin"
INDICATOR_KEY = "venue, symbol, interval, start, indicator, output"

_SETTINGS: dict[str, Any] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "temp_directory": "",  # nothing is written, not even what does not fit into memory
}
_SQL_TYPES = {
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.bool_(): "BOOLEAN",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
}
_BOUNDED_ROWS = 1_000


@contextmanager
def lake_session(
    lake: LakeTables, names: Sequence[str], as_of: When | None, limits: Mapping[str, Any]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB with views of the tables named, each over the files of one commit.

    Args:
        lake: Nothing outside its folder can be read.
        names: Tables; with `gold.bars` and `gold.indicators` come views of their latest revisions.
        as_of: See only what was known then.
        limits: DuckDB's settings `threads` and `memory_limit`, where they are bounded.

    Raises:
        LogCorruptError: a file is missing or damaged.
    """
    session = duckdb.connect(config={**_SETTINGS, **limits})
    try:
        session.execute("SET TimeZone = 'UTC'")
        session.execute("CREATE SCHEMA bronze; CREATE SCHEMA silver; CREATE SCHEMA gold")
        for name in names:
            _create_view(session, name, lake.files(name), as_of)
        if "gold.bars" in names:
            _create_latest(session, "gold.bars", only_latest(BAR_KEY, "available_at, revision"))
        if "gold.indicators" in names:
            _create_latest(session, "gold.indicators", only_latest(INDICATOR_KEY, "available_at"))
        session.execute(f"SET allowed_directories = [{_literal(str(lake.path))}]")
        session.execute("SET enable_external_access = false")
        session.execute("SET lock_configuration = true")
        yield session
    finally:
        session.close()


def select(
    session: duckdb.DuckDBPyConnection,
    query: str,
    parameters: Sequence[Any] | Mapping[str, Any] | None,
    *,
    max_rows: int | None = None,
    max_bytes: int | None = None,
    timeout_s: float | None = None,
) -> pl.DataFrame:
    """Return what somebody's own SELECT gives; `Queries.sql` says what the arguments are.

    Raises:
        ConfigError: it is no single SELECT, is wrong, or takes too long.
    """
    if "indicators_wide" in query.lower():
        _create_wide(session)
    _must_read_only(session, query)
    timer = threading.Timer(timeout_s, session.interrupt) if timeout_s is not None else None
    if timer is not None:
        timer.start()
    try:
        return fetch(session, query, parameters, max_rows=max_rows, max_bytes=max_bytes)
    except duckdb.InterruptException as error:
        raise ConfigError(f"the query took longer than {timeout_s} s; ask for less, e.g. with WHERE date = ...") from error
    except duckdb.Error as error:
        raise ConfigError(f"the query failed: {error}") from error
    finally:
        if timer is not None:
            timer.cancel()


def fetch(
    session: duckdb.DuckDBPyConnection,
    text: str,
    values: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    max_rows: int | None = None,
    max_bytes: int | None = None,
) -> pl.DataFrame:
    """Return what a statement gives, at most `max_rows` of it.

    Raises:
        ConfigError: it takes more than `max_bytes`, or has a column that no frame can hold.
        duckdb.Error: it cannot be run.
    """
    relation = session.sql(text, params=values)
    assert relation is not None
    wanted = relation if max_rows is None else relation.limit(max_rows)
    try:
        if max_bytes is None:
            frame: pl.DataFrame = wanted.pl()
            return frame
        return _bounded(wanted, max_bytes)
    except (pl.exceptions.PolarsError, pa.ArrowException) as error:
        raise ConfigError(
            f"the answer has a column of a type that cannot be shown ({error}); cast it, e.g. x::VARCHAR"
        ) from error


def only_latest(key: str, order: str) -> str:
    """Return what keeps, of the rows with the same key, the last by `order`; it follows WHERE."""
    newest = ", ".join(f"{column} DESC" for column in order.split(", "))
    return f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {newest}) = 1"


def unreadable(name: str, error: duckdb.Error) -> LogCorruptError:
    """Return the error that says which table cannot be read."""
    told = str(error).partition("\n")[0]
    return LogCorruptError(f"a file of {name} is missing or damaged ({told}); restore it from a backup, or make the house anew")


def _create_view(session: duckdb.DuckDBPyConnection, name: str, files: list[str], as_of: When | None) -> None:
    try:
        session.execute(f"CREATE VIEW {name} AS {_view(TABLES[name], files, as_of)}")
    except duckdb.Error as error:
        raise unreadable(name, error) from error


def _view(table: Table, files: Sequence[str], as_of: When | None) -> str:
    columns = ", ".join(f'"{name}"' for name in table.schema.names)
    if not files:
        typed = ", ".join(f'CAST(NULL AS {_SQL_TYPES[column.type]}) AS "{column.name}"' for column in table.schema)
        return f"SELECT {typed}, CAST(NULL AS DATE) AS date WHERE false"
    paths = ", ".join(_literal(path) for path in files)
    # The file's name, not Hive partitioning: that one refuses a table whose days have different layouts.
    day = r"CAST(regexp_extract(filename, '.*date=(\d{4}-\d{2}-\d{2})', 1) AS DATE) AS date"
    known = "true"
    if as_of is not None:
        column = "available_at" if "available_at" in table.schema.names else "clock"
        at = _literal(instant(as_of).isoformat())
        known = f"({column} <= TIMESTAMPTZ {at} OR {column} IS NULL)"
    return f"SELECT {columns}, {day} FROM read_parquet([{paths}], filename = true, hive_partitioning = false) WHERE {known}"


def _create_latest(session: duckdb.DuckDBPyConnection, name: str, newest: str) -> None:
    session.execute(f"CREATE VIEW {name}_latest AS SELECT * FROM {name} {newest}")


def _create_wide(session: duckdb.DuckDBPyConnection) -> None:
    pairs = session.execute("SELECT DISTINCT indicator, output FROM gold.indicators ORDER BY ALL").fetchall()
    columns = [
        f'max(value) FILTER (indicator = {_literal(indicator)} AND output = {_literal(output)}) AS "{name}"'
        for indicator, output, name in ((*pair, wide_name(*pair)) for pair in pairs)
    ]
    chosen = ", ".join(["venue", "symbol", "interval", "start", "date", *columns])
    session.execute(f"CREATE VIEW gold.indicators_wide AS SELECT {chosen} FROM gold.indicators_latest GROUP BY ALL")


def _must_read_only(session: duckdb.DuckDBPyConnection, query: str) -> None:
    try:
        kinds = [statement.type for statement in session.extract_statements(query)]
    except duckdb.Error as error:
        raise ConfigError(f"the query cannot be read: {error}") from error
    allowed = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
    if len(kinds) != 1 or kinds[0] not in allowed:
        found = ", ".join(kind.name for kind in kinds) or "nothing"
        raise ConfigError(f"only one SELECT at a time can be asked for, given: {found}")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _bounded(relation: duckdb.DuckDBPyRelation, max_bytes: int) -> pl.DataFrame:
    reader = relation.to_arrow_reader(_BOUNDED_ROWS)
    batches: list[pa.RecordBatch] = []
    size = 0
    try:
        for batch in reader:
            size += batch.nbytes
            if size > max_bytes:
                raise ConfigError(f"the answer has more than {max_bytes >> 20} MiB; ask for fewer columns or rows")
            batches.append(batch)
    except OSError as error:  # what DuckDB says while its rows are read comes in this form
        raise (duckdb.InterruptException if "INTERRUPT" in str(error) else duckdb.Error)(str(error)) from error
    frame = pl.from_arrow(pa.Table.from_batches(batches, reader.schema))
    assert isinstance(frame, pl.DataFrame)
    return frame
