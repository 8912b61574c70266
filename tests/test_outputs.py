"""The order of rows on their way out of a pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripted import T0, Script, feed
from tickhouse.history import LakeHistories
from tickhouse.pipeline import Pipeline
from tickhouse.rules import Rules

NAMES = ("ETH-USDT", "BTC-USDT", "ADA-USDT")


def outputs(tmp_path: Path, *, catching_up: bool, leave_out: tuple[str, ...] = ()) -> dict[str, list[tuple[str, int]]]:
    """Feed thirty trades of three symbols in turn; return (symbol, offset) of each row, by table."""
    script = Script().beat(T0)
    for k in range(30):
        script.trade(T0 + k, 100.0 + k, trade_id=k // 3 if k else 7, of=feed(NAMES[k % 3]))
    pipeline = Pipeline(0, Rules(), LakeHistories(tmp_path, 1).of[0], leave_out=leave_out)
    made = pipeline.feed(script.batch(pipeline.feeds, 0, len(script.records)), catching_up=catching_up)
    return {
        name: list(zip(table.column("symbol").to_pylist(), table.column("offset").to_pylist(), strict=True))
        for name, table in made.tables.items()
        if name in ("bronze.trades", "silver.trades")
    }


@pytest.mark.parametrize(("catching_up", "leave_out"), [(False, ()), (True, ("bronze.trades",))])
def test_whoever_looks_live_has_trades_as_they_came(tmp_path, catching_up, leave_out):
    for rows in outputs(tmp_path, catching_up=catching_up, leave_out=leave_out).values():
        assert rows == sorted(rows, key=lambda row: row[1])


def test_many_trades_for_a_store_lie_by_symbol_and_then_as_they_came(tmp_path):
    stored, live = (outputs(tmp_path, catching_up=catching_up) for catching_up in (True, False))
    assert {name: len(rows) for name, rows in live.items()} == {"bronze.trades": 30, "silver.trades": 29}
    for name, rows in stored.items():
        assert rows == sorted(live[name])
