"""Rule R6: the heartbeat that reaches the due instant issues the bar (docs/rules.md)."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tests.scripted import MINUTE, SECOND, T0, Script, feed, rows_of, run
from tickhouse.rules import Rules


def test_a_bar_waits_for_no_trade(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).beat(T0 + 70 * SECOND - SECOND // 4)
    assert run(script, tmp_path)["gold.bars"].height == 0
    script.beat(T0 + 70 * SECOND)
    assert rows_of(run(script, tmp_path)["gold.bars"], "available_at", "offset") == [(T0 + 70 * SECOND, 3)]


def test_a_jump_of_the_clock_works_off_instants_one_by_one(tmp_path: Path) -> None:
    script = Script().beat(T0 + 2 * MINUTE).trade(T0 + 2 * MINUTE, 2.0, trade_id=2).trade(T0 + 61 * SECOND, 1.0, trade_id=1)
    script.beat(T0 + 24 * 60 * MINUTE)
    bars = run(script, tmp_path)["gold.bars"]
    steps = [row for (row,) in rows_of(bars, "available_at")]
    assert steps == sorted(steps)
    assert set(bars["offset"]) == {3}
    assert rows_of(bars, "available_at", "revision", interval="1m") == [(T0 + 130 * SECOND, 0), (T0 + 190 * SECOND, 0)]


def test_all_bars_of_an_instant_come_before_its_indicators(tmp_path: Path) -> None:
    other = feed("ETH-USDT")
    script = Script().beat(T0).trade(T0, trade_id=1).trade(T0, trade_id=1, of=other).beat(T0 + 70 * SECOND)
    tables = run(script, tmp_path)
    assert tables["gold.bars"].filter(pl.col("interval") == "1m").height == 2
    touched = rows_of(tables["gold.indicators"], "symbol", "available_at", indicator="sma(20)")
    assert sorted(touched) == [("BTC-USDT", T0 + 70 * SECOND), ("ETH-USDT", T0 + 70 * SECOND)]


def test_one_heartbeat_issues_bars_and_revisions_of_several_instants_each_as_of_its_own(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, 1.0, trade_id=1).beat(T0 + 70 * SECOND).trade(T0 + 1, 2.0, trade_id=2)
    script.trade(T0 + 65 * SECOND, 3.0, trade_id=3).beat(T0 + 6 * MINUTE)
    tables = run(script, tmp_path)
    shown = ("available_at", "start", "revision", "close")
    assert rows_of(tables["gold.bars"], *shown, interval="1m") == [
        (T0 + 70 * SECOND, T0, 0, 1.0),
        (T0 + 80 * SECOND, T0, 1, 2.0),
        (T0 + 130 * SECOND, T0 + MINUTE, 0, 3.0),
    ]
    assert rows_of(tables["gold.bars"], *shown, interval="5m") == [(T0 + 310 * SECOND, T0, 0, 3.0)]


def test_an_indicator_is_touched_once_an_instant_and_sees_all_its_bars(tmp_path: Path) -> None:
    script = Script().beat(T0)
    for k in range(3):
        script.trade(T0 + k * MINUTE - 4 * MINUTE, 10.0 * (k + 1), trade_id=k)
    script.beat(T0 + 10 * SECOND)
    tables = run(script, tmp_path, Rules(indicators=("sma(3)",)))
    assert {row for (row,) in rows_of(tables["gold.bars"], "available_at", interval="1m")} == {T0 + 10 * SECOND}
    rows = rows_of(tables["gold.indicators"], "start", "value", "available_at")
    assert rows == [(T0 + (k - 4) * MINUTE, [None, None, 20.0][k], T0 + 10 * SECOND) for k in range(3)]


def test_a_revision_and_a_first_bar_due_at_once_are_both_issued(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).beat(T0 + 125 * SECOND).trade(T0 + 1, trade_id=2)
    script.trade(T0 + 70 * SECOND, trade_id=3).beat(T0 + 130 * SECOND)
    bars = rows_of(run(script, tmp_path)["gold.bars"], "start", "revision", "available_at", interval="1m")
    assert bars[1:] == [(T0 + MINUTE, 0, T0 + 130 * SECOND), (T0, 1, T0 + 130 * SECOND)]
