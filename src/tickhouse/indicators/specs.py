"""What `sma(20)` means: reads indicator specifications and computes each over whole columns.

The rules name indicators by text; `parse_spec` turns a text into an `IndicatorSpec`, which knows its columns, its outputs and
the batch function that defines its values (rule R10). `indicators.py` runs specifications over the bars of a house; nothing
else in the code lists indicator names.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import talib
import talib.abstract
import talib.stream

from tickhouse.errors import ConfigError
from tickhouse.model import F64, I64

__all__ = ["CatalogueEntry", "Core", "IndicatorSpec", "Window", "catalogue", "log_returns", "parse_spec", "window_values"]

Number = int | float

_FORM = re.compile(r"([a-z][a-z0-9_]*)(?:\((.*)\))?")
_BAR_COLUMNS = ("open", "high", "low", "close", "volume")
_MAX_PERIOD = 100_000
_SAME_SCALE = "Output scale same as input"


@dataclass(frozen=True, slots=True)
class Core:
    """One TA-Lib call: a function with all of its parameters."""

    function: str
    """TA-Lib's name, e.g. `SMA`."""
    parameters: tuple[Number, ...]
    inputs: tuple[str, ...]
    """Bar columns in the order of the call."""
    lookback: int
    """How many bars at the beginning of a series have no value."""
    n_outputs: int

    @property
    def not_ready(self) -> float | tuple[float, ...]:
        """What a handle would return for a bar without a value."""
        return np.nan if self.n_outputs == 1 else (np.nan,) * self.n_outputs

    def batch(self, columns: Sequence[F64]) -> list[F64]:
        """Return the outputs over whole columns; NaN where not ready.

        Args:
            columns: One array an input, equally long, C-contiguous.
        """
        if len(columns[0]) <= self.lookback:
            return [np.full(len(columns[0]), np.nan) for _ in range(self.n_outputs)]
        return self._floats(getattr(talib, self.function)(*columns, *self.parameters))

    def open(self, columns: Sequence[F64]) -> tuple[Any, list[F64]]:
        """Return TA-Lib's incremental handle after these bars, and what `batch` returns for them.

        Args:
            columns: As for `batch`, with more than `lookback` bars.
        """
        handle, outputs = getattr(talib.stream, self.function).open_and_fill(*columns, *self.parameters)
        return handle, self._floats(outputs)

    def _floats(self, outputs: Any) -> list[F64]:
        arrays = outputs if isinstance(outputs, tuple) else (outputs,)
        floats = [np.asarray(array, np.float64) for array in arrays]
        for array, given in zip(floats, arrays, strict=True):
            if given.dtype != np.float64:
                array[: self.lookback] = np.nan  # TA-Lib fills whole numbers with 0 until ready
        return floats


@dataclass(frozen=True, slots=True)
class Window:
    """A deviation that we compute afresh for every window, in two passes."""

    kind: Literal["deviation", "volatility"]
    """Population deviation of the closes, or sample deviation of their log returns."""
    period: int

    @property
    def lookback(self) -> int:
        """How many bars at the beginning of a series have no value."""
        return self.period - 1 if self.kind == "deviation" else self.period


@dataclass(frozen=True, slots=True)
class IndicatorSpec:
    """One indicator with its parameters."""

    name: str
    """The canonical text with all parameters, e.g. `bbands(20,2)`: the `indicator` column."""
    outputs: tuple[str, ...]
    """The `output` column of each value, e.g. upper, middle, lower."""
    inputs: tuple[str, ...]
    """Needed bar columns, each once, among open, high, low, close, volume."""
    core: Core | None
    window: Window | None
    width: float = 0.0
    """Of Bollinger bands: how many deviations from the middle to either side."""

    def batch(self, columns: Mapping[str, F64]) -> F64:
        """Compute the indicator over a series, oldest bar first.

        Args:
            columns: The bar columns named by `inputs`, equally long.

        Returns:
            `n_outputs x n_bars`; NaN until ready.

        Example:
            >>> import numpy as np
            >>> parse_spec("sma(2)").batch({"close": np.array([1.0, 2.0, 4.0])}).tolist()
            [[nan, 1.5, 3.0]]
        """
        core = (
            self.core.batch([np.ascontiguousarray(columns[name], np.float64) for name in self.core.inputs]) if self.core else []
        )
        window = None
        if self.window:
            close = np.ascontiguousarray(columns["close"], np.float64)
            terms = close if self.window.kind == "deviation" else log_returns(close)
            window = window_values(self.window, terms, np.arange(len(close)), np.arange(len(close)))
        return np.array(self.assemble(core, window))

    def assemble(self, core: Sequence[F64], window: F64 | None) -> list[F64]:
        """Return the outputs, made from those of `core` and of `window`."""
        if window is None:
            return list(core)
        if self.core is None:
            return [window]
        middle, reach = core[0], window * self.width
        return [middle + reach, middle, middle - reach]


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A function that can be asked for by name."""

    name: str
    group: str
    title: str
    parameters: Mapping[str, Number]
    """Names in order, with their defaults."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    overlays_price: bool
    """Its values are prices, to be drawn over the bars (TA-Lib says so of its functions)."""


