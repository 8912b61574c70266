"""Rule R11: a trade far from the previous hundred is flagged (docs/rules.md)."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

from tests.scripted import T0, Script, rows_of, run


def test_the_first_hundred_are_never_flagged(tmp_path: Path) -> None:
    script = Script().beat(T0)
    for k in range(100):
        script.trade(T0, 100.0 + k % 2, trade_id=k)
    script.trade(T0, 1e6, trade_id=100)
    tables = run(script, tmp_path)
    assert rows_of(tables["silver.trades"], "trade_id", anomaly=True) == [(100,)]
    assert tables["silver.trades"]["score"].null_count() == 100


def test_score_is_distance_in_sample_deviations_of_the_previous_hundred(tmp_path: Path) -> None:
    dice = random.Random(11)
    prices = [round(dice.gauss(100, 1), 2) for _ in range(400)]
    script = Script().beat(T0)
    for k, price in enumerate(prices):
        script.trade(T0, price, trade_id=k)
    scores = [row for (row,) in rows_of(run(script, tmp_path)["silver.trades"], "score")]
    for k in range(100, 400):
        before = prices[k - 100 : k]
        expected = (prices[k] - statistics.fmean(before)) / statistics.stdev(before)
        assert abs(scores[k] - expected) < 1e-9


def test_equal_prices_have_no_deviation_and_flag_nothing(tmp_path: Path) -> None:
    script = Script().beat(T0)
    for k in range(150):
        script.trade(T0, 0.1, trade_id=k)
    tables = run(script, tmp_path)
    assert tables["gold.anomalies"].height == 0
    assert tables["silver.trades"]["score"].null_count() == 150


def test_backfilled_trades_are_neither_scored_nor_remembered(tmp_path: Path) -> None:
    script = Script().beat(T0)
    for k in range(100):
        script.trade(T0, 100.0 + k % 2, trade_id=k)
    script.trade(T0, 1e9, trade_id=100, backfilled=True).trade(T0, 500.0, trade_id=101)
    tables = run(script, tmp_path)
    [(value, baseline, detector, threshold)] = rows_of(tables["gold.anomalies"], "value", "baseline", "detector", "threshold")
    assert (value, baseline, detector, threshold) == (500.0, 100.5, "zscore(100,3)", 3.0)
