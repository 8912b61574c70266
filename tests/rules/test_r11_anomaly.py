"""Rule R11: a trade far from the previous hundred is flagged (docs/rules.md)."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path

from tests.scripted import T0, Script, feed, rows_of, run
from tickhouse.rules import Rules


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


def test_window_and_threshold_are_a_setting_and_the_threshold_itself_is_not_flagged(tmp_path: Path) -> None:
    script = Script().beat(T0)
    for k, price in enumerate((1.0, 2.0, 3.0, 4.0, 4.0)):  # before the fourth: mean 2, deviation 1; then 3 and 1
        script.trade(T0, price, trade_id=k)
    for threshold, flagged in (("2", []), ("1.5", [3])):
        tables = run(script, tmp_path, Rules(detector=f"zscore(3,{threshold})"))
        assert rows_of(tables["silver.trades"], "score")[3:] == [(2.0,), (1.0,)]
        assert [each for (each,) in rows_of(tables["silver.trades"], "trade_id", anomaly=True)] == flagged


def test_samples_of_a_quiet_high_price_are_exact_at_every_anchor(tmp_path: Path) -> None:
    dice = random.Random(4)
    prices = [1e9 + dice.choice([0.0, 0.25]) for _ in range(330)]
    script = Script().beat(T0)
    for k, price in enumerate(prices):
        script.trade(T0, price, trade_id=k)
    scores = [row for (row,) in rows_of(run(script, tmp_path)["silver.trades"], "score")]
    for k in range(100, 330):
        before = prices[k - 100 : k]
        assert abs(scores[k] - (prices[k] - statistics.fmean(before)) / statistics.stdev(before)) < 1e-6


def test_each_symbol_and_a_restart_have_samples_of_their_own(tmp_path: Path) -> None:
    dice, rules, other = random.Random(3), Rules(detector="zscore(7,2)"), feed("ETH-USDT")
    script = Script().beat(T0)
    for k in range(60):
        script.trade(T0, dice.gauss(100, 1), trade_id=k).trade(T0, dice.gauss(5, 1), trade_id=k, of=other)
    whole, parts = run(script, tmp_path, rules), run(script, tmp_path, rules, restore_at=range(2, 120, 5))
    assert whole["silver.trades"]["score"].to_list() == parts["silver.trades"]["score"].to_list()
    assert whole["gold.anomalies"].rows() == parts["gold.anomalies"].rows()
    alone = Script([record for record in script.records if record[0] == "beat" or record[1].feed == other])
    eth = rows_of(whole["silver.trades"], "score", symbol="ETH-USDT")
    assert eth == rows_of(run(alone, tmp_path, rules)["silver.trades"], "score")


def by_the_letter(prices: list[float], window: int) -> list[float | None]:
    """The scores, with the operations of the rule in the order of the rule."""
    ring: list[float] = []
    scores: list[float | None] = []
    a = s = q = 0.0
    for n, p in enumerate(prices, start=1):
        variance = (q - s * s / window) / (window - 1)
        scores.append((p - (a + s / window)) / math.sqrt(variance) if n > window and variance > 0 else None)
        ring.append(p)
        oldest = ring.pop(0) if n > window else p
        if n % window == 0:
            a, s, q = p, 0.0, 0.0
            for each in ring:
                s += each - a
                q += (each - a) * (each - a)
        elif n > window:
            d, e = p - a, oldest - a
            s += d
            q += d * d
            s -= e
            q -= e * e
    return scores


def test_scores_are_the_rule_to_the_last_bit(tmp_path: Path) -> None:
    dice = random.Random(12)
    prices = [dice.uniform(1, 1000) for _ in range(400)]
    script = Script().beat(T0)
    for k, price in enumerate(prices):
        script.trade(T0, price, trade_id=k)
    for window in (2, 7, 40):
        silver = run(script, tmp_path, Rules(detector=f"zscore({window},2)"))["silver.trades"]
        assert silver["score"].to_list() == by_the_letter(prices, window)
