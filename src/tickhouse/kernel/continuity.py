"""Contiguous ids: have we seen this one, and what is missing; duplicates and gaps (rules R1 and R14).

Called by the kernel's loop for every valid trade of the right id space, before anything else of it counts. Ids are a set of
intervals an instrument, the top one in the instrument's own row, so that the usual next id costs one comparison.
"""

from __future__ import annotations

from tickhouse.kernel.base import ACCEPTED, DUPLICATE, GAP_HEALED, GAP_LOST, GAP_OPEN
from tickhouse.kernel.compiling import Array, Record, inner
from tickhouse.kernel.state import CLOCK, GAPS_OUT, GAPS_USED, HOLES_USED, NEXT_DUE, PENDING_FROM, PENDING_N, State

__all__ = ["ID_CONFLICT", "NO_ROOM", "close_gaps", "judge_contiguous", "open_due_gaps", "put_gap"]

ID_CONFLICT = 8
NO_ROOM = -1
"""Nothing was done: make room, then come again."""

_CONFLICT_US = 60_000_000
_MAX_INTERVALS = 1000
_FIRST, _LAST, _MIN, _MAX = 0, 1, 2, 3


@inner
def put_gap(
    out: Array, head: Array, instrument: int, epoch: int, first: int, last: int, change: int, clock: int, offset: int, row: int
) -> None:
    """Write one change of a gap."""
    gap = out[head[GAPS_OUT]]
    gap["instrument"] = instrument
    gap["epoch"] = epoch
    gap["first"] = first
    gap["last"] = last
    gap["state"] = change
    gap["clock"] = clock
    gap["offset"] = offset
    gap["row"] = row
    head[GAPS_OUT] += 1


@inner
def _region(pool: Array, head: Array, used: int, start: int, room: int, count: int) -> tuple[int, int]:
    """Return (start, room) of a region with a free row, moved to the pool's end where it was full; (-1, 0): no room."""
    if count < room:
        return start, room
    larger = max(4, 2 * room)
    if head[used] + larger > pool.shape[0]:
        return NO_ROOM, 0
    moved = head[used]
    head[used] += larger
    for k in range(count):
        for column in range(pool.shape[1]):
            pool[moved + k, column] = pool[start + k, column]
    return moved, larger


@inner
def _ids_room(state: State, row: Record) -> bool:
    start, room = _region(state.ids, state.head, HOLES_USED, row["ids_from"], row["ids_room"], row["intervals"])
    if start == NO_ROOM:
        return False
    row["ids_from"] = start
    row["ids_room"] = room
    return True


@inner
def _gaps_room(state: State, row: Record) -> bool:
    start, room = _region(state.gaps, state.head, GAPS_USED, row["gaps_from"], row["gaps_room"], row["gaps"])
    if start == NO_ROOM:
        return False
    row["gaps_from"] = start
    row["gaps_room"] = room
    return True


@inner
def _not_above(pool: Array, start: int, count: int, number: int) -> int:
    """Return how many of a region's rows, sorted by their first, begin at or below `number`."""
    low = 0
    high = count
    while low < high:
        middle = (low + high) >> 1
        if pool[start + middle, _FIRST] <= number:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def _remove(pool: Array, start: int, count: int, place: int) -> None:
    for k in range(start + place, start + count - 1):
        for column in range(pool.shape[1]):
            pool[k, column] = pool[k + 1, column]
    for column in range(pool.shape[1]):
        pool[start + count - 1, column] = 0


@inner
def _insert(pool: Array, start: int, count: int, place: int) -> None:
    for k in range(start + count, start + place, -1):
        for column in range(pool.shape[1]):
            pool[k, column] = pool[k - 1, column]


@inner
def _repeated(ts: int, smallest: int, largest: int) -> int:
    return ID_CONFLICT if ts < smallest - _CONFLICT_US or ts > largest + _CONFLICT_US else DUPLICATE


