"""Rule R7: no trade, no bar (docs/rules.md)."""

from __future__ import annotations

from pathlib import Path

from tests.scripted import MINUTE, SECOND, T0, Script, rows_of, run


def test_empty_minutes_have_no_bar(tmp_path: Path) -> None:
    script = (
        Script()
        .beat(T0)
        .trade(T0, trade_id=1)
        .beat(T0 + 10 * MINUTE)
        .trade(T0 + 10 * MINUTE, trade_id=2)
        .beat(T0 + 12 * MINUTE)
    )
    assert rows_of(run(script, tmp_path)["gold.bars"], "start", interval="1m") == [(T0,), (T0 + 10 * MINUTE,)]


def test_a_polled_price_makes_no_bar(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, 5.0, 0.0, trade_id=1, kind="polled").beat(T0 + 70 * SECOND)
    tables = run(script, tmp_path)
    assert rows_of(tables["bronze.trades"], "kind", "verdict") == [("polled", "accepted")]
    assert tables["gold.bars"].height == tables["silver.trades"].height == 0
