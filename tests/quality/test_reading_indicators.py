"""R10 by hand: which rows are issued when, over which series, and their values."""

from __future__ import annotations

import math
import statistics
from itertools import groupby, pairwise

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from tickhouse.errors import ConfigError
from tickhouse.quality.reading_bars import BarRow
from tickhouse.quality.reading_indicators import functions, read_indicators

DAY, MINUTE = 86_400, 60
SMA3 = functions(["SMA( 3 )"])


def bar(start: int, close: float, available_at: int, revision: int = 0, volume: float = 1.0) -> BarRow:
    rest = (volume, close * volume, close, 1, None, None, available_at)
    return BarRow(
        "V", "S", "1m", start, start + MINUTE, "trades", revision, close - 0.5, close + 1.0, close - 1.0, close, *rest
    )


def rows(bars, wanted=SMA3, *, output="value") -> list[tuple]:
    """(available_at, start, value), times divided by a second."""
    made = read_indicators([in_us(each) for each in bars], wanted)
    return sorted((row[7] // 1_000_000, row[3] // 1_000_000, row[6]) for row in made if row[5] == output)


def in_us(each: BarRow) -> BarRow:
    return each._replace(start=each.start * 1_000_000, end=each.end * 1_000_000, available_at=each.available_at * 1_000_000)


def minutes(closes, first: int = 0) -> list[BarRow]:
    return [bar(first + 60 * i, close, first + 60 * i + 70) for i, close in enumerate(closes)]


def test_r10_one_row_a_bar_null_until_ready():
    assert rows(minutes([1.0, 2.0, 6.0, 10.0])) == [(70, 0, None), (130, 60, None), (190, 120, 3.0), (250, 180, 6.0)]
    assert read_indicators([in_us(bar(0, 1.0, 70))], SMA3) == [("V", "S", "1m", 0, "sma(3)", "value", None, 70_000_000)]


def test_r10_a_revision_reissues_its_row_and_those_after_it_that_day():
    bars = [*minutes([1.0, 2.0, 6.0, 10.0]), bar(60, 5.0, 260, 1)]
    assert rows(bars)[4:] == [(260, 60, None), (260, 120, 4.0), (260, 180, 7.0)]


def test_r10_a_bar_first_seen_late_takes_its_place_in_the_series():
    bars = [*minutes([1.0, 2.0]), bar(180, 10.0, 250), bar(120, 6.0, 260, 1)]
    assert rows(bars)[3:] == [(260, 120, 3.0), (260, 180, 6.0)]
    assert rows(bars)[2] == (250, 180, 13.0 / 3)


def test_r10_a_day_starts_from_the_bars_before_midnight():
    bars = [*minutes([1.0, 2.0], DAY - 120), *minutes([6.0, 10.0], DAY)]
    assert rows(bars)[2:] == [(DAY + 70, DAY, 3.0), (DAY + 130, DAY + 60, 6.0)]


def test_r10_a_revision_of_a_seed_reissues_the_whole_day_it_seeds():
    bars = [*minutes([1.0, 2.0], DAY - 120), *minutes([6.0, 10.0], DAY), bar(DAY - 120, 4.0, DAY + 200, 1)]
    at = DAY + 200
    assert rows(bars)[4:] == [(at, DAY - 120, None), (at, DAY - 60, None), (at, DAY, 4.0), (at, DAY + 60, 6.0)]


def test_r10_only_1000_seeds_count():
    bars = [*minutes([float(i) for i in range(1_001)]), *minutes([7.0], DAY)]
    at = DAY + 200
    first = rows([*bars, bar(0, 5.0, at, 1)])
    assert {start for when, start, _ in first if when == at} == {60 * i for i in range(1_001)}
    second = rows([*bars, bar(60, 5.0, at, 1)])
    assert {start for when, start, _ in second if when == at} == {60 * i for i in range(1, 1_001)} | {DAY}


def test_r10_ema_starts_afresh_from_the_seeds():
    closes = [100 + math.sin(i) for i in range(1_300)]
    bars = [*minutes(closes), *minutes([50.0, 60.0], DAY)]
    series = np.array([*closes[-1_000:], 50.0, 60.0])
    expected = talib.EMA(series, 20)[-2:].tolist()
    assert [value for _, _, value in rows(bars, functions(["ema(20)"]))[-2:]] == expected


def naive(bars, wanted) -> list[tuple]:
    """R10 word by word: one fresh batch for each row issued."""
    made = []
    issued = sorted(bars, key=lambda each: each.available_at)
    for instant, now in groupby(issued, key=lambda each: each.available_at):
        starts = [each.start for each in now]
        known = {each.start: each for each in issued if each.available_at <= instant}
        ordered = [known[start] for start in sorted(known)]
        for day in sorted({each.start // DAY for each in ordered}):
            own = [each for each in ordered if each.start // DAY == day]
            seeds = [each for each in ordered if each.start < day * DAY][-1_000:]
            if any(each.start in starts for each in seeds):
                first = own[0].start
            elif any(start // DAY == day for start in starts):
                first = min(start for start in starts if start // DAY == day)
            else:
                continue
            for place, each in enumerate(own):
                if each.start < first:
                    continue
                series = [*seeds, *own[: place + 1]]
                cells = [(one.open, one.high, one.low, one.close, one.volume) for one in series]
                for function in wanted:
                    for output, values in function.values(cells).items():
                        value = None if math.isnan(values[-1]) else values[-1]
                        made.append((instant, each.start, function.name, output, value))
    return made


NAMES = [
    "sma(3)",
    "ema(4)",
    "bbands(3,2)",
    "volatility(3)",
    "rsi(3)",
    "macd(3,5,2)",
    "atr(3)",
    "obv",
    "stoch(3,2,0,2,0)",
    "stddev(4)",
]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 59), st.integers(1, 40), st.sampled_from([100.0, 101.5, 99.25, 100.1, 3.0])), max_size=45)
)
def test_r10_batches_over_a_run_give_what_a_fresh_batch_for_each_row_gives(drawn):
    bars: dict[tuple[int, int], BarRow] = {}
    revisions: dict[int, int] = {}
    for place, delay, close in sorted(drawn, key=lambda each: each[0] + each[1]):
        start, available_at = place * 6 * 3600, (place + delay) * 6 * 3600 + 70
        if (start, available_at) not in bars:
            revisions[start] = revisions.get(start, -1) + 1
            bars[start, available_at] = bar(start, close, available_at, revisions[start], volume=float(place + 1))
    wanted = functions(NAMES)
    made = read_indicators([in_us(each) for each in bars.values()], wanted)
    seen = [(row[7] // 1_000_000, row[3] // 1_000_000, row[4], row[5], row[6]) for row in made]
    assert sorted(seen, key=repr) == sorted(naive(bars.values(), wanted), key=repr)


def values(name: str, closes) -> dict[str, list[float]]:
    return functions([name])[0].values([(close, close + 1, close - 1, close, 2.0) for close in closes])


def test_deviations_are_exact_on_quiet_high_priced_symbols():
    closes = [1e9 + 0.001 * (i % 3) for i in range(40)]
    bands = values("bbands(20,2)", closes)
    for i in range(19, 40):
        deviation = statistics.pstdev(closes[i - 19 : i + 1])
        assert bands["upper"][i] - bands["middle"][i] == pytest.approx(2 * deviation, rel=1e-3)
    assert values("stddev(20)", [5.0] * 25)["value"][19:] == [0.0] * 6


def test_volatility_is_the_sample_deviation_of_log_returns():
    closes = [100.0, 101.0, 99.0, 102.0, 103.5]
    made = values("volatility(3)", closes)["value"]
    returns = [math.log(b / a) for a, b in pairwise(closes)]
    assert all(math.isnan(value) for value in made[:3])
    assert made[3:] == [pytest.approx(statistics.stdev(returns[i : i + 3]), rel=1e-12) for i in (0, 1)]


def test_deviations_agree_with_talib_on_ordinary_data():
    closes = [100 + math.sin(i / 3) + i * 0.01 for i in range(200)]
    upper, middle, lower = talib.BBANDS(np.array(closes), 20, 2.0, 2.0)
    made = values("bbands(20,2)", closes)
    for ours, theirs in ((made["upper"], upper), (made["lower"], lower)):
        np.testing.assert_allclose(ours[19:], theirs[19:], rtol=1e-9)
    assert made["middle"][19:] == middle[19:].tolist()


def test_outputs_and_inputs_of_any_talib_function():
    closes = [100 + math.sin(i) for i in range(60)]
    assert list(values("macd(12,26,9)", closes)) == ["macd", "macdsignal", "macdhist"]
    assert list(values("aroon(14)", closes)) == ["aroondown", "aroonup"]
    assert list(values("atr(14)", closes)) == ["value"]
    array = np.array(closes)
    expected = talib.ATR(array + 1, array - 1, array, 14)
    assert values("atr(14)", closes)["value"][14:] == expected[14:].tolist()
    assert values("obv", closes)["value"] == talib.OBV(array, np.full(60, 2.0)).tolist()
    assert values("bbands(2,1)", [1.0]).keys() == {"upper", "middle", "lower"}


@pytest.mark.parametrize("name", ["nosuch(3)", "sma(3", "sma(a)", "sma(1,2,3)", "bbands(20)", "volatility(1)", ""])
def test_an_indicator_that_is_not_understood_is_named(name):
    with pytest.raises(ConfigError, match=r"indicator|deviation"):
        functions([name])[0].values([(1.0, 1.0, 1.0, 1.0, 1.0)] * 3)
