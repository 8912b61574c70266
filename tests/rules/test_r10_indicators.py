"""Rule R10: every row is the batch function over the bars of its series as of its instant, from the day's seeds on."""

from __future__ import annotations

import math
import struct
from itertools import pairwise

import numpy as np
import pytest
import talib

from tickhouse.indicators import indicators as module
from tickhouse.indicators.indicators import Indicators
from tickhouse.indicators.series import BarColumns
from tickhouse.kernel import series_pool
from tickhouse.kernel.base import Bars
from tickhouse.model import Cause, Feeds, Instrument
from tickhouse.rules import Rules, parse_duration

DAY = 86_400_000_000
MIDNIGHT = 20_000 * DAY
MIX = ("sma(3)", "ema(4)", "bbands(4,2)", "volatility(3)", "atr(3)", "obv", "cdldoji", "macd(2,4,3)")


class Memory:
    """The bars issued so far, answered by cause."""

    def __init__(self, rules):
        self.rules, self.rows, self.calls = rules, [], []

    def add(self, bars, feeds):
        for i in range(len(bars.start)):
            name = (feeds.instruments[int(bars.instrument[i])], self.rules.intervals[int(bars.level[i])])
            cause = Cause(0, int(bars.offset[i]), int(bars.row[i]))
            values = tuple(float(getattr(bars, column)[i]) for column in ("open", "high", "low", "close", "volume"))
            self.rows.append((name, int(bars.start[i]), cause, values))

    def bars(self, wanted, before):
        self.calls.append(list(wanted))
        found = {}
        for want in wanted:
            name = (want.instrument, want.interval)
            rows = [row for row in self.rows if row[0] == name and row[2] < before and row[1] < want.end_start]
            latest = {start: values for _, start, _, values in rows}
            starts = sorted(start for start in latest if want.start_from is None or start >= want.start_from)
            starts = starts[-want.count :] if want.count is not None else starts
            columns = np.array([latest[start] for start in starts], np.float64).reshape(len(starts), 5).T
            found[want] = BarColumns(np.array(starts, np.int64), *(np.ascontiguousarray(column) for column in columns))
        return found


def columns_of(issued):
    """Columns from (instrument, level, start, open, high, low, close, volume, revision, available_at, offset)."""
    n = len(issued)
    instrument, level, start, o, h, lo, c, v, revision, available_at, offset = zip(*issued, strict=True)
    zeros = np.zeros(n, np.int64)
    return Bars(
        instrument=np.array(instrument, np.int32),
        level=np.array(level, np.int8),
        start=np.array(start, np.int64),
        end=np.array(start, np.int64),
        revision=np.array(revision, np.int32),
        open=np.array(o),
        high=np.array(h),
        low=np.array(lo),
        close=np.array(c),
        volume=np.array(v),
        notional=np.ones(n),
        trades=zeros,
        first_trade_id=zeros,
        last_trade_id=zeros,
        has_ids=np.zeros(n, np.int8),
        available_at=np.array(available_at, np.int64),
        offset=np.array(offset, np.int64),
        row=np.zeros(n, np.int32),
    )


def market(rng, rules, n_instruments, n_steps, step_us, late_share):
    """Bars as a kernel issues them: in time order, with revisions, late bars and instants at which several come together."""
    level_us = rules.interval_us[0]
    issued, seen = [], [[] for _ in range(n_instruments)]
    prices = [100.0] * n_instruments
    now = MIDNIGHT - 3 * step_us
    for step in range(n_steps):
        now += step_us
        due = now + level_us + rules.lateness_us
        rows = []
        for code in range(n_instruments):
            starts = set()
            if rng.random() < 0.8:
                starts.add(now - now % level_us)
            while rng.random() < late_share:
                old = (
                    int(rng.choice(seen[code]))
                    if seen[code] and rng.random() < 0.8
                    else now - int(rng.integers(1, 300)) * level_us
                )
                starts.add(old - old % level_us)
            for start in rng.permutation(sorted(starts)).tolist():
                prices[code] *= math.exp(float(rng.normal(0, 0.01)))
                c = prices[code]
                o = c * (1 + float(rng.normal(0, 0.001)))
                volume = float(rng.integers(1, 100))
                high, low = max(o, c) * 1.001, min(o, c) * 0.999
                rows.append((code, 0, start, o, high, low, c, volume, int(start in seen[code]), due, step + 1))
                seen[code].append(start)
        issued += [rows[i] for i in rng.permutation(len(rows))]
    return issued


