"""Rule R10 read plainly: the indicator rows of one series of bars.

Takes the bars of one (venue, symbol, interval) as `reading_bars.py` issued them and gives tuples in the order of
`gold.indicators`. Each day's series starts from its seeds; TA-Lib's batch function runs over the whole of it. A value at index
i depends on the bars up to i only, so one batch serves all rows issued while a series only grew at its end.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import talib
import talib.abstract

from tickhouse.errors import ConfigError
from tickhouse.quality.reading_bars import BarRow

__all__ = ["Function", "IndicatorRow", "functions", "read_indicators"]

_DAY_US = 86_400_000_000
_SEEDS = 1_000

Bar = tuple[float, float, float, float, float]
"""open, high, low, close, volume."""
IndicatorRow = tuple[str, str, str, int, str, str, float | None, int]
Values = dict[str, list[float]]


class Function:
    """One indicator of the rules: its name in the table and its values over a series."""

    def __init__(self, name: str, values: Callable[[Sequence[Bar]], Values]) -> None:
        self.name = name
        self.values = values
        """Returns one list an output, as long as the series; NaN until ready."""


def functions(specifications: Iterable[str]) -> list[Function]:
    """Return the functions that `Rules.indicators` names.

    Raises:
        ConfigError: a name or its parameters cannot be understood.
    """
    return [_function(re.sub(r"\s+", "", text).lower()) for text in specifications]


def read_indicators(issued: Sequence[BarRow], wanted: Sequence[Function], known: Sequence[BarRow] = ()) -> list[IndicatorRow]:
    """Return every row that the bars of one series make appear.

    Args:
        issued: Bars and revisions of one (venue, symbol, interval), in any order.
        wanted: The functions of the rules.
        known: The bars issued before all of these, whose own rows are not asked for.
    """
    series = _Series(issued, wanted)
    series.put(sorted(known, key=lambda bar: bar.available_at))
    in_time = sorted(issued, key=lambda bar: (bar.available_at, bar.start))
    for instant, bars in groupby(in_time, key=lambda bar: bar.available_at):
        series.take(instant, list(bars))
    return series.finish()


class _Series:
    """The bars known so far, and for each day the rows issued since its values were last computed."""

    def __init__(self, issued: Sequence[BarRow], wanted: Sequence[Function]) -> None:
        self._key = issued[0][:3] if issued else ("", "", "")
        self._wanted = wanted
        self._starts: list[int] = []
        self._bars: dict[int, Bar] = {}
        self._due: dict[int, list[tuple[int, int, int]]] = {}
        self._rows: list[IndicatorRow] = []

    def take(self, instant: int, bars: Sequence[BarRow]) -> None:
        """Take the bars issued at `instant`, in order of start."""
        touched = [bar.start for bar in bars]
        if not self._starts or touched[0] > self._starts[-1]:
            self.put(bars)
        else:
            for day in [day for day in self._due if day >= _day(touched[0])]:
                self._compute(day)  # as of before `instant`
            self.put(bars)
        for day in self._days_from(_day(touched[0])):
            begin, end = self._place(day), self._place(day + _DAY_US)
            own = [start for start in touched if _day(start) == day]
            seeds = self._starts[max(begin - _SEEDS, 0) : begin]
            if seeds and any(seeds[0] <= start <= seeds[-1] for start in touched):
                self._due.setdefault(day, []).append((instant, 0, end - begin))
            elif own:
                self._due.setdefault(day, []).append((instant, self._place(own[0]) - begin, end - begin))

    def finish(self) -> list[IndicatorRow]:
        """Return all rows."""
        for day in list(self._due):
            self._compute(day)
        return self._rows

    def put(self, bars: Sequence[BarRow]) -> None:
        """Take bars, of each the last revision at the end, without their rows."""
        for bar in bars:
            if bar.start not in self._bars:
                bisect.insort(self._starts, bar.start)
            self._bars[bar.start] = (bar.open, bar.high, bar.low, bar.close, bar.volume)

    def _days_from(self, day: int) -> list[int]:
        return sorted({_day(start) for start in self._starts[self._place(day) :]})

    def _place(self, start: int) -> int:
        return bisect.bisect_left(self._starts, start)

    def _compute(self, day: int) -> None:
        due = self._due.pop(day)
        begin, end = self._place(day), self._place(day + _DAY_US)
        seeded = max(begin - _SEEDS, 0)
        bars = [self._bars[start] for start in self._starts[seeded:end]]
        for function in self._wanted:
            for output, values in function.values(bars).items():
                for instant, low, high in due:
                    for place in range(begin + low, begin + high):
                        value = values[place - seeded]
                        known = None if math.isnan(value) else value
                        self._rows.append((*self._key, self._starts[place], function.name, output, known, instant))


def _day(start: int) -> int:
    return start - start % _DAY_US


def _function(name: str) -> Function:
    match = re.fullmatch(r"([a-z_0-9]+)(?:\(([^()]*)\))?", name)
    if match is None:
        raise ConfigError(f"{name!r} is no indicator; write a name and parameters, e.g. sma(20)")
    kind, texts = match[1], [text for text in (match[2] or "").split(",") if text]
    try:
        return Function(name, _OWN[kind](*texts) if kind in _OWN else _talib(kind, texts))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"indicator {name!r} has parameters that do not fit: {error}") from error


def _talib(kind: str, texts: list[str]) -> Callable[[Sequence[Bar]], Values]:
    if kind.upper() not in talib.get_functions():
        raise ConfigError(f"indicator {kind!r} is not known; use TA-Lib's names, bbands, stddev or volatility")
    info: dict[str, Any] = talib.abstract.Function(kind).info
    defaults: dict[str, Any] = info["parameters"]
    if len(texts) > len(defaults):
        raise ConfigError(f"indicator {kind!r} takes at most {len(defaults)} parameters: {', '.join(defaults)}")
    given = {key: type(default)(text) for (key, default), text in zip(defaults.items(), texts, strict=False)}
    inputs: list[str] = []
    for names in info["input_names"].values():
        inputs.extend([names] if isinstance(names, str) else names)
    single = len(info["output_names"]) == 1
    outputs = ["value"] if single else [output.lower() for output in info["output_names"]]

    def values(bars: Sequence[Bar]) -> Values:
        columns = dict(zip(("open", "high", "low", "close", "volume"), np.array(bars, np.float64).T, strict=True))
        made = getattr(talib, kind.upper())(*(np.ascontiguousarray(columns[key]) for key in inputs), **given)
        arrays = [made] if single else made
        return {output: array.astype(np.float64).tolist() for output, array in zip(outputs, arrays, strict=True)}

    return values


def _bbands(n: str, k: str) -> Callable[[Sequence[Bar]], Values]:
    period, width = int(n), float(k)
    middle_of = _talib("sma", [n])

    def values(bars: Sequence[Bar]) -> Values:
        middle = middle_of(bars)["value"]
        reach = [width * deviation for deviation in _deviations(_closes(bars), period, period)]
        upper = [mean + far for mean, far in zip(middle, reach, strict=True)]
        lower = [mean - far for mean, far in zip(middle, reach, strict=True)]
        return {"upper": upper, "middle": middle, "lower": lower}

    return values


def _stddev(n: str) -> Callable[[Sequence[Bar]], Values]:
    period = int(n)
    return lambda bars: {"value": _deviations(_closes(bars), period, period)}


def _volatility(n: str) -> Callable[[Sequence[Bar]], Values]:
    period = int(n)

    def values(bars: Sequence[Bar]) -> Values:
        closes = _closes(bars)
        returns = [math.log(now / before) for before, now in pairwise(closes)]
        return {"value": [math.nan, *_deviations(returns, period, period - 1)]}

    return values


def _deviations(values: Sequence[float], n: int, divisor: int) -> list[float]:
    """Return the deviation of each last `n` values from their own mean, in two passes; NaN for the first n - 1."""
    if n < 2:
        raise ConfigError(f"a deviation needs a window of 2 or more, not {n}")
    result = [math.nan] * min(n - 1, len(values))
    for end in range(n, len(values) + 1):
        window = values[end - n : end]
        total = 0.0
        for value in window:
            total += value
        mean = total / n
        squares = 0.0
        for value in window:
            squares += (value - mean) * (value - mean)
        result.append(math.sqrt(squares / divisor))
    return result


def _closes(bars: Sequence[Bar]) -> list[float]:
    return [bar[3] for bar in bars]


_OWN: dict[str, Callable[..., Callable[[Sequence[Bar]], Values]]] = {
    "bbands": _bbands,
    "stddev": _stddev,
    "volatility": _volatility,
}
"""Computed here in two passes, because running sums are wrong on quiet or high-priced symbols."""
