"""Every read the product offers, as named and typed functions: DuckDB over the files of the lake, answers as polars frames.

Each call sees the newest commit of every table it reads, as one fixed set of files; with `as_of` it sees only what was known at
that instant (rule R13). Nothing here can write. The API, the command line and the Python door all ask through this.
"""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from tickhouse.errors import ConfigError, LogCorruptError, OutOfRangeError
from tickhouse.rules import parse_duration
from tickhouse.serving.instruments import Instruments
from tickhouse.sinks.lake import LakeTables
from tickhouse.symbols import normalise
from tickhouse.tables import TABLES, Table

__all__ = ["Queries", "When", "wide_name"]

When = datetime | date | str
"""An instant: aware, or naive and then UTC; text in ISO form, e.g. `2026-01-31` or `2026-01-31T09:30:00Z`."""

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
_BAR_KEY = "venue, symbol, interval, start, origin"
_INDICATOR_KEY = "venue, symbol, interval, start, indicator, output"
_GAP_KEY = "venue, symbol, epoch, first_missing_id"


class Queries:
    """Reads one lake.

    Args:
        path: The lake's folder; tables that do not exist yet are empty ones.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._instruments = Instruments(path)
        self._settings = dict(_SETTINGS)

    def limit(self, *, threads: int, memory: str) -> None:
        """Bound what a query may take of the machine, for those who answer for others.

        Args:
            threads: At most so many.
            memory: E.g. `1GB`; a query that needs more fails.
        """
        self._settings |= {"threads": threads, "memory_limit": memory}

    def bars(
        self,
        symbol: str,
        interval: str = "1m",
        *,
        start: When | None = None,
        end: When | None = None,
        as_of: When | None = None,
        venue: str | None = None,
        revisions: bool = False,
    ) -> pl.DataFrame:
        """Return bars by venue and start; venues are never added up.

        Args:
            symbol: In any spelling that names its parts, e.g. `BTC-USDT`, `btc/usdt`, `BINANCE:BTCUSDT`.
            interval: `1m`, `5m`, ...
            start: First bar start, included.
            end: Bar starts before it.
            as_of: See only what was known then.
            venue: Only this one.
            revisions: All revisions of each bar, not the latest only.

        Raises:
            ConfigError: the symbol, the interval or a time means nothing; the nearest known symbol is named.
        """
        parse_duration(interval)
        where = _Where().instrument(symbol, venue).equal("interval", interval).between("start", start, end)
        latest = "" if revisions else _latest(_BAR_KEY, "available_at, revision")
        return self._select("gold.bars", where, as_of, latest, f"{_BAR_KEY}, available_at", symbol)

    def trades(
        self,
        symbol: str,
        *,
        start: When | None = None,
        end: When | None = None,
        as_of: When | None = None,
        venue: str | None = None,
        limit: int | None = None,
    ) -> pl.DataFrame:
        """Return accepted trades by venue in canonical order (rule R2), with `ts` in [start, end).

        The arguments are those of `bars`; with a `limit`, only so many trades, the last ones.
        """
        where = _Where().instrument(symbol, venue).between("ts", start, end)
        order = 'venue, ts, trade_id, "offset", "row"'
        if limit is None:
            return self._select("silver.trades", where, as_of, "", order, symbol)
        newest = 'ts DESC, trade_id DESC, "offset" DESC, "row" DESC'
        found = self._select("silver.trades", where, as_of, "", f"{newest} LIMIT {int(limit)}", symbol)
        return found.reverse().sort("venue", maintain_order=True)

    def indicators(
        self,
        symbol: str,
        interval: str = "1m",
        *,
        indicator: str | None = None,
        start: When | None = None,
        end: When | None = None,
        as_of: When | None = None,
        venue: str | None = None,
        revisions: bool = False,
    ) -> pl.DataFrame:
        """Return indicator values in long form: one row a bar, indicator and output.

        The arguments are those of `bars`; with an `indicator`, only that specification, e.g. `bbands(20,2)`.
        """
        parse_duration(interval)
        where = _Where().instrument(symbol, venue).equal("interval", interval).between("start", start, end)
        if indicator is not None:
            where.equal("indicator", indicator.lower().replace(" ", ""))
        latest = "" if revisions else _latest(_INDICATOR_KEY, "available_at")
        return self._select("gold.indicators", where, as_of, latest, f"{_INDICATOR_KEY}, available_at", symbol)

    def indicators_wide(
        self,
        symbol: str,
        interval: str = "1m",
        *,
        start: When | None = None,
        end: When | None = None,
        as_of: When | None = None,
        venue: str | None = None,
    ) -> pl.DataFrame:
        """Return indicator values in wide form: one row a bar, one column an output (`sma_20`, `bbands_20_2_upper`)."""
        long = self.indicators(symbol, interval, start=start, end=end, as_of=as_of, venue=venue)
        keys = ["venue", "symbol", "interval", "start"]
        names = {pair: wide_name(*pair) for pair in long.select("indicator", "output").unique().iter_rows()}
        named = [pl.when((pl.col("indicator") == i) & (pl.col("output") == o)).then("value") for i, o in sorted(names)]
        columns = [each.drop_nulls().first().alias(names[pair]) for each, pair in zip(named, sorted(names), strict=True)]
        return long.group_by(keys).agg(columns).sort(keys)

    def anomalies(
        self,
        symbol: str | None = None,
        *,
        start: When | None = None,
        end: When | None = None,
        as_of: When | None = None,
        venue: str | None = None,
    ) -> pl.DataFrame:
        """Return flagged trades by time, of one symbol or of all; see `bars` for the arguments."""
        where = _Where().instrument(symbol, venue).between("ts", start, end)
        return self._select("gold.anomalies", where, as_of, "", 'ts, venue, symbol, "offset", "row"', symbol)

    def gaps(
        self,
        symbol: str | None = None,
        *,
        as_of: When | None = None,
        venue: str | None = None,
        changes: bool = False,
    ) -> pl.DataFrame:
        """Return gaps in trade ids, each in its current state; with `changes`, one row for every change of state.

        The arguments are those of `bars`.
        """
        where = _Where().instrument(symbol, venue)
        latest = "" if changes else _latest(_GAP_KEY, 'clock, "offset", "row"')
        return self._select("gold.gaps", where, as_of, latest, f'{_GAP_KEY}, clock, "offset", "row"', symbol)

    def page(
        self,
        name: str,
        asked: Mapping[str, Any],
        *,
        start: When | None = None,
        end: When | None = None,
        as_of: When | None = None,
        order: Sequence[str],
        latest_by: str = "",
        limit: int,
        newest: bool = False,
        after: Sequence[Any] | None = None,
        below: int | None = None,
    ) -> tuple[pl.DataFrame, int]:
        """Return one page of a table with its cause, and the position that it was read at.

        Asked again with that position as `below` and the last row's place as `after`, it gives the page that follows, whatever
        was committed meanwhile.

        Args:
            name: Which table.
            asked: Column -> value; `symbol` and `venue` in any spelling.
            start: First instant of the table's time column, included.
            end: Instants before it.
            as_of: See only what was known then.
            order: Columns that order rows without ties; a time that is missing stands before all others.
            latest_by: Key of which only the latest revision is wanted; empty = every row.
            limit: Rows at most.
            newest: The last rows, not the first; still in order.
            after: Values of `order` in the row before the page, times in microseconds (-1 = missing).
            below: See only rows caused below this offset.

        Raises:
            ConfigError: the symbol or a time means nothing, or the symbol is not known.
        """
        lake = LakeTables(self._path)
        position = lake.position(name).offset if below is None else below
        where = _Where().instrument(asked.get("symbol"), asked.get("venue")).between(TABLES[name].date_from, start, end)
        for column, value in asked.items():
            if column not in ("symbol", "venue") and value is not None:
                where.equal(column, value)
        where.below(position)
        keys = [_sortable(TABLES[name], column) for column in order]
        latest = _latest(latest_by, "available_at") if latest_by else ""
        inner = f"SELECT * EXCLUDE (date) FROM {name} WHERE {where.text} {latest}"
        values = list(where.values)
        text = f"SELECT * FROM ({inner})"
        if after is not None:
            text += f" WHERE ({', '.join(keys)}) > ({', '.join('?' for _ in keys)})"
            values += after
        text += f" ORDER BY {', '.join(f'{key} DESC' if newest else key for key in keys)} LIMIT {int(limit)}"
        with self._session((name,), as_of, lake) as session:
            try:
                found = _frame(session.sql(text, params=values), None)
            except duckdb.Error as error:
                if after is not None and not isinstance(error, duckdb.IOException):
                    raise ConfigError("cursor: this page does not follow from that one; ask as for the first page") from error
                raise _unreadable(name, error) from error
        if not len(found) and where.symbol is not None and after is None:
            self._must_be_known(where)
        return (found.reverse() if newest else found), position

    def symbols(self) -> pl.DataFrame:
        """Return every instrument with its number of accepted trades and the times of the first and the last."""
        return self.sql(
            "SELECT venue, symbol, count(*) AS trades, min(ts) AS first_ts, max(ts) AS last_ts "
            "FROM silver.trades GROUP BY ALL ORDER BY ALL"
        )

    def instruments(self) -> pl.DataFrame:
        """Return every instrument with its trades, first and last price and the change over its last 24 hours."""
        return self._instruments.frame()

    def must_be_known(self, symbol: str, venue: str | None = None) -> None:
        """Check that there is such an instrument.

        Raises:
            ConfigError: there is none; the nearest is named.
        """
        self._must_be_known(_Where().instrument(symbol, venue))

    def row_counts(self) -> dict[str, int]:
        """Return how many rows every table has; reads no file but the logs."""
        lake = LakeTables(self._path)
        return {name: sum(file.rows for file in lake.data_files(name)) for name in TABLES}

    def sql(
        self,
        query: str,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        as_of: When | None = None,
        max_rows: int | None = None,
        max_bytes: int | None = None,
        timeout_s: float | None = None,
    ) -> pl.DataFrame:
        """Run one SELECT over `bronze.trades`, `silver.trades`, `gold.bars`, ... and the views below.

        `gold.bars_latest` and `gold.indicators_latest` hold the latest revision of each row, `gold.indicators_wide` has one
        column an output; every table has a column `date`, its partition in the lake, which is the cheapest to filter by.

        Args:
            query: DuckDB's SQL; it reads the house's tables and nothing else.
            parameters: For `?` (a sequence) or `$name` (a mapping).
            as_of: Every table then holds only what was known at that instant.
            max_rows: Return at most so many rows.
            max_bytes: Refuse an answer that takes more memory.
            timeout_s: Stop the query after so many seconds.

        Raises:
            ConfigError: the query is no single SELECT, is wrong, or takes too long; the text says what DuckDB said.
        """
        with self._session(tuple(TABLES), as_of) as session:
            if "indicators_wide" in query.lower():
                _create_wide(session)
            _must_read_only(session, query)
            timer = threading.Timer(timeout_s, session.interrupt) if timeout_s is not None else None
            if timer is not None:
                timer.start()
            try:
                return _frame(session.sql(query, params=parameters), max_rows, max_bytes)
            except duckdb.InterruptException as error:
                raise ConfigError(
                    f"the query took longer than {timeout_s} s; ask for less, e.g. with WHERE date = ..."
                ) from error
            except duckdb.Error as error:
                raise ConfigError(f"the query failed: {error}") from error
            finally:
                if timer is not None:
                    timer.cancel()

    def _select(
        self, name: str, where: _Where, as_of: When | None, latest: str, order: str, symbol: str | None
    ) -> pl.DataFrame:
        columns = ", ".join(f'"{column}"' for column in TABLES[name].values)
        text = f"SELECT {columns} FROM {name} WHERE {where.text} {latest} ORDER BY {order}"
        with self._session((name,), as_of) as session:
            found = _frame(session.sql(text, params=where.values), None)
            if not len(found) and symbol is not None:
                self._must_be_known(where)
        return found

    def _must_be_known(self, where: _Where) -> None:
        """Tell an unknown symbol from one without rows."""
        traded = self._instruments.frame().filter(pl.col("symbol") == where.symbol)
        if len(traded) and (where.venue is None or where.venue in set(traded["venue"])):
            return
        with self._session(("bronze.trades",), None) as session:
            text = "SELECT DISTINCT symbol, venue FROM bronze.trades"
            known = _frame(session.sql(text), None)
        symbol, venue = where.symbol, where.venue
        if symbol not in set(known["symbol"]):
            near = difflib.get_close_matches(symbol or "", sorted(set(known["symbol"])), 1, 0.0)
            hint = f"did you mean {near[0]}?" if near else "the house has no trades yet"
            raise ConfigError(f"unknown symbol {symbol!r}; {hint}")
        venues = sorted(known.filter(pl.col("symbol") == symbol)["venue"])
        if venue is not None and venue not in venues:
            raise ConfigError(f"{symbol} is not known at venue {venue!r}; it is at {', '.join(venues)}")

    @contextmanager
    def _session(
        self, names: Sequence[str], as_of: When | None, lake: LakeTables | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open DuckDB with views of the tables named, each over the files of one commit."""
        lake = lake or LakeTables(self._path)
        session = duckdb.connect(config=self._settings)
        try:
            session.execute("SET TimeZone = 'UTC'")
            session.execute("CREATE SCHEMA bronze; CREATE SCHEMA silver; CREATE SCHEMA gold")
            for name in names:
                _create_view(session, name, lake.files(name), as_of)
            if "gold.bars" in names:
                session.execute(
                    f"CREATE VIEW gold.bars_latest AS {_latest_of('gold.bars', _BAR_KEY, 'available_at, revision')}"
                )
            if "gold.indicators" in names:
                latest = _latest_of("gold.indicators", _INDICATOR_KEY, "available_at")
                session.execute(f"CREATE VIEW gold.indicators_latest AS {latest}")
            session.execute("SET allowed_directories = [$1]".replace("$1", _literal(str(self._path))))
            session.execute("SET enable_external_access = false")
            session.execute("SET lock_configuration = true")
            yield session
        finally:
            session.close()


