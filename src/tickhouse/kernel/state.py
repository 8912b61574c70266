"""The kernel's state: flat numpy arrays, how they are laid out, grown, stored and read back.

The compiled loops of `continuity`, `unique_ids`, `bars` and `anomaly` read and write these arrays; only `kernel` makes and
grows them, between two runs of a loop. What an array must hold at most during a run is known before it (see `Kernel.feed`), or
the loop comes back and asks for more.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np

from tickhouse.kernel.compiling import Array

__all__ = [
    "AT_BEAT",
    "AT_TRADE",
    "BAR",
    "BARS_OUT",
    "CLOCK",
    "DIRTY_N",
    "GAPS_OUT",
    "GAPS_USED",
    "HOLES_USED",
    "INSTRUMENT",
    "INTERVAL",
    "LEVEL_DUE",
    "LEVEL_OPEN",
    "LOCAL_SOURCE",
    "NEVER",
    "NEXT_DUE",
    "PENDING_FROM",
    "PENDING_N",
    "REMAKES_N",
    "REMAKES_OUT",
    "REVISION_DUE",
    "SEEN_FROM",
    "SEEN_N",
    "SLOT",
    "SLOTS",
    "SOURCE",
    "Settings",
    "State",
    "Stored",
    "empty_state",
    "grown",
    "packed",
    "power_of_two",
    "unpacked",
    "with_instruments",
]

NEVER = int(np.iinfo(np.int64).max)
"""In a due instant: nothing is due."""

_HEAD = 16
(
    CLOCK, NEXT_DUE, REVISION_DUE, DIRTY_N, REMAKES_N, PENDING_FROM, PENDING_N, HOLES_USED, GAPS_USED,
    SEEN_FROM, SEEN_N, BARS_OUT, GAPS_OUT, REMAKES_OUT, AT_TRADE, AT_BEAT,
) = range(_HEAD)  # fmt: skip
"""Places in `State.head`."""

INTERVAL, SLOT, SLOTS, SOURCE, LOCAL_SOURCE = range(5)
"""Columns of `Settings.levels`."""

LEVEL_DUE, LEVEL_OPEN = 0, 1
"""Columns of `State.level`: the earliest due instant of a level's open bars, and their number."""


def _int64s(*names: str) -> list[tuple[str, type]]:
    return [(name, np.int64) for name in names]


def _floats(*names: str) -> list[tuple[str, type]]:
    return [(name, np.float64) for name in names]


INSTRUMENT = np.dtype(
    _int64s(
        "space",  # code of its (id space, identity); -1 before the first valid trade
        "epoch",
        "zone",  # which table of local midnights its daily bar follows; -1 none
        "intervals",  # of ids seen; the top one stands here, those below it in `State.ids`
        "top_first", "top_last", "top_min", "top_max",
        "ids_from", "ids_room",
        "gaps", "gaps_from", "gaps_room",
        "bar", "bar_start", "bar_end",  # the newest bar of the finest level: where it is and what it covers
        "scored", "ring_at",
    )
    + _floats("anchor", "sum", "squares")
)  # fmt: skip

BAR = np.dtype(
    _int64s(
        "ordinal",  # the how-manieth window of its level; 0 = the slot is empty
        "start", "end",
        "trades", "late", "dirty",
        "open_ts", "open_key", "open_id", "open_numeric",
        "close_ts", "close_key", "close_id", "close_numeric",
    )
    + _floats("open", "high", "low", "close")
)  # fmt: skip


class Settings(NamedTuple):
    """What the rules say, as the loops need it."""

    lateness: int
    window: int
    threshold: float
    stride: int
    """Bar slots of an instrument, all levels."""
    levels: Array
    """A row for each level: `INTERVAL` in microseconds; its first `SLOT` among the instrument's and how many `SLOTS`: a bar
    has that of its ordinal modulo them; the level that is merged into it, -1 for the finest (`SOURCE`; `LOCAL_SOURCE` where the
    instrument has a time zone)."""
    midnights: Array
    """[zones, days]: local midnights."""
    zoned: int
    """The level that follows local midnights, -1 = none."""


