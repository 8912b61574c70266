"""Rule R12: what cannot be a trade is rejected with its reason (docs/rules.md)."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path

import pytest

from tests.scripted import SECOND, T0, Script, feed, rows_of, run
from tickhouse.rules import Rules


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


@pytest.mark.parametrize("price", [1e-12, 1e12])
@pytest.mark.parametrize("size", [1e-18, 1e15, 0.0])
def test_sums_of_extremes_are_exact(tmp_path: Path, price: float, size: float) -> None:
    script = Script().beat(T0)
    for k in range(7):
        script.trade(T0, price, size, trade_id=k)
    script.beat(T0 + 310 * SECOND)
    volume, notional = math.fsum([size] * 7), math.fsum([price * size] * 7)
    bars = run(script, tmp_path)["gold.bars"]
    for interval in ("1m", "5m"):
        assert rows_of(bars, "volume", "notional", interval=interval) == [(volume, notional)]


@pytest.mark.parametrize(
    ("price", "size"),
    [
        (math.nextafter(1e-12, 0), 1.0),
        (math.nextafter(1e12, math.inf), 1.0),
        (1.0, math.nextafter(1e-18, 0)),
        (1.0, math.nextafter(1e15, math.inf)),
        (1.0, -1e-18),
    ],
)
def test_one_bit_beyond_a_bound_is_rejected(tmp_path: Path, price: float, size: float) -> None:
    tables = run(Script().beat(T0).trade(T0, price, size, trade_id=1), tmp_path)
    assert (tables["bronze.rejected"].height, tables["silver.trades"].height) == (1, 0)


@pytest.mark.parametrize(("year", "valid"), [(1990, True), (2100, False)])
def test_years_from_1990_to_2100_are_valid(tmp_path: Path, year: int, valid: bool) -> None:
    begin = int(dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp()) * SECOND
    for ts, accepted in ((begin, valid), (begin - 1, not valid)):
        script = Script().beat(begin).trade(ts, trade_id=1)
        assert run(script, tmp_path)["silver.trades"].height == accepted


def test_a_polled_price_is_in_no_bar_no_silver_row_and_no_sample(tmp_path: Path) -> None:
    rules = Rules(detector="zscore(2,1)")
    script = Script().beat(T0).trade(T0, 1.0, trade_id=1).trade(T0, 1e6, 0.0, 2, kind="polled").trade(T0, 2.0, trade_id=3)
    script.trade(T0, 9.0, trade_id=4).beat(T0 + 70 * SECOND)
    tables = run(script, tmp_path, rules)
    assert rows_of(tables["bronze.trades"], "kind", "verdict")[1] == ("polled", "accepted")
    assert rows_of(tables["gold.bars"], "trades", "high", interval="1m") == [(3, 9.0)]
    assert rows_of(tables["gold.anomalies"], "value", "baseline") == [(9.0, 1.5)]
