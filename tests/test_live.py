"""The figures of the live table: each symbol's own, however the journal was cut into batches."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.scripted import BTC, MINUTE, SECOND, T0, Script, feed
from tests.table_rows import DAY
from tickhouse.history import LakeHistory
from tickhouse.live import Board, SymbolFigures
from tickhouse.pipeline import Pipeline
from tickhouse.rules import Rules
from tickhouse.sinks.lake import LakeTables

ETH = feed("ETH-USDT")


def market() -> Script:
    """Two symbols; of BTC one trade comes twice, one late, one with an impossible price."""
    script = Script().beat(T0)
    for i in range(250):
        script.trade(T0 + i, 100.0 + i, 1.0, i)
        if i % 2:
            script.trade(T0 + i, 50.0, 1.0, i, ETH)
    script.trade(T0 + 5, 105.0, 1.0, 5).trade(T0 + 6, -1.0, 1.0, 1_000).beat(T0 + 2 * MINUTE)
    return script.trade(T0 + 7, 99.0, 1.0, 250).rejected("malformed", b"{").beat(T0 + 2 * MINUTE + SECOND)


def figures(cuts: list[int], folder: Path, restart_at: int = -1) -> dict[str, SymbolFigures]:
    """Return the figures by symbol, the script fed in batches that end at `cuts`."""
    script, board = market(), Board()
    pipeline = Pipeline(0, Rules(), LakeHistory(LakeTables(folder), 0))
    board.begin([pipeline.tally])
    for begin, end in pairwise([0, *cuts, len(script.records)]):
        if begin == restart_at:
            pipeline = Pipeline(0, Rules(), LakeHistory(LakeTables(folder), 0), pipeline.snapshot())
            board.begin([pipeline.tally])
        board.mark(pipeline.feed(script.batch(pipeline.feeds, begin, end)).position.clock)
    return {line.symbol: line for line in board.lines()}


@pytest.mark.parametrize("cuts", [[], [1, 2, 100], list(range(1, 379))], ids=["one batch", "a few", "one record each"])
def test_figures_do_not_depend_on_batches(tmp_path: Path, cuts: list[int]) -> None:
    lines = figures(cuts, tmp_path)
    btc, eth = lines[BTC.symbol], lines[ETH.symbol]
    assert (btc.trades, btc.duplicate, btc.late, btc.rejected) == (251, 1, 1, 1)
    assert (btc.first, btc.last) == (100.0, 99.0)
    assert btc.change_pct == pytest.approx(-1.0)
    assert btc.lag_us == 0
    assert (eth.trades, eth.duplicate, eth.late, eth.rejected, eth.last) == (125, 0, 0, 0, 50.0)
    assert btc.source == BTC.source


def test_figures_are_those_since_the_house_began(tmp_path: Path) -> None:
    cuts = [1, 2, 100, 300]
    whole, cut = figures(cuts, tmp_path), figures(cuts, tmp_path, restart_at=100)
    assert {name: replace(line, rate=0.0) for name, line in cut.items()} == {
        name: replace(line, rate=0.0) for name, line in whole.items()
    }


def test_a_change_is_that_since_the_utc_day_began(tmp_path: Path) -> None:
    script, pipeline, board = Script().beat(T0), Pipeline(0, Rules(), LakeHistory(LakeTables(tmp_path), 0)), Board()
    board.begin([pipeline.tally])
    midnight = T0 - T0 % DAY + DAY
    script.trade(T0, 100.0, 1.0, 1).beat(midnight).trade(midnight, 200.0, 1.0, 2).trade(midnight + 1, 220.0, 1.0, 3)
    script.trade(T0 + 1, 90.0, 1.0, 4, backfilled=True)
    board.mark(pipeline.feed(script.batch(pipeline.feeds, 0, len(script.records))).position.clock)
    (line,) = board.lines()
    assert (line.trades, line.first, line.last) == (4, 200.0, 220.0)
    assert line.change_pct == pytest.approx(10.0)
    assert board.knows("BTC-USDT", None)
    assert not board.knows("BTC-USDT", "KRAKEN")


def test_a_rate_is_that_of_the_last_five_seconds(tmp_path: Path) -> None:
    now = 0.0
    script, pipeline = Script().beat(T0), Pipeline(0, Rules(), LakeHistory(LakeTables(tmp_path), 0))
    board = Board(lambda: now)
    board.begin([pipeline.tally])
    rates, at = [], 0
    for second in range(1, 11):
        for i in range(10 if second <= 5 else 0):
            script.trade(T0 + i, 100.0, 1.0, 10 * second + i)
        pipeline.feed(script.batch(pipeline.feeds, at, len(script.records)))
        now, at = float(second), len(script.records)
        board.mark(T0)
        rates.append(board.lines()[0].rate)
    assert rates == [10.0] * 5 + [8.0, 6.0, 4.0, 2.0, 0.0]