class _Where:
    """Conditions with their values."""

    def __init__(self) -> None:
        self.symbol: str | None = None
        self.venue: str | None = None
        self.values: list[Any] = []
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        return " AND ".join(self._parts) or "true"

    def equal(self, column: str, value: Any) -> _Where:
        self._parts.append(f'"{column}" = ?')
        self.values.append(value)
        return self

    def instrument(self, symbol: str | None, venue: str | None) -> _Where:
        if symbol is not None:
            try:
                where, self.symbol = normalise(symbol, venue)
            except OutOfRangeError as error:
                raise ConfigError(str(error)) from error
            venue = where if ":" in symbol or venue is not None else None
            self.equal("symbol", self.symbol)
        if venue is not None:
            self.venue = venue.upper()
            self.equal("venue", self.venue)
        return self

    def below(self, offset: int) -> _Where:
        self._parts.append('"offset" < ?')
        self.values.append(offset)
        return self

    def between(self, column: str, start: When | None, end: When | None) -> _Where:
        for bound, sign in ((start, ">="), (end, "<")):
            if bound is not None:
                self._parts.append(f'"{column}" {sign} ?')
                self.values.append(_instant(bound))
        return self


def wide_name(indicator: str, output: str) -> str:
    """Return the column of an indicator's output in wide form, e.g. `bbands_20_2_upper`."""
    text = indicator if output == "value" else f"{indicator}_{output}"
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _sortable(table: Table, column: str) -> str:
    is_time = pa.types.is_timestamp(table.schema.field(column).type)
    return f'coalesce(epoch_us("{column}"), -1)' if is_time else f'"{column}"'


