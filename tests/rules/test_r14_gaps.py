"""Rule R14: missing ids are found, and known to be healed or lost (docs/rules.md)."""

from __future__ import annotations

from pathlib import Path

from tests.scripted import BTC, SECOND, T0, Script, rows_of, run

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
