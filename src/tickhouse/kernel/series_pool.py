"""Bars of all indicator series in flat arrays: how they are laid out and grown (rule R10).

`indicators.py` owns a pool; the loops of `series.py` read and write it. A series starts afresh at every UTC midnight, from its
last seeds before it. Its bars lie in one region of the pool; a region that is full moves to the pool's end, without what the
current day does not need.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tickhouse.kernel.compiling import Array

__all__ = [
    "AT",
    "CUT",
    "DAY_END",
    "DAY_US",
    "FIRST",
    "FROM",
    "LAST",
    "LEAST_ROOM",
    "LO",
    "MADE",
    "NEVER",
    "ROOM",
    "SEGMENTS",
    "STANDS",
    "STOP",
    "USED",
    "VERSION",
    "N",
    "Pool",
    "empty_pool",
    "larger_pool",
    "placed",
    "with_series",
]

DAY_US = 86_400_000_000
NEVER = int(np.iinfo(np.int64).min)
LEAST_ROOM = 32
_LEAST_POOL = 1 << 16

USED, AT, STOP, MADE, SEGMENTS = range(5)
"""Places in `Pool.head`: slots in use; the next fed bar; where an instant that needs the past ends; rows and segments made."""

FROM, ROOM, N, LO, FIRST, DAY_END, LAST, CUT, VERSION, STANDS = range(10)
"""Columns of `Pool.rows`, all but `FROM` counted within the region: its slots and bars, where the current day's seeds and the
current day begin; when that day ends; the start of the last bar; whether there may be bars before those in memory; a number
that changes whenever what was computed bar by bar has to begin anew; how many bars the averages have taken in."""


class Pool(NamedTuple):
    """The bars in memory."""

    head: Array
    rows: Array
    """[series, `FROM`...]"""
    sums: Array
    """[series, average]: the running total of an SMA, the last value of an EMA."""
    start: Array
    values: Array
    """[input, slot]"""
    returns: Array
    """Log returns of the closes, NaN at the first bar of a region."""


def empty_pool(inputs: int, averages: int) -> Pool:
    """Return a pool without series."""
    return Pool(
        head=np.zeros(5, np.int64),
        rows=np.zeros((0, 10), np.int64),
        sums=np.zeros((0, averages)),
        start=np.empty(0, np.int64),
        values=np.empty((inputs, 0)),
        returns=np.empty(0),
    )


def with_series(pool: Pool, count: int) -> Pool:
    """Return the pool with room for this many series; new ones have no bar."""
    had = len(pool.rows)
    if had >= count:
        return pool
    rows = np.zeros((max(count, 2 * had), 10), np.int64)
    rows[:had] = pool.rows
    rows[had:, DAY_END] = rows[had:, LAST] = NEVER
    sums = np.zeros((len(rows), pool.sums.shape[1]))
    sums[:had] = pool.sums
    return pool._replace(rows=rows, sums=sums)


def larger_pool(pool: Pool, count: int) -> Pool:
    """Return the pool with room for regions of `count` bars more; regions move together where much lies between them."""
    rooms, used = pool.rows[:, ROOM], int(pool.head[USED])
    room = int(rooms.sum())
    size = max(used if used <= 2 * room else room, 1) * 3 // 2 + 2 * count + 2 * LEAST_ROOM + _LEAST_POOL
    fresh = pool._replace(start=np.empty(size, np.int64), values=np.empty((len(pool.values), size)), returns=np.empty(size))
    if used <= 2 * room:
        fresh.start[:used] = pool.start[:used]
        fresh.values[:, :used] = pool.values[:, :used]
        fresh.returns[:used] = pool.returns[:used]
        return fresh
    begin = np.cumsum(rooms) - rooms
    for old, new, n in zip(pool.rows[:, FROM].tolist(), begin.tolist(), pool.rows[:, N].tolist(), strict=True):
        fresh.start[new : new + n] = pool.start[old : old + n]
        fresh.values[:, new : new + n] = pool.values[:, old : old + n]
        fresh.returns[new : new + n] = pool.returns[old : old + n]
    pool.rows[:, FROM] = begin
    pool.head[USED] = room
    return fresh


def placed(pool: Pool, series: int, start: Array, values: Array, returns: Array, *, seeds: int, is_cut: bool) -> Pool:
    """Return the pool with the bars of a series that were read back."""
    count = len(start)
    room = max(LEAST_ROOM, count * 3 // 2)
    if pool.head[USED] + room > len(pool.start):
        pool = larger_pool(pool, room)
    begin = int(pool.head[USED])
    pool.head[USED] += room
    pool.start[begin : begin + count] = start
    pool.values[:, begin : begin + count] = values
    pool.returns[begin : begin + count] = returns
    last = int(start[-1])
    day_end = last - last % DAY_US + DAY_US
    first = int(np.searchsorted(start, day_end - DAY_US))
    version = pool.rows[series, VERSION] + 1
    pool.rows[series] = (begin, room, count, max(0, first - seeds), first, day_end, last, is_cut, version, -1)
    return pool
