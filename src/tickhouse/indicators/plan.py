"""What the rules' indicators need computed, each thing once, and how it comes together in rows.

`indicators.py` makes one plan for the house. Averages and deviations are for the compiled loops of `kernel/series.py`; every
other function is a TA-Lib call, made by a `Library` for the segments that those loops tell of.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from tickhouse.indicators.series import IndicatorRows
from tickhouse.indicators.specs import Core, IndicatorSpec, Window, log_returns
from tickhouse.kernel.averages import EMA, EMA_FUSED, SMA, log_address
from tickhouse.kernel.base import Bars
from tickhouse.kernel.series import APPENDED, Made, Plan, again, empty_rows
from tickhouse.kernel.series_pool import Pool
from tickhouse.model import F64, I64

__all__ = ["IndicatorPlan", "Library", "Series"]

_AVERAGES = {"SMA": (SMA,), "EMA": (EMA, EMA_FUSED)}
_HANDLE_RUN = 24
"""Up to this many bars at once, updating a handle is cheaper than a batch call over the series (measured)."""
_OPEN_RUN = 96
"""From this many bars at once on, when catching up, no handle is opened for the bars to come."""


class Series(NamedTuple):
    """Bars of one series by rising start, in arrays of their own."""

    start: I64
    values: F64
    """[input, bar]"""
    returns: F64


class IndicatorPlan:
    """What has to be computed for the specifications: each average, deviation and TA-Lib call once.

    Args:
        specs: Of the rules.
        seeds: How many bars before it a day starts from.
    """

    def __init__(self, specs: Sequence[IndicatorSpec], seeds: int) -> None:
        self.specs = specs
        self.inputs: tuple[str, ...] = tuple(sorted({name for spec in specs for name in spec.inputs}))
        cores = list(dict.fromkeys(spec.core for spec in specs if spec.core))
        kinds = {core: kind for core in cores if (kind := _average_kind(core)) is not None}
        self.averages = list(kinds)
        self.cores = [core for core in cores if core not in kinds]
        """Those that are TA-Lib calls."""
        self.windows = list(dict.fromkeys(spec.window for spec in specs if spec.window))
        self._close = self.inputs.index("close") if self.windows else -1
        self.loops = _loops(
            [(kind, int(core.parameters[0]), self.inputs.index(core.inputs[0])) for core, kind in kinds.items()],
            self.windows,
            self._close,
            seeds,
        )
        self._indicator_names = tuple(spec.name for spec in specs)
        self._output_names = tuple(dict.fromkeys(output for spec in specs for output in spec.outputs))
        pairs = [(i, self._output_names.index(output)) for i, spec in enumerate(specs) for output in spec.outputs]
        self._indicator_of = np.array([indicator for indicator, _ in pairs], np.int32)
        self._output_of = np.array([output for _, output in pairs], np.int32)

    def series(self, start: I64, values: F64) -> Series:
        """Return bars with their log returns."""
        columns = np.array(values, np.float64).reshape(len(self.inputs), len(start))
        returns = log_returns(columns[self._close]) if self._close >= 0 else np.full(len(start), np.nan)
        return Series(np.array(start, np.int64), columns, returns)

    def values(self, made: Made, count: int, library: Sequence[Sequence[F64]]) -> F64:
        """Return all outputs of the rows made, `n_rows x n_outputs`.

        Args:
            made: What the loops wrote.
            count: How many rows.
            library: The outputs of each of `cores`.
        """
        cores: dict[Core, Sequence[F64]] = {core: [made.averages[i, :count]] for i, core in enumerate(self.averages)}
        cores |= dict(zip(self.cores, library, strict=True)) if library else {}
        windows = {window: made.windows[i, :count] for i, window in enumerate(self.windows)}
        values = np.empty((count, len(self._output_of)))
        column = 0
        for spec in self.specs if count else ():
            for output in spec.assemble(cores[spec.core] if spec.core else (), windows[spec.window] if spec.window else None):
                values[:, column] = output
                column += 1
        return values

    def rows(self, bars: Bars, cause: I64, start: I64, values: F64) -> IndicatorRows:
        """Return what was made, spread into one row a value.

        Args:
            bars: As fed.
            cause: Index of the fed bar that each row of `values` is caused by.
            start: Of the bar each is the value of.
            values: `n_rows x n_outputs`
        """
        width = len(self._output_of)
        return IndicatorRows(
            instrument=np.repeat(bars.instrument[cause], width),
            level=np.repeat(bars.level[cause], width),
            start=np.repeat(start, width),
            indicator=np.tile(self._indicator_of, len(cause)),
            output=np.tile(self._output_of, len(cause)),
            value=values.ravel(),
            available_at=np.repeat(bars.available_at[cause], width),
            offset=np.repeat(bars.offset[cause], width),
            row=np.repeat(bars.row[cause], width),
            indicator_names=self._indicator_names,
            output_names=self._output_names,
        )


def _loops(averages: list[tuple[int, int, int]], windows: Sequence[Window], close: int, seeds: int) -> Plan:
    return Plan(
        average=np.array(averages, np.int64).reshape(-1, 3),
        window=np.array([(int(each.kind == "volatility"), each.period) for each in windows], np.int64).reshape(-1, 2),
        close=close,
        seeds=seeds,
        log=log_address(),
    )


@cache
def _average_kind(core: Core) -> int | None:
    """Return which loop gives the bits of a TA-Lib function; None: it has to be called.

    Found out by trying: a TA-Lib built for a processor with fused multiply-add rounds an EMA otherwise than one without.
    """
    period = core.parameters[0] if core.parameters else 0
    if core.function not in _AVERAGES or len(core.parameters) != 1 or len(core.inputs) != 1 or period < 2:
        return None
    count = int(period) + 500
    values = np.exp(np.random.default_rng(1).normal(0, 1, (1, count)))  # large steps: their last bits tell the kinds apart
    wanted = core.batch([values[0]])[0]
    for kind in _AVERAGES[core.function]:
        plan = _loops([(kind, int(period), 0)], (), -1, count)
        made = empty_rows(count, averages=1, windows=0, segments=0)
        again(np.arange(count), values, values[0].copy(), plan, made, 0, 0, 0, count, 0)
        if np.array_equal(made.averages[0], wanted, equal_nan=True):
            return kind
    return None


class Library:
    """TA-Lib's side of a plan: calls for the segments of a feed, and the handles that stand after the last bar of a series."""

    def __init__(self, plan: IndicatorPlan) -> None:
        self.cores = plan.cores
        self._inputs = [[plan.inputs.index(name) for name in core.inputs] for core in plan.cores]
        self._handles: dict[tuple[int, int], tuple[int, Any]] = {}
        """Of (core, series): the version of the series that it goes on from, and TA-Lib's own."""
        self._outputs = self._empty()

    def _empty(self) -> list[list[list[float]]]:
        return [[[] for _ in range(core.n_outputs)] for core in self.cores]

    def taken(self) -> list[list[F64]]:
        """Return all outputs since the last call, for each core, row by row."""
        outputs, self._outputs = self._outputs, self._empty()
        return [[np.array(output, np.float64) for output in of_core] for of_core in outputs]

    def compute(self, pool: Pool, segments: I64, *, catching_up: bool) -> None:
        """Compute the rows of segments, in their order."""
        if not self.cores:
            return
        for segment in segments.tolist():
            series, lo, first, end, version = segment[0], segment[1], segment[2], segment[3], segment[7]
            if not segment[APPENDED]:
                self.issue_again(pool.values, lo, first, end)
                continue
            add = self._add_run if catching_up and end - first > _HANDLE_RUN else self._add_few
            for c in range(len(self.cores)):
                handle = self._handles.pop((c, series), None)
                going_on = handle[1] if handle is not None and handle[0] == version else None
                going_on = add(c, pool.values, (lo, first, end), going_on)
                if going_on is not None:
                    self._handles[c, series] = (version, going_on)

    def issue_again(self, values: F64, lo: int, first: int, end: int) -> None:
        """Compute the rows of the bars [first, end), whose day's series begins at `lo`, from scratch."""
        for c, (core, inputs) in enumerate(zip(self.cores, self._inputs, strict=True)):
            self._put(c, [array[first - lo :] for array in core.batch([values[i, lo:end] for i in inputs])])

    def _put(self, c: int, arrays: Sequence[F64]) -> None:
        for output, array in zip(self._outputs[c], arrays, strict=True):
            output.extend(array.tolist())

    def _add_run(self, c: int, values: F64, at: tuple[int, int, int], _handle: Any) -> Any:
        """Compute a run of bars just appended to a series; return the handle after them, None where none was opened."""
        core, (lo, first, end) = self.cores[c], at
        views = [values[i, lo:end] for i in self._inputs[c]]
        handle = None
        if end - first >= _OPEN_RUN or end - lo <= core.lookback:
            arrays = core.batch(views)
        else:
            handle, arrays = core.open(views)
        self._put(c, [array[first - lo :] for array in arrays])
        return handle

    def _add_few(self, c: int, values: F64, at: tuple[int, int, int], handle: Any) -> Any:
        """Compute a few bars just appended to a series, by its handle."""
        core, (lo, first, end) = self.cores[c], at
        outputs = self._outputs[c]
        if handle is None:
            ready = min(end, max(first, lo + core.lookback))
            for output in outputs:
                output.extend([np.nan] * (ready - first))
            if ready == end:
                return None
            handle, arrays = core.open([values[i, lo : ready + 1] for i in self._inputs[c]])
            self._put(c, [array[-1:] for array in arrays])
            first = ready + 1
        made = list(map(handle.update, *[values[i, first:end].tolist() for i in self._inputs[c]]))
        for output, part in zip(outputs, zip(*made, strict=True) if len(outputs) > 1 else (made,), strict=False):
            output.extend(part)
        return handle
