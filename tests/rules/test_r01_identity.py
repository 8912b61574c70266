"""Rule R1: what is a duplicate, and what is another trade (docs/rules.md)."""

from __future__ import annotations

from pathlib import Path

from tests.scripted import BTC, MINUTE, SECOND, T0, Script, feed, rows_of, run

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
    verdicts = [verdict for _, verdict in rows_of(run(script, tmp_path)["bronze.trades"], *VERDICTS)]
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
