"""Runs the house's indicators over bars as they are issued (rule R10).

Stands in the pipeline after the kernel: bars and revisions go in, rows of `gold.indicators` come out. Live, TA-Lib's
incremental handles are updated once a bar; when catching up, longer runs take one batch call a series. Both give the same
bits, so that the rows do not depend on how bars were cut into feeds. Only the current day and its seeds stay in memory; what
is older, and everything after a restart, is read back through `BarHistory`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np

from tickhouse.errors import ConfigError, SchemaMismatchError
from tickhouse.indicator_specs import Core, IndicatorSpec, log_returns, parse_spec, window_values
from tickhouse.kernel.base import Bars
from tickhouse.model import F64, I64, Cause, Feeds
from tickhouse.rules import Rules, parse_duration
from tickhouse.series import BarColumns, BarHistory, IndicatorRows, SeriesWanted

__all__ = ["SEEDS", "Indicators"]

SEEDS = 1_000
"""Every UTC day of a series starts from this many bars before it, or as many as there are."""

_DAY_US = 86_400_000_000
_END_OF_TIME = int(np.iinfo(np.int64).max)
_VERSION = 1
_HANDLE_RUN = 24
"""Up to this many bars at once, updating a handle is cheaper than a batch call over the series (measured)."""
_OPEN_RUN = 96
"""From this many bars at once on, when catching up, no handle is opened for the bars to come."""


class Indicators:
    """All indicators of one partition.

    Args:
        rules: Which indicators, on which intervals.
        history: How past bars are read back.
        partition: Of the causes handed to `history`.
        fresh: The house is new: a series never seen has no past to read. Else `restore` says which series exist; without it
            every series is asked for at first touch.

    Raises:
        ConfigError: an indicator of the rules is unknown, has wrong parameters, or stands there twice.
    """

    def __init__(self, rules: Rules, history: BarHistory, *, partition: int = 0, fresh: bool = False) -> None:
        self.specs: tuple[IndicatorSpec, ...] = tuple(parse_spec(text) for text in rules.indicators)
        names = [spec.name for spec in self.specs]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"indicator {name!r} stands twice in the rules; name each once")
        self._rules = rules
        self._history = history
        self._partition = partition
        self._levels = np.array(sorted({rules.intervals.index(name) for name in rules.indicator_intervals}), np.int8)
        self._plan = _Plan(self.specs)
        self._series: dict[int, _Series] = {}
        self._known: set[int] | None = set() if fresh else None

    def feed(self, bars: Bars, feeds: Feeds, *, catching_up: bool) -> IndicatorRows:
        """Take bars and revisions in the order they were issued; return the rows they make or change.

        Args:
            bars: Whole instants, sorted by available_at, later than all fed before.
            feeds: Names the instruments.
            catching_up: More is waiting: long runs take batch calls. Changes no row.
        """
        picked = np.flatnonzero(np.isin(bars.level, self._levels)) if self.specs else np.empty(0, np.int64)
        if not len(picked):
            return self._plan.rows(bars, _Made(self._plan))
        keys = (bars.level[picked].astype(np.int64) << 32) | bars.instrument[picked]
        order = np.argsort(keys, kind="stable")
        picked, keys = picked[order], keys[order]
        cuts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
        firsts, ends = [0, *cuts.tolist()], [*cuts.tolist(), len(keys)]
        before = Cause(self._partition, int(bars.offset[0]), int(bars.row[0]))
        fed = _Fed(bars, picked, self._plan.inputs, feeds, before, catching_up=catching_up)
        group_keys = keys[firsts].tolist()
        self._load([key for key in group_keys if key not in self._series], feeds, fed.before)
        made = _Made(self._plan)
        for key, begin, end in zip(group_keys, firsts, ends, strict=True):
            series = self._series[key]
            if fed.starts[begin] > series.last and fed.is_rising(begin, end):
                self._append(series, fed, begin, end, made)
            else:
                self._work_off_instants(key, fed, begin, end, made)
        return self._plan.rows(bars, made)

    def snapshot(self) -> bytes:
        """Return which series exist; their bars are read back when they are next touched."""
        return msgspec.msgpack.encode((_VERSION, sorted((self._known or set()).union(self._series))))

    def restore(self, data: bytes) -> None:
        """Take up a state that `snapshot` gave.

        Raises:
            SchemaMismatchError: the snapshot is of another version.
        """
        try:
            version, known = msgspec.msgpack.decode(data, type=tuple[int, list[int]])
        except msgspec.MsgspecError as error:
            raise SchemaMismatchError(
                f"the stored state of the indicators cannot be read ({error}); run `tickhouse verify`"
            ) from error
        if version != _VERSION:
            raise SchemaMismatchError(
                f"the stored state of the indicators has version {version}, this Tickhouse has {_VERSION}"
            )
        self._series = {}
        self._known = set(known)

    def _load(self, keys: list[int], feeds: Feeds, before: Cause) -> None:
        """Give every key its series, read back where one exists."""
        wanted: dict[int, SeriesWanted] = {}
        for key in keys:
            if self._known is None or key in self._known:
                interval = self._rules.intervals[key >> 32]
                # a day has at most this many bars: so the current day and all of its seeds are among them
                count = SEEDS + _DAY_US // parse_duration(interval)
                wanted[key] = SeriesWanted(feeds.instruments[key & 0xFFFFFFFF], interval, _END_OF_TIME, count, None)
        found = self._history.bars(list(wanted.values()), before) if wanted else {}
        for key in keys:
            series = self._series[key] = _Series(self._plan)
            stored = found.get(wanted[key]) if key in wanted else None
            if stored is not None and len(stored.start):
                series.replace(stored.start, self._plan.columns(stored))
                series.is_cut = len(stored.start) == wanted[key].count

    def _append(self, series: _Series, fed: _Fed, begin: int, end: int, made: _Made) -> None:
        add = made.add_run if fed.catching_up and end - begin > _HANDLE_RUN else made.add_few
        while begin < end:
            if fed.starts[begin] >= series.day_end:
                series.roll(fed.starts[begin])
            stop = end
            while fed.starts[stop - 1] >= series.day_end:
                stop -= 1
            series.extend(fed.start[begin:stop], fed.values[:, begin:stop])
            add(series, fed, begin, stop)
            begin = stop

    def _work_off_instants(self, key: int, fed: _Fed, begin: int, end: int, made: _Made) -> None:
        """Work off a group that holds revisions, or bars out of order: instant by instant."""
        series = self._series[key]
        pasts: dict[int, _Past] = {}
        at = begin
        while at < end:
            stop = at + 1
            while stop < end and fed.available_at[stop] == fed.available_at[at]:
                stop += 1
            if fed.starts[at] > series.last and fed.is_rising(at, stop):
                self._append(series, fed, at, stop, made)
            else:
                series.upsert(fed.start[at:stop], fed.values[:, at:stop])
                self._reissue(key, fed, begin, at, stop, pasts, made)
            at = stop

    def _reissue(self, key: int, fed: _Fed, begin: int, at: int, stop: int, pasts: dict[int, _Past], made: _Made) -> None:
        """Issue again what the bars [at, stop) touch: their days from them on, and days whose seeds hold one of them."""
        series = self._series[key]
        by_day: dict[int, list[int]] = {}
        for start in sorted(fed.starts[at:stop]):
            by_day.setdefault(start - start % _DAY_US, []).append(start)
        again: dict[int, tuple[I64, F64, _Touched]] = {}
        for midnight, starts in by_day.items():
            if series.covers(midnight):
                held, columns = series.start[: series.n], series.columns
            else:
                past = pasts.get(midnight)
                if past is None or not past.reaches(starts[-1], series.last):
                    past = pasts[midnight] = self._read_past(key, midnight, starts[-1], series.last, fed)
                held, columns = past.overlaid(fed.start[begin:stop], fed.values[:, begin:stop])
            for day in _touched_days(held, midnight, starts[0], starts[-1]):
                other = again.get(day.midnight)
                if other is None or held[day.first] < other[0][other[2].first]:
                    again[day.midnight] = (held, columns, day)
        for _, (held, columns, day) in sorted(again.items()):
            made.add_again(held, columns, day, fed.causes[at])

    def _read_past(self, key: int, midnight: int, touched: int, last: int, fed: _Fed) -> _Past:
        """Read a day that has left memory, its seeds, and the days after it whose seeds may hold the bar `touched`."""
        instrument, interval = fed.feeds.instruments[key & 0xFFFFFFFF], self._rules.intervals[key >> 32]
        days = 2
        while True:
            horizon = midnight + days * _DAY_US
            seeds = SeriesWanted(instrument, interval, midnight, SEEDS, None)
            body = SeriesWanted(instrument, interval, horizon, None, midnight)
            found = self._history.bars([seeds, body], fed.before)
            pieces = [found[wanted] for wanted in (seeds, body) if wanted in found]
            start = np.concatenate([np.empty(0, np.int64), *(piece.start for piece in pieces)])
            columns = np.concatenate([np.empty((len(self._plan.inputs), 0)), *map(self._plan.columns, pieces)], axis=1)
            past = _Past(start, columns, horizon)
            if past.reaches(touched, last):
                return past
            days *= 4


class _Series:
    """The bars of one series in memory: a growing tail of it, the current day and its seeds at least.

    Arrays are only ever written beyond `n`; any other change replaces them, so views taken earlier stay as they were.
    """

    __slots__ = ("close", "columns", "day_end", "first", "handles", "is_cut", "last", "lo", "n", "returns", "rows", "start")

    def __init__(self, plan: _Plan) -> None:
        self.start: I64 = np.empty(0, np.int64)
        self.columns: F64 = np.empty((len(plan.inputs), 0))
        self.rows: list[F64] = list(self.columns)
        """The rows of `columns`, one an input."""
        self.close = plan.close
        """Which of them are the closes, -1 where no deviation needs them."""
        self.returns: F64 = np.empty(0)
        """Log returns of the closes."""
        self.n = 0
        self.lo = 0
        """Where the current day's seeds begin."""
        self.first = 0
        """Where the current day begins."""
        self.day_end = -_END_OF_TIME
        self.last = -_END_OF_TIME
        """Start of the last bar."""
        self.is_cut = False
        """Whether there may be bars before those in memory."""
        self.handles: list[Any] = [None] * len(plan.cores)
        """TA-Lib's, standing after the last bar; None where one has to be opened."""

    def replace(self, start: I64, columns: F64) -> None:
        """Take other bars; the current day is that of the last one."""
        self.start, self.columns, self.rows, self.n = start, columns, list(columns), len(start)
        self.last = int(start[-1])
        self.day_end = self.last - self.last % _DAY_US + _DAY_US
        self.first = int(np.searchsorted(start, self.day_end - _DAY_US))
        self.lo = max(0, self.first - SEEDS)
        if self.close >= 0:
            self.returns = log_returns(columns[self.close])
        self.handles = [None] * len(self.handles)

    def roll(self, start: int) -> None:
        """Begin the day of a bar to come: afresh from the last seeds."""
        self.day_end = start - start % _DAY_US + _DAY_US
        self.first = self.n
        lo = max(0, self.n - SEEDS)
        if lo != self.lo:  # else the series still begins with the same bar, and the handles are right
            self.lo = lo
            self.handles = [None] * len(self.handles)

    def extend(self, start: I64, columns: F64) -> None:
        """Append bars of the current day."""
        end = self.n + len(start)
        if end > len(self.start):
            self.make_room(len(start))
            end = self.n + len(start)
        self.start[self.n : end] = start
        self.columns[:, self.n : end] = columns
        if self.close >= 0:
            before = max(0, self.n - 1)
            closes = self.rows[self.close][before:end].tolist()
            self.returns[before + 1 : end] = [math.log(close / previous) for previous, close in pairwise(closes)]
        self.n = end
        self.last = int(start[-1])

    def upsert(self, start: I64, columns: F64) -> None:
        """Take revisions and bars out of order, the later in the arrays winning."""
        if self.is_cut:
            kept = start >= self.start[0]
            start, columns = start[kept], columns[:, kept]
        if not len(start):
            return
        held = self.start[: self.n]
        at = np.searchsorted(held, start)
        if at.max() < self.n and np.array_equal(held[at], start):
            self._revise(at, columns)
        else:
            self.replace(*_merged(held, self.columns[:, : self.n], start, columns))

    def _revise(self, at: I64, columns: F64) -> None:
        """Put revisions in the places of the bars they revise."""
        self.columns[:, at] = columns
        if self.close >= 0:
            close = self.rows[self.close]
            for i in {*at.tolist(), *(at + 1).tolist()}:
                if 0 < i < self.n:
                    self.returns[i] = math.log(close[i] / close[i - 1])
        self.handles = [None] * len(self.handles)

    def covers(self, midnight: int) -> bool:
        """Say whether all seeds of the day that begins at `midnight` are in memory, and so all that follows."""
        return not self.is_cut or int(np.searchsorted(self.start[: self.n], midnight)) >= SEEDS

    def make_room(self, count: int) -> None:
        """Move what the current day needs to larger arrays."""
        lo, n = self.lo, self.n
        room = max(32, (n - lo + count) * 3 // 2)
        start, columns = np.empty(room, np.int64), np.empty((len(self.columns), room))
        start[: n - lo], columns[:, : n - lo] = self.start[lo:n], self.columns[:, lo:n]
        returns = np.full(room, np.nan)
        returns[: n - lo] = self.returns[lo:n] if self.close >= 0 else np.nan
        self.start, self.columns, self.rows, self.returns = start, columns, list(columns), returns
        self.is_cut = self.is_cut or lo > 0
        self.n, self.first, self.lo = n - lo, self.first - lo, 0


class _Past(NamedTuple):
    """Bars of a series read back: a day that has left memory, its seeds, and whole days after it up to `horizon`."""

    start: I64
    columns: F64
    horizon: int

    def reaches(self, touched: int, last: int) -> bool:
        """Say whether no day from the horizon on can have the bar `touched` among its seeds."""
        return self.horizon > last or len(self.start) - int(np.searchsorted(self.start, touched, side="right")) >= SEEDS

    def overlaid(self, start: I64, columns: F64) -> tuple[I64, F64]:
        """Return the bars with those of this feed, not yet in the history, upon them."""
        below = start < self.horizon
        return _merged(self.start, self.columns, start[below], columns[:, below])


class _Fed:
    """The bars of one feed, sorted by series, in the columns that indicators need."""

    def __init__(
        self, bars: Bars, picked: I64, inputs: Sequence[str], feeds: Feeds, before: Cause, *, catching_up: bool
    ) -> None:
        self.causes: list[int] = picked.tolist()
        """Index of each bar among those fed."""
        self.start: I64 = bars.start[picked]
        self.starts: list[int] = self.start.tolist()
        self._falls: list[int] = np.flatnonzero(self.start[1:] <= self.start[:-1]).tolist()
        """Bars that the next one does not rise above."""
        self.values: F64 = np.array([getattr(bars, name)[picked] for name in inputs])
        self.scalars: list[list[float]] = self.values.tolist()
        self.available_at: list[int] = bars.available_at[picked].tolist()
        self.catching_up = catching_up
        self.feeds = feeds
        self.before = before
        """Whatever has a cause before it is in the history; bars of this feed are not yet."""

    def is_rising(self, begin: int, end: int) -> bool:
        """Say whether the bars [begin, end) stand in the order of their starts, each once."""
        at = bisect_left(self._falls, begin)
        return at == len(self._falls) or self._falls[at] >= end - 1


class _Plan:
    """What has to be computed for the specifications: each TA-Lib call and each deviation once."""

    def __init__(self, specs: Sequence[IndicatorSpec]) -> None:
        self.specs = specs
        self.inputs: tuple[str, ...] = tuple(sorted({name for spec in specs for name in spec.inputs}))
        self.cores: list[Core] = list(dict.fromkeys(spec.core for spec in specs if spec.core))
        self.core_inputs = [[self.inputs.index(name) for name in core.inputs] for core in self.cores]
        self.windows = list(dict.fromkeys(spec.window for spec in specs if spec.window))
        self.context = max((window.lookback for window in self.windows), default=0)
        self.close = self.inputs.index("close") if self.windows else -1
        self.indicator_names = tuple(spec.name for spec in specs)
        self.output_names = tuple(dict.fromkeys(output for spec in specs for output in spec.outputs))
        pairs = [(i, self.output_names.index(output)) for i, spec in enumerate(specs) for output in spec.outputs]
        self.indicator_of = np.array([indicator for indicator, _ in pairs], np.int32)
        self.output_of = np.array([output for _, output in pairs], np.int32)

    def columns(self, bars: BarColumns) -> F64:
        """Return the needed columns as `n_inputs x n_bars`."""
        return np.array([getattr(bars, name) for name in self.inputs], np.float64).reshape(len(self.inputs), len(bars.start))

    def rows(self, bars: Bars, made: _Made) -> IndicatorRows:
        """Return what was made, spread into one row a value."""
        start = np.array(made.start, np.int64)
        cause = np.array(made.cause, np.int64)
        order = np.lexsort((start, bars.instrument[cause], bars.level[cause], bars.available_at[cause]))
        values = np.empty((len(order), len(self.output_of)))
        for column, outputs in enumerate(self._outputs(made)):
            values[:, column] = outputs[order]
        cause, width = cause[order], len(self.output_of)
        return IndicatorRows(
            instrument=np.repeat(bars.instrument[cause], width),
            level=np.repeat(bars.level[cause], width),
            start=np.repeat(start[order], width),
            indicator=np.tile(self.indicator_of, len(order)),
            output=np.tile(self.output_of, len(order)),
            value=values.ravel(),
            available_at=np.repeat(bars.available_at[cause], width),
            offset=np.repeat(bars.offset[cause], width),
            row=np.repeat(bars.row[cause], width),
            indicator_names=self.indicator_names,
            output_names=self.output_names,
        )

    def _outputs(self, made: _Made) -> list[F64]:
        if not made.start:
            return []
        cores = dict(zip(self.cores, ([np.array(output) for output in outputs] for outputs in made.cores), strict=True))
        windows: dict[Any, F64] = {}
        if self.windows:
            close, returns, ends, before = made.terms()
            for window in self.windows:
                windows[window] = window_values(window, close if window.kind == "deviation" else returns, ends, before)
        columns: list[F64] = []
        for spec in self.specs:
            columns += spec.assemble(cores[spec.core] if spec.core else (), windows[spec.window] if spec.window else None)
        return columns


class _Made:
    """Collects what one feed makes: a place for every (bar, instant) issued, in any order."""

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self.cause: list[int] = []
        """Index of a fed bar of the same series and instant."""
        self.start: list[int] = []
        self.cores: list[list[list[float]]] = [[[] for _ in range(core.n_outputs)] for core in plan.cores]
        self._work = list(zip(plan.cores, self.cores, plan.core_inputs, strict=True))
        self._closes: list[F64] = []
        self._returns: list[F64] = []
        self._before: list[int] = []
        """For each piece of closes: how many bars of the series precede its first place; and how many places it has."""
        self._counts: list[int] = []

    def add_few(self, series: _Series, fed: _Fed, begin: int, stop: int) -> None:
        """Compute a few bars just appended to a series, by its handles: the path of nearly every bar."""
        lo, end = series.lo, series.n
        first = end - (stop - begin)
        self.cause += fed.causes[begin:stop]
        self.start += fed.starts[begin:stop]
        for c, (core, outputs, inputs) in enumerate(self._work):
            values, at = [], begin
            if series.handles[c] is None:
                at = min(stop, begin + max(0, core.lookback - (first - lo)))
                values = [core.not_ready] * (at - begin)
                if at < stop:
                    ready = first + at - begin
                    series.handles[c], arrays = core.open([series.columns[i, lo : ready + 1] for i in inputs])
                    values.append(tuple(array[-1] for array in arrays) if len(arrays) > 1 else arrays[0][-1])
                    at += 1
            if at < stop:
                values += map(series.handles[c].update, *[fed.scalars[i][at:stop] for i in inputs])
            for output, part in zip(outputs, zip(*values, strict=True) if len(outputs) > 1 else (values,), strict=True):
                output.extend(part)
        if series.close >= 0:
            self._add_terms(series.rows[series.close], series.returns, lo, first, end)

    def add_run(self, series: _Series, fed: _Fed, begin: int, stop: int) -> None:
        """Compute a run of bars just appended to a series."""
        lo, end = series.lo, series.n
        first = end - (stop - begin)
        self.cause += fed.causes[begin:stop]
        self.start += fed.starts[begin:stop]
        for c, (core, outputs, inputs) in enumerate(self._work):
            views = [series.columns[i, lo:end] for i in inputs]
            if stop - begin >= _OPEN_RUN or end - lo <= core.lookback:
                series.handles[c], arrays = None, core.batch(views)
            else:
                series.handles[c], arrays = core.open(views)
            for output, array in zip(outputs, arrays, strict=True):
                output.extend(array[first - lo :].tolist())
        if series.close >= 0:
            self._add_terms(series.rows[series.close], series.returns, lo, first, end)

    def add_again(self, start: I64, columns: F64, day: _Touched, cause: int) -> None:
        """Compute the rows of a day from its first touched bar on, from scratch."""
        lo, first, end = day.lo, day.first, day.end
        self.cause += [cause] * (end - first)
        self.start += start[first:end].tolist()
        for core, outputs, inputs in self._work:
            arrays = core.batch([np.ascontiguousarray(columns[i, lo:end]) for i in inputs])
            for output, array in zip(outputs, arrays, strict=True):
                output.extend(array[first - lo :].tolist())
        if self._plan.windows:
            close = columns[self._plan.close]
            begin = max(lo, first - self._plan.context)
            returns = log_returns(close[max(lo, begin - 1) : end])[-(end - begin) :]
            self._put_terms(close[begin:end].copy(), returns, first - lo, end - first)

    def terms(self) -> tuple[F64, F64, I64, I64]:
        """Return closes and log returns for windows; for each place its bar in them, and how many of its series precede it."""
        count, before = np.array(self._counts, np.int64), np.array(self._before, np.int64)
        context = np.minimum(before, self._plan.context)
        sizes = context + count
        within = np.arange(len(self.start)) - np.repeat(np.cumsum(count) - count, count)
        return (
            np.concatenate(self._closes),
            np.concatenate(self._returns),
            np.repeat(np.cumsum(sizes) - count, count) + within,
            np.repeat(before, count) + within,
        )

    def _add_terms(self, close: F64, returns: F64, lo: int, first: int, end: int) -> None:
        begin = max(lo, first - self._plan.context)
        self._put_terms(close[begin:end].copy(), returns[begin:end].copy(), first - lo, end - first)

    def _put_terms(self, close: F64, returns: F64, before: int, count: int) -> None:
        self._closes.append(close)
        self._returns.append(returns)
        self._before.append(before)
        self._counts.append(count)


class _Touched(NamedTuple):
    """A day whose rows are issued again; places in the arrays of its series."""

    midnight: int
    lo: int
    """Its first seed."""
    first: int
    """The first row to issue."""
    end: int


def _touched_days(start: I64, midnight: int, earliest: int, latest: int) -> list[_Touched]:
    """Return the days that bars from `earliest` to `latest`, all of the day that begins at `midnight`, touch."""
    found = []
    at = int(np.searchsorted(start, midnight))
    while at < len(start):
        day = int(start[at]) - int(start[at]) % _DAY_US
        lo = max(0, at - SEEDS)
        end = int(np.searchsorted(start, day + _DAY_US))
        if day == midnight:
            found.append(_Touched(day, lo, int(np.searchsorted(start, earliest)), end))
        elif start[lo] <= latest:
            found.append(_Touched(day, lo, at, end))
        else:
            break
        at = end
    return found


def _merged(start: I64, columns: F64, new_start: I64, new_columns: F64) -> tuple[I64, F64]:
    """Return both as one, sorted by start; of equal starts the last."""
    joined = np.concatenate([start, new_start])
    order = np.argsort(joined, kind="stable")
    ordered = joined[order]
    kept = np.append(ordered[1:] != ordered[:-1], True) if len(ordered) else np.zeros(0, np.bool_)
    order = order[kept]
    return joined[order], np.ascontiguousarray(np.concatenate([columns, new_columns], axis=1)[:, order])
