"""The loop over one batch: the rules in the order they are read.

`Kernel` runs it. All it calls is in `continuity`, `unique_ids`, `bars` and `anomaly`. It works on arrays that do not grow while
it runs: where one is full it returns, `Kernel` makes room, and it goes on at the same record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tickhouse.kernel.anomaly import remember, score
from tickhouse.kernel.bars import add_late_trade, add_trade, issue_due, issue_revisions, place_bar, window_of
from tickhouse.kernel.base import ACCEPTED, DUPLICATE
from tickhouse.kernel.compiling import LINE, SOURCES, Array, Record, cached, fetch, inner
from tickhouse.kernel.continuity import NO_ROOM, judge_contiguous, open_due_gaps
from tickhouse.kernel.levels import FUTURE_US
from tickhouse.kernel.state import (
    AT_BEAT,
    AT_TRADE,
    BARS_OUT,
    CLOCK,
    DIRTY_N,
    LEVEL_DUE,
    LEVEL_OPEN,
    NEXT_DUE,
    PENDING_FROM,
    PENDING_N,
    REVISION_DUE,
    Settings,
    State,
)
from tickhouse.kernel.unique_ids import judge_unique
from tickhouse.model import NO_TIME

__all__ = [
    "BAR_ROW",
    "GAP_ROW",
    "KIND",
    "KINDS",
    "MORE_GAPS",
    "MORE_IDS",
    "REMAKE_ROW",
    "UNIQUE",
    "Inputs",
    "Outputs",
    "run_step",
]

_SYMBOL, _PRICE, _SIZE, _TS, _FUTURE, _IDENTITY = 2, 3, 4, 5, 6, 7
_NONE, UNIQUE, _CONTIGUOUS = 0, 1, 2
KINDS = {"none": _NONE, "unique": UNIQUE, "contiguous": _CONTIGUOUS}
_INSTRUMENT, _SPACE, KIND, _NAMED = 0, 1, 2, 3
"""Columns of `Inputs.feeds`."""

_FROM_1990 = 631_152_000_000_000
_FROM_2100 = 4_102_444_800_000_000
_AHEAD = 6
"""Trades."""
_MANY = 500
"""Instruments whose state the processor's nearest memory does not hold."""
_SIGN = NO_TIME
"""Flipped, it makes unsigned 64-bit numbers compare as signed ones do."""

_DONE, MORE_IDS, MORE_GAPS, _MORE_BARS = 0, 1, 2, 3
"""What a run ends with: everything done, or which array is full."""

BAR_ROW = np.dtype(
    [(name, np.int64) for name in ("start", "end", "trades", "first_trade_id", "last_trade_id", "available_at", "offset")]
    + [(name, np.float64) for name in ("open", "high", "low", "close", "volume", "notional")]
    + [(name, np.int32) for name in ("instrument", "revision", "row")]
    + [(name, np.int8) for name in ("level", "has_ids")]
)
GAP_ROW = np.dtype(
    [(name, np.int64) for name in ("first", "last", "clock", "offset")]
    + [(name, np.int32) for name in ("instrument", "epoch", "row")]
    + [("state", np.int8)]
)
REMAKE_ROW = np.dtype(
    [(name, np.int64) for name in ("start", "end", "available_at", "offset")]
    + [(name, np.int32) for name in ("instrument", "row")]
    + [("level", np.int8)]
)


class Inputs(NamedTuple):
    """A batch: what is known of each feed, then columns by trade, then columns by heartbeat; all read-only."""

    feeds: Array
    feed: Array
    ts: Array
    price: Array
    size: Array
    size_bits: Array
    value_bits: Array
    trade_id: Array
    trade_id_hi: Array
    kind: Array
    backfilled: Array
    known: Array
    offset: Array
    row: Array
    beat_clock: Array
    beat_at: Array
    beat_offset: Array
    beat_row: Array


class Outputs(NamedTuple):
    """Room for what comes out: columns by trade, then rows as they are issued."""

    verdict: Array
    clock: Array
    epoch: Array
    late: Array
    anomaly: Array
    score: Array
    baseline: Array
    bars: Array
    gaps: Array
    remakes: Array


@inner
def _valid(price: float, size: float, ts: int, clock: int, named: int) -> int:
    """Rule R12: return ACCEPTED or the first reason that applies."""
    if not named:
        return _SYMBOL
    if not (1e-12 <= price <= 1e12):
        return _PRICE
    if not (size == 0.0 or 1e-18 <= size <= 1e15):
        return _SIZE
    if ts < _FROM_1990 or ts >= _FROM_2100:
        return _TS
    if clock == NO_TIME or ts > clock + FUTURE_US:
        return _FUTURE
    return ACCEPTED


