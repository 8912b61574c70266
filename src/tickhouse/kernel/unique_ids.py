"""Unique ids: have we seen this one within ten minutes of clock (rule R1).

Called by the kernel's loop as `continuity` is for contiguous ids. Ids stand in a ring in the order they came, and in a hash
table with open addressing that leads to their places in it.
"""

from __future__ import annotations

from tickhouse.kernel.base import ACCEPTED, DUPLICATE
from tickhouse.kernel.compiling import Array, compiled, inner, mixed
from tickhouse.kernel.state import SEEN_FROM, SEEN_N, State

__all__ = ["judge_unique", "link_all"]

_REPEAT_US = 600_000_000


@inner
def judge_unique(state: State, instrument: int, number: int, high: int, clock: int) -> int:
    """Return DUPLICATE where this id was first seen at most ten minutes of clock ago, else remember it and accept."""
    _expire(state, clock)
    seen = state.seen
    epoch = state.instruments[instrument]["epoch"]
    mask = state.table.shape[0] - 1
    at = mixed(instrument, epoch, number, high) & mask
    while state.table[at] >= 0:
        place = state.table[at]
        if seen[place, 2] == number and seen[place, 3] == high and seen[place, 0] == instrument and seen[place, 1] == epoch:
            return DUPLICATE
        at = (at + 1) & mask
    head = state.head
    place = (head[SEEN_FROM] + head[SEEN_N]) & (seen.shape[0] - 1)
    seen[place, 0] = instrument
    seen[place, 1] = epoch
    seen[place, 2] = number
    seen[place, 3] = high
    seen[place, 4] = clock
    state.table[at] = place
    head[SEEN_N] += 1
    return ACCEPTED


@compiled
def link_all(seen: Array, table: Array, first: int, count: int) -> None:
    """Enter `count` ids of the ring, from the place `first` on, into a fresh table."""
    for k in range(first, first + count):
        _link(seen, table, k & (seen.shape[0] - 1))


@inner
def _home(seen: Array, place: int, mask: int) -> int:
    return mixed(seen[place, 0], seen[place, 1], seen[place, 2], seen[place, 3]) & mask


@inner
def _link(seen: Array, table: Array, place: int) -> None:
    """Enter the id at `place` of the ring into the table."""
    mask = table.shape[0] - 1
    at = _home(seen, place, mask)
    while table[at] >= 0:
        at = (at + 1) & mask
    table[at] = place


@inner
def _unlink(seen: Array, table: Array, place: int) -> None:
    """Take an id out of the table and close the chain behind it."""
    mask = table.shape[0] - 1
    free = _home(seen, place, mask)
    while table[free] != place:
        free = (free + 1) & mask
    at = (free + 1) & mask
    while table[at] >= 0:
        home = _home(seen, table[at], mask)
        if ((at - home) & mask) >= ((at - free) & mask):
            table[free] = table[at]
            free = at
        at = (at + 1) & mask
    table[free] = -1


@inner
def _expire(state: State, clock: int) -> None:
    head = state.head
    mask = state.seen.shape[0] - 1
    while head[SEEN_N] > 0 and clock - state.seen[head[SEEN_FROM], 4] > _REPEAT_US:
        _unlink(state.seen, state.table, head[SEEN_FROM])
        head[SEEN_FROM] = (head[SEEN_FROM] + 1) & mask
        head[SEEN_N] -= 1
