"""Rule R15: the past is the rows whose cause is before the asking record's, stored or on their way (docs/rules.md)."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.property.markets import assert_read
from tests.scripted import MINUTE, SECOND, T0, Script, feed, rows_of, run
from tickhouse.history import LakeHistory
from tickhouse.indicators.series import SeriesWanted
from tickhouse.model import Cause
from tickhouse.rules import Rules
from tickhouse.sinks.lake import LakeTables
from tickhouse.tables import TABLES

RULES = Rules(intervals=("1m",), indicators=("sma(2)",), indicator_intervals=("1m",), timezones=())
UNIQUE = feed("ETH-USDT", identity="unique")
MINUTES = 12


def past() -> Script:
    """Minutes with a trade each, then a late trade into every one of them, all of which have left the state."""
    script = Script().beat(T0)
    for k in range(MINUTES):
        script.beat(T0 + k * MINUTE + SECOND).trade(T0 + k * MINUTE, 100.0 + k, 0.1, trade_id=k)
        script.trade(T0 + k * MINUTE, trade_id=k, of=UNIQUE)
    script.beat(T0 + (MINUTES + 1) * MINUTE)
    for k in range(MINUTES):
        script.trade(T0 + k * MINUTE + 1, 200.0 + k, 0.2, trade_id=1000 + k)
        script.trade(T0 + k * MINUTE, trade_id=k, of=UNIQUE, backfilled=True)
    script.beat(T0 + (MINUTES + 1) * MINUTE + 10 * SECOND)
    return script.trade(T0, 999.0, trade_id=5000).beat(T0 + (MINUTES + 1) * MINUTE + 20 * SECOND)


def every_row(tables: dict[str, pl.DataFrame]) -> dict[str, list[tuple[object, ...]]]:
    return {name: table.sort(TABLES[name].schema.names, nulls_last=True).rows() for name, table in tables.items()}


LENGTH = len(past().records)


@pytest.mark.parametrize(
    ("cuts", "commit_at", "restore_at"),
    [
        pytest.param([20, LENGTH - 4], [20], [], id="half-stored"),
        pytest.param([], [LENGTH - 4], [], id="all-stored"),
        pytest.param([20], [30, LENGTH - 4], [30, LENGTH - 4], id="stored-and-restarted"),
        pytest.param(range(1, LENGTH), [], [], id="a-record-at-a-time"),
        pytest.param([25], [10], [25], id="restarted-behind-the-store"),
    ],
)
def test_where_the_past_lies_changes_no_row(
    tmp_path: Path, cuts: list[int], commit_at: list[int], restore_at: list[int]
) -> None:
    whole = run(past(), tmp_path / "whole", RULES)
    parts = run(past(), tmp_path / "parts", RULES, cuts, commit_at=commit_at, restore_at=restore_at)
    assert every_row(parts) == every_row(whole)
    revised = rows_of(whole["gold.bars"], "revision", "trades", symbol="BTC-USDT", start=at(0))
    assert sorted(revised) == [(0, 1), (1, 2), (2, 3)]
    assert whole["bronze.trades"].filter(pl.col("verdict") == "duplicate").height == MINUTES


def at(minute: int) -> object:
    return pl.Series([T0 + minute * MINUTE]).cast(pl.Datetime("us", "UTC"))[0]


def test_rows_stored_with_a_later_cause_are_left_out(tmp_path: Path) -> None:
    script = past()
    tables = run(script, tmp_path, RULES, commit_at=[LENGTH])
    history = LakeHistory(LakeTables(tmp_path), 0)
    late = LENGTH - 2  # the trade of 999.0
    instrument = feed().instrument
    for asking, expected in ((late, [100.0, 200.0]), (late + 1, [100.0, 200.0, 999.0]), (2, []), (3, [100.0])):
        found = history.trades(instrument, T0, T0 + MINUTE, Cause(0, asking, 0))
        assert sorted(found.column("price").to_pylist()) == expected
    asked = SeriesWanted(instrument, "1m", T0 + MINUTE, 1, None)
    issued = rows_of(tables["gold.bars"], "offset", "high", symbol="BTC-USDT", start=at(0))
    known: list[float] = []
    for offset, high in issued:
        assert _highs(history, asked, Cause(0, offset, 0)) == known
        known = [high]
        assert _highs(history, asked, Cause(0, offset, 1)) == known
    assert known == [999.0]
    assert history.known_ids(UNIQUE.instrument, [0, 1, 77], Cause(0, 6, 0)) == {0}


def test_a_backfill_finds_ids_of_an_earlier_epoch_and_id_space(tmp_path: Path) -> None:
    named = {"source": "test", "venue": "BINANCE", "symbol": "ETH-USDT"}
    counted = feed("ETH-USDT")
    script = Script().beat(T0).trade(T0, trade_id=1, of=counted).event("new_ids", **named)
    script.trade(T0, trade_id=1, of=UNIQUE, backfilled=True).trade(T0, trade_id=1, of=UNIQUE)
    tables = run(script, tmp_path)
    verdicts = rows_of(tables["bronze.trades"], "epoch", "verdict")
    assert verdicts == [(0, "accepted"), (1, "duplicate"), (1, "accepted")]
    assert_read(tables, Rules(), T0)


def _highs(history: LakeHistory, asked: SeriesWanted, before: Cause) -> list[float]:
    found = history.bars([asked], before)
    return found[asked].high.tolist() if asked in found else []
