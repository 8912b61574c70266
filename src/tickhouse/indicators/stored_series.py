"""The bars that series of indicators need, picked from stored rows a few days at a time.

Loaded when a series is read back for the first time: polars takes a tenth of a second, and most runs read none.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from tickhouse.indicators.series import BarColumns, SeriesWanted
from tickhouse.model import NO_TIME

__all__ = ["SeriesSearch"]

_OHLCV = ("open", "high", "low", "close", "volume")


class SeriesSearch:
    """Finds the bars of several series, each bar in its latest revision; fed with rows from the newest days back.

    Args:
        wanted: At least one series.
    """

    columns = ("venue", "symbol", "interval", "start", *_OHLCV, "available_at")
    """Those of `gold.bars` that it is fed with."""

    def __init__(self, wanted: Sequence[SeriesWanted]) -> None:
        self._wanted = wanted
        self._asked = _as_frame(wanted)
        self._found: list[pl.DataFrame] = []
        self.latest = max(each.end_start for each in wanted) - 1
        """No bar starts after it."""
        starts = [each.start_from for each in wanted if each.start_from is not None]
        self.earliest = min(starts) if len(starts) == len(wanted) else NO_TIME
        """No bar starts before it."""

    @property
    def complete(self) -> bool:
        """Whether every series has what it wants."""
        return not len(self._asked)

    @property
    def intervals(self) -> list[str]:
        """Of the series that still want bars."""
        return self._asked["interval"].unique().to_list()

    @property
    def symbols(self) -> list[str]:
        """Of the series that still want bars."""
        return self._asked["symbol"].unique().to_list()

    def take(self, rows: pa.Table, read_from: int) -> None:
        """Take all bars that start in [read_from, what was read before), in any order."""
        frame = pl.from_arrow(rows)
        assert isinstance(frame, pl.DataFrame)
        found = _latest(frame, self._asked)
        self._found.append(found)
        self._asked = _still_wanted(self._asked, found, read_from)

    def by_series(self) -> dict[SeriesWanted, BarColumns]:
        """Return the bars of each series that has any, by rising start."""
        if not self._found:
            return {}
        rows = pl.concat(self._found).sort("series", "start")
        ends = rows.group_by("series", maintain_order=True).len("count").with_columns(end=pl.col("count").cum_sum())
        columns = {name: rows[name].to_numpy() for name in ("start", *_OHLCV)}
        return {
            self._wanted[series]: BarColumns(**{name: column[end - count : end] for name, column in columns.items()})
            for series, count, end in ends.iter_rows()
        }


def _as_frame(wanted: Sequence[SeriesWanted]) -> pl.DataFrame:
    """One row a series; `left` = how many bars are still wanted, null = all."""
    return pl.DataFrame(
        {
            "series": range(len(wanted)),
            "venue": [each.instrument.venue for each in wanted],
            "symbol": [each.instrument.symbol for each in wanted],
            "interval": [each.interval for each in wanted],
            "end_start": [each.end_start for each in wanted],
            "start_from": [NO_TIME if each.start_from is None else each.start_from for each in wanted],
            "left": pl.Series([each.count for each in wanted], dtype=pl.Int64),
        }
    )


def _latest(rows: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """Return for each series its bars in range, each in its latest revision, at most as many as are left to find."""
    found = (
        rows.lazy()
        .with_columns(pl.col("start", "available_at").cast(pl.Int64))
        .join(asked.lazy(), on=["venue", "symbol", "interval"])
        .filter((pl.col("start") < pl.col("end_start")) & (pl.col("start") >= pl.col("start_from")))
        .sort("series", "start", "available_at")
        .unique(["series", "start"], keep="last", maintain_order=True)
    )
    from_end = pl.len().over("series") - pl.int_range(pl.len()).over("series")
    kept = found.filter(pl.col("left").is_null() | (from_end <= pl.col("left")))
    return kept.select("series", "start", *_OHLCV).collect()


def _still_wanted(asked: pl.DataFrame, found: pl.DataFrame, read_from: int) -> pl.DataFrame:
    counts = found.group_by("series").len("got")
    left = asked.join(counts, on="series", how="left").with_columns(left=pl.col("left") - pl.col("got").fill_null(0))
    more = (pl.col("left").is_null() | (pl.col("left") > 0)) & (pl.col("start_from") < read_from)
    return left.filter(more).drop("got")
