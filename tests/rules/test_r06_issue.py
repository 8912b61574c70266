"""Rule R6: the heartbeat that reaches the due instant issues the bar (docs/rules.md)."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tests.scripted import MINUTE, SECOND, T0, Script, feed, rows_of, run


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