@inner
def judge_contiguous(
    state: State, out: Array, instrument: int, number: int, ts: int, live: bool, due: int, offset: int, at: int
) -> int:
    """Return the verdict of a trade whose id is not simply the next one.

    Args:
        state: The partition's.
        out: Where changes of gaps are written.
        instrument: The trade's.
        number: Its id.
        ts: Its time.
        live: It opens a gap when it skips ids.
        due: When such a gap is due: clock + lateness.
        offset: Where it stands in the journal.
        at: The row there.

    Returns:
        ACCEPTED, DUPLICATE, ID_CONFLICT or NO_ROOM.
    """
    row = state.instruments[instrument]
    count = row["intervals"]
    if count == 0:
        row["intervals"] = 1
        _set_top(row, number, number, ts, ts)
        return ACCEPTED
    if row["top_first"] <= number <= row["top_last"]:
        return _repeated(ts, row["top_min"], row["top_max"])
    ids = state.ids
    below = _not_above(ids, row["ids_from"], count - 1, number)
    if below > 0 and number < row["top_first"]:
        under = row["ids_from"] + below - 1
        if number <= ids[under, _LAST]:
            return _repeated(ts, ids[under, _MIN], ids[under, _MAX])
    if not _ids_room(state, row):
        return NO_ROOM
    if number > row["top_last"]:
        _above(state, row, instrument, number, ts, live, due)
    else:
        first, last = _between(state, row, below, number, ts)
        _heal(state, out, row, instrument, number, first, last, offset, at)
    if row["intervals"] > _MAX_INTERVALS:
        _forget_lowest_hole(state, out, row, instrument, offset, at)
    return ACCEPTED


@inner
def _set_top(row: Record, first: int, last: int, smallest: int, largest: int) -> None:
    row["top_first"] = first
    row["top_last"] = last
    row["top_min"] = smallest
    row["top_max"] = largest


@inner
def _above(state: State, row: Record, instrument: int, number: int, ts: int, live: bool, due: int) -> None:
    """Begin a new top interval, or go on with it; a live trade that skips ids starts a pending gap."""
    if number - 1 == row["top_last"]:
        row["top_last"] = number
        row["top_min"] = min(row["top_min"], ts)
        row["top_max"] = max(row["top_max"], ts)
        return
    head = state.head
    place = row["ids_from"] + row["intervals"] - 1
    state.ids[place, _FIRST] = row["top_first"]
    state.ids[place, _LAST] = row["top_last"]
    state.ids[place, _MIN] = row["top_min"]
    state.ids[place, _MAX] = row["top_max"]
    row["intervals"] += 1
    if live:
        gap = head[PENDING_FROM] + head[PENDING_N]
        state.pending[gap, 0] = due
        state.pending[gap, 1] = instrument
        state.pending[gap, 2] = row["epoch"]
        state.pending[gap, 3] = row["top_last"] + 1
        state.pending[gap, 4] = number - 1
        head[PENDING_N] += 1
        head[NEXT_DUE] = min(head[NEXT_DUE], due)
    _set_top(row, number, number, ts, ts)


@inner
def _between(state: State, row: Record, below: int, number: int, ts: int) -> tuple[int, int]:
    """Put an id that lies in a hole, or below everything; return the interval that it is then in."""
    ids = state.ids
    start = row["ids_from"]
    lower = row["intervals"] - 1
    under = start + below - 1
    over = start + below
    joins_under = below > 0 and ids[under, _LAST] == number - 1
    over_first = row["top_first"] if below == lower else ids[over, _FIRST]
    joins_over = over_first == number + 1
    if joins_under:
        ids[under, _LAST] = number
        ids[under, _MIN] = min(ids[under, _MIN], ts)
        ids[under, _MAX] = max(ids[under, _MAX], ts)
        if not joins_over:
            return ids[under, _FIRST], number
        return _join(ids, row, below - 1)
    if joins_over and below == lower:
        row["top_first"] = number
        row["top_min"] = min(row["top_min"], ts)
        row["top_max"] = max(row["top_max"], ts)
        return number, row["top_last"]
    if joins_over:
        ids[over, _FIRST] = number
        ids[over, _MIN] = min(ids[over, _MIN], ts)
        ids[over, _MAX] = max(ids[over, _MAX], ts)
        return number, ids[over, _LAST]
    _insert(ids, start, lower, below)
    ids[over, _FIRST] = number
    ids[over, _LAST] = number
    ids[over, _MIN] = ts
    ids[over, _MAX] = ts
    row["intervals"] += 1
    return number, number


@inner
def _join(ids: Array, row: Record, place: int) -> tuple[int, int]:
    """Make one of the interval at `place` and the next one; return it."""
    start = row["ids_from"]
    lower = row["intervals"] - 1
    under = start + place
    first = ids[under, _FIRST]
    row["intervals"] -= 1
    if place == lower - 1:
        row["top_first"] = first
        row["top_min"] = min(row["top_min"], ids[under, _MIN])
        row["top_max"] = max(row["top_max"], ids[under, _MAX])
        _remove(ids, start, lower, place)
        return first, row["top_last"]
    over = under + 1
    ids[over, _FIRST] = first
    ids[over, _MIN] = min(ids[under, _MIN], ids[over, _MIN])
    ids[over, _MAX] = max(ids[under, _MAX], ids[over, _MAX])
    last = ids[over, _LAST]
    _remove(ids, start, lower, place)
    return first, last


