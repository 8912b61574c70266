"""The figures of the live table: each symbol's own, however the journal was cut into batches."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tests.scripted import BTC, MINUTE, SECOND, T0, Script, feed
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


def figures(cuts: list[int], folder: Path) -> dict[str, SymbolFigures]:
    """Return the figures by symbol, the script fed in batches that end at `cuts`."""
    script, board = market(), Board()
    pipeline = Pipeline(0, Rules(), LakeHistory(LakeTables(folder), 0))
    for begin, end in pairwise([0, *cuts, len(script.records)]):
        batch = script.batch(pipeline.feeds, begin, end)
        board.update(batch, pipeline.feed(batch))
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
    assert sum(count for _, count in btc.recent) == 251