def window_values(window: Window, terms: F64, ends: I64, before: I64) -> F64:
    """Compute a two-pass deviation for each asked window.

    Terms are added from the oldest to the newest, each sum starting at 0.0, so that every way of calling gives the same bits:
    `sqrt(sum((x - sum(x)/n)^2) / n)` over closes, with n - 1 over the log returns `ln(close / previous close)`.
    Cost: O(n) a window.

    Args:
        window: What to compute.
        terms: Closes, or for volatility log returns, of one or more series, each contiguous, oldest first.
        ends: Place in `terms` of the last bar of each window.
        before: How many bars of its series stand before that bar; the window is NaN where they are too few.
    """
    values = np.full(len(ends), np.nan)
    ready = np.flatnonzero(before >= window.lookback)
    if not len(ready):
        return values
    n = window.period
    divisor = n if window.kind == "deviation" else n - 1
    first = ends[ready] - (n - 1)
    total = np.zeros(len(ready))
    for k in range(n):
        total += terms[first + k]
    mean = total / n
    squares = np.zeros(len(ready))
    for k in range(n):
        difference = terms[first + k] - mean
        squares += difference * difference
    values[ready] = np.sqrt(squares / divisor)
    return values


def log_returns(close: F64) -> F64:
    """Return ln(close / previous close), NaN at the first; by the C library, so that scalars and arrays have the same bits."""
    returns = np.full(len(close), np.nan)
    ratios = (close[1:] / close[:-1]).tolist()
    returns[1:] = np.fromiter(map(math.log, ratios), np.float64, len(ratios))
    return returns


def parse_spec(text: str) -> IndicatorSpec:
    """Read a specification: a TA-Lib function or one of ours, with positional parameters (defaults where left out).

    Args:
        text: E.g. `sma(20)`, `bbands(20,2)`, `macd(12,26,9)`, `obv`; case and blanks do not matter.

    Raises:
        ConfigError: no such function, or parameters that it does not take; the text says what would do.
    """
    plain = "".join(text.split()).lower()
    found = _FORM.fullmatch(plain)
    if found is None:
        raise ConfigError(
            f"indicator {text!r} is not a specification; write a name and its parameters, e.g. sma(20) or bbands(20,2)"
        )
    name, given = found[1], found[2]
    entry = _entries().get(name)
    if entry is None:
        raise ConfigError(_unknown(text, name))
    values = _parameters(text, entry, given.split(",") if given else [])
    spelled = ",".join(str(int(value)) if float(value).is_integer() else repr(value) for value in values)
    canonical = f"{name}({spelled})" if values else name
    if name in _OURS:
        return _own(text, canonical, entry, values)
    core = _core(text, name, entry, values)
    return IndicatorSpec(canonical, entry.outputs, tuple(dict.fromkeys(core.inputs)), core, None)


def catalogue() -> list[CatalogueEntry]:
    """Return every function that `parse_spec` knows, by group and name."""
    return sorted(_entries().values(), key=lambda entry: (entry.group, entry.name))


