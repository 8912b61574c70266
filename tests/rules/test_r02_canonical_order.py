"""Rule R2: open and close are first and last in canonical order (docs/rules.md)."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from tests.property.markets import assert_read
from tests.scripted import MINUTE, SECOND, T0, Script, feed, rows_of, run
from tickhouse.rules import Rules

FIRST = dt.datetime(2026, 1, 15, 12, tzinfo=dt.UTC)
OHLC = ("open", "high", "low", "close", "first_trade_id", "last_trade_id")


def test_order_is_by_ts_then_id_whatever_arrives_first(tmp_path: Path) -> None:
    script = Script().beat(T0 + 3 * SECOND)
    for ts, price, trade_id in ((2, 30.0, 13), (1, 20.0, 12), (1, 10.0, 11), (2, 40.0, 14)):
        script.trade(T0 + ts * SECOND, price, trade_id=trade_id)
    script.beat(T0 + 70 * SECOND)
    assert rows_of(run(script, tmp_path)["gold.bars"], *OHLC, interval="1m") == [(10.0, 40.0, 10.0, 40.0, 11, 14)]


def test_ids_compare_as_numbers(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, 2.0, trade_id=10).trade(T0, 1.0, trade_id=9).beat(T0 + 70 * SECOND)
    assert rows_of(run(script, tmp_path)["gold.bars"], "open", "close", interval="1m") == [(1.0, 2.0)]


def test_without_ids_equal_times_stand_as_they_came(tmp_path: Path) -> None:
    plain = feed(identity="none")
    script = Script().beat(T0).trade(T0, 5.0, of=plain).trade(T0, 3.0, of=plain).trade(T0, 4.0, of=plain).beat(T0 + 70 * SECOND)
    assert rows_of(run(script, tmp_path)["gold.bars"], *OHLC, interval="1m") == [(5.0, 5.0, 3.0, 4.0, None, None)]


def test_a_textual_id_stands_at_its_digest(tmp_path: Path) -> None:
    texts = feed(identity="unique")
    # The digests begin with 27 (a), 96 (b) and ca (c), without a sign, and stand above every number.
    script = Script().beat(T0)
    for price, trade_id in ((1.0, "b"), (2.0, "c"), (3.0, "a"), (4.0, 2**62)):
        script.trade(T0, price, trade_id=trade_id, of=texts)
    script.beat(T0 + 70 * SECOND)
    assert rows_of(run(script, tmp_path)["gold.bars"], "open", "close", interval="1m") == [(4.0, 2.0)]


@pytest.mark.parametrize("left", [False, True], ids=["in-the-state", "made-again"])
@pytest.mark.parametrize(
    ("earlier", "later"),
    [("contiguous", "contiguous"), ("contiguous", "unique"), ("contiguous", "none"), ("none", "contiguous"), ("none", "none")],
)
def test_trades_of_two_epochs_with_equal_or_no_ids_stand_as_they_came(
    tmp_path: Path, earlier: str, later: str, left: bool
) -> None:
    before, after = feed(identity=earlier), feed(identity=later, space="other")
    script = Script().beat(T0).trade(T0, 1.0, trade_id=None if earlier == "none" else 0, of=before)
    script.event("new_ids", source="test", venue=before.venue, symbol=before.symbol)
    ids = iter(range(1000))

    def trade(ts: int, price: float) -> None:
        script.trade(ts, price, trade_id=None if later == "none" else next(ids), of=after)

    trade(T0, 2.0)
    if left:
        for k in range(1, 9):
            script.beat(T0 + k * MINUTE)
            trade(T0 + k * MINUTE, 5.0)
        trade(T0 - 1 + MINUTE, 2.0)
    script.beat(T0 + 10 * MINUTE)
    rules = Rules(intervals=("1m",), indicators=(), indicator_intervals=(), timezones=())
    tables = run(script, tmp_path, rules)
    assert rows_of(tables["gold.bars"], "open", "close", start=FIRST) == [(1.0, 2.0)] * (1 + left)
    assert_read(tables, rules, T0 + 10 * MINUTE)
