"""Rule R12: what cannot be a trade is rejected with its reason (docs/rules.md)."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path

import pytest

from tests.scripted import SECOND, T0, Script, feed, rows_of, run


@pytest.mark.parametrize(
    ("price", "size", "ts", "reason"),
    [
        (0.0, 1.0, T0, "price"),
        (-1.0, 1.0, T0, "price"),
        (math.nan, 1.0, T0, "price"),
        (math.inf, 1.0, T0, "price"),
        (1e13, 1.0, T0, "price"),
        (9e-13, 1.0, T0, "price"),
        (1.0, -1.0, T0, "size"),
        (1.0, math.nan, T0, "size"),
        (1.0, 1e16, T0, "size"),
        (1.0, 1e-19, T0, "size"),
        (1.0, 1.0, int(dt.datetime(1989, 12, 31, tzinfo=dt.UTC).timestamp()) * SECOND, "ts"),
        (1.0, 1.0, int(dt.datetime(2100, 1, 1, tzinfo=dt.UTC).timestamp()) * SECOND, "ts"),
        (1.0, 1.0, T0 + 5 * SECOND + 1, "future"),
        (-1.0, -1.0, T0 + 5 * SECOND + 1, "price"),
    ],
)
def test_a_bad_value_is_rejected_and_moves_nothing(tmp_path: Path, price: float, size: float, ts: int, reason: str) -> None:
    script = Script().beat(T0).trade(ts, price, size, trade_id=1).trade(T0, 7.0, trade_id=1).beat(T0 + 70 * SECOND)
    tables = run(script, tmp_path)
    assert rows_of(tables["bronze.rejected"], "reason", "source") == [(reason, "test")]
    assert rows_of(tables["gold.bars"], "open", "trades", interval="1m") == [(7.0, 1)]


def test_the_bounds_themselves_are_valid(tmp_path: Path) -> None:
    script = Script().beat(T0)
    bounds = [(1e-12, 1e-18), (1e12, 1e15), (1.0, 0.0)]
    for k, (price, size) in enumerate(bounds):
        script.trade(T0 + 5 * SECOND, price, size, trade_id=k)
    assert run(script, tmp_path)["silver.trades"].height == 3


def test_an_empty_symbol_is_rejected(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1, of=feed(""))
    assert rows_of(run(script, tmp_path)["bronze.rejected"], "reason") == [("symbol",)]


def test_payloads_that_became_no_trade_keep_their_bytes(tmp_path: Path) -> None:
    script = Script().beat(T0).rejected("malformed", b"\xff{not json")
    assert rows_of(run(script, tmp_path)["bronze.rejected"], "payload", "clock") == [(b"\xff{not json", T0)]