@inner
def _extends(row: Record, number: int, ts: int) -> bool:
    """Put the next contiguous id into the top interval; False: it is not the next one."""
    if row["intervals"] == 0 or number <= row["top_last"] or number - 1 != row["top_last"]:
        return False
    row["top_last"] = number
    row["top_max"] = max(row["top_max"], ts)
    row["top_min"] = min(row["top_min"], ts)
    return True


@inner
def _continuous(state: State, settings: Settings, inputs: Inputs, gaps: Array, i: int, instrument: int, kind: int) -> int:
    """Rule R1 for a valid trade of the right id space, where its id is not simply the next one."""
    clock = state.head[CLOCK]
    number = inputs.trade_id[i]
    if kind == _NONE:
        return ACCEPTED
    if kind == _CONTIGUOUS:
        due = clock + settings.lateness
        live = inputs.backfilled[i] == 0
        return judge_contiguous(state, gaps, instrument, number, inputs.ts[i], live, due, inputs.offset[i], inputs.row[i])
    if inputs.known[i]:
        return DUPLICATE
    return judge_unique(state, instrument, number, inputs.trade_id_hi[i], clock)


@inner
def _order_of(kind: int, number: int, high: int) -> tuple[int, int, int]:
    """Rule R2: return the two numbers that order trades of the same ts, and 1 where the second is a numeric id.

    Where both are equal, or there is no id, trades stand as they came: a bar takes them in the order of the journal.
    """
    if kind == _NONE:
        return _SIGN, 0, 0
    if high != 0:
        return high ^ _SIGN, number ^ _SIGN, 0
    return _SIGN, number, 1


@inner
def _ask_ahead(state: State, feeds: Array, feed: Array, i: int, until: int, window: int) -> None:
    """Ask for the memory of trades that come soon: first for their instrument, then for what that says they touch."""
    instruments, bars, limbs = state.instruments, state.bars, state.limbs
    if i + 2 * _AHEAD < until:
        place = feeds[feed[i + 2 * _AHEAD], _INSTRUMENT] * instruments.itemsize
        for line in range(0, instruments.itemsize, LINE):
            fetch(instruments.ctypes.data + place + line)
    if i + _AHEAD < until:
        instrument = feeds[feed[i + _AHEAD], _INSTRUMENT]
        row = instruments[instrument]
        slot = row["bar"]
        fetch(state.ring.ctypes.data + (instrument * window + row["ring_at"]) * 8)
        for line in range(0, bars.itemsize, LINE):
            fetch(bars.ctypes.data + slot * bars.itemsize + line)
        for line in range(0, limbs.shape[1] * 8, LINE):
            fetch(limbs.ctypes.data + slot * limbs.shape[1] * 8 + line)


@inner
def _trades(state: State, settings: Settings, inputs: Inputs, out: Outputs, until: int) -> int:
    """Judge the trades up to `until`, in order, and count in those accepted."""
    # Arrays are taken out of their tuples once: handing on whole tuples is what costs most in a compiled call.
    head, instruments, ring, bars, limbs = state.head, state.instruments, state.ring, state.bars, state.limbs
    feeds, feed, times, prices, sizes = inputs.feeds, inputs.feed, inputs.ts, inputs.price, inputs.size
    size_bits, value_bits, ids, highs = inputs.size_bits, inputs.value_bits, inputs.trade_id, inputs.trade_id_hi
    kinds, backfilled = inputs.kind, inputs.backfilled
    window, threshold = settings.window, settings.threshold
    clock = head[CLOCK]
    reached = clock - settings.lateness if clock != NO_TIME else clock
    many = instruments.shape[0] > _MANY
    for i in range(head[AT_TRADE], until):
        if many:
            _ask_ahead(state, feeds, feed, i, until, window)
        code = feed[i]
        instrument, space, kind = feeds[code, _INSTRUMENT], feeds[code, _SPACE], feeds[code, KIND]
        row = instruments[instrument]
        ts, price, number, high = times[i], prices[i], ids[i], highs[i]
        verdict = _valid(price, sizes[i], ts, clock, feeds[code, _NAMED])
        if verdict == ACCEPTED:
            if (row["space"] != space and row["space"] >= 0) or (kind == _CONTIGUOUS and high != 0):
                verdict = _IDENTITY
            elif kind != _CONTIGUOUS or not _extends(row, number, ts):
                verdict = _continuous(state, settings, inputs, out.gaps, i, instrument, kind)
                if verdict == NO_ROOM:
                    head[AT_TRADE] = i
                    return MORE_IDS
                row["space"] = space
        out.verdict[i] = verdict
        out.clock[i] = clock
        out.epoch[i] = row["epoch"]
        late, anomaly, deviation, mean = 0, 0, np.nan, np.nan
        if verdict == ACCEPTED and kinds[i] == 0:
            key, second, numeric = _order_of(kind, number, high)
            slot, end = row["bar"], row["bar_end"]
            if not row["bar_start"] <= ts < end:
                slot, end = _other_bar(state, settings, instrument, ts, reached)
            if end > reached:
                add_trade(bars[slot], limbs, slot, ts, key, second, numeric, price, size_bits[i], value_bits[i])
            else:
                late = 1
                add_late_trade(state, settings, instrument, ts, key, second, numeric, price, size_bits[i], value_bits[i])
            if backfilled[i] == 0:
                deviation, mean, anomaly = score(row, price, window, threshold)
                remember(row, ring, instrument, price, window)
        out.late[i] = late
        out.anomaly[i] = anomaly
        out.score[i] = deviation
        out.baseline[i] = mean
    head[AT_TRADE] = max(head[AT_TRADE], until)
    return _DONE


