"""Runs the house's indicators over bars as they are issued (rule R10).

Stands in the pipeline after the kernel: bars and revisions go in, rows of `gold.indicators` come out. The bars of all series
lie in one pool, and `kernel/series.py` works off those of a feed in one run: averages and deviations at once, in the bits of
TA-Lib. Other functions are TA-Lib calls: live by its incremental handles, when catching up in batches. All of these give the
same bits, so that the rows do not depend on how bars were cut into feeds. Only the current day and its seeds stay in memory;
what is older, and everything after a restart, is read back through `BarHistory`.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np

from tickhouse.errors import ConfigError, SchemaMismatchError
from tickhouse.indicators.plan import IndicatorPlan, Library, Series
from tickhouse.indicators.series import BarColumns, BarHistory, IndicatorRows, SeriesWanted
from tickhouse.indicators.specs import IndicatorSpec, parse_spec
from tickhouse.kernel.base import Bars
from tickhouse.kernel.series import DONE, MORE_POOL, MORE_ROWS, NEEDS_PAST, STEP, Fed, Made, again, empty_rows, work_off
from tickhouse.kernel.series_pool import (
    AT,
    CUT,
    DAY_US,
    FROM,
    LAST,
    MADE,
    SEGMENTS,
    STOP,
    N,
    empty_pool,
    larger_pool,
    placed,
    with_series,
)
from tickhouse.model import F64, I64, Cause, Feeds
from tickhouse.rules import Rules, parse_duration

__all__ = ["SEEDS", "Indicators"]

SEEDS = 1_000
"""Every UTC day of a series starts from this many bars before it, or as many as there are."""

_END_OF_TIME = int(np.iinfo(np.int64).max)
_VERSION = 1
_SPARE_ROWS = 4_096
_SHORT = 1 << 16
_LOW = 0xFFFFFFFF


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
        self._plan = IndicatorPlan(self.specs, SEEDS)
        self._known: set[int] | None = set() if fresh else None
        self._begin()

    def _begin(self) -> None:
        """Have no series in memory."""
        self._pool = empty_pool(len(self._plan.inputs), len(self._plan.averages))
        self._library = Library(self._plan)
        self._keys: list[int] = []
        """Of each series in memory: level and instrument."""
        self._number = np.full((len(self._rules.intervals), 0), -1, np.int64)
        """[level, instrument]: which series, -1 = not in memory."""

    def feed(self, bars: Bars, feeds: Feeds, *, catching_up: bool) -> IndicatorRows:
        """Take bars and revisions in the order they were issued; return the rows they make or change.

        Args:
            bars: Whole instants, sorted by available_at, later than all fed before.
            feeds: Names the instruments.
            catching_up: More is waiting: long runs take batch calls. Changes no row.
        """
        picked = np.flatnonzero(np.isin(bars.level, self._levels)) if self.specs else np.empty(0, np.int64)
        if not len(picked):
            none = np.empty(0, np.int64)
            return self._plan.rows(bars, none, none, self._plan.values(self._room(0), 0, []))
        keys = (bars.level[picked].astype(np.int64) << 32) | bars.instrument[picked]
        order = np.argsort(keys, kind="stable")
        picked, keys = picked[order], keys[order]
        before = Cause(self._partition, int(bars.offset[0]), int(bars.row[0]))
        self._load(keys, feeds, before)
        instant = np.concatenate([[0], np.cumsum(bars.available_at[1:] != bars.available_at[:-1])])
        fed = self._fed(bars, picked, keys, instant[picked])
        made = self._work_off(fed, _Asked(feeds, before, catching_up))
        count = int(self._pool.head[MADE])
        # A run writes by series, rows stand by instant first; numpy sorts short numbers by radix, several times faster.
        ranks = fed.instant[made.cause[:count]]
        order = np.argsort(ranks.astype(np.uint16) if instant[-1] < _SHORT else ranks, kind="stable")
        values = self._plan.values(made, count, self._library.taken())
        return self._plan.rows(bars, picked[made.cause[order]], made.start[order], values[order])

    def snapshot(self) -> bytes:
        """Return which series exist; their bars are read back when they are next touched."""
        return msgspec.msgpack.encode((_VERSION, sorted((self._known or set()).union(self._keys))))

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
        self._begin()
        self._known = set(known)

    def _load(self, keys: I64, feeds: Feeds, before: Cause) -> None:
        """Give every key its series, read back where one exists."""
        lacking = len(feeds.instruments) - self._number.shape[1]
        if lacking > 0:
            more = np.full((len(self._number), max(lacking, self._number.shape[1])), -1, np.int64)
            self._number = np.concatenate([self._number, more], axis=1)
        fresh = np.unique(keys[self._number[keys >> 32, keys & _LOW] < 0])
        if not len(fresh):
            return
        wanted: dict[int, SeriesWanted] = {}
        for key in fresh.tolist():
            if self._known is None or key in self._known:
                interval = self._rules.intervals[key >> 32]
                # a day has at most this many bars: so the current day and all of its seeds are among them
                count = SEEDS + DAY_US // parse_duration(interval)
                wanted[key] = SeriesWanted(feeds.instruments[key & _LOW], interval, _END_OF_TIME, count, None)
        found = self._history.bars(list(wanted.values()), before) if wanted else {}
        self._number[fresh >> 32, fresh & _LOW] = np.arange(len(self._keys), len(self._keys) + len(fresh))
        self._keys += fresh.tolist()
        self._pool = with_series(self._pool, len(self._keys))
        for key, want in wanted.items():
            stored = found.get(want)
            if stored is None or not len(stored.start):
                continue
            series, is_cut = int(self._number[key >> 32, key & _LOW]), len(stored.start) == want.count
            held = self._held(stored)
            self._pool = placed(self._pool, series, held.start, held.values, held.returns, seeds=SEEDS, is_cut=is_cut)

    def _held(self, bars: BarColumns) -> Series:
        return self._plan.series(bars.start, np.array([getattr(bars, name) for name in self._plan.inputs], np.float64))

    def _fed(self, bars: Bars, picked: I64, keys: I64, instant: I64) -> Fed:
        series, start = self._number[keys >> 32, keys & _LOW], bars.start[picked]
        falls = (start[1:] <= start[:-1]) & (series[1:] == series[:-1])
        touched = start
        if falls.any():
            together = np.cumsum((series[1:] != series[:-1]) | (instant[1:] != instant[:-1]))
            touched = start[np.lexsort((start, np.concatenate([[0], together])))]
        values = np.array([getattr(bars, name)[picked] for name in self._plan.inputs], np.float64)
        return Fed(series, start, values, instant, touched)

    def _room(self, rows: int) -> Made:
        segments = rows if self._library.cores else 0
        return empty_rows(rows, len(self._plan.averages), len(self._plan.windows), segments)

    def _with_room(self, made: Made, rows: int) -> Made:
        """Return what was made, with room for this many rows more."""
        count = int(self._pool.head[MADE])
        if count + rows <= len(made.cause):
            return made
        larger = self._room(2 * (count + rows))
        for had, has in zip(made[:4], larger[:4], strict=True):
            has[..., :count] = had[..., :count]
        return larger

    def _work_off(self, fed: Fed, asked: _Asked) -> Made:
        self._pool.head[[AT, MADE, SEGMENTS]] = 0
        made = self._room(len(fed.start) + _SPARE_ROWS)
        ended = -1
        while ended != DONE:
            ended = work_off(self._pool, self._plan.loops, fed, made)
            head = self._pool.head
            self._library.compute(self._pool, made.segments[: head[SEGMENTS]], catching_up=asked.catching_up)
            head[SEGMENTS] = 0
            if ended in (DONE, STEP):
                continue
            series = int(fed.series[head[AT]])
            if ended == MORE_POOL:
                self._pool = larger_pool(self._pool, int(self._pool.rows[series, N]) + int(np.sum(fed.series == series)))
            elif ended == MORE_ROWS:
                made = self._with_room(made, int(self._pool.rows[series, N]) + len(fed.start))
            elif ended == NEEDS_PAST:
                made = self._issue_past(series, fed, made, asked)
                head[AT] = head[STOP]
        return made

    def _issue_past(self, series: int, fed: Fed, made: Made, asked: _Asked) -> Made:
        """Issue again what the bars of an instant touch, where some of their days have left memory."""
        at, stop = int(self._pool.head[AT]), int(self._pool.head[STOP])
        begin = at - int(np.argmax(fed.series[at::-1] != series)) + 1 if (fed.series[:at] != series).any() else 0
        by_day: dict[int, list[int]] = {}
        for start in fed.touched[at:stop].tolist():
            by_day.setdefault(start - start % DAY_US, []).append(start)
        again_of: dict[int, tuple[Series, _Touched]] = {}
        for midnight, starts in by_day.items():
            held = self._memory(series)
            if self._pool.rows[series, CUT] and int(np.searchsorted(held.start, midnight)) < SEEDS:
                past = self._read_past(self._keys[series], midnight, starts[-1], int(self._pool.rows[series, LAST]), asked)
                below = fed.start[begin:stop] < past.horizon
                held = self._plan.series(
                    *_merged(past.start, past.values, fed.start[begin:stop][below], fed.values[:, begin:stop][:, below])
                )
            for day in _touched_days(held.start, midnight, starts[0], starts[-1]):
                other = again_of.get(day.midnight)
                if other is None or held.start[day.first] < other[0].start[other[1].first]:
                    again_of[day.midnight] = (held, day)
        for _, (held, day) in sorted(again_of.items()):
            made = self._with_room(made, day.end - day.first)
            row = int(self._pool.head[MADE])
            again(held.start, held.values, held.returns, self._plan.loops, made, row, day.lo, day.first, day.end, at)
            self._library.issue_again(held.values, day.lo, day.first, day.end)
            self._pool.head[MADE] += day.end - day.first
        return made

    def _memory(self, series: int) -> Series:
        """Return the bars of a series that are in memory."""
        row = self._pool.rows[series]
        begin, end = int(row[FROM]), int(row[FROM] + row[N])
        pool = self._pool
        return Series(pool.start[begin:end].copy(), pool.values[:, begin:end].copy(), pool.returns[begin:end].copy())

    def _read_past(self, key: int, midnight: int, touched: int, last: int, asked: _Asked) -> _Past:
        """Read a day that has left memory, its seeds, and the days after it whose seeds may hold the bar `touched`."""
        instrument, interval = asked.feeds.instruments[key & _LOW], self._rules.intervals[key >> 32]
        days = 2
        while True:
            horizon = midnight + days * DAY_US
            seeds = SeriesWanted(instrument, interval, midnight, SEEDS, None)
            body = SeriesWanted(instrument, interval, horizon, None, midnight)
            found = self._history.bars([seeds, body], asked.before)
            pieces = [self._held(found[wanted]) for wanted in (seeds, body) if wanted in found]
            past = _Past(
                np.concatenate([np.empty(0, np.int64), *(piece.start for piece in pieces)]),
                np.concatenate([np.empty((len(self._plan.inputs), 0)), *(piece.values for piece in pieces)], axis=1),
                horizon,
            )
            if past.reaches(touched, last):
                return past
            days *= 4


class _Asked(NamedTuple):
    """What a feed comes with."""

    feeds: Feeds
    before: Cause
    """Whatever has a cause before it is in the history; bars of this feed are not yet."""
    catching_up: bool


class _Past(NamedTuple):
    """Bars of a series read back: a day that has left memory, its seeds, and whole days after it up to `horizon`."""

    start: I64
    values: F64
    horizon: int

    def reaches(self, touched: int, last: int) -> bool:
        """Say whether no day from the horizon on can have the bar `touched` among its seeds."""
        return self.horizon > last or len(self.start) - int(np.searchsorted(self.start, touched, side="right")) >= SEEDS


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
        day = int(start[at]) - int(start[at]) % DAY_US
        lo = max(0, at - SEEDS)
        end = int(np.searchsorted(start, day + DAY_US))
        if day == midnight:
            found.append(_Touched(day, lo, int(np.searchsorted(start, earliest)), end))
        elif start[lo] <= latest:
            found.append(_Touched(day, lo, at, end))
        else:
            break
        at = end
    return found


def _merged(start: I64, values: F64, new_start: I64, new_values: F64) -> tuple[I64, F64]:
    """Return both as one, sorted by start; of equal starts the last."""
    joined = np.concatenate([start, new_start])
    order = np.argsort(joined, kind="stable")
    ordered = joined[order]
    kept = np.append(ordered[1:] != ordered[:-1], True) if len(ordered) else np.zeros(0, np.bool_)
    order = order[kept]
    return joined[order], np.ascontiguousarray(np.concatenate([values, new_values], axis=1)[:, order])
