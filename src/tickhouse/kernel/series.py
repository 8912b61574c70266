"""The loops over bars of all indicator series, and the indicators over them that need no library (rule R10).

`indicators.py` hands over the bars of a feed, sorted by series; one run of `work_off` puts them into their series
(`series_pool.py`) and writes a row for every (bar, instant) that they make or change, with its averages and deviations
(`averages.py`). What another function of TA-Lib needs is told as segments: the caller computes it from the series as they stand
then, so the run stops after each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tickhouse.kernel.averages import average, called, deviation
from tickhouse.kernel.compiling import SOURCES, Array, cached, inner
from tickhouse.kernel.series_pool import (
    AT,
    CUT,
    DAY_END,
    DAY_US,
    FIRST,
    FROM,
    LAST,
    LEAST_ROOM,
    LO,
    MADE,
    NEVER,
    ROOM,
    SEGMENTS,
    STANDS,
    STOP,
    USED,
    VERSION,
    N,
    Pool,
)

__all__ = [
    "APPENDED",
    "DONE",
    "MORE_POOL",
    "MORE_ROWS",
    "NEEDS_PAST",
    "STEP",
    "Fed",
    "Made",
    "Plan",
    "again",
    "empty_rows",
    "work_off",
]

DONE, STEP, MORE_POOL, MORE_ROWS, NEEDS_PAST = range(5)
"""What a run of `work_off` ends with: everything done; a segment to be computed by others; no room in the pool, or for rows;
an instant whose bars are in, but whose days have left memory."""

APPENDED = 6
"""Column of `Made.segments`: 1 where its bars were appended, 0 where they are issued again."""


class Plan(NamedTuple):
    """What to compute."""

    average: Array
    """(kind, period, input) of each."""
    window: Array
    """(0 deviation or 1 volatility, period) of each."""
    close: int
    """Which input the deviations are of, -1 = none are wanted."""
    seeds: int
    log: int
    """Address of the C library's logarithm, the one of `math.log`."""


class Fed(NamedTuple):
    """Bars sorted by series, within one in the order they were issued."""

    series: Array
    start: Array
    values: Array
    instant: Array
    """Equal for the bars that were issued together."""
    touched: Array
    """`start`, rising within each (series, instant)."""


class Made(NamedTuple):
    """Room for rows, by series, instant and start."""

    cause: Array
    """Index of a fed bar of the same series and instant."""
    start: Array
    averages: Array
    """[average, row]; NaN until ready."""
    windows: Array
    segments: Array
    """(series, first seed, first bar, end, first fed bar, its end, `APPENDED`, `VERSION`), bars as slots of the pool; without
    rows = not wanted."""


