"""Rule R9: coarser bars are the same bytes as from the trades (docs/rules.md)."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from tests.scripted import MINUTE, SECOND, T0, Script, feed, rows_of, run
from tickhouse.rules import Rules


def test_every_interval_equals_the_bar_from_its_trades(tmp_path: Path) -> None:
    dice = random.Random(9)
    script = Script().beat(T0)
    trades = []
    for k in range(600):
        ts = T0 + k * 6 * SECOND
        script.beat(ts + SECOND)
        trades.append((ts, round(dice.uniform(99, 101), 2), round(dice.expovariate(1), 6)))
        script.trade(*trades[-1], trade_id=k)
    script.beat(T0 + 61 * MINUTE)
    bars = run(script, tmp_path)["gold.bars"]
    for interval, minutes in (("1m", 1), ("5m", 5), ("15m", 15), ("1h", 60)):
        for start, first, high, low, last, volume, count in rows_of(
            bars, "start", "open", "high", "low", "close", "volume", "trades", interval=interval
        ):
            inside = [(price, size) for ts, price, size in trades if start <= ts < start + minutes * MINUTE]
            prices = [price for price, _ in inside]
            expected = (prices[0], max(prices), min(prices), prices[-1], math.fsum(size for _, size in inside), len(inside))
            assert (first, high, low, last, volume, count) == expected
        assert len(rows_of(bars, "start", interval=interval)) == 60 // minutes


def test_a_coarser_bar_holds_trades_late_for_a_finer_one_and_all_of_its_revisions(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, 1.0, trade_id=1).beat(T0 + 2 * MINUTE).trade(T0 + 1, 2.0, trade_id=2)
    script.beat(T0 + 5 * MINUTE + 10 * SECOND).trade(T0 + 2, 3.0, trade_id=3).beat(T0 + 15 * MINUTE + 10 * SECOND)
    bars = run(script, tmp_path)["gold.bars"]
    shown = ("revision", "trades", "close")
    assert rows_of(bars, *shown, interval="1m") == [(0, 1, 1.0), (1, 2, 2.0), (2, 3, 3.0)]
    assert rows_of(bars, *shown, interval="5m") == [(0, 2, 2.0), (1, 3, 3.0)]
    assert rows_of(bars, *shown, interval="15m") == [(0, 3, 3.0)]


def test_rounded_columns_are_never_merged(tmp_path: Path) -> None:
    script = Script().beat(T0)
    script.trade(T0, 1.0, 2.0**49, trade_id=0)
    for k in range(5):  # the first minute's sum rounds 0.04 away, the exact sum of all five does not
        script.beat(T0 + k * MINUTE + SECOND).trade(T0 + k * MINUTE + 1, 1.0, 0.04, trade_id=k + 1)
    script.beat(T0 + 6 * MINUTE)
    bars = run(script, tmp_path)["gold.bars"]
    assert [volume for (volume,) in rows_of(bars, "volume", interval="1m")] == [2.0**49, 0.04, 0.04, 0.04, 0.04]
    assert rows_of(bars, "volume", interval="5m") == [(2.0**49 + 0.25,)]
    assert 2.0**49 + 0.16 == 2.0**49 + 0.125


@pytest.mark.parametrize(
    ("zone", "midnight", "hours"),
    [
        ("America/New_York", 1_772_946_000, 23),  # 2026-03-08
        ("America/New_York", 1_793_505_600, 25),  # 2026-11-01
        ("Australia/Lord_Howe", 1_775_307_600, 24.5),  # 2026-04-05
        ("Asia/Kathmandu", 1_772_907_300, 24),
    ],
)
def test_a_local_day_is_merged_from_its_own_hours(tmp_path: Path, zone: str, midnight: int, hours: float) -> None:
    rules = Rules(intervals=("15m", "1h", "1d"), indicator_intervals=(), timezones=(("IEX", zone),))
    iex, begin = feed("AAPL", "IEX", "none"), midnight * SECOND
    end = begin + round(hours * 60) * MINUTE
    script = Script().beat(begin - MINUTE).trade(begin - 1, 1.0, 0.1, of=iex)
    for k in range(round(hours * 4)):
        script.beat(begin + k * 15 * MINUTE).trade(begin + k * 15 * MINUTE, 100.0 + k, 0.1, of=iex)
    script.beat(end).trade(end, 2.0, 0.1, of=iex).beat(end + 25 * 60 * MINUTE)
    shown = ("start", "end", "open", "close", "volume", "trades", "revision")
    days = [row for row in rows_of(run(script, tmp_path, rules)["gold.bars"], *shown, interval="1d") if row[0] == begin]
    count = round(hours * 4)
    assert days == [(begin, end, 100.0, 99.0 + count, math.fsum([0.1] * count), count, 0)]