class State(NamedTuple):
    """All that a partition's verdicts and bars depend on."""

    head: Array
    level: Array
    instruments: Array
    ring: Array
    """[instrument, N]: the prices last scored."""
    bars: Array
    limbs: Array
    """[bar slot, limb]: the exact sums."""
    open_bars: Array
    """[level, place, (due, slot)]"""
    dirty: Array
    """(slot, ordinal) of bars to be issued again."""
    remakes: Array
    """(instrument, level, start, end) of bars to be issued again that are here no more."""
    remake_table: Array
    """Hash table over `remakes`: empty between two uses; its length is a power of two, at least twice theirs."""
    ids: Array
    """Intervals of ids (first, last, smallest ts, largest ts): a region an instrument."""
    gaps: Array
    """Tracked gaps (first, last): a region an instrument."""
    pending: Array
    """(due, instrument, epoch, first, last), a queue."""
    seen: Array
    """(instrument, epoch, id, id_hi, clock) of unique ids, a ring whose length is a power of two."""
    table: Array
    """Hash table over `seen`: places in it, -1 = free; twice as long."""


def empty_state(levels: int, window: int, limbs: int) -> State:
    """Return the state of a partition that has seen nothing, without room for any instrument."""
    head = np.zeros(_HEAD, np.int64)
    head[CLOCK] = np.iinfo(np.int64).min
    head[NEXT_DUE] = head[REVISION_DUE] = NEVER
    level = np.zeros((levels, 2), np.int64)
    level[:, LEVEL_DUE] = NEVER
    return State(
        head=head,
        level=level,
        instruments=np.zeros(0, INSTRUMENT),
        ring=np.zeros((0, window)),
        bars=np.zeros(0, BAR),
        limbs=np.zeros((0, limbs), np.int64),
        open_bars=np.zeros((levels, 0, 2), np.int64),
        dirty=np.zeros((64, 2), np.int64),
        remakes=np.zeros((64, 4), np.int64),
        remake_table=np.full(128, -1, np.int64),
        ids=np.zeros((256, 4), np.int64),
        gaps=np.zeros((256, 2), np.int64),
        pending=np.zeros((64, 5), np.int64),
        seen=np.zeros((16, 5), np.int64),
        table=np.full(32, -1, np.int64),
    )


def grown(array: Array, length: int, axis: int = 0) -> Array:
    """Return `array` with at least `length` rows, new ones zero, at least doubled so that growing is cheap in the long run."""
    had = array.shape[axis]
    if had >= length:
        return array
    shape = list(array.shape)
    shape[axis] = max(length, 2 * had)
    larger = np.zeros(shape, array.dtype)
    larger[tuple(slice(0, size) for size in array.shape)] = array
    return larger


def power_of_two(length: int) -> int:
    """Return the smallest power of two that is `length` or more."""
    return 1 << max(length - 1, 0).bit_length()


class Stored(msgspec.Struct, frozen=True):
    """A state without its spare room: equal states are equal bytes, however much room each had."""

    instruments: int
    head: bytes
    level: bytes
    rows: bytes
    ring: bytes
    bar_slots: bytes
    bars: bytes
    limbs: bytes
    open_bars: bytes
    dirty: bytes
    remakes: bytes
    ids: bytes
    gaps: bytes
    pending: bytes
    seen: bytes


_PLACES = ("ids_from", "ids_room", "gaps_from", "gaps_room")


def packed(state: State, instruments: int, stride: int) -> Stored:
    """Return what is to be stored of a state that knows this many instruments."""
    head = state.head.copy()
    head[[PENDING_FROM, HOLES_USED, GAPS_USED, SEEN_FROM, BARS_OUT, GAPS_OUT, REMAKES_OUT, AT_TRADE, AT_BEAT]] = 0
    rows = state.instruments[:instruments]
    ids = [state.ids[row["ids_from"] : row["ids_from"] + row["intervals"] - 1] for row in rows if row["intervals"] > 1]
    gaps = [state.gaps[row["gaps_from"] : row["gaps_from"] + row["gaps"]] for row in rows if row["gaps"]]
    slots = np.flatnonzero(state.bars["ordinal"][: instruments * stride])
    opened = [state.open_bars[level, : state.level[level, LEVEL_OPEN]] for level in range(len(state.level))]
    first, count = state.head[PENDING_FROM], state.head[PENDING_N]
    ring = (state.head[SEEN_FROM] + np.arange(state.head[SEEN_N])) & (len(state.seen) - 1)
    bare = rows.copy()
    for name in _PLACES:
        bare[name] = 0
    return Stored(
        instruments=instruments,
        head=head.tobytes(),
        level=state.level.tobytes(),
        rows=bare.tobytes(),
        ring=state.ring[:instruments].tobytes(),
        bar_slots=slots.astype(np.int64).tobytes(),
        bars=state.bars[slots].tobytes(),
        limbs=state.limbs[slots].tobytes(),
        open_bars=b"".join(part.tobytes() for part in opened),
        dirty=state.dirty[: head[DIRTY_N]].tobytes(),
        remakes=state.remakes[: head[REMAKES_N]].tobytes(),
        ids=b"".join(part.tobytes() for part in ids),
        gaps=b"".join(part.tobytes() for part in gaps),
        pending=state.pending[first : first + count].tobytes(),
        seen=state.seen[ring].tobytes(),
    )