@inner
def _other_bar(state: State, settings: Settings, instrument: int, ts: int, reached: int) -> tuple[int, int]:
    """Return (slot, end) of the finest bar that covers `ts`; where it is final already, no slot."""
    ordinal, start, end = window_of(settings, state.instruments[instrument]["zone"], 0, ts)
    if end <= reached:
        return -1, end
    return place_bar(state, settings, instrument, 0, ordinal, start, end, True), end


@inner
def _beat(state: State, settings: Settings, inputs: Inputs, out: Outputs, beat: int) -> int:
    """Rules R5, R6, R14: work off one by one, in time order, what the heartbeat makes due."""
    head = state.head
    head[CLOCK] = inputs.beat_clock[beat]
    offset = inputs.beat_offset[beat]
    row = inputs.beat_row[beat]
    while head[NEXT_DUE] <= head[CLOCK]:
        instant = head[NEXT_DUE]
        levels = settings.levels.shape[0]
        opened = 0
        for level in range(levels):
            opened += state.level[level, LEVEL_OPEN]
        if head[BARS_OUT] + opened * levels + head[DIRTY_N] > out.bars.shape[0]:
            return _MORE_BARS
        if not open_due_gaps(state, out.gaps, instant, offset, row):
            return MORE_GAPS
        issue_due(state, settings, out.bars, instant, offset, row)
        if head[REVISION_DUE] <= instant:
            issue_revisions(state, settings, out.bars, out.remakes, instant, offset, row)
        due = head[REVISION_DUE]
        for level in range(levels):
            due = min(due, state.level[level, LEVEL_DUE])
        if head[PENDING_N] > 0:
            due = min(due, state.pending[head[PENDING_FROM], 0])
        head[NEXT_DUE] = due
    return _DONE


@inner
def _step(state: State, settings: Settings, inputs: Inputs, out: Outputs, until: int) -> int:
    """Work from where `head` says up to trade `until`, or to the batch's end; return _DONE, or what there is no room for."""
    head = state.head
    beats = inputs.beat_at.shape[0]
    while True:
        beat = head[AT_BEAT]
        border = inputs.beat_at[beat] if beat < beats else inputs.ts.shape[0]
        lacking = _trades(state, settings, inputs, out, min(border, until))
        if lacking == _DONE and (beat == beats or (border >= until and until < inputs.ts.shape[0])):
            return _DONE
        if lacking == _DONE:
            lacking = _beat(state, settings, inputs, out, beat)
        if lacking != _DONE:
            return lacking
        head[AT_BEAT] += 1


def _entry(sources: int) -> Callable[[State, Settings, Inputs, Outputs, int], int]:
    """Return the loop as Python enters it; `sources` makes its cached machine code that of all the kernel's files."""

    def run(state: State, settings: Settings, inputs: Inputs, out: Outputs, until: int) -> int:
        return _step(state, settings, inputs, out, until) if sources >= 0 else _DONE

    return run


run_step = cached(_entry(SOURCES))
