from __future__ import annotations

from tests.kernel.stream import T0, Fed, beat, numbered, trade
from tickhouse.rules import Rules

LATER = T0 + 10_000_000


def verdicts(records):
    return [verdict[0] for verdict in Fed(Rules()).feed(numbered(records)).verdicts]


def gaps(records):
    return [(gap[2], gap[3], gap[4], gap[5]) for gap in Fed(Rules()).feed(numbered(records)).gaps]


def test_contiguous_id_seen_before_is_a_duplicate_however_old():
    assert verdicts([beat(T0), trade(0, T0, 1), trade(0, T0, 2), beat(T0 + 10**12), trade(0, T0, 1)]) == [0, 0, 1]


def test_known_id_with_a_ts_more_than_a_minute_off_is_a_conflict():
    first = [beat(T0 + 100_000_000), trade(0, T0, 1), trade(0, T0 + 10_000_000, 2)]
    assert verdicts([*first, trade(0, T0 - 60_000_001, 1)])[-1] == 8
    assert verdicts([*first, trade(0, T0 - 60_000_000, 1)])[-1] == 1
    assert verdicts([*first, trade(0, T0 + 70_000_000, 2)])[-1] == 1
    assert verdicts([*first, trade(0, T0 + 70_000_001, 2)])[-1] == 8


def test_extreme_ids_do_not_wrap_around():
    low, high = -(2**63), 2**63 - 1
    assert verdicts(
        [beat(T0), trade(0, T0, high), trade(0, T0, low), trade(0, T0, high), trade(0, T0, low), trade(0, T0, 0)]
    ) == [0, 0, 1, 1, 0]


def test_gap_opens_when_due_and_heals_with_its_last_id():
    records = [beat(T0), trade(0, T0, 1), trade(0, T0, 5), beat(LATER), trade(0, T0, 3), trade(0, T0, 4), trade(0, T0, 2)]
    assert gaps(records[:4]) == [(2, 4, 0, LATER)]
    assert gaps(records) == [(2, 4, 0, LATER), (2, 4, 1, LATER)]


def test_gap_filled_before_it_is_due_leaves_no_row():
    assert gaps([beat(T0), trade(0, T0, 1), trade(0, T0, 3), trade(0, T0, 2), beat(LATER)]) == []


def test_pending_gap_becomes_one_gap_for_each_hole_left():
    records = [beat(T0), trade(0, T0, 1), trade(0, T0, 10), trade(0, T0, 4), trade(0, T0, 7), trade(0, T0, 8), beat(LATER)]
    assert gaps(records) == [(2, 3, 0, LATER), (5, 6, 0, LATER), (9, 9, 0, LATER)]


def test_backfilled_trade_above_the_highest_opens_no_gap():
    assert gaps([beat(T0), trade(0, T0, 1), trade(0, T0, 5, backfilled=1), beat(LATER)]) == []


def test_refill_done_closes_the_gaps_within_as_lost():
    opened = [beat(T0), trade(0, T0, 1), trade(0, T0, 4), trade(0, T0, 9), beat(LATER), trade(0, T0, 2)]
    done = {"event": "refilled", "instrument": 0, "first": 2, "last": 7}
    assert gaps([*opened, done])[2:] == [(2, 3, 2, LATER)]
    assert gaps([*opened, done | {"last": 8}])[2:] == [(2, 3, 2, LATER), (5, 8, 2, LATER)]
    assert gaps([*opened, done, trade(0, T0, 3)])[2:] == [(2, 3, 2, LATER)]


def test_new_ids_closes_tracked_gaps_forgets_pending_ones_and_begins_an_epoch():
    fed = Fed(Rules()).feed(
        numbered([
            beat(T0), trade(0, T0, 1), trade(0, T0, 4), beat(LATER), trade(0, T0, 9),
            {"event": "new_ids", "instrument": 0}, trade(0, T0, 4), trade(0, T0, 6), beat(LATER + 20_000_000),
        ])
    )  # fmt: skip
    assert [gap[1:5] for gap in fed.gaps] == [(0, 2, 3, 0), (0, 2, 3, 2), (1, 5, 5, 0)]
    assert [verdict[0] for verdict in fed.verdicts] == [0, 0, 0, 0, 0]


def holes(count):
    return [beat(T0), *(trade(0, T0, 2 * k) for k in range(count + 1))]


def test_oldest_hole_is_lost_when_there_are_more_than_a_thousand_intervals():
    records = [*holes(999), beat(LATER)]
    assert [gap[:3] for gap in gaps(records)] == [(2 * k + 1, 2 * k + 1, 0) for k in range(999)]
    assert gaps([*records, trade(0, T0, 2000)])[-1] == (1, 1, 2, LATER)
    assert verdicts([*records, trade(0, T0, 2000), trade(0, T0, 1)])[-1] == 1
    assert gaps([*records, trade(0, T0, 2000), trade(0, T0, 2002)])[-1] == (3, 3, 2, LATER)


def test_pending_or_untracked_oldest_hole_gives_a_lost_row_of_its_own():
    assert gaps(holes(1000)) == [(1, 1, 2, T0)]
    backfilled = [{**record, "backfilled": 1} if "ts" in record else record for record in holes(1000)]
    assert gaps(backfilled) == [(1, 1, 2, T0)]
    assert gaps([*holes(1000), beat(LATER)])[1] == (3, 3, 0, LATER)


def test_tracked_gap_that_reaches_into_the_lost_hole_is_lost_as_a_whole():
    start = [beat(T0), trade(0, T0, 1), trade(0, T0, 9), beat(LATER), trade(0, T0, 5)]
    more = [trade(0, T0, 10 + 2 * k + 1) for k in range(998)]
    assert gaps([*start, *more])[1:] == [(2, 8, 2, LATER)]


def test_unique_id_is_a_duplicate_for_ten_minutes_of_clock():
    def second(after):
        return verdicts([beat(T0), trade(3, T0, 7), beat(T0 + after), trade(3, T0, 7)])[-1]

    assert second(600_000_000) == 1
    assert second(600_250_000) == 0


def test_repeat_after_ten_minutes_is_the_first_sighting_again_and_a_duplicate_is_none():
    half = 400_000_000
    records = [beat(T0), trade(3, T0, 7), beat(T0 + half), trade(3, T0, 7), beat(T0 + 2 * half), trade(3, T0, 7)]
    assert verdicts([*records, beat(T0 + 3 * half), trade(3, T0, 7)]) == [0, 1, 0, 1]


def test_thousands_of_unique_ids_come_and_go():
    records = []
    for k in range(3000):
        records += [beat(T0 + 1_000_000 * k), trade(3, T0, k), trade(3, T0, max(0, k - 300)), trade(3, T0, max(0, k - 601))]
    judged = verdicts(records)
    assert judged[3::3] == [0] * 2999
    assert judged[1::3] == [1] * 3000
    assert judged[2::3] == [1] * 601 + [0] * 2399


def test_prints_without_ids_all_count():
    assert verdicts([beat(T0), trade(4, T0), trade(4, T0), trade(4, T0)]) == [0, 0, 0]
