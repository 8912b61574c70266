"""R11 by hand: what a trade is compared with."""

from __future__ import annotations

import math

from tickhouse.rules import Rules

SMALL = Rules(detector="zscore(4, 2)")


def scores(bronze, rules=SMALL) -> list[float | None]:
    return [row["score"] for row in bronze.rows_of("silver.trades", 0, rules)]


def put(bronze, *prices: float, **other) -> None:
    for price in prices:
        bronze.trade(5 + bronze.offset, bronze.offset, price, ts=bronze.offset, **other)


def test_r11_the_trade_after_the_window_is_the_first_to_be_compared(bronze):
    put(bronze, 1.0, 2.0, 3.0, 4.0, 9.0)
    mean, deviation = 4.0 + (-3.0 - 2.0 - 1.0) / 4, math.sqrt((14.0 - 36.0 / 4) / 3)
    assert scores(bronze) == [None] * 4 + [(9.0 - mean) / deviation]
    found = bronze.rows_of("gold.anomalies", 0, SMALL)
    assert [(row["detector"], row["value"], row["baseline"], row["threshold"]) for row in found] == [
        ("zscore(4, 2)", 9.0, 2.5, 2.0)
    ]
    assert found[0]["score"] == scores(bronze)[-1]


def test_r11_the_running_sums_are_kept_in_the_rules_order(bronze):
    prices = [0.1, 0.7, 0.3, 1.1, 0.9, 0.2, 0.35]
    put(bronze, *prices)
    a, s, q = prices[3], 0.0, 0.0
    for price in prices[:4]:
        s, q = s + (price - a), q + (price - a) * (price - a)
    for new, old, at in ((4, 0, 5), (5, 1, 6)):
        s, q = s + (prices[new] - a), q + (prices[new] - a) * (prices[new] - a)
        s, q = s - (prices[old] - a), q - (prices[old] - a) * (prices[old] - a)
        assert scores(bronze)[at] == (prices[at] - (a + s / 4)) / math.sqrt((q - s * s / 4) / 3)


def test_r11_sums_are_taken_afresh_at_every_multiple(bronze):
    prices = [5.0, 1e6, 7.0, 8.0, 1.1, 1.2, 1.4, 1.3, 1.25]
    put(bronze, *prices)
    a, s, q = 1.3, 0.0, 0.0
    for price in prices[4:8]:
        s, q = s + (price - a), q + (price - a) * (price - a)
    assert scores(bronze)[8] == (1.25 - (a + s / 4)) / math.sqrt((q - s * s / 4) / 3)


def test_r11_no_score_where_nothing_moved(bronze):
    put(bronze, 2.0, 2.0, 2.0, 2.0, 3.0)
    assert scores(bronze) == [None] * 5
    assert bronze.rows_of("gold.anomalies", 0, SMALL) == []


def test_r11_backfilled_trades_are_neither_scored_nor_remembered(bronze):
    put(bronze, 1.0, 2.0, 3.0)
    put(bronze, 1000.0, backfilled=True)
    put(bronze, 4.0, 9.0)
    assert [row["anomaly"] for row in bronze.rows_of("silver.trades", 0, SMALL)] == [False] * 5 + [True]
    assert len(bronze.rows_of("gold.anomalies", 0, SMALL)) == 1


def test_r11_by_default_100_trades_and_3_deviations(bronze):
    put(bronze, *[100.0 + i % 2 for i in range(100)], 102.0, 102.01)
    flagged = bronze.rows_of("gold.anomalies", 0, Rules())
    assert [(row["value"], row["threshold"], row["detector"]) for row in flagged] == []
    put(bronze, 105.0)
    assert [row["value"] for row in bronze.rows_of("gold.anomalies", 0, Rules())] == [105.0]
