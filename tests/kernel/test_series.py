"""The compiled averages and deviations: TA-Lib's own bits, and the C library's logarithm."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
import talib

from tickhouse.indicators.plan import IndicatorPlan
from tickhouse.indicators.specs import parse_spec, window_values
from tickhouse.kernel.averages import EMA, EMA_FUSED, SMA, log_address
from tickhouse.kernel.series import again, empty_rows


def shapes(rng):
    """Series as markets make them, and as they had better not."""
    n = int(rng.integers(1, 3_000))
    walk = np.exp(np.cumsum(rng.normal(0, rng.choice([1e-12, 1e-4, 0.5]), n)))
    yield walk * 10.0 ** int(rng.integers(-9, 9))
    yield np.round(walk, 2) + 0.01
    yield rng.choice([1e-12, 1e12, 1.0, 0.1 + 0.2], n)
    yield np.full(n, 0.1)
    yield np.where(rng.random(n) < 0.01, 1e12, walk)
    yield np.exp(rng.normal(0, 8, n))


def computed(spec, close):
    plan = IndicatorPlan([spec], len(close))
    made = empty_rows(len(close), len(plan.averages), len(plan.windows), 0)
    held = plan.series(np.arange(len(close)), close.reshape(1, -1))
    again(held.start, held.values, held.returns, plan.loops, made, 0, 0, 0, len(close), 7)
    assert made.cause.tolist() == [7] * len(close)
    assert made.start.tolist() == list(range(len(close)))
    assert plan.cores == [], "computed by the loops"
    return plan.values(made, len(close), []).T


def same_bits(got, wanted):
    ready = ~np.isnan(wanted)
    assert np.array_equal(np.isnan(got), ~ready)
    assert np.array_equal(got[ready].view(np.int64), wanted[ready].view(np.int64))


@pytest.mark.parametrize("period", [2, 3, 5, 20, 50, 200, 999])
@pytest.mark.parametrize("name", ["sma", "ema"])
def test_an_average_has_the_bits_of_the_library(name, period):
    rng = np.random.default_rng(period)
    function = getattr(talib, name.upper())
    for close in (close for _ in range(4) for close in shapes(rng)):
        wanted = function(close, period) if len(close) >= period else np.full(len(close), np.nan)
        same_bits(computed(parse_spec(f"{name}({period})"), close)[0], wanted)


@pytest.mark.parametrize("text", ["stddev(5)", "stddev(2)", "volatility(20)", "volatility(2)", "bbands(20,2)", "bbands(3,0.7)"])
def test_a_deviation_has_the_bits_of_the_plain_reading(text):
    rng = np.random.default_rng(len(text))
    spec = parse_spec(text)
    for close in shapes(rng):
        for got, wanted in zip(computed(spec, close), spec.batch({"close": close}), strict=True):
            same_bits(got, wanted)


def test_windows_are_computed_alike_by_columns_and_by_loops():
    close = np.exp(np.random.default_rng(4).normal(0, 1, 300))
    window = parse_spec("stddev(7)").window
    at = np.arange(len(close))
    same_bits(computed(parse_spec("stddev(7)"), close)[0], window_values(window, close, at, at))


def test_the_logarithm_is_the_one_of_the_language():
    log = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(log_address())
    for x in np.exp(np.random.default_rng(0).normal(0, 3, 10_000)).tolist():
        assert log(x) == math.log(x)


def test_other_functions_and_an_average_of_one_bar_are_left_to_the_library():
    plan = IndicatorPlan([parse_spec(text) for text in ("sma(1)", "rsi(14)", "sma(20)", "ema(9)")], 1_000)
    assert [core.function for core in plan.cores] == ["SMA", "RSI"]
    assert [core.function for core in plan.averages] == ["SMA", "EMA"]
    assert plan.loops.average[0, 0] == SMA
    assert plan.loops.average[1, 0] in (EMA, EMA_FUSED)
