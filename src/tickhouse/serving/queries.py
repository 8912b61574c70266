"""Every read the product offers, as named and typed functions: DuckDB over the files of the lake, answers as polars frames.

Each call sees the newest commit of every table it reads, as one fixed set of files; with `as_of` it sees only what was known at
that instant (rule R13). Nothing here can write. The API, the command line and the Python door all ask through this.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from tickhouse.errors import ConfigError
from tickhouse.rules import parse_duration
from tickhouse.serving.conditions import When, Where
from tickhouse.serving.instruments import Instruments
from tickhouse.serving.rows import wide_name
from tickhouse.serving.session import BAR_KEY, INDICATOR_KEY, fetch, lake_session, only_latest, select, unreadable
from tickhouse.sinks.lake import LakeTables
from tickhouse.tables import TABLES, Table

__all__ = ["Queries"]

_GAP_KEY = "venue, symbol, epoch, first_missing_id"


class Queries:
    """Reads one lake.

    Args:
        path: The lake's folder; tables that do not exist yet are empty ones.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._instruments = Instruments(path)
        self._limits: dict[str, Any] = {}

    def limit(self, *, threads: int, memory: str) -> None:
        """Bound what a query may take of the machine, for those who answer for others.

        Args:
            threads: At most so many.
            memory: E.g. `1GB`; a query that needs more fails.
        """
        self._limits = {"threads": threads, "memory_limit": memory}

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
        where = Where().instrument(symbol, venue).equal("interval", interval).between("start", start, end)
        latest = "" if revisions else only_latest(BAR_KEY, "available_at, revision")
        return self._select("gold.bars", where, as_of, latest, f"{BAR_KEY}, available_at", symbol)

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
        where = Where().instrument(symbol, venue).between("ts", start, end)
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
        where = Where().instrument(symbol, venue).equal("interval", interval).between("start", start, end)
        if indicator is not None:
            where.equal("indicator", indicator.lower().replace(" ", ""))
        latest = "" if revisions else only_latest(INDICATOR_KEY, "available_at")
        return self._select("gold.indicators", where, as_of, latest, f"{INDICATOR_KEY}, available_at", symbol)

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
        where = Where().instrument(symbol, venue).between("ts", start, end)
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
        where = Where().instrument(symbol, venue)
        latest = "" if changes else only_latest(_GAP_KEY, 'clock, "offset", "row"')
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
        where = Where().instrument(asked.get("symbol"), asked.get("venue")).between(TABLES[name].date_from, start, end)
        for column, value in asked.items():
            if column not in ("symbol", "venue") and value is not None:
                where.equal(column, value)
        where.below(position)
        keys = [_sortable(TABLES[name], column) for column in order]
        latest = only_latest(latest_by, "available_at") if latest_by else ""
        inner = f"SELECT * EXCLUDE (date) FROM {name} WHERE {where.text} {latest}"
        values = list(where.values)
        text = f"SELECT * FROM ({inner})"
        if after is not None:
            text += f" WHERE ({', '.join(keys)}) > ({', '.join('?' for _ in keys)})"
            values += after
        text += f" ORDER BY {', '.join(f'{key} DESC' if newest else key for key in keys)} LIMIT {int(limit)}"
        with self._session((name,), as_of, lake) as session:
            try:
                found = fetch(session, text, values)
            except duckdb.Error as error:
                if after is not None and not isinstance(error, duckdb.IOException):
                    raise ConfigError("cursor: this page does not follow from that one; ask as for the first page") from error
                raise unreadable(name, error) from error
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
        self._must_be_known(Where().instrument(symbol, venue))

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
            return select(session, query, parameters, max_rows=max_rows, max_bytes=max_bytes, timeout_s=timeout_s)

    def _select(self, name: str, where: Where, as_of: When | None, latest: str, order: str, symbol: str | None) -> pl.DataFrame:
        columns = ", ".join(f'"{column}"' for column in TABLES[name].values)
        text = f"SELECT {columns} FROM {name} WHERE {where.text} {latest} ORDER BY {order}"
        with self._session((name,), as_of) as session:
            found = fetch(session, text, where.values)
            if not len(found) and symbol is not None:
                self._must_be_known(where)
        return found

    def _must_be_known(self, where: Where) -> None:
        """Tell an unknown symbol from one without rows."""
        traded = self._instruments.frame().filter(pl.col("symbol") == where.symbol)
        if len(traded) and (where.venue is None or where.venue in set(traded["venue"])):
            return
        with self._session(("bronze.trades",), None) as session:
            known = fetch(session, "SELECT DISTINCT symbol, venue FROM bronze.trades")
        symbol, venue = where.symbol, where.venue
        if symbol not in set(known["symbol"]):
            near = difflib.get_close_matches(symbol or "", sorted(set(known["symbol"])), 1, 0.0)
            hint = f"did you mean {near[0]}?" if near else "the house has no trades yet"
            raise ConfigError(f"unknown symbol {symbol!r}; {hint}")
        venues = sorted(known.filter(pl.col("symbol") == symbol)["venue"])
        if venue is not None and venue not in venues:
            raise ConfigError(f"{symbol} is not known at venue {venue!r}; it is at {', '.join(venues)}")

    def _session(
        self, names: Sequence[str], as_of: When | None, lake: LakeTables | None = None
    ) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        return lake_session(lake or LakeTables(self._path), names, as_of, self._limits)


def _sortable(table: Table, column: str) -> str:
    is_time = pa.types.is_timestamp(table.schema.field(column).type)
    return f'coalesce(epoch_us("{column}"), -1)' if is_time else f'"{column}"'
