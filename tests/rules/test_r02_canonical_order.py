"""Rule R2: open and close are first and last in canonical order (docs/rules.md)."""

from __future__ import annotations

from pathlib import Path

from tests.scripted import SECOND, T0, Script, feed, rows_of, run

OHLC = ("open", "high", "low", "close", "first_trade_id", "last_trade_id")


def test_order_is_by_ts_then_id_whatever_arrives_first(tmp_path: Path) -> None:
    script = Script().beat(T0 + 3 * SECOND)
    for ts, price, trade_id in ((2, 30.0, 13), (1, 20.0, 12), (1, 10.0, 11), (2, 40.0, 14)):
        script.trade(T0 + ts * SECOND, price, trade_id=trade_id)
    script.beat(T0 + 70 * SECOND)
    assert rows_of(run(script, tmp_path)["gold.bars"], *OHLC, interval="1m") == [(10.0, 40.0, 10.0, 40.0, 11, 14)]


def test_ids_compare_as_numbers(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, 2.0, trade_id=10).trade(T0, 1.0, trade_id=9).beat(T0 + 70 * SECOND)
    assert rows_of(run(script, tmp_path)["gold.bars"], "open", "close", interval="1m") == [(1.0, 2.0)]


def test_without_ids_equal_times_stand_as_they_came(tmp_path: Path) -> None:
    plain = feed(identity="none")
    script = Script().beat(T0).trade(T0, 5.0, of=plain).trade(T0, 3.0, of=plain).trade(T0, 4.0, of=plain).beat(T0 + 70 * SECOND)
    assert rows_of(run(script, tmp_path)["gold.bars"], *OHLC, interval="1m") == [(5.0, 5.0, 3.0, 4.0, None, None)]
