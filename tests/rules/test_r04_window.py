"""Rule R4: bars cover [start, start + interval) (docs/rules.md)."""

from __future__ import annotations

from pathlib import Path

from tests.scripted import MINUTE, SECOND, T0, Script, feed, rows_of, run

HOUR = 60 * MINUTE


def test_a_trade_on_the_boundary_belongs_to_the_bar_that_begins(tmp_path: Path) -> None:
    script = (
        Script()
        .beat(T0 + MINUTE)
        .trade(T0 + MINUTE - 1, 1.0, trade_id=1)
        .trade(T0 + MINUTE, 2.0, trade_id=2)
        .beat(T0 + 3 * MINUTE)
    )
    bars = rows_of(run(script, tmp_path)["gold.bars"], "start", "end", "open", interval="1m")
    assert bars == [(T0, T0 + MINUTE, 1.0), (T0 + MINUTE, T0 + 2 * MINUTE, 2.0)]


def test_a_day_of_an_exchange_is_its_local_date(tmp_path: Path) -> None:
    iex = feed("AAPL", "IEX", "none")
    local_midnight = T0 - 12 * HOUR + 5 * HOUR  # New York in January
    script = Script().beat(T0).trade(local_midnight, of=iex).trade(local_midnight - 1, of=iex)
    script.beat(local_midnight + 24 * HOUR + 10 * SECOND)
    bars = rows_of(run(script, tmp_path)["gold.bars"], "start", "end", "trades", interval="1d")
    assert sorted(bars) == [(local_midnight - 24 * HOUR, local_midnight, 1), (local_midnight, local_midnight + 24 * HOUR, 1)]


def test_the_day_that_springs_forward_has_23_hours(tmp_path: Path) -> None:
    iex = feed("AAPL", "IEX", "none")
    midnight = 1_772_946_000 * SECOND  # 2026-03-08 05:00 UTC, New York's midnight
    script = Script().beat(midnight + HOUR).trade(midnight + HOUR, of=iex).beat(midnight + 25 * HOUR)
    bars = rows_of(run(script, tmp_path)["gold.bars"], "start", "end", interval="1d")
    assert bars == [(midnight, midnight + 23 * HOUR)]
