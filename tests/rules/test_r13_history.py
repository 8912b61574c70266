"""Rule R13: bars and indicators are append-only, and every query can see what was known then (docs/rules.md)."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from tests.scripted import BTC, MINUTE, SECOND, T0, Script, run
from tickhouse.rules import Rules
from tickhouse.serving.queries import Queries

FINAL = T0 + 70 * SECOND
REVISED = FINAL + 10 * SECOND
HEALED = FINAL + 5 * SECOND


def at(us: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=us)


def ts_of(found: pl.DataFrame, *columns: str) -> list[tuple[object, ...]]:
    return found.select(columns).rows()


@pytest.fixture
def queries(tmp_path: Path) -> Queries:
    """A house whose first bar was issued, then revised by a refill."""
    script = Script().beat(T0).trade(T0, 1.0, trade_id=1).trade(T0 + SECOND, 3.0, trade_id=3).beat(T0 + 10 * SECOND)
    script.beat(FINAL).beat(HEALED).trade(T0 + 2 * SECOND, 9.0, trade_id=2, backfilled=True).beat(REVISED)
    script.trade(T0 + MINUTE, 5.0, trade_id=4)
    rules = Rules(indicators=("sma(1)",), detector="zscore(2,1)")
    run(script, tmp_path, rules, commit_at=[4, len(script.records)])
    return Queries(tmp_path)


@pytest.mark.parametrize(
    ("as_of", "known"),
    [
        (FINAL - 1, []),
        (FINAL, [(0, 3.0, 2)]),
        (REVISED - 1, [(0, 3.0, 2)]),
        (REVISED, [(1, 9.0, 3)]),
        (None, [(1, 9.0, 3)]),
    ],
)
def test_a_bar_is_seen_in_the_revision_known_at_that_instant(
    queries: Queries, as_of: int | None, known: list[tuple[object, ...]]
) -> None:
    found = queries.bars(BTC.symbol, as_of=None if as_of is None else at(as_of))
    assert ts_of(found, "revision", "high", "trades") == known


def test_every_revision_stays_readable(queries: Queries) -> None:
    found = queries.bars(BTC.symbol, revisions=True)
    assert ts_of(found, "revision", "close", "available_at") == [(0, 3.0, at(FINAL)), (1, 9.0, at(REVISED))]
    assert queries.bars(BTC.symbol, revisions=True, as_of=at(REVISED - 1)).height == 1


def test_an_indicator_is_seen_as_known_at_that_instant(queries: Queries) -> None:
    assert queries.indicators(BTC.symbol, as_of=at(FINAL - 1)).is_empty()
    assert queries.indicators(BTC.symbol, as_of=at(FINAL))["value"].to_list() == [3.0]
    assert queries.indicators(BTC.symbol)["value"].to_list() == [9.0]


def test_trades_and_gaps_are_seen_by_their_clock(queries: Queries) -> None:
    assert queries.trades(BTC.symbol, as_of=at(HEALED - 1))["trade_id"].to_list() == [1, 3]
    assert queries.trades(BTC.symbol, as_of=at(HEALED))["trade_id"].to_list() == [1, 3, 2]
    assert queries.gaps(BTC.symbol, as_of=at(T0 + 10 * SECOND - 1)).is_empty()
    assert queries.gaps(BTC.symbol, as_of=at(HEALED - 1))["state"].to_list() == ["open"]
    assert queries.gaps(BTC.symbol)["state"].to_list() == ["healed"]


def test_sql_of_an_instant_holds_nothing_later(queries: Queries) -> None:
    query = "SELECT (SELECT count(*) FROM gold.bars), (SELECT count(*) FROM silver.trades)"
    assert queries.sql(query, as_of=at(REVISED - 1)).row(0) == (1, 3)
    assert queries.sql(query).row(0) == (2, 4)