@inner
def _place(start: Array, low: int, high: int, wanted: int) -> int:
    """Return the first slot in [low, high) whose start is not below `wanted`."""
    while low < high:
        middle = (low + high) >> 1
        if start[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def _write_windows(plan: Plan, values: Array, returns: Array, out: Made, row: int, slot: int, lo: int) -> None:
    for w in range(plan.window.shape[0]):
        out.windows[w, row] = deviation(plan.window[w, 0], plan.window[w, 1], values, plan.close, returns, slot, slot - lo)


@inner
def _issue_again(
    start: Array, values: Array, returns: Array, plan: Plan, out: Made, row: int, lo: int, first: int, end: int, cause: int
) -> None:
    """Write the rows of the bars [first, end), whose day's series begins at `lo`, from scratch."""
    for c in range(plan.average.shape[0]):
        kind, period, of = plan.average[c, 0], plan.average[c, 1], plan.average[c, 2]
        _, state = average(kind, period, values, of, lo, lo, first, 0.0)
        for slot in range(first, end):
            value, state = average(kind, period, values, of, lo, slot, slot + 1, state)
            out.averages[c, row + slot - first] = value
    for slot in range(first, end):
        out.cause[row + slot - first] = cause
        out.start[row + slot - first] = start[slot]
        _write_windows(plan, values, returns, out, row + slot - first, slot, lo)


@inner
def _put_return(pool: Pool, plan: Plan, begin: int, slot: int) -> None:
    if plan.close >= 0:
        closes = pool.values
        pool.returns[slot] = (
            called(plan.log, closes[plan.close, slot] / closes[plan.close, slot - 1]) if slot > begin else np.nan
        )


@inner
def _move(pool: Pool, s: int, count: int) -> bool:
    """Give a series a larger region at the pool's end; False: there is no room."""
    row = pool.rows[s]
    lo, n = row[LO], row[N]
    room = max(LEAST_ROOM, (n - lo + count) * 3 // 2)
    begin = pool.head[USED]
    if begin + room > pool.start.shape[0]:
        return False
    old = row[FROM] + lo
    for k in range(n - lo):
        pool.start[begin + k] = pool.start[old + k]
        pool.returns[begin + k] = pool.returns[old + k]
        for i in range(pool.values.shape[0]):
            pool.values[i, begin + k] = pool.values[i, old + k]
    if n > lo:
        pool.returns[begin] = np.nan
    row[FROM] = begin
    row[ROOM] = room
    row[N] = n - lo
    row[FIRST] -= lo
    row[LO] = 0
    if lo > 0:
        row[CUT] = 1
    pool.head[USED] = begin + room
    return True


@inner
def _append(pool: Pool, plan: Plan, fed: Fed, out: Made, s: int, j: int) -> None:
    """Take in a bar after the last of its series, and write its row."""
    row = pool.rows[s]
    start = fed.start[j]
    began = False
    if start >= row[DAY_END]:
        row[DAY_END] = start - start % DAY_US + DAY_US
        row[FIRST] = row[N]
        lo = max(0, row[N] - plan.seeds)
        began = True
        if lo != row[LO]:  # else the series still begins with the same bar, and what was computed goes on
            row[LO] = lo
            row[STANDS] = -1
            row[VERSION] += 1
    slot = row[FROM] + row[N]
    pool.start[slot] = start
    for i in range(pool.values.shape[0]):
        pool.values[i, slot] = fed.values[i, j]
    _put_return(pool, plan, row[FROM], slot)
    row[N] += 1
    row[LAST] = start
    lo = row[FROM] + row[LO]
    made = pool.head[MADE]
    stands = row[STANDS]
    for c in range(plan.average.shape[0]):
        begin = slot if stands == slot - lo else lo
        state = pool.sums[s, c] if begin == slot and slot > lo else 0.0
        out.averages[c, made], pool.sums[s, c] = average(
            plan.average[c, 0], plan.average[c, 1], pool.values, plan.average[c, 2], lo, begin, slot + 1, state
        )
    row[STANDS] = slot - lo + 1
    _write_windows(plan, pool.values, pool.returns, out, made, slot, lo)
    out.cause[made] = j
    out.start[made] = start
    pool.head[MADE] += 1
    if out.segments.shape[0] > 0:
        at = pool.head[SEGMENTS]
        if at == 0 or began:
            _tell(pool, out, s, lo, slot, slot + 1, j, j + 1, 1)
        else:
            out.segments[at - 1, 3] = slot + 1
            out.segments[at - 1, 5] = j + 1


@inner
def _tell(pool: Pool, out: Made, s: int, lo: int, first: int, end: int, begin: int, stop: int, appended: int) -> None:
    segment = out.segments[pool.head[SEGMENTS]]
    segment[0] = s
    segment[1] = lo
    segment[2] = first
    segment[3] = end
    segment[4] = begin
    segment[5] = stop
    segment[APPENDED] = appended
    segment[7] = pool.rows[s, VERSION]
    pool.head[SEGMENTS] += 1


@inner
def _put(pool: Pool, plan: Plan, fed: Fed, s: int, j: int) -> None:
    """Take in a revision, or a bar out of order; one older than all of a series that was cut is left to the past."""
    row = pool.rows[s]
    begin, end = row[FROM], row[FROM] + row[N]
    start = fed.start[j]
    if row[CUT] and row[N] > 0 and start < pool.start[begin]:
        return
    slot = _place(pool.start, begin, end, start)
    if slot == end or pool.start[slot] != start:
        for k in range(end, slot, -1):
            pool.start[k] = pool.start[k - 1]
            pool.returns[k] = pool.returns[k - 1]
            for i in range(pool.values.shape[0]):
                pool.values[i, k] = pool.values[i, k - 1]
        row[N] += 1
        end += 1
        pool.start[slot] = start
    for i in range(pool.values.shape[0]):
        pool.values[i, slot] = fed.values[i, j]
    _put_return(pool, plan, begin, slot)
    if slot + 1 < end:
        _put_return(pool, plan, begin, slot + 1)
    last = pool.start[end - 1]
    row[LAST] = last
    row[DAY_END] = last - last % DAY_US + DAY_US
    row[FIRST] = _place(pool.start, begin, end, row[DAY_END] - DAY_US) - begin
    row[LO] = max(0, row[FIRST] - plan.seeds)
    row[STANDS] = -1
    row[VERSION] += 1


@inner
def _is_covered(pool: Pool, plan: Plan, s: int, midnight: int) -> bool:
    """Say whether all seeds of the day that begins at `midnight` are in memory, and so all that follows."""
    row = pool.rows[s]
    return not row[CUT] or _place(pool.start, row[FROM], row[FROM] + row[N], midnight) - row[FROM] >= plan.seeds


@inner
def _issue_touched(pool: Pool, plan: Plan, fed: Fed, out: Made, s: int, i: int, stop: int) -> None:
    """Issue again what the bars [i, stop) touch: their days from them on, and days whose seeds hold one of them."""
    begin, end = pool.rows[s, FROM], pool.rows[s, FROM] + pool.rows[s, N]
    t = i
    latest = NEVER
    at = _place(pool.start, begin, end, fed.touched[i] - fed.touched[i] % DAY_US)
    while at < end:
        midnight = pool.start[at] - pool.start[at] % DAY_US
        while t < stop and fed.touched[t] < midnight:
            latest = fed.touched[t]
            t += 1
        lo = max(begin, at - plan.seeds)
        if latest != NEVER and pool.start[lo] <= latest:
            first = at
        elif t < stop and fed.touched[t] < midnight + DAY_US:
            first = _place(pool.start, at, end, fed.touched[t])
        elif t < stop:
            at = _place(pool.start, at, end, fed.touched[t] - fed.touched[t] % DAY_US)
            continue
        else:
            return
        after = _place(pool.start, at, end, midnight + DAY_US)
        _issue_again(pool.start, pool.values, pool.returns, plan, out, pool.head[MADE], lo, first, after, i)
        pool.head[MADE] += after - first
        if out.segments.shape[0] > 0:
            _tell(pool, out, s, lo, first, after, i, stop, 0)
        at = after


@inner
def _work_off(pool: Pool, plan: Plan, fed: Fed, out: Made) -> int:
    """Work off fed bars from `head[AT]` on, instant by instant; return `DONE`, or what has to be done before going on."""
    head, rows = pool.head, pool.rows
    count = fed.start.shape[0]
    ran = False
    while head[AT] < count:
        i = head[AT]
        s = fed.series[i]
        if i == 0 or fed.series[i - 1] != s:
            if ran and out.segments.shape[0] > 0:
                return STEP
            group = i
            while group < count and fed.series[group] == s:
                group += 1
            if rows[s, N] + group - i > rows[s, ROOM] and not _move(pool, s, group - i):
                return MORE_POOL
        stop = i
        rising = True
        last = rows[s, LAST]
        while stop < count and fed.series[stop] == s and fed.instant[stop] == fed.instant[i]:
            rising = rising and fed.start[stop] > last
            last = fed.start[stop]
            stop += 1
        if head[MADE] + stop - i + rows[s, N] > out.cause.shape[0]:
            return MORE_ROWS
        if rising:
            for j in range(i, stop):
                _append(pool, plan, fed, out, s, j)
            ran = True
        else:
            if ran and out.segments.shape[0] > 0:
                return STEP
            for j in range(i, stop):
                _put(pool, plan, fed, s, j)
            for j in range(i, stop):
                if not _is_covered(pool, plan, s, fed.start[j] - fed.start[j] % DAY_US):
                    head[STOP] = stop
                    return NEEDS_PAST
            _issue_touched(pool, plan, fed, out, s, i, stop)
            if out.segments.shape[0] > 0:
                head[AT] = stop
                return STEP
        head[AT] = stop
    return DONE


def _entry(sources: int) -> Callable[[Pool, Plan, Fed, Made], int]:
    """Return the loop as Python enters it; see `step`."""

    def run(pool: Pool, plan: Plan, fed: Fed, out: Made) -> int:
        return _work_off(pool, plan, fed, out) if sources >= 0 else DONE

    return run


def _entry_again(sources: int) -> Callable[..., None]:
    """Return what writes the rows of a day from the bar `first` on, over arrays that are not in the pool."""

    def run(
        start: Array, values: Array, returns: Array, plan: Plan, out: Made, row: int, lo: int, first: int, end: int, cause: int
    ) -> None:
        if sources >= 0:
            _issue_again(start, values, returns, plan, out, row, lo, first, end, cause)

    return run


work_off = cached(_entry(SOURCES))
again = cached(_entry_again(SOURCES))


def empty_rows(rows: int, averages: int, windows: int, segments: int) -> Made:
    """Return room for this many rows and segments."""
    return Made(
        cause=np.empty(rows, np.int64),
        start=np.empty(rows, np.int64),
        averages=np.empty((averages, rows)),
        windows=np.empty((windows, rows)),
        segments=np.empty((segments, 8), np.int64),
    )