def unpacked(stored: Stored, empty: State, instruments: int, stride: int) -> State:
    """Return the state that was stored, with room for `instruments`; `seen` is not yet linked into `table`."""
    state = with_instruments(empty, max(instruments, stored.instruments), stride)
    state.head[:] = np.frombuffer(stored.head, np.int64)
    state.level[:] = np.frombuffer(stored.level, np.int64).reshape(-1, 2)
    rows = np.frombuffer(stored.rows, INSTRUMENT).copy()
    ids, ids_used = _regions(rows, "ids", np.maximum(rows["intervals"] - 1, 0), stored.ids, 4)
    gaps, gaps_used = _regions(rows, "gaps", rows["gaps"], stored.gaps, 2)
    state.head[HOLES_USED], state.head[GAPS_USED] = ids_used, gaps_used
    state.instruments[: len(rows)] = rows
    state.ring[: len(rows)] = np.frombuffer(stored.ring).reshape(len(rows), state.ring.shape[1])
    slots = np.frombuffer(stored.bar_slots, np.int64)
    state.bars[slots] = np.frombuffer(stored.bars, BAR)
    state.limbs[slots] = np.frombuffer(stored.limbs, np.int64).reshape(len(slots), state.limbs.shape[1])
    opened = np.frombuffer(stored.open_bars, np.int64).reshape(-1, 2)
    begin = 0
    for level, count in enumerate(state.level[:, LEVEL_OPEN]):
        state.open_bars[level, :count] = opened[begin : begin + count]
        begin += count
    ids_seen = np.frombuffer(stored.seen, np.int64).reshape(-1, empty.seen.shape[1])
    seen = np.zeros((max(len(empty.seen), power_of_two(len(ids_seen))), empty.seen.shape[1]), np.int64)
    seen[: len(ids_seen)] = ids_seen
    return state._replace(
        dirty=_filled(empty.dirty, stored.dirty),
        remakes=(remakes := _filled(empty.remakes, stored.remakes)),
        remake_table=np.full(power_of_two(2 * len(remakes)), -1, np.int64),
        ids=grown(ids, len(empty.ids)),
        gaps=grown(gaps, len(empty.gaps)),
        pending=_filled(empty.pending, stored.pending),
        seen=seen,
        table=np.full(2 * len(seen), -1, np.int64),
    )


def with_instruments(state: State, instruments: int, stride: int) -> State:
    """Return the state with room for this many instruments; new rows have seen nothing."""
    had = len(state.instruments)
    if had >= instruments:
        return state
    rows = grown(state.instruments, instruments)
    rows["space"][had:] = -1
    rows["zone"][had:] = -1
    room = len(rows)
    return state._replace(
        instruments=rows,
        ring=grown(state.ring, room),
        bars=grown(state.bars, room * stride),
        limbs=grown(state.limbs, room * stride),
        open_bars=grown(state.open_bars, room * stride, axis=1),
    )


def _filled(empty: Array, data: bytes) -> Array:
    rows = np.frombuffer(data, np.int64).reshape(-1, empty.shape[1])
    array = grown(np.zeros_like(empty), len(rows))
    array[: len(rows)] = rows
    return array


def _regions(rows: Array, name: str, counts: Array, data: bytes, width: int) -> tuple[Array, int]:
    """Lay out regions anew, each with a spare row, and enter their places into `rows`."""
    room = np.where(counts > 0, counts + 1, 0)
    start = np.cumsum(room) - room
    rows[f"{name}_from"], rows[f"{name}_room"] = start, room
    pool = np.zeros((int(room.sum()), width), np.int64)
    offsets = np.cumsum(counts) - counts
    total = int(counts.sum())
    places = np.repeat(start - offsets, counts) + np.arange(total)
    pool[places] = np.frombuffer(data, np.int64).reshape(-1, width)
    return pool, int(room.sum())
