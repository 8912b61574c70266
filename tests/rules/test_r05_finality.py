"""Rule R5: late trades are kept, marked, and re-issue their bar (docs/rules.md)."""

from __future__ import annotations

import math
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
    fives = sorted(rows_of(bars, "start", "revision", "trades", interval="5m"))
    assert fives == [row for k in range(0, 50, 5) for row in ((T0 + k * MINUTE, 0, 5), (T0 + k * MINUTE, 5, 10))]
    assert sorted(rows_of(bars, "start", "revision", "trades", interval="15m")) == [
        (T0, 0, 15), (T0, 15, 30), (T0 + 15 * MINUTE, 0, 15), (T0 + 15 * MINUTE, 15, 30),
        (T0 + 30 * MINUTE, 0, 15), (T0 + 30 * MINUTE, 15, 30),
    ]  # fmt: skip


def test_lateness_is_a_setting(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).beat(T0 + 60 * SECOND).trade(T0 + 1, trade_id=2).beat(T0 + 80 * SECOND)
    bars = rows_of(run(script, tmp_path, Rules(lateness_us=0))["gold.bars"], "revision", "available_at", interval="1m")
    assert bars == [(0, T0 + 60 * SECOND), (1, T0 + 70 * SECOND)]


def test_a_trade_at_the_very_instant_of_a_revision_waits_for_the_next(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).beat(FINAL + 10 * SECOND).trade(T0 + 1, trade_id=2)
    script.beat(FINAL + 20 * SECOND - SECOND // 4)
    assert run(script, tmp_path)["gold.bars"].height == 1
    script.beat(FINAL + 20 * SECOND)
    assert rows_of(run(script, tmp_path)["gold.bars"], *ROWS, interval="1m")[1:] == [(T0, 1, FINAL + 20 * SECOND, 2, 100.0)]


def test_steps_of_revisions_are_counted_from_the_epoch_plus_the_lateness(tmp_path: Path) -> None:
    rules = Rules(lateness_us=2_250_000)
    script = Script().beat(T0 + 71 * SECOND).trade(T0, trade_id=1).beat(T0 + 100 * SECOND)
    assert rows_of(run(script, tmp_path, rules)["gold.bars"], *ROWS, interval="1m") == [
        (T0, 1, T0 + 72_250_000, 1, 100.0),
    ]


def test_a_bar_made_again_is_the_same_after_a_restart_with_its_revision_waiting(tmp_path: Path) -> None:
    script = Script().beat(T0)
    for k in range(9):
        script.beat(T0 + k * MINUTE + SECOND).trade(T0 + k * MINUTE, 100.0 + k, trade_id=10 * k)
    script.beat(T0 + 12 * MINUTE).trade(T0 + 1, 50.0, trade_id=1)
    waiting = len(script.records)
    script.trade(T0 + 2, 60.0, trade_id=2).beat(T0 + 12 * MINUTE + 10 * SECOND).trade(T0 + 3, 70.0, trade_id=3)
    script.beat(T0 + 12 * MINUTE + 20 * SECOND)
    for cuts in ([], [waiting], [waiting, waiting + 1, waiting + 2]):
        bars = run(script, tmp_path, cuts=cuts, restore_at=cuts)["gold.bars"]
        first = [row for row in rows_of(bars, *ROWS, interval="1m") if row[0] == T0]
        assert [(row[1], row[3], row[4]) for row in first] == [(0, 1, 100.0), (2, 3, 60.0), (3, 4, 70.0)]


def test_a_bar_that_gives_its_place_to_a_newer_one_before_its_revision_is_still_issued(tmp_path: Path) -> None:
    rules = Rules(intervals=("1m",), timezones=())
    script, expected = Script().beat(T0 + 20 * MINUTE), []
    for k in range(16):  # all late, from the oldest on, far more than the state has places for
        script.trade(T0 + k * MINUTE, float(k + 1), trade_id=k)
        expected.append((T0 + k * MINUTE, 1, T0 + 20 * MINUTE + 10 * SECOND, 1, float(k + 1)))
    script.beat(T0 + 20 * MINUTE + 10 * SECOND)
    assert sorted(rows_of(run(script, tmp_path, rules)["gold.bars"], *ROWS)) == expected


def test_a_bar_made_again_counts_trades_from_the_final_instant_on_as_late_and_sums_exactly(tmp_path: Path) -> None:
    rules = Rules(intervals=("1m",), timezones=())
    script = Script().beat(T0).trade(T0, 1.1, 0.1, trade_id=0).trade(T0 + 1, 1.3, 2.0**49, trade_id=1)
    script.beat(FINAL).trade(T0 + 2, 1.7, 0.04, trade_id=2)  # its clock is the final instant itself
    for k in range(1, 12):
        script.beat(T0 + k * MINUTE + 20 * SECOND).trade(T0 + k * MINUTE, 5.0, trade_id=10 + k)
    script.trade(T0 + 3, 1.9, 0.04, trade_id=3).beat(T0 + 13 * MINUTE)
    prints = [(1.1, 0.1), (1.3, 2.0**49), (1.7, 0.04), (1.9, 0.04)]
    volume, notional = math.fsum(size for _, size in prints), math.fsum(price * size for price, size in prints)
    assert (volume, notional) != (sum(size for _, size in prints), sum(price * size for price, size in prints))
    bars = run(script, tmp_path, rules)["gold.bars"]
    first = [row for row in rows_of(bars, "start", "revision", "trades", "volume", "notional") if row[0] == T0]
    assert first[-1] == (T0, 2, 4, volume, notional)
