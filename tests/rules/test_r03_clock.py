"""Rule R3: only heartbeats move the clock (docs/rules.md)."""

from __future__ import annotations

from pathlib import Path

from tests.scripted import MINUTE, SECOND, T0, Script, feed, rows_of, run


def test_trades_never_move_the_clock(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0 + 4 * SECOND, trade_id=1).trade(T0 + 5 * SECOND, trade_id=2)
    tables = run(script, tmp_path)
    assert rows_of(tables["silver.trades"], "clock") == [(T0,), (T0,)]


def test_a_trade_before_the_first_heartbeat_is_rejected(tmp_path: Path) -> None:
    script = Script().trade(T0, trade_id=1).beat(T0).trade(T0, trade_id=1)
    tables = run(script, tmp_path)
    assert rows_of(tables["bronze.rejected"], "reason", "clock") == [("future", None)]
    assert tables["silver.trades"].height == 1


def test_a_future_dated_trade_closes_no_other_symbol(tmp_path: Path) -> None:
    fast = feed("ETH-USDT")
    script = Script().beat(T0).trade(T0, trade_id=1).trade(T0 + 60 * MINUTE, trade_id=1, of=fast).trade(T0 + SECOND, trade_id=2)
    tables = run(script, tmp_path)
    assert tables["gold.bars"].height == 0
    assert rows_of(tables["silver.trades"], "trade_id", "late") == [(1, False), (2, False)]