def feed_all(issued, rules, cuts, *, catching_up, restarts=()):
    """Return {row key: value bytes} and the rows' order, feeding whole instants cut at `cuts`."""
    feeds, memory = Feeds(), Memory(rules)
    for code in range(8):
        feeds.instrument_code(Instrument("V", f"S{code}"))
    indicators = Indicators(rules, memory, fresh=True)
    rows, order = {}, []
    for i, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(issued)], strict=True)):
        if begin == end:
            continue
        if i in restarts:
            taken = indicators.snapshot()
            indicators = Indicators(rules, memory)
            indicators.restore(taken)
        bars = columns_of(issued[begin:end])
        made = indicators.feed(bars, feeds, catching_up=catching_up(i) if callable(catching_up) else catching_up)
        memory.add(bars, feeds)
        for j in range(len(made.start)):
            key = (
                int(made.instrument[j]),
                rules.intervals[int(made.level[j])],
                int(made.start[j]),
                made.indicator_names[made.indicator[j]],
                made.output_names[made.output[j]],
                int(made.available_at[j]),
                int(made.offset[j]),
            )
            assert key not in rows, "each touched row once an instant"
            rows[key] = bits(float(made.value[j]))
            order.append(int(made.offset[j]))
    assert order == sorted(order)
    return rows


def bits(value):
    return None if math.isnan(value) else struct.pack("<d", value)


def deviation(terms, divisor):
    total = 0.0
    for term in terms:
        total += term
    mean = total / len(terms)
    squares = 0.0
    for term in terms:
        squares += (term - mean) * (term - mean)
    return math.sqrt(squares / divisor)


def naive_values(bars):
    """All outputs of MIX over one series, from TA-Lib's batch functions and plain loops."""
    n = len(bars)
    o, h, lo, c, v = (np.array(column) for column in zip(*bars, strict=True))
    nan = [math.nan] * n
    bands, volatility = [list(nan) for _ in range(3)], list(nan)
    middle = talib.SMA(c, 4)
    closes = c.tolist()
    returns = [math.nan] + [math.log(b / a) for a, b in pairwise(closes)]
    for i in range(n):
        if i >= 3:
            width = 2.0 * deviation(closes[i - 3 : i + 1], 4)
            bands[0][i], bands[1][i], bands[2][i] = middle[i] + width, middle[i], middle[i] - width
            volatility[i] = deviation(returns[i - 2 : i + 1], 2)
    doji = talib.CDLDOJI(o, h, lo, c).astype(float)
    doji[:10] = math.nan
    macd = talib.MACD(c, 2, 4, 3)
    return {
        ("sma(3)", "value"): talib.SMA(c, 3),
        ("ema(4)", "value"): talib.EMA(c, 4),
        ("bbands(4,2)", "upper"): bands[0],
        ("bbands(4,2)", "middle"): bands[1],
        ("bbands(4,2)", "lower"): bands[2],
        ("volatility(3)", "value"): volatility,
        ("atr(3)", "value"): talib.ATR(h, lo, c, 3),
        ("obv", "value"): talib.OBV(c, v),
        ("cdldoji", "value"): doji,
        ("macd(2,4,3)", "macd"): macd[0],
        ("macd(2,4,3)", "macdsignal"): macd[1],
        ("macd(2,4,3)", "macdhist"): macd[2],
    }


