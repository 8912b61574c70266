"""What the house holds of each instrument: trades, first and last price, and the change over its last day.

Files of the lake never change, so each is looked at once and what was found is kept: the next answer reads new files only.
"""

from __future__ import annotations

import threading
from pathlib import Path

import duckdb
import polars as pl

from tickhouse.errors import LogCorruptError
from tickhouse.sinks.lake import LakeTables

__all__ = ["Instruments"]

_DAY_US = 86_400_000_000
_SCHEMA = {
    "venue": pl.String,
    "symbol": pl.String,
    "trades": pl.Int64,
    "first_ts": pl.Int64,
    "last_ts": pl.Int64,
    "first_price": pl.Float64,
    "last_price": pl.Float64,
}
_BEFORE = {"venue": pl.String, "symbol": pl.String, "before": pl.Float64}
_AGGREGATE = """
SELECT venue, symbol, count(*) AS trades, epoch_us(min(ts)) AS first_ts, epoch_us(max(ts)) AS last_ts,
    arg_min(price, (ts, "offset", "row")) AS first_price, arg_max(price, (ts, "offset", "row")) AS last_price
FROM read_parquet(?, hive_partitioning = false) GROUP BY venue, symbol
"""


class Instruments:
    """Remembers what each file of `silver.trades` holds; from any thread.

    Args:
        lake: The lake's folder.
    """

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._lock = threading.Lock()
        self._known: dict[str, pl.DataFrame] = {}

    def frame(self) -> pl.DataFrame:
        """Return a row an instrument, by venue and symbol; `change_pct` is null where there is no day before."""
        with self._lock:
            files = LakeTables(self._lake).files("silver.trades")
            self._look_at([file for file in files if file not in self._known])
            self._known = {file: self._known[file] for file in files}
            parts = list(self._known.values())
        if not parts:
            return _with_change(
                pl.DataFrame(schema=_SCHEMA),
                pl.DataFrame(schema={"venue": pl.String, "symbol": pl.String, "before": pl.Float64}),
            )
        found = (
            pl.concat(parts)
            .group_by("venue", "symbol")
            .agg(
                pl.col("trades").sum(),
                pl.col("first_ts").min(),
                pl.col("last_ts").max(),
                pl.col("first_price").sort_by("first_ts").first(),
                pl.col("last_price").sort_by("last_ts").last(),
            )
            .sort("venue", "symbol")
        )
        return _with_change(found, self._before(found))

    def _look_at(self, files: list[str]) -> None:
        if not files:
            return
        session = duckdb.connect()
        try:
            for file in files:
                self._known[file] = session.sql(_AGGREGATE, params=[file]).pl().cast(_SCHEMA)
        except duckdb.Error as error:
            raise LogCorruptError(f"a file of silver.trades cannot be read ({error}); ask again, or restore it") from error
        finally:
            session.close()

    def _before(self, found: pl.DataFrame) -> pl.DataFrame:
        """Return the price of each instrument a day before its last trade: the open of the first bar from then on."""
        lake = LakeTables(self._lake)
        days = {(day + back * _DAY_US) // _DAY_US for day in found["last_ts"].to_list() for back in (-1, 0)}
        files = [file for file in lake.data_files("gold.bars") if (file.day.toordinal() - 719_163) in days]
        if not files:
            return pl.DataFrame(schema=_BEFORE)
        bars = pl.from_arrow(lake.table("gold.bars", ["venue", "symbol", "start", "open", "available_at"], files=files))
        assert isinstance(bars, pl.DataFrame)
        return (
            bars.with_columns(pl.col("start").dt.epoch("us"))
            .join(found.select("venue", "symbol", "last_ts"), on=["venue", "symbol"])
            .filter(pl.col("start") >= pl.col("last_ts") - _DAY_US)
            .group_by("venue", "symbol")
            .agg(before=pl.col("open").sort_by("start", "available_at").first())
        )


def _with_change(found: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    time = pl.col("first_ts", "last_ts").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return (
        found.join(before, on=["venue", "symbol"], how="left", maintain_order="left")
        .with_columns(time, change_pct=(pl.col("last_price") / pl.col("before") - 1) * 100)
        .drop("before")
    )
