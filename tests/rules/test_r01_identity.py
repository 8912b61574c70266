"""Rule R1: what is a duplicate, and what is another trade (docs/rules.md)."""

from __future__ import annotations

from pathlib import Path

from tests.property.markets import read
from tests.scripted import BTC, MINUTE, SECOND, T0, Script, feed, rows_of, run
from tickhouse.rules import Rules

VERDICTS = ("trade_id", "verdict")


def test_an_id_seen_before_is_a_duplicate_however_old(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).trade(T0, trade_id=2)
    script.beat(T0 + 40 * MINUTE).trade(T0, trade_id=1).trade(T0 + 40 * MINUTE, trade_id=3)
    tables = run(script, tmp_path)
    assert rows_of(tables["bronze.trades"], *VERDICTS) == [(1, "accepted"), (2, "accepted"), (1, "duplicate"), (3, "accepted")]
    assert tables["silver.trades"].height == 3


def test_a_known_id_at_another_time_is_a_conflict_and_keeps_its_bytes(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1)
    script.beat(T0 + 10 * MINUTE).trade(T0 + MINUTE, trade_id=1).trade(T0 + MINUTE + 1, trade_id=1)
    tables = run(script, tmp_path)
    assert rows_of(tables["bronze.trades"], *VERDICTS) == [(1, "accepted"), (1, "duplicate")]
    [(reason, payload)] = rows_of(tables["bronze.rejected"], "reason", "payload")
    assert reason == "id_conflict"
    assert b'"trade_id":1' in payload


def test_ids_that_fill_a_hole_are_accepted_and_then_known(tmp_path: Path) -> None:
    script = Script().beat(T0)
    for trade_id in (1, 5, 3, 2, 4, 3):
        script.trade(T0, trade_id=trade_id)
    verdicts = [verdict for _, verdict in rows_of(run(script, tmp_path)["bronze.trades"], *VERDICTS)]
    assert verdicts == ["accepted"] * 5 + ["duplicate"]


def test_another_id_space_is_rejected(tmp_path: Path) -> None:
    aggregated = feed(space="agg")
    script = Script().beat(T0).trade(T0, trade_id=1).trade(T0, trade_id=2, of=aggregated)
    tables = run(script, tmp_path)
    assert rows_of(tables["bronze.rejected"], "reason") == [("identity",)]
    assert tables["silver.trades"].height == 1


def test_a_rejected_trade_does_not_fix_the_id_space(tmp_path: Path) -> None:
    aggregated = feed(space="agg")
    script = Script().beat(T0).trade(T0 + MINUTE, trade_id=2, of=aggregated).trade(T0, trade_id=1)
    tables = run(script, tmp_path)
    assert rows_of(tables["bronze.rejected"], "reason") == [("future",)]
    assert tables["silver.trades"].height == 1


def test_new_ids_begin_an_epoch_in_which_old_ids_are_new(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1)
    script.event("new_ids", source="test", venue=BTC.venue, symbol=BTC.symbol).trade(T0, trade_id=1).trade(T0, trade_id=1)
    tables = run(script, tmp_path)
    assert rows_of(tables["bronze.trades"], "epoch", "verdict") == [(0, "accepted"), (1, "accepted"), (1, "duplicate")]
    assert rows_of(tables["bronze.events"], "event", "symbol") == [("new_ids", "BTC-USDT")]


