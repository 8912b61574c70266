"""R1, R12 and R14 by hand: verdicts and gaps."""

from __future__ import annotations

import math

import pytest

from tickhouse.rules import Rules


def states(bronze, clock: float) -> list[tuple]:
    rows = bronze.rows_of("gold.gaps", clock)
    return [(row["epoch"], row["first_missing_id"], row["last_missing_id"], row["state"], row["clock"]) for row in rows]


def test_r1_a_contiguous_id_seen_is_a_duplicate_and_a_far_ts_a_conflict(bronze):
    for trade_id in (10, 11, 13):
        bronze.trade(100, trade_id, ts=100)
    bronze.trade(9_000, 10, ts=100)  # however old
    bronze.trade(9_000, 11, ts=160)  # at the edge
    bronze.trade(9_000, 11, ts=160.000001)
    bronze.trade(9_000, 11, ts=40)
    bronze.trade(9_000, 11, ts=39.999999)
    bronze.trade(9_000, 12, ts=9_000)  # not seen: joins the intervals, which now reach from 100 to 9000
    bronze.trade(9_000, 13, ts=9_060)
    bronze.trade(9_000, 13, ts=5_000)
    expected = ["accepted"] * 3 + ["duplicate", "duplicate", "id_conflict", "duplicate", "id_conflict", "accepted"]
    assert bronze.verdicts() == [*expected, "future", "duplicate"]


def test_r1_a_duplicate_does_not_stretch_the_interval(bronze):
    bronze.trade(1_000, 1, ts=100)
    bronze.trade(1_000, 1, ts=150)
    bronze.trade(1_000, 1, ts=200)
    assert bronze.verdicts() == ["accepted", "duplicate", "id_conflict"]


def test_r1_another_id_space_is_rejected_until_new_ids(bronze):
    bronze.trade(100, 1, price=-1.0)  # not valid: fixes nothing
    bronze.trade(100, 1, id_space="agg")
    bronze.trade(100, 2)
    bronze.event(100, "new_ids")
    bronze.trade(100, 1, epoch=1)
    bronze.trade(100, 1, id_space="agg", epoch=1)
    assert bronze.verdicts() == ["price", "accepted", "identity", "accepted", "identity"]


def test_r1_new_ids_begin_an_epoch_that_bronze_names(bronze):
    bronze.trade(100, 1)
    bronze.event(100, "new_ids")
    bronze.trade(100, 1)
    assert [(other.offset, other.recomputed) for other in bronze.read(0).other_verdicts] == [(2, "accepted in epoch 1")]


def test_r1_unique_ids_repeat_within_ten_minutes_of_the_first_sighting(bronze_of):
    bronze = bronze_of("unique")
    for clock in (0, 300, 600, 600.25, 1_200, 1_200.25):
        bronze.trade(clock, "a")
    assert bronze.verdicts() == ["accepted", "duplicate", "duplicate", "accepted", "duplicate", "duplicate"]
    bronze.trade(1_200.5, "a")
    bronze.trade(5_000, "a", backfilled=True)
    bronze.trade(5_000, "b", backfilled=True)
    assert bronze.verdicts()[6:] == ["accepted", "duplicate", "accepted"]


def test_r1_without_ids_every_print_counts(bronze_of):
    bronze = bronze_of("none")
    bronze.trade(100)
    bronze.trade(100)
    assert bronze.verdicts() == ["accepted", "accepted"]
    assert len(bronze.rows_of("silver.trades", 100)) == 2


@pytest.mark.parametrize(
    ("reason", "other"),
    [
        ("symbol", {"symbol": "", "price": math.nan}),
        ("price", {"price": math.nan, "size": -1.0}),
        ("price", {"price": math.inf}),
        ("price", {"price": 0.99e-12}),
        ("price", {"price": 1.01e12}),
        ("size", {"size": math.nan, "ts": -1e9}),
        ("size", {"size": 0.9e-18}),
        ("size", {"size": -0.5}),
        ("size", {"size": 1.1e15}),
        ("ts", {"ts": -1_137_369_600.000001}),
        ("ts", {"ts": 2_335_824_000}),
        ("future", {"ts": 105.000001}),
    ],
)
def test_r12_the_first_reason_that_applies(bronze, reason, other):
    bronze.trade(100, 1, **other, verdict="identity")
    assert bronze.verdicts() == [reason]