_OURS: dict[str, CatalogueEntry] = {
    entry.name: entry
    for entry in (
        CatalogueEntry(
            "bbands",
            "Overlap Studies",
            "Bollinger Bands (two-pass deviation)",
            {"timeperiod": 20, "nbdev": 2.0},
            ("close",),
            ("upper", "middle", "lower"),
            overlays_price=True,
        ),
        CatalogueEntry(
            "stddev",
            "Statistic Functions",
            "Standard Deviation (population, two-pass)",
            {"timeperiod": 5},
            ("close",),
            ("value",),
            overlays_price=False,
        ),
        CatalogueEntry(
            "volatility",
            "Statistic Functions",
            "Sample deviation of log returns (two-pass)",
            {"timeperiod": 20},
            ("close",),
            ("value",),
            overlays_price=False,
        ),
    )
}


@cache
def _entries() -> dict[str, CatalogueEntry]:
    entries = {}
    for group, names in talib.get_function_groups().items():
        for name in names:
            info = talib.abstract.Function(name).info
            inputs = _inputs(info["input_names"])
            if not set(inputs) <= set(_BAR_COLUMNS):
                continue  # MAVP takes a series of periods, which no bar has
            outputs = tuple(output.lower() for output in info["output_names"])
            entries[name.lower()] = CatalogueEntry(
                name=name.lower(),
                group=group,
                title=info["display_name"],
                parameters=dict(info["parameters"]),
                inputs=inputs,
                outputs=outputs if len(outputs) > 1 else ("value",),
                overlays_price=_SAME_SCALE in (info["function_flags"] or ()),
            )
    return entries | _OURS


def _inputs(named: Mapping[str, str | list[str]]) -> tuple[str, ...]:
    inputs: list[str] = []
    for columns in named.values():
        inputs += [columns] if isinstance(columns, str) else columns
    return tuple(inputs)


def _parameters(text: str, entry: CatalogueEntry, given: list[str]) -> list[Number]:
    allowed = ", ".join(f"{name}={default}" for name, default in entry.parameters.items()) or "none"
    if len(given) > len(entry.parameters):
        raise ConfigError(f"indicator {text!r} has {len(given)} parameters; {entry.name} takes: {allowed}")
    values = list(entry.parameters.values())
    for i, (word, default) in enumerate(zip(given, entry.parameters.values(), strict=False)):
        try:
            value: Number = int(word) if isinstance(default, int) else float(word)
        except ValueError:
            kind = "a whole number" if isinstance(default, int) else "a number"
            raise ConfigError(
                f"indicator {text!r}: parameter {i + 1} must be {kind}, not {word!r}; allowed: {allowed}"
            ) from None
        if not math.isfinite(value):
            raise ConfigError(
                f"indicator {text!r}: parameter {i + 1} must be a finite number, not {word!r}; allowed: {allowed}"
            )
        values[i] = value
    return values


def _core(text: str, name: str, entry: CatalogueEntry, values: Sequence[Number]) -> Core:
    function = talib.abstract.Function(name.upper())
    info = function.info
    columns = [np.ones(2) for _ in entry.inputs]
    try:
        getattr(talib, name.upper())(*columns, *values)  # TA-Lib checks the ranges itself
    except Exception as error:
        allowed = ", ".join(f"{key}={default}" for key, default in entry.parameters.items())
        raise ConfigError(
            f"indicator {text!r}: TA-Lib refuses these parameters ({error}); it takes, with defaults: {allowed}"
        ) from error
    function.parameters = dict(zip(info["parameters"], values, strict=True))
    return Core(name.upper(), tuple(values), entry.inputs, int(function.lookback), len(info["output_names"]))


def _own(text: str, canonical: str, entry: CatalogueEntry, values: Sequence[Number]) -> IndicatorSpec:
    period = int(values[0])
    if not 2 <= period <= _MAX_PERIOD:
        raise ConfigError(f"indicator {text!r}: timeperiod must be from 2 to {_MAX_PERIOD}, not {period}")
    if entry.name == "volatility":
        return IndicatorSpec(canonical, entry.outputs, entry.inputs, None, Window("volatility", period))
    window = Window("deviation", period)
    if entry.name == "stddev":
        return IndicatorSpec(canonical, entry.outputs, entry.inputs, None, window)
    middle = _core(text, "sma", _entries()["sma"], [period])
    return IndicatorSpec(canonical, entry.outputs, entry.inputs, middle, window, float(values[1]))


def _unknown(text: str, name: str) -> str:
    near = difflib.get_close_matches(name, _entries(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "any TA-Lib function will do, e.g. sma(20), rsi(14)"
    return f"indicator {text!r}: there is no function {name!r}; {hint}"
