"""Rule R5: late trades are kept, marked, and re-issue their bar (docs/rules.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripted import MINUTE, SECOND, T0, Script, rows_of, run
from tickhouse.rules import Rules

ROWS = ("start", "revision", "available_at", "trades", "close")
FINAL = T0 + 70 * SECOND


def test_a_trade_whose_clock_reached_the_final_instant_is_late(tmp_path: Path) -> None:
    script = Script().beat(FINAL - SECOND // 4).trade(T0, trade_id=1).beat(FINAL).trade(T0 + 1, trade_id=2)
    assert rows_of(run(script, tmp_path)["silver.trades"], "trade_id", "late") == [(1, False), (2, True)]


def test_late_trades_reissue_the_bar_at_the_next_ten_second_step(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, 1.0, trade_id=1).beat(FINAL).trade(T0 + 1, 2.0, trade_id=2).beat(FINAL + SECOND)
    script.trade(T0 + 2, 3.0, trade_id=3).beat(FINAL + 10 * SECOND).trade(T0 + 3, 4.0, trade_id=4).beat(FINAL + 30 * SECOND)
    bars = rows_of(run(script, tmp_path)["gold.bars"], *ROWS, interval="1m")
    assert bars == [(T0, 0, FINAL, 1, 1.0), (T0, 2, FINAL + 10 * SECOND, 3, 3.0), (T0, 3, FINAL + 20 * SECOND, 4, 4.0)]


def test_a_bar_of_late_trades_only_has_no_revision_0(tmp_path: Path) -> None:
    script = Script().beat(FINAL + SECOND).trade(T0, trade_id=1).beat(FINAL + 10 * SECOND)
    assert rows_of(run(script, tmp_path)["gold.bars"], *ROWS, interval="1m") == [(T0, 1, FINAL + 10 * SECOND, 1, 100.0)]


def test_lateness_is_for_each_interval_of_its_own(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).beat(FINAL).trade(T0 + 1, trade_id=2).beat(T0 + 5 * MINUTE + 10 * SECOND)
    tables = run(script, tmp_path)
    assert rows_of(tables["gold.bars"], "revision", "trades", interval="5m") == [(0, 2)]
    assert rows_of(tables["gold.bars"], "revision", "trades", interval="1m") == [(0, 1), (1, 2)]


@pytest.mark.parametrize("cut", [None, 30, 60])
def test_bars_that_left_the_state_are_made_again_from_history(tmp_path: Path, cut: int | None) -> None:
    script = Script().beat(T0)
    for k in range(50):
        script.beat(T0 + k * MINUTE + SECOND).trade(T0 + k * MINUTE, 100.0 + k, 0.1, trade_id=k)
    script.beat(T0 + 51 * MINUTE)
    for k in range(50):
        script.trade(T0 + k * MINUTE + 1, 200.0 + k, 0.2, trade_id=1000 + k)
    script.beat(T0 + 52 * MINUTE)
    cuts = [] if cut is None else [cut]
    bars = run(script, tmp_path, cuts=cuts, restore_at=cuts)["gold.bars"]
    revised = rows_of(bars, "start", "open", "close", "volume", "trades", interval="1m", revision=1)
    assert sorted(revised) == [(T0 + k * MINUTE, 100.0 + k, 200.0 + k, 0.30000000000000004, 2) for k in range(50)]
    assert sorted(rows_of(bars, "start", "revision", "trades", interval="15m")) == [
        (T0, 0, 15), (T0, 15, 30), (T0 + 15 * MINUTE, 0, 15), (T0 + 15 * MINUTE, 15, 30),
        (T0 + 30 * MINUTE, 0, 15), (T0 + 30 * MINUTE, 15, 30),
    ]  # fmt: skip


def test_lateness_is_a_setting(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).beat(T0 + 60 * SECOND).trade(T0 + 1, trade_id=2).beat(T0 + 80 * SECOND)
    bars = rows_of(run(script, tmp_path, Rules(lateness_us=0))["gold.bars"], "revision", "available_at", interval="1m")
    assert bars == [(0, T0 + 60 * SECOND), (1, T0 + 70 * SECOND)]
