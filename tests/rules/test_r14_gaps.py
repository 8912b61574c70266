"""Rule R14: missing ids are found, and known to be healed or lost (docs/rules.md)."""

from __future__ import annotations

from pathlib import Path

from tests.scripted import BTC, SECOND, T0, Script, rows_of, run
from tickhouse.rules import Rules

GAPS = ("first_missing_id", "last_missing_id", "state", "clock")
DUE = T0 + 10 * SECOND


def test_a_hole_still_there_after_the_lateness_opens_a_gap(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).trade(T0, trade_id=5).beat(DUE - SECOND // 4)
    assert run(script, tmp_path)["gold.gaps"].height == 0
    script.beat(DUE + SECOND)
    assert rows_of(run(script, tmp_path)["gold.gaps"], *GAPS) == [(2, 4, "open", DUE)]


def test_reordered_ids_open_no_gap(tmp_path: Path) -> None:
    script = (
        Script()
        .beat(T0)
        .trade(T0, trade_id=1)
        .trade(T0, trade_id=3)
        .beat(T0 + 9 * SECOND)
        .trade(T0, trade_id=2)
        .beat(T0 + 60 * SECOND)
    )
    assert run(script, tmp_path)["gold.gaps"].height == 0


def test_a_hole_filled_in_the_middle_opens_two_gaps(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).trade(T0, trade_id=9).trade(T0, trade_id=5).beat(DUE)
    assert sorted(rows_of(run(script, tmp_path)["gold.gaps"], *GAPS)) == [(2, 4, "open", DUE), (6, 8, "open", DUE)]


def test_a_gap_is_healed_by_its_last_missing_id(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).trade(T0, trade_id=4).beat(DUE).trade(T0, trade_id=2, backfilled=True)
    script.beat(DUE + SECOND).trade(T0, trade_id=3, backfilled=True)
    assert rows_of(run(script, tmp_path)["gold.gaps"], *GAPS) == [(2, 3, "open", DUE), (2, 3, "healed", DUE + SECOND)]


def test_what_a_refill_leaves_missing_is_lost(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).trade(T0, trade_id=4).beat(DUE).trade(T0, trade_id=2, backfilled=True)
    script.event("refilled", source="test", venue=BTC.venue, symbol=BTC.symbol, detail={"first": 2, "last": 3})
    assert rows_of(run(script, tmp_path)["gold.gaps"], *GAPS) == [(2, 3, "open", DUE), (2, 3, "lost", DUE)]


def test_a_backfilled_trade_opens_no_gap(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).trade(T0, trade_id=9, backfilled=True).beat(DUE)
    assert run(script, tmp_path)["gold.gaps"].height == 0


def test_the_first_id_ever_opens_no_gap(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1_000_000).beat(DUE)
    assert run(script, tmp_path)["gold.gaps"].height == 0


def test_more_than_a_million_ids_at_once_still_open_a_gap(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).trade(T0, trade_id=5_000_000).beat(DUE)
    assert rows_of(run(script, tmp_path)["gold.gaps"], *GAPS) == [(2, 4_999_999, "open", DUE)]


def test_a_gap_as_wide_as_64_bits_allow_opens(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=-(2**63)).trade(T0, trade_id=2**63 - 1).beat(DUE)
    assert rows_of(run(script, tmp_path)["gold.gaps"], *GAPS) == [(-(2**63) + 1, 2**63 - 2, "open", DUE)]


def test_a_refill_closes_only_gaps_that_lie_within_it(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1)
    for trade_id in (4, 7, 10):
        script.trade(T0, trade_id=trade_id)
    script.beat(DUE)
    script.event("refilled", source="test", venue=BTC.venue, symbol=BTC.symbol, detail={"first": 3, "last": 8})
    changed = rows_of(run(script, tmp_path)["gold.gaps"], *GAPS)[3:]
    assert changed == [(5, 6, "lost", DUE)]


def test_new_ids_close_tracked_gaps_as_lost_and_forget_pending_ones(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).trade(T0, trade_id=3).beat(DUE).trade(T0, trade_id=9)
    script.event("new_ids", source="test", venue=BTC.venue, symbol=BTC.symbol).trade(T0, trade_id=100).beat(DUE + 60 * SECOND)
    rows = rows_of(run(script, tmp_path)["gold.gaps"], *GAPS, "epoch", "offset")
    assert rows == [(2, 2, "open", DUE, 0, 3), (2, 2, "lost", DUE, 0, 5)]


def test_a_gap_opens_lateness_after_the_trade_that_showed_it_also_where_the_clock_jumps(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).beat(T0 + SECOND).trade(T0, trade_id=3).beat(T0 + 3600 * SECOND)
    rules = Rules(lateness_us=2_500_000)
    assert rows_of(run(script, tmp_path, rules)["gold.gaps"], *GAPS) == [(2, 2, "open", T0 + 3_500_000)]


def test_a_waiting_gap_outlives_a_restart(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).trade(T0, trade_id=5).trade(T0, trade_id=3).beat(DUE)
    script.trade(T0, trade_id=2).trade(T0, trade_id=4)
    rows = rows_of(run(script, tmp_path, restore_at=range(1, 7))["gold.gaps"], *GAPS)
    assert rows == [(2, 2, "open", DUE), (4, 4, "open", DUE), (2, 2, "healed", DUE), (4, 4, "healed", DUE)]
