"""R2, R4 to R9 by hand: bars, revisions and when they are issued."""

from __future__ import annotations

import hashlib
import math

from tickhouse.rules import Rules

M1 = Rules(intervals=("1m",), indicators=())
M1_M5 = Rules(intervals=("1m", "5m"), indicators=())


def issued(bronze, clock: float, rules=M1, *names: str) -> list[tuple]:
    names = names or ("interval", "start", "revision", "available_at", "trades")
    return [tuple(row[name] for name in names) for row in bronze.rows_of("gold.bars", clock, rules)]


def test_r5_a_bar_is_final_at_its_end_plus_the_lateness(bronze):
    bronze.trade(5, 1)
    assert issued(bronze, 69.75) == []
    assert issued(bronze, 70) == [("1m", 0, 0, 70, 1)]


def test_r2_open_and_close_are_first_and_last_by_ts_then_id(bronze):
    for trade_id, ts, price in ((7, 5, 70.0), (3, 6, 30.0), (5, 5, 50.0), (9, 6, 90.0), (4, 5.5, 400.0), (6, 5.5, 4.0)):
        bronze.trade(6, trade_id, price, ts=ts)
    assert issued(bronze, 70, M1, "open", "high", "low", "close", "first_trade_id", "last_trade_id") == [
        (50.0, 400.0, 4.0, 90.0, 5, 9)
    ]


def test_r2_without_ids_the_order_of_the_journal_decides(bronze_of):
    bronze = bronze_of("none")
    for price in (3.0, 2.0, 1.0):
        bronze.trade(5, price=price)
    assert issued(bronze, 70, M1, "open", "close", "first_trade_id", "last_trade_id") == [(3.0, 1.0, None, None)]


def test_r2_textual_ids_are_ordered_by_their_digest_and_not_shown(bronze_of):
    bronze = bronze_of("unique")
    prices = {"a": 1.0, "b": 2.0, "c": 3.0}
    for text, price in prices.items():
        bronze.trade(5, text, price)
    bronze.trade(5, 12, 9.0)
    greatest = max(prices, key=lambda text: hashlib.blake2b(text.encode(), digest_size=16).hexdigest())
    names = ("open", "close", "first_trade_id", "last_trade_id")
    assert issued(bronze, 70, M1, *names) == [(9.0, prices[greatest], None, None)]


def test_r4_a_window_holds_its_start_and_not_its_end(bronze):
    bronze.trade(61, 1, ts=0)
    bronze.trade(61, 2, ts=59.999999)
    bronze.trade(61, 3, ts=60)
    assert issued(bronze, 130) == [("1m", 0, 0, 70, 2), ("1m", 60, 0, 130, 1)]


def test_r4_the_daily_bar_of_an_exchange_covers_its_local_date(bronze_of):
    bronze = bronze_of(venue="IEX", symbol="AAPL")
    rules = Rules(intervals=("1h", "1d"), indicators=(), indicator_intervals=())
    hour = 3600
    bronze.trade(4 * hour, 1)  # 2026-01-15 23:00 in New York
    bronze.trade(5 * hour, 2)
    names = ("interval", "start", "end", "trades")
    daily = [row for row in issued(bronze, 80 * hour, rules, *names) if row[0] == "1d"]
    assert daily == [("1d", -19 * hour, 5 * hour, 1), ("1d", 5 * hour, 29 * hour, 1)]


def test_r4_a_local_date_may_have_23_hours(bronze_of):
    bronze = bronze_of(venue="IEX", symbol="AAPL")
    day = 86_400
    start = 51 * day + 5 * 3600  # 2026-03-08, when New York moves its clocks forward
    bronze.trade(start + 3600, 1)
    rules = Rules(intervals=("1h", "1d"), indicators=(), indicator_intervals=())
    assert issued(bronze, 60 * day, rules, "interval", "start", "end")[0] == ("1d", start, start + 23 * 3600)


def test_r5_a_late_trade_reissues_its_bar_at_the_next_ten_seconds(bronze):
    bronze.trade(5, 1, 100.0)
    bronze.trade(69.75, 2, 101.0, ts=59)
    bronze.trade(70, 3, 102.0, ts=59)  # late from here on
    bronze.trade(79.75, 4, 103.0, ts=59)
    bronze.trade(80, 5, 104.0, ts=59)
    assert issued(bronze, 70, M1, "revision", "available_at", "trades", "close") == [(0, 70, 2, 101.0)]
    assert issued(bronze, 100, M1, "revision", "available_at", "trades", "close") == [
        (0, 70, 2, 101.0),
        (2, 80, 4, 103.0),
        (3, 90, 5, 104.0),
    ]
    assert [row["late"] for row in bronze.rows_of("silver.trades", 0)] == [False, False, True, True, True]


def test_r5_instants_of_revisions_count_from_the_lateness(bronze):
    rules = Rules(intervals=("1m",), indicators=(), lateness_us=2_250_000)
    bronze.trade(62.25, 1, ts=5)
    assert issued(bronze, 100, rules) == [("1m", 0, 1, 72.25, 1)]


def test_r5_a_bar_with_late_trades_only_has_no_revision_0(bronze):
    bronze.trade(75, 1, ts=5)
    assert issued(bronze, 200) == [("1m", 0, 1, 80, 1)]


def test_r5_late_for_the_finest_interval_is_not_late_for_a_coarser_one(bronze):
    bronze.trade(5, 1)
    bronze.trade(75, 2, ts=6)
    assert issued(bronze, 400, M1_M5) == [("1m", 0, 0, 70, 1), ("1m", 0, 1, 80, 2), ("5m", 0, 0, 310, 2)]


def test_r6_a_jump_of_the_clock_counts_all_trades_before_it_in_every_instant(bronze):
    bronze.trade(5, 1)
    bronze.trade(9, 2, ts=65 - 57)
    bronze.trade(1_000, 3, ts=300)
    assert issued(bronze, 2_000) == [("1m", 0, 0, 70, 2), ("1m", 300, 1, 1_010, 1)]


def test_r7_a_minute_without_a_trade_has_no_bar(bronze):
    bronze.trade(5, 1)
    bronze.trade(185, 2)
    assert [start for _, start, *_ in issued(bronze, 400)] == [0, 180]


def test_r8_sums_are_exact_and_rounded_once(bronze):
    sizes, prices = [1e15, 0.1, 0.2, 0.3, 1e-18], [3.0, 0.1, 0.7, 1e-12, 1e12]
    for i, (size, price) in enumerate(zip(sizes, prices, strict=True)):
        bronze.trade(5, i, price, size)
    volume, notional = math.fsum(sizes), math.fsum(p * s for p, s in zip(prices, sizes, strict=True))
    assert issued(bronze, 70, M1, "volume", "notional", "vwap") == [(volume, notional, notional / volume)]


def test_r8_vwap_is_null_at_volume_0(bronze):
    bronze.trade(5, 1, 100.0, 0.0)
    assert issued(bronze, 70, M1, "volume", "notional", "vwap") == [(0.0, 0.0, None)]


def test_r12_a_polled_price_makes_no_bar_and_no_silver_row(bronze):
    bronze.trade(5, 1, 100.0, 0.0, kind="polled")
    assert bronze.verdicts() == ["accepted"]
    assert issued(bronze, 400) == []
    assert bronze.rows_of("silver.trades", 400) == []
