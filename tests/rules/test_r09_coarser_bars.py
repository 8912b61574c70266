"""Rule R9: coarser bars are the same bytes as from the trades (docs/rules.md)."""

from __future__ import annotations

import math
import random
from pathlib import Path

from tests.scripted import MINUTE, SECOND, T0, Script, rows_of, run


def test_every_interval_equals_the_bar_from_its_trades(tmp_path: Path) -> None:
    dice = random.Random(9)
    script = Script().beat(T0)
    trades = []
    for k in range(600):
        ts = T0 + k * 6 * SECOND
        script.beat(ts + SECOND)
        trades.append((ts, round(dice.uniform(99, 101), 2), round(dice.expovariate(1), 6)))
        script.trade(*trades[-1], trade_id=k)
    script.beat(T0 + 61 * MINUTE)
    bars = run(script, tmp_path)["gold.bars"]
    for interval, minutes in (("1m", 1), ("5m", 5), ("15m", 15), ("1h", 60)):
        for start, first, high, low, last, volume, count in rows_of(
            bars, "start", "open", "high", "low", "close", "volume", "trades", interval=interval
        ):
            inside = [(price, size) for ts, price, size in trades if start <= ts < start + minutes * MINUTE]
            prices = [price for price, _ in inside]
            expected = (prices[0], max(prices), min(prices), prices[-1], math.fsum(size for _, size in inside), len(inside))
            assert (first, high, low, last, volume, count) == expected
        assert len(rows_of(bars, "start", interval=interval)) == 60 // minutes