def naive_rows(issued, interval, seeds):
    """R10 to the letter: for every instant and touched series, each touched day afresh."""
    held, rows = {}, {}
    for available_at in sorted({row[9] for row in issued}):
        now = [row for row in issued if row[9] == available_at]
        touched = {}
        for code, _, start, o, h, lo, c, v, *_ in now:
            held.setdefault(code, {})[start] = (o, h, lo, c, v)
            touched.setdefault(code, []).append(start)
        for code, starts in touched.items():
            series = held[code]
            for day in sorted({start // DAY for start in series}):
                of_day = sorted(start for start in series if start // DAY == day)
                before = sorted(start for start in series if start // DAY < day)[-seeds:]
                if set(starts) & set(before):
                    issue = of_day
                elif set(starts) & set(of_day):
                    issue = [start for start in of_day if start >= min(set(starts) & set(of_day))]
                else:
                    continue
                values = naive_values([series[start] for start in before + of_day])
                for (name, output), column in values.items():
                    for start in issue:
                        value = float(column[len(before) + of_day.index(start)])
                        rows[code, interval, start, name, output, available_at, now[0][10]] = bits(value)
    return rows


def random_cuts(rng, issued, share):
    return [i for i in range(1, len(issued)) if issued[i][9] != issued[i - 1][9] and rng.random() < share]


def test_rows_are_the_batch_function_as_of_their_instant(monkeypatch):
    monkeypatch.setattr(module, "SEEDS", 12)
    rules = Rules(indicators=MIX)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        step = int(rng.choice([1, 7, 97, 400])) * 60_000_000
        issued = market(rng, rules, 3, 60, step, 0.1)
        wanted = naive_rows(issued, "1m", 12)
        cuts = random_cuts(rng, issued, 0.4)
        restarts = {i for i in range(len(cuts) + 1) if rng.random() < 0.1}
        assert feed_all(issued, rules, cuts, catching_up=lambda i: i % 2 == 0, restarts=restarts) == wanted
        assert feed_all(issued, rules, [], catching_up=True) == wanted


def test_averages_and_deviations_alone_are_the_batch_function_as_of_their_instant(monkeypatch):
    """Without another function of TA-Lib in the rules a feed is one compiled run; here with as little room as can be."""
    monkeypatch.setattr(module, "SEEDS", 12)
    monkeypatch.setattr(module, "_SPARE_ROWS", 0)
    monkeypatch.setattr(series_pool, "_LEAST_POOL", 0)
    rules = Rules(indicators=MIX[:4])
    names = {"sma(3)", "ema(4)", "bbands(4,2)", "volatility(3)"}
    for seed in range(20):
        rng = np.random.default_rng(100 + seed)
        step = int(rng.choice([1, 7, 97, 400])) * 60_000_000
        issued = market(rng, rules, 3, 80, step, 0.2)
        wanted = {key: value for key, value in naive_rows(issued, "1m", 12).items() if key[3] in names}
        cuts = random_cuts(rng, issued, 0.4)
        restarts = {i for i in range(len(cuts) + 1) if rng.random() < 0.1}
        assert feed_all(issued, rules, cuts, catching_up=lambda i: i % 2 == 0, restarts=restarts) == wanted
        assert feed_all(issued, rules, [], catching_up=True) == wanted


@pytest.mark.parametrize("indicators", [Rules().indicators, ("rsi(14)", "ema(20)")])
def test_live_and_catching_up_give_the_same_bits_over_whole_days(indicators):
    rules = Rules(indicators=indicators)
    rng = np.random.default_rng(5)
    issued = market(rng, rules, 2, 3_000, 60_000_000, 0.001)
    every_instant = [i for i in range(1, len(issued)) if issued[i][9] != issued[i - 1][9]]
    live = feed_all(issued, rules, every_instant, catching_up=False)
    assert feed_all(issued, rules, [], catching_up=True) == live
    assert feed_all(issued, rules, random_cuts(rng, issued, 0.02), catching_up=True, restarts={3, 20}) == live


def test_a_revision_reissues_the_later_rows_of_its_day_and_a_seeded_day():
    rules = Rules(indicators=("sma(2)",))
    minute, due = 60_000_000, MIDNIGHT + DAY
    starts = [MIDNIGHT - 2 * minute, MIDNIGHT - minute, MIDNIGHT, MIDNIGHT + minute]
    first = [(0, 0, start, 1.0, 1.0, 1.0, float(i), 1.0, 0, start + 70_000_000, i + 1) for i, start in enumerate(starts)]
    revision = (0, 0, starts[1], 1.0, 1.0, 1.0, 9.0, 1.0, 1, due, 9)
    rows = feed_all([*first, revision], rules, [4], catching_up=False)
    again = {key[2]: value for key, value in rows.items() if key[5] == due}
    assert again == {starts[1]: bits(4.5), starts[2]: bits(5.5), starts[3]: bits(2.5)}


def test_a_day_starts_afresh_from_its_last_thousand_bars():
    rules = Rules(indicators=("ema(200)",))
    rng = np.random.default_rng(1)
    issued = market(rng, rules, 1, 3_000, 60_000_000, 0.0)
    rows = feed_all(issued, rules, random_cuts(rng, issued, 0.1), catching_up=True)
    midnight = MIDNIGHT + 2 * DAY
    closes = [row[6] for row in issued]
    at = next(i for i, row in enumerate(issued) if row[2] >= midnight)
    assert at > 1_000
    afresh = talib.EMA(np.array(closes[at - 1_000 : at + 1]), 200)[-1]
    first_of_day = [value for key, value in rows.items() if key[2] == issued[at][2]]
    assert first_of_day == [bits(float(afresh))]
    assert afresh != talib.EMA(np.array(closes[: at + 1]), 200)[-1]


def test_values_are_null_until_ready():
    rules = Rules(indicators=("sma(3)", "volatility(3)"))
    issued = market(np.random.default_rng(2), rules, 1, 8, 60_000_000, 0.0)
    rows = feed_all(issued, rules, [], catching_up=False)
    for name, lookback in (("sma(3)", 2), ("volatility(3)", 3)):
        values = [value for key, value in sorted(rows.items()) if key[3] == name]
        assert [value is None for value in values] == [i < lookback for i in range(len(values))]


def test_only_configured_intervals_have_rows():
    rules = Rules(indicators=("sma(1)",), indicator_intervals=("5m", "1h"))
    row = (MIDNIGHT, 1.0, 1.0, 1.0, 1.0, 1.0, 0, MIDNIGHT + DAY, 1)
    rows = feed_all([(0, level, *row) for level in range(5)], rules, [], catching_up=False)
    assert {key[1] for key in rows} == {"5m", "1h"}


def test_a_new_house_reads_no_past_and_a_restored_one_reads_each_series_once():
    rules, feeds = Rules(indicators=("sma(2)",)), Feeds()
    for code in range(3):
        feeds.instrument_code(Instrument("V", f"S{code}"))
    memory = Memory(rules)
    indicators = Indicators(rules, memory, fresh=True)

    def bar(code, minute):
        start = MIDNIGHT + minute * 60_000_000
        return (code, 0, start, 1.0, 1.0, 1.0, float(minute), 1.0, 0, start + 70_000_000, minute + 1)

    early = columns_of([bar(0, 0), bar(1, 0)])
    indicators.feed(early, feeds, catching_up=False)
    memory.add(early, feeds)
    assert memory.calls == []
    restored = Indicators(rules, memory)
    restored.restore(indicators.snapshot())
    assert restored.snapshot() == indicators.snapshot()
    made = restored.feed(columns_of([bar(0, 1), bar(1, 1), bar(2, 1)]), feeds, catching_up=False)
    assert [[want.instrument.symbol for want in call] for call in memory.calls] == [["S0", "S1"]]
    assert made.value.tolist()[:2] == [0.5, 0.5]
    assert math.isnan(made.value[2])


@pytest.mark.parametrize("interval", ["1m", "1h", "1d"])
def test_a_bar_of_a_day_long_gone_is_revised_through_history(interval, monkeypatch):
    monkeypatch.setattr(module, "SEEDS", 5)
    rules = Rules(intervals=(interval,), indicator_intervals=(interval,), indicators=MIX)
    step = max(parse_duration(interval), 3_600_000_000)
    rng = np.random.default_rng(3)
    issued = market(rng, rules, 1, 90, step, 0.0)
    old = issued[7]
    last = issued[-1]
    issued += [(*old[:6], old[6] * 1.01, old[7], 1, last[9] + 60_000_000 * k, last[10] + k) for k in (1, 2)]
    assert feed_all(issued, rules, [len(issued) - 2], catching_up=True) == naive_rows(issued, interval, 5)