def test_a_unique_id_is_a_duplicate_for_ten_minutes_after_its_first_sighting(tmp_path: Path) -> None:
    unique = feed(identity="unique")
    script = Script().beat(T0).trade(T0, trade_id=7, of=unique)
    script.beat(T0 + 10 * MINUTE).trade(T0, trade_id=7, of=unique)
    script.beat(T0 + 10 * MINUTE + SECOND // 4).trade(T0, trade_id=7, of=unique).trade(T0, trade_id=7, of=unique)
    for restarts in ([], range(1, len(script.records))):
        tables = run(script, tmp_path, restore_at=restarts)
        verdicts = [verdict for _, verdict in rows_of(tables["bronze.trades"], *VERDICTS)]
        assert verdicts == ["accepted", "duplicate", "accepted", "duplicate"]


def test_a_backfilled_unique_id_is_looked_up_in_all_of_silver(tmp_path: Path) -> None:
    unique = feed(identity="unique")
    script = Script().beat(T0).trade(T0, trade_id=7, of=unique).trade(T0, trade_id="a-7", of=unique)
    script.beat(T0 + 60 * MINUTE)
    for trade_id in (7, "a-7", 8):
        script.trade(T0, trade_id=trade_id, of=unique, backfilled=True)
    tables = run(script, tmp_path, cuts=[3])
    verdicts = rows_of(tables["bronze.trades"], "trade_id", "trade_ref", "verdict")
    assert verdicts[2:] == [(7, None, "duplicate"), (None, "a-7", "duplicate"), (8, None, "accepted")]


def test_text_ids_keep_their_text(tmp_path: Path) -> None:
    unique = feed(identity="unique")
    script = (
        Script()
        .beat(T0)
        .trade(T0, trade_id="x1", of=unique)
        .trade(T0, trade_id="x2", of=unique)
        .trade(T0, trade_id="x1", of=unique)
    )
    tables = run(script, tmp_path)
    assert rows_of(tables["bronze.trades"], "trade_ref", "verdict") == [
        ("x1", "accepted"),
        ("x2", "accepted"),
        ("x1", "duplicate"),
    ]
    assert rows_of(tables["silver.trades"], "trade_id", "trade_ref") == [(None, "x1"), (None, "x2")]


def test_without_ids_equal_prints_all_count(tmp_path: Path) -> None:
    plain = feed(identity="none")
    script = Script().beat(T0)
    for _ in range(5):
        script.trade(T0, 10.0, 2.0, of=plain)
    script.beat(T0 + 70 * SECOND)
    assert rows_of(run(script, tmp_path)["gold.bars"], "trades", "volume", interval="1m") == [(5, 10.0)]


def test_the_oldest_hole_is_closed_as_lost_at_a_thousand_intervals(tmp_path: Path) -> None:
    script = Script().beat(T0)
    for k in range(1001):
        script.trade(T0, trade_id=2 * k)
    tables = run(script, tmp_path)
    assert rows_of(tables["gold.gaps"], "first_missing_id", "last_missing_id", "state") == [(1, 1, "lost")]
    again = Script(script.records[:]).trade(T0, trade_id=1).trade(T0, trade_id=3)
    verdicts = rows_of(run(again, tmp_path)["bronze.trades"], "trade_id", "verdict")[-2:]
    assert verdicts == [(1, "duplicate"), (3, "accepted")]


def test_a_conflict_is_a_minute_outside_the_interval_on_either_side(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0 - 30 * SECOND, trade_id=1).trade(T0, trade_id=2).beat(T0 + 10 * MINUTE)
    bounds = (T0 - 30 * SECOND - MINUTE, T0 + MINUTE)
    for ts in (bounds[0], bounds[1], bounds[0] - 1, bounds[1] + 1):
        script.trade(ts, trade_id=1)
    tables = run(script, tmp_path)
    assert tables["bronze.trades"].height == 4
    assert rows_of(tables["bronze.rejected"], "reason", "offset") == [("id_conflict", 6), ("id_conflict", 7)]


def test_adjacent_intervals_become_one_with_the_times_of_both(tmp_path: Path) -> None:
    script = Script().beat(T0 + 10 * MINUTE).trade(T0, trade_id=1).trade(T0 + 5 * MINUTE, trade_id=3)
    script.trade(T0 + MINUTE, trade_id=2).trade(T0 + 6 * MINUTE, trade_id=1).trade(T0 - MINUTE, trade_id=3)
    assert run(script, tmp_path)["bronze.rejected"].is_empty()


def test_a_textual_id_in_a_contiguous_space_is_rejected_and_fixes_no_space(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id="x").trade(T0, trade_id=1, of=feed(identity="unique"))
    tables = run(script, tmp_path)
    assert rows_of(tables["bronze.rejected"], "reason") == [("identity",)]
    assert rows_of(tables["bronze.trades"], *VERDICTS) == [(1, "accepted")]
    assert not read(tables, Rules(), T0).other_verdicts


def test_a_second_source_shares_the_id_space(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).trade(T0, trade_id=1, of=feed(source="second")).trade(T0, trade_id=2)
    assert [verdict for _, verdict in rows_of(run(script, tmp_path)["bronze.trades"], *VERDICTS)] == [
        "accepted",
        "duplicate",
        "accepted",
    ]


def test_an_id_repeated_within_one_backfill_is_a_duplicate_after_ten_minutes_too(tmp_path: Path) -> None:
    unique = feed(identity="unique")
    script = Script().beat(T0).trade(T0, trade_id=7, of=unique, backfilled=True).beat(T0 + 11 * MINUTE)
    script.trade(T0, trade_id=7, of=unique, backfilled=True).trade(T0, trade_id=7, of=unique)
    verdicts = [verdict for _, verdict in rows_of(run(script, tmp_path)["bronze.trades"], *VERDICTS)]
    assert verdicts == ["accepted", "duplicate", "accepted"]


def test_ids_at_the_ends_of_64_bits_are_told_apart(tmp_path: Path) -> None:
    script = Script().beat(T0)
    for trade_id in (-(2**63), 2**63 - 1, 2**63 - 2, -(2**63) + 1, 2**63 - 1, -(2**63)):
        script.trade(T0, trade_id=trade_id)
    verdicts = [verdict for _, verdict in rows_of(run(script, tmp_path)["bronze.trades"], *VERDICTS)]
    assert verdicts == ["accepted"] * 4 + ["duplicate"] * 2


def test_a_gap_in_the_hole_closed_at_a_thousand_intervals_is_lost_with_its_own_bounds(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=0).trade(T0, trade_id=5).beat(T0 + 10 * SECOND)
    for k in range(999):
        script.trade(T0 + 10 * SECOND, trade_id=7 + 2 * k)
    rows = rows_of(run(script, tmp_path)["gold.gaps"], "first_missing_id", "last_missing_id", "state", "offset")
    assert rows == [(1, 4, "open", 3), (1, 4, "lost", len(script.records) - 1)]