def test_r12_the_bounds_are_valid(bronze_of):
    bronze = bronze_of("none")
    for other in (
        {"price": 1e-12},
        {"price": 1e12},
        {"size": 0.0},
        {"size": 1e-18},
        {"size": 1e15},
        {"ts": 105},
        {"ts": -1_137_369_600},
    ):
        bronze.trade(100, **other)
    assert bronze.verdicts() == ["accepted"] * 7


def test_r3_a_trade_before_the_first_heartbeat_is_future(bronze):
    bronze.trade(None, 1, ts=100, verdict="price")
    assert bronze.verdicts() == ["future"]


def test_what_a_source_rejected_is_no_trade(bronze):
    bronze.reject(100, "price", b'{"p": null}')
    bronze.reject(100, "malformed", b"\xff")
    assert bronze.read(100).other_verdicts == []


def test_r14_a_hole_still_there_after_the_lateness_opens_a_gap(bronze):
    bronze.trade(100, 1)
    bronze.trade(100, 5)
    assert states(bronze, 109.75) == []
    assert states(bronze, 110) == [(0, 2, 4, "open", 110)]


def test_r14_without_lateness_the_next_heartbeat_opens_a_gap(bronze):
    rules = Rules(lateness_us=0)
    bronze.trade(100, 1)
    bronze.trade(100, 4)
    bronze.trade(100, 3)
    assert bronze.rows_of("gold.gaps", 100, rules) == []
    rows = bronze.rows_of("gold.gaps", 100.25, rules)
    assert [(row["first_missing_id"], row["last_missing_id"], row["clock"]) for row in rows] == [(2, 2, 100)]


def test_r14_what_was_filled_in_time_is_no_gap(bronze):
    bronze.trade(100, 1)
    bronze.trade(100, 6)
    bronze.trade(109.75, 4)
    bronze.trade(110, 3)
    assert states(bronze, 110) == [(0, 2, 3, "open", 110), (0, 5, 5, "open", 110)]


def test_r14_filling_the_last_missing_id_heals(bronze):
    bronze.trade(100, 1)
    bronze.trade(100, 4)
    bronze.trade(200, 3, backfilled=True)
    assert states(bronze, 300) == [(0, 2, 3, "open", 110)]
    bronze.trade(200.25, 2, backfilled=True)
    assert states(bronze, 300) == [(0, 2, 3, "healed", 200.25), (0, 2, 3, "open", 110)]


def test_r14_a_backfilled_trade_above_the_highest_opens_nothing(bronze):
    bronze.trade(100, 1)
    bronze.trade(100, 9, backfilled=True)
    bronze.trade(100, 10)
    assert states(bronze, 300) == []


def test_r14_a_refill_loses_what_lies_within_it(bronze):
    for trade_id in (1, 3, 6, 9):
        bronze.trade(100, trade_id)
    bronze.trade(150, 5, backfilled=True)
    bronze.event(200, "refilled", first=4, last=7)
    assert [row[1:] for row in states(bronze, 300) if row[3] == "lost"] == [(4, 5, "lost", 200)]
    bronze.trade(201, 4, backfilled=True)
    assert not [row for row in states(bronze, 300) if row[3] == "healed"]


def test_r14_new_ids_lose_tracked_gaps_and_drop_pending_ones(bronze):
    bronze.trade(100, 1)
    bronze.trade(100, 3)
    bronze.trade(120, 5)
    bronze.event(125, "new_ids")
    bronze.trade(126, 5)
    assert states(bronze, 300) == [(0, 2, 2, "lost", 125), (0, 2, 2, "open", 110)]


def test_r1_beyond_1000_intervals_the_oldest_hole_is_closed(bronze):
    for i in range(1_000):
        bronze.trade(100, 10 * i)
    bronze.trade(200, 5, ts=100, backfilled=True)  # splits the first gap: 1,001 intervals
    lost = [row for row in states(bronze, 300) if row[3] == "lost"]
    assert lost == [(0, 1, 9, "lost", 200)]
    bronze.trade(201, 3, ts=100, backfilled=True)
    assert bronze.verdicts()[-1] == "duplicate"


def test_r1_closing_a_pending_or_untracked_hole_names_its_bounds(bronze):
    bronze.trade(100, 0)
    bronze.trade(100, 7, backfilled=True)
    for i in range(1, 1_000):
        bronze.trade(100, 10 * i)
    assert states(bronze, 100) == [(0, 1, 6, "lost", 100)]
    bronze.trade(100, 10_000)
    assert states(bronze, 100) == [(0, 1, 6, "lost", 100), (0, 8, 9, "lost", 100)]