@inner
def _heal(
    state: State, out: Array, row: Record, instrument: int, number: int, first: int, last: int, offset: int, at: int
) -> None:
    """Close the tracked gap around `number` if the interval first..last now covers it."""
    gaps = state.gaps
    below = _not_above(gaps, row["gaps_from"], row["gaps"], number)
    if below == 0:
        return
    gap = row["gaps_from"] + below - 1
    if gaps[gap, _LAST] < number or gaps[gap, _FIRST] < first or gaps[gap, _LAST] > last:
        return
    put_gap(
        out,
        state.head,
        instrument,
        row["epoch"],
        gaps[gap, _FIRST],
        gaps[gap, _LAST],
        GAP_HEALED,
        state.head[CLOCK],
        offset,
        at,
    )
    _remove(gaps, row["gaps_from"], row["gaps"], below - 1)
    row["gaps"] -= 1


@inner
def _forget_lowest_hole(state: State, out: Array, row: Record, instrument: int, offset: int, at: int) -> None:
    """Merge the two lowest intervals: what is missing between them is lost."""
    start = row["ids_from"]
    first = state.ids[start, _LAST] + 1
    last = state.ids[start + 1, _FIRST] - 1
    closed = row["gaps"]
    close_gaps(state, out, instrument, first, last, True, offset, at)
    if closed == row["gaps"]:
        put_gap(out, state.head, instrument, row["epoch"], first, last, GAP_LOST, state.head[CLOCK], offset, at)
    _join(state.ids, row, 0)


@inner
def close_gaps(state: State, out: Array, instrument: int, first: int, last: int, touching: bool, offset: int, at: int) -> None:
    """Close tracked gaps as lost: those within first..last, or all that touch it."""
    row = state.instruments[instrument]
    gaps = state.gaps
    start = row["gaps_from"]
    kept = 0
    for k in range(start, start + row["gaps"]):
        low = gaps[k, _FIRST]
        high = gaps[k, _LAST]
        if (touching and low <= last and high >= first) or (low >= first and high <= last):
            put_gap(out, state.head, instrument, row["epoch"], low, high, GAP_LOST, state.head[CLOCK], offset, at)
        else:
            gaps[start + kept, _FIRST] = low
            gaps[start + kept, _LAST] = high
            kept += 1
    row["gaps"] = kept


@inner
def open_due_gaps(state: State, out: Array, instant: int, offset: int, at: int) -> bool:
    """Track what is left of the pending gaps due at `instant`; False: no room, come again."""
    head = state.head
    while head[PENDING_N] > 0 and state.pending[head[PENDING_FROM], 0] <= instant:
        gap = head[PENDING_FROM]
        instrument = state.pending[gap, 1]
        row = state.instruments[instrument]
        if row["epoch"] == state.pending[gap, 2]:
            if not _open_holes(state, out, row, instrument, gap, instant, offset, at):
                return False
        head[PENDING_FROM] += 1
        head[PENDING_N] -= 1
    return True


@inner
def _open_holes(state: State, out: Array, row: Record, instrument: int, gap: int, instant: int, offset: int, at: int) -> bool:
    """Make one tracked gap of every hole in a pending one, from the lowest; where room ends, it goes on from there."""
    ids = state.ids
    last = state.pending[gap, 4]
    while state.pending[gap, 3] <= last:
        first = state.pending[gap, 3]
        below = _not_above(ids, row["ids_from"], row["intervals"] - 1, first)
        if below > 0 and ids[row["ids_from"] + below - 1, _LAST] >= first:
            if ids[row["ids_from"] + below - 1, _LAST] >= last:
                return True
            state.pending[gap, 3] = ids[row["ids_from"] + below - 1, _LAST] + 1
            continue
        over = row["top_first"] if below == row["intervals"] - 1 else ids[row["ids_from"] + below, _FIRST]
        if first >= row["top_first"]:
            return True
        if not _gaps_room(state, row):
            return False
        hole_last = min(last, over - 1)
        place = row["gaps_from"] + row["gaps"]
        state.gaps[place, _FIRST] = first
        state.gaps[place, _LAST] = hole_last
        row["gaps"] += 1
        put_gap(out, state.head, instrument, row["epoch"], first, hole_last, GAP_OPEN, instant, offset, at)
        if hole_last == last:
            return True
        state.pending[gap, 3] = hole_last + 1
    return True
