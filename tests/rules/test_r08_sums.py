"""Rule R8: sums are exact, rounded once (docs/rules.md)."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from pathlib import Path

from tests.scripted import SECOND, T0, Script, rows_of, run

SUMS = ("volume", "notional", "vwap")


def test_sums_do_not_depend_on_order_and_are_the_nearest_double(tmp_path: Path) -> None:
    dice = random.Random(8)
    prints = [(10 ** dice.uniform(-11, 11), 10 ** dice.uniform(-17, 14)) for _ in range(400)]
    expected = (math.fsum(size for _, size in prints), math.fsum(price * size for price, size in prints))
    assert expected[0] == float(sum(Fraction(size) for _, size in prints))
    for _ in range(3):
        dice.shuffle(prints)
        script = Script().beat(T0)
        for trade_id, (price, size) in enumerate(prints):
            script.trade(T0, price, size, trade_id=trade_id)
        script.beat(T0 + 70 * SECOND)
        assert rows_of(run(script, tmp_path)["gold.bars"], *SUMS, interval="1m") == [(*expected, expected[1] / expected[0])]


def test_a_sum_that_compensation_gets_wrong(tmp_path: Path) -> None:
    script = Script().beat(T0)
    for trade_id, size in enumerate((1e15, 1e-18, 1e-18, 0.0625, 1e-18)):
        script.trade(T0, 1.0, size, trade_id=trade_id)
    script.beat(T0 + 70 * SECOND)
    assert rows_of(run(script, tmp_path)["gold.bars"], "volume", interval="1m") == [(math.nextafter(1e15, math.inf),)]


def test_vwap_is_null_at_volume_0(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, 5.0, 0.0, trade_id=1).beat(T0 + 70 * SECOND)
    assert rows_of(run(script, tmp_path)["gold.bars"], *SUMS, interval="1m") == [(0.0, 0.0, None)]