def _instant(when: When) -> datetime:
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when)
        except ValueError as error:
            raise ConfigError(f"{when!r} is no time; write it like 2026-01-31 or 2026-01-31T09:30:00Z") from error
    if not isinstance(when, datetime):
        when = datetime(when.year, when.month, when.day, tzinfo=UTC)
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


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
        at = _literal(_instant(as_of).isoformat())
        known = f"({column} <= TIMESTAMPTZ {at} OR {column} IS NULL)"
    return f"SELECT {columns}, {day} FROM read_parquet([{paths}], filename = true, hive_partitioning = false) WHERE {known}"


def _latest(key: str, order: str) -> str:
    newest = ", ".join(f"{column} DESC" for column in order.split(", "))
    return f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {newest}) = 1"


def _latest_of(name: str, key: str, order: str) -> str:
    return f"SELECT * FROM {name} {_latest(key, order)}"


def _create_view(session: duckdb.DuckDBPyConnection, name: str, files: list[str], as_of: When | None) -> None:
    try:
        session.execute(f"CREATE VIEW {name} AS {_view(TABLES[name], files, as_of)}")
    except duckdb.Error as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: duckdb.Error) -> LogCorruptError:
    told = str(error).partition("\n")[0]
    return LogCorruptError(f"a file of {name} is missing or damaged ({told}); restore it from a backup, or make the house anew")


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


def _frame(relation: duckdb.DuckDBPyRelation | None, max_rows: int | None, max_bytes: int | None = None) -> pl.DataFrame:
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
