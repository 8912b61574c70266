"""Specifications: how they are read, the golden vectors of the field, and the batch functions behind them."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import talib

from tickhouse.errors import ConfigError
from tickhouse.indicators.indicators import Indicators
from tickhouse.indicators.specs import catalogue, parse_spec
from tickhouse.rules import Rules

GOLDEN = np.array([10.0, 11, 13, 12, 15, 14, 16, 18])


def exact_deviation(terms, divisor):
    mean = math.fsum(terms) / len(terms)
    return math.sqrt(math.fsum((term - mean) ** 2 for term in terms) / divisor)


@pytest.mark.parametrize(
    ("text", "name", "outputs", "inputs"),
    [
        ("sma(20)", "sma(20)", ("value",), ("close",)),
        (" SMA ( 20 ) ", "sma(20)", ("value",), ("close",)),
        ("bbands(20,2)", "bbands(20,2)", ("upper", "middle", "lower"), ("close",)),
        ("bbands(20, 2.5)", "bbands(20,2.5)", ("upper", "middle", "lower"), ("close",)),
        ("macd(12,26,9)", "macd(12,26,9)", ("macd", "macdsignal", "macdhist"), ("close",)),
        ("macd", "macd(12,26,9)", ("macd", "macdsignal", "macdhist"), ("close",)),
        ("rsi()", "rsi(14)", ("value",), ("close",)),
        ("atr(14)", "atr(14)", ("value",), ("high", "low", "close")),
        ("obv", "obv", ("value",), ("close", "volume")),
        ("volatility(20)", "volatility(20)", ("value",), ("close",)),
    ],
)
def test_a_specification_is_read(text, name, outputs, inputs):
    spec = parse_spec(text)
    assert (spec.name, spec.outputs, spec.inputs) == (name, outputs, inputs)
    assert parse_spec(spec.name) == spec


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("smaa(20)", "did you mean sma"),
        ("sma(20", "not a specification"),
        ("", "not a specification"),
        ("sma(20,3)", "timeperiod=30"),
        ("sma(x)", "whole number"),
        ("sma(2.5)", "whole number"),
        ("sma(-1)", "refuses"),
        ("sma(,)", "timeperiod=30"),
        ("bbands(20,nan)", "finite"),
        ("bbands(20,2,2,0)", "timeperiod=20, nbdev=2.0"),
        ("volatility(1)", "from 2 to"),
        ("mavp(2,30)", "no function"),
    ],
)
def test_a_wrong_specification_says_what_would_do(text, says):
    with pytest.raises(ConfigError, match="indicator") as caught:
        parse_spec(text)
    assert says in str(caught.value)


def test_the_same_indicator_twice_in_the_rules_is_refused():
    with pytest.raises(ConfigError, match=r"'rsi\(14\)' stands twice"):
        Indicators(Rules(indicators=("rsi", "rsi(14)")), None, fresh=True)


def test_golden_vector_of_the_moving_averages():
    columns = {"close": GOLDEN}
    ema = parse_spec("ema(4)").batch(columns)[0]
    assert np.isnan(ema[:3]).all()
    assert ema[3:] == pytest.approx([11.5, 12.9, 13.34, 14.404, 15.8424], rel=1e-12)
    sma = parse_spec("sma(4)").batch(columns)[0]
    assert sma[3:] == pytest.approx([11.5, 12.75, 13.5, 14.25, 15.75], rel=1e-12)


def test_golden_vector_of_the_bands_is_the_population_deviation():
    upper, middle, lower = parse_spec("bbands(4,2)").batch({"close": GOLDEN})
    assert upper[-1] == pytest.approx(18.708040, abs=5e-7)
    assert (middle[-1], lower[-1]) == (15.75, pytest.approx(2 * 15.75 - 18.708040, abs=5e-7))


def test_volatility_is_the_sample_deviation_of_log_returns():
    values = parse_spec("volatility(3)").batch({"close": GOLDEN})[0]
    returns = np.diff(np.log(GOLDEN))
    assert np.isnan(values[:3]).all()
    wanted = [exact_deviation(returns[i : i + 3].tolist(), 2) for i in range(len(returns) - 2)]
    assert values[3:] == pytest.approx(wanted, rel=1e-13)


@pytest.fixture(scope="module")
def quotes(shared):
    with (shared / "fixtures/indicators/quotes_default.csv").open(encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    return {name: np.array([float(row[name]) for row in rows]) for name in ("open", "high", "low", "close", "volume")}


@pytest.mark.parametrize(
    ("text", "file", "fields", "skip"),
    [
        ("sma(20)", "sma", ("sma",), 0),
        ("ema(20)", "ema", ("ema",), 0),
        ("rsi(14)", "rsi", ("rsi",), 0),
        ("atr(14)", "atr", ("atr",), 0),
        ("bbands(20,2)", "bb", ("upperBand", "sma", "lowerBand"), 0),
        ("macd(12,26,9)", "macd", ("macd", "signal", "histogram"), 400),
    ],
)
def test_values_agree_with_an_independent_library(shared, quotes, text, file, fields, skip):
    recorded = json.loads((shared / f"fixtures/indicators/results/{file}.standard.json").read_text(encoding="utf-8-sig"))
    outputs = parse_spec(text).batch(quotes)
    for field, values in zip(fields, outputs, strict=True):
        wanted = np.array([math.nan if row[field] is None else row[field] for row in recorded])[skip:]
        assert np.array_equal(np.isnan(values[skip:]), np.isnan(wanted))
        ready = ~np.isnan(wanted)
        assert ready.any()
        np.testing.assert_allclose(values[skip:][ready], wanted[ready], rtol=1e-11, atol=1e-9)


def test_two_pass_deviations_agree_with_talib_on_ordinary_prices():
    close = 100.0 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, 2_000)))
    ours, theirs = parse_spec("bbands(20,2)").batch({"close": close}), talib.BBANDS(close, 20, 2.0, 2.0)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9)
    np.testing.assert_allclose(parse_spec("stddev(20)").batch({"close": close})[0], talib.STDDEV(close, 20), rtol=1e-7)


def test_two_pass_deviations_are_right_on_a_quiet_high_priced_symbol():
    close = 100_000.0 + np.random.default_rng(1).integers(0, 3, 3_000) / 100.0
    deviation = parse_spec("stddev(20)").batch({"close": close})[0]
    upper, _, lower = parse_spec("bbands(20,2)").batch({"close": close})
    wanted = np.array([exact_deviation(close[i - 19 : i + 1].tolist(), 20) for i in range(19, len(close))])
    np.testing.assert_allclose(deviation[19:], wanted, rtol=1e-6)
    np.testing.assert_allclose((upper - lower)[19:] / 4, wanted, atol=1e-10)


def test_a_pegged_symbol_has_no_deviation():
    close = np.full(100, 1.1)
    assert np.abs(parse_spec("stddev(20)").batch({"close": close})[0][19:]).max() < 1e-15
    assert (parse_spec("volatility(20)").batch({"close": close})[0][20:] == 0.0).all()


def market(n):
    rng = np.random.default_rng(4)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.01, n)))
    opened = close * (1 + rng.normal(0, 0.005, n))
    return {
        "open": opened,
        "high": np.maximum(opened, close) * 1.002,
        "low": np.minimum(opened, close) * 0.998,
        "close": close,
        "volume": rng.integers(1, 1_000, n).astype(float),
    }


@pytest.mark.parametrize("group", sorted({entry.group for entry in catalogue()}))
def test_every_function_gives_the_same_bits_by_batch_and_by_handle(group):
    columns = market(400)
    for entry in catalogue():
        spec = parse_spec(entry.name)
        assert spec.outputs == entry.outputs
        whole = spec.batch(columns)
        assert whole.shape == (len(spec.outputs), 400)
        if entry.group != group or spec.core is None:
            continue
        inputs = [columns[name] for name in spec.core.inputs]
        begin = spec.core.lookback + 1
        handle, opened = spec.core.open([column[:begin] for column in inputs])
        live = np.full((spec.core.n_outputs, 400), np.nan)
        live[:, :begin] = opened
        for i in range(begin, 400):
            live[:, i] = handle.update(*[column[i] for column in inputs])
        assert live.tobytes() == np.array(spec.core.batch(inputs)).tobytes(), entry.name


def test_too_short_a_series_is_null():
    for entry in catalogue():
        for n in (0, 1):
            values = parse_spec(entry.name).batch({name: column[:n] for name, column in market(2).items()})
            assert values.shape == (len(entry.outputs), n)


def test_the_catalogue_names_every_function_once_with_its_group():
    entries = catalogue()
    names = [entry.name for entry in entries]
    assert len(names) == len(set(names))
    assert {name.lower() for name in talib.get_functions()} - set(names) == {"mavp"}
    assert {entry.name: entry.parameters for entry in entries}["bbands"] == {"timeperiod": 20, "nbdev": 2.0}
