"""Bars: which one a trade belongs to, what it adds, when it is issued (rules R2, R4, R5, R6, R8, R9).

A trade on time touches one slot, that of its finest bar. When a bar is final it is issued and its sums go into the coarser bars
made from it; a late trade goes into its finest bar and into every coarser one whose source has been merged already. A slot is
found by the ordinal of its window, modulo the level's slots; a newer window takes the slot of an older, closed one. What then
still has to be issued for the older one becomes a remake, which the pipeline makes from stored trades.
"""

from __future__ import annotations

from tickhouse.kernel.compiling import LINE, Array, Record, fetch, inner, mixed
from tickhouse.kernel.exact import add_notional, add_volume, clear_sums, merge_sums, round_notional, round_volume
from tickhouse.kernel.state import (
    BARS_OUT,
    CLOCK,
    DIRTY_N,
    INTERVAL,
    LEVEL_DUE,
    LEVEL_OPEN,
    LOCAL_SOURCE,
    NEVER,
    NEXT_DUE,
    REMAKES_N,
    REMAKES_OUT,
    REVISION_DUE,
    SLOT,
    SLOTS,
    SOURCE,
    Settings,
    State,
)
from tickhouse.rules import REVISION_STEP_US

__all__ = ["add_late_trade", "add_trade", "issue_due", "issue_revisions", "place_bar", "window_of"]

_AHEAD = 6
"""How many bars before its turn a bar is asked for, and the bytes that come at once."""
_DUE, _OPEN = 0, 1
"""Columns of `State.open_bars`."""
_SLOT, _ORDINAL = 0, 1
"""Columns of `State.dirty`."""


@inner
def window_of(settings: Settings, zone: int, level: int, ts: int) -> tuple[int, int, int]:
    """Return (ordinal, start, end) of the bar that covers `ts`."""
    if zone >= 0 and level == settings.zoned:
        midnights = settings.midnights
        low = 0
        high = midnights.shape[1] - 1
        while high - low > 1:
            middle = (low + high) >> 1
            if midnights[zone, middle] <= ts:
                low = middle
            else:
                high = middle
        return low + 1, midnights[zone, low], midnights[zone, low + 1]
    interval = settings.levels[level, INTERVAL]
    ordinal = ts // interval
    return ordinal, ordinal * interval, (ordinal + 1) * interval


@inner
def place_bar(
    state: State, settings: Settings, instrument: int, level: int, ordinal: int, start: int, end: int, is_open: bool
) -> int:
    """Return the slot of a bar, made empty where it is new; -1 where a newer bar has it."""
    slot: int = instrument * settings.stride + settings.levels[level, SLOT] + ordinal % settings.levels[level, SLOTS]
    bar = state.bars[slot]
    if bar["ordinal"] == ordinal:
        return slot
    if bar["ordinal"] > ordinal:
        return -1
    if bar["dirty"]:
        _ask_remake(state, instrument, level, bar["start"], bar["end"])
    bar["ordinal"] = ordinal
    bar["start"] = start
    bar["end"] = end
    bar["trades"] = 0
    bar["late"] = 0
    bar["dirty"] = 0
    clear_sums(state.limbs, slot)
    if level == 0:
        row = state.instruments[instrument]
        row["bar"] = slot
        row["bar_start"] = start
        row["bar_end"] = end
    if is_open:
        due = end + settings.lateness
        place = state.level[level, LEVEL_OPEN]
        state.open_bars[level, place, _DUE] = due
        state.open_bars[level, place, _OPEN] = slot
        state.level[level, LEVEL_OPEN] = place + 1
        state.level[level, LEVEL_DUE] = min(state.level[level, LEVEL_DUE], due)
        state.head[NEXT_DUE] = min(state.head[NEXT_DUE], due)
    return slot


@inner
def add_trade(
    bar: Record,
    limbs: Array,
    slot: int,
    ts: int,
    key: int,
    number: int,
    numeric: int,
    price: float,
    size_bits: int,
    value_bits: int,
) -> None:
    """Count a trade in: (ts, key, number) is its place in canonical order."""
    if bar["trades"] == 0:
        _set_open(bar, ts, key, number, numeric, price)
        _set_close(bar, ts, key, number, numeric, price)
        bar["high"] = price
        bar["low"] = price
    else:
        if ts >= bar["close_ts"] and not _before(ts, key, number, bar["close_ts"], bar["close_key"], bar["close_id"]):
            _set_close(bar, ts, key, number, numeric, price)
        if ts <= bar["open_ts"] and _before(ts, key, number, bar["open_ts"], bar["open_key"], bar["open_id"]):
            _set_open(bar, ts, key, number, numeric, price)
        bar["high"] = max(bar["high"], price)
        bar["low"] = min(bar["low"], price)
    bar["trades"] += 1
    if size_bits > 0:
        add_volume(limbs, slot, size_bits)
        add_notional(limbs, slot, value_bits)


@inner
def _before(ts: int, key: int, number: int, other_ts: int, other_key: int, other_number: int) -> bool:
    if ts != other_ts:
        return ts < other_ts
    if key != other_key:
        return key < other_key
    return number < other_number


@inner
def _set_open(bar: Record, ts: int, key: int, number: int, numeric: int, price: float) -> None:
    bar["open_ts"] = ts
    bar["open_key"] = key
    bar["open_id"] = number
    bar["open_numeric"] = numeric
    bar["open"] = price


@inner
def _set_close(bar: Record, ts: int, key: int, number: int, numeric: int, price: float) -> None:
    bar["close_ts"] = ts
    bar["close_key"] = key
    bar["close_id"] = number
    bar["close_numeric"] = numeric
    bar["close"] = price


@inner
def add_late_trade(
    state: State, settings: Settings, instrument: int, ts: int, key: int, number: int, numeric: int,
    price: float, size_bits: int, value_bits: int,
) -> None:  # fmt: skip
    """Count in a trade that is late for its finest bar: there, and wherever that bar has gone already."""
    zone = state.instruments[instrument]["zone"]
    reached = state.head[CLOCK] - settings.lateness
    for level in range(settings.levels.shape[0]):
        if level > 0:
            source = settings.levels[level, LOCAL_SOURCE if zone >= 0 else SOURCE]
            _, _, source_end = window_of(settings, zone, source, ts)
            if source_end > reached:
                continue
        ordinal, start, end = window_of(settings, zone, level, ts)
        slot = place_bar(state, settings, instrument, level, ordinal, start, end, end > reached)
        if slot < 0:
            _ask_remake(state, instrument, level, start, end)
            _revision_due(state, settings)
            continue
        bar = state.bars[slot]
        add_trade(bar, state.limbs, slot, ts, key, number, numeric, price, size_bits, value_bits)
        if end <= reached:
            _make_due_again(state, settings, bar, slot)


@inner
def _revision_due(state: State, settings: Settings) -> None:
    """Set the next instant of revisions: the smallest t > clock with t - lateness a multiple of the step."""
    head = state.head
    due = ((head[CLOCK] - settings.lateness) // REVISION_STEP_US + 1) * REVISION_STEP_US + settings.lateness
    head[REVISION_DUE] = min(head[REVISION_DUE], due)
    head[NEXT_DUE] = min(head[NEXT_DUE], due)


@inner
def _make_due_again(state: State, settings: Settings, bar: Record, slot: int) -> None:
    bar["late"] += 1
    if bar["dirty"]:
        return
    head = state.head
    bar["dirty"] = 1
    state.dirty[head[DIRTY_N], _SLOT] = slot
    state.dirty[head[DIRTY_N], _ORDINAL] = bar["ordinal"]
    head[DIRTY_N] += 1
    _revision_due(state, settings)


@inner
def _ask_remake(state: State, instrument: int, level: int, start: int, end: int) -> None:
    head = state.head
    place = head[REMAKES_N]
    last = place - 1
    if (
        place > 0
        and state.remakes[last, 0] == instrument
        and state.remakes[last, 1] == level
        and state.remakes[last, 2] == start
    ):
        return
    state.remakes[place, 0] = instrument
    state.remakes[place, 1] = level
    state.remakes[place, 2] = start
    state.remakes[place, 3] = end
    head[REMAKES_N] += 1


@inner
def _issue(
    state: State, out: Array, bar: Record, slot: int, instrument: int, level: int, instant: int, offset: int, row: int
) -> None:
    """Write a bar with its present number of late trades as the revision."""
    made = out[state.head[BARS_OUT]]
    numeric = bar["open_numeric"] & bar["close_numeric"]
    made["instrument"] = instrument
    made["level"] = level
    made["start"] = bar["start"]
    made["end"] = bar["end"]
    made["revision"] = bar["late"]
    made["open"] = bar["open"]
    made["high"] = bar["high"]
    made["low"] = bar["low"]
    made["close"] = bar["close"]
    made["volume"] = round_volume(state.limbs, slot)
    made["notional"] = round_notional(state.limbs, slot)
    made["trades"] = bar["trades"]
    made["first_trade_id"] = bar["open_id"] if numeric else 0
    made["last_trade_id"] = bar["close_id"] if numeric else 0
    made["has_ids"] = numeric
    made["available_at"] = instant
    made["offset"] = offset
    made["row"] = row
    state.head[BARS_OUT] += 1


@inner
def _merge(state: State, settings: Settings, slot: int, instrument: int, level: int, start: int) -> None:
    """Add a final bar to the coarser bars that are made from its level."""
    zone = state.instruments[instrument]["zone"]
    bar = state.bars[slot]
    for coarser in range(level + 1, settings.levels.shape[0]):
        if settings.levels[coarser, LOCAL_SOURCE if zone >= 0 else SOURCE] != level:
            continue
        ordinal, first, end = window_of(settings, zone, coarser, start)
        into = place_bar(state, settings, instrument, coarser, ordinal, first, end, True)
        total = state.bars[into]
        if total["trades"] == 0:
            _set_open(total, bar["open_ts"], bar["open_key"], bar["open_id"], bar["open_numeric"], bar["open"])
            _set_close(total, bar["close_ts"], bar["close_key"], bar["close_id"], bar["close_numeric"], bar["close"])
            total["high"] = bar["high"]
            total["low"] = bar["low"]
        else:
            if bar["open_ts"] < total["open_ts"]:
                _set_open(total, bar["open_ts"], bar["open_key"], bar["open_id"], bar["open_numeric"], bar["open"])
            if bar["close_ts"] > total["close_ts"]:
                _set_close(total, bar["close_ts"], bar["close_key"], bar["close_id"], bar["close_numeric"], bar["close"])
            total["high"] = max(total["high"], bar["high"])
            total["low"] = min(total["low"], bar["low"])
        total["trades"] += bar["trades"]
        merge_sums(state.limbs, into, slot)


@inner
def issue_due(state: State, settings: Settings, out: Array, instant: int, offset: int, row: int) -> None:
    """Issue every bar that is final at `instant`, finest level first, and merge it into the coarser ones."""
    for level in range(settings.levels.shape[0]):
        if state.level[level, LEVEL_DUE] > instant:
            continue
        kept = 0
        earliest = NEVER
        opened = state.level[level, LEVEL_OPEN]
        for k in range(opened):
            if k + _AHEAD < opened:
                ahead = state.open_bars[level, k + _AHEAD, _OPEN]
                for line in range(0, state.bars.itemsize, LINE):
                    fetch(state.bars.ctypes.data + ahead * state.bars.itemsize + line)
                for line in range(0, state.limbs.shape[1] * 8, LINE):
                    fetch(state.limbs.ctypes.data + ahead * state.limbs.shape[1] * 8 + line)
            due = state.open_bars[level, k, _DUE]
            slot = state.open_bars[level, k, _OPEN]
            if due > instant:
                state.open_bars[level, kept, _DUE] = due
                state.open_bars[level, kept, _OPEN] = slot
                earliest = min(earliest, due)
                kept += 1
                continue
            bar = state.bars[slot]
            instrument = slot // settings.stride
            _issue(state, out, bar, slot, instrument, level, instant, offset, row)
            _merge(state, settings, slot, instrument, level, bar["start"])
        state.level[level, LEVEL_OPEN] = kept
        state.level[level, LEVEL_DUE] = earliest


@inner
def issue_revisions(state: State, settings: Settings, out: Array, remakes: Array, instant: int, offset: int, row: int) -> None:
    """Issue again every bar that got late trades, once each; what is here no more goes out as a remake."""
    head = state.head
    for k in range(head[DIRTY_N]):
        slot = state.dirty[k, _SLOT]
        bar = state.bars[slot]
        if bar["ordinal"] != state.dirty[k, _ORDINAL]:
            continue
        instrument = slot // settings.stride
        level = settings.levels.shape[0] - 1
        while settings.levels[level, SLOT] > slot - instrument * settings.stride:
            level -= 1
        bar["dirty"] = 0
        _issue(state, out, bar, slot, instrument, level, instant, offset, row)
    _issue_remakes(state, remakes, instant, offset, row)
    head[DIRTY_N] = 0
    head[REVISION_DUE] = NEVER


@inner
def _issue_remakes(state: State, out: Array, instant: int, offset: int, row: int) -> None:
    head = state.head
    wanted = state.remakes
    size = 16
    while size < 2 * head[REMAKES_N]:
        size *= 2
    table = state.remake_table
    for k in range(size):
        table[k] = -1
    for k in range(head[REMAKES_N]):
        at = mixed(wanted[k, 0], wanted[k, 1], wanted[k, 2], wanted[k, 1]) & (size - 1)
        while table[at] >= 0 and not (
            wanted[table[at], 0] == wanted[k, 0]
            and wanted[table[at], 1] == wanted[k, 1]
            and wanted[table[at], 2] == wanted[k, 2]
        ):
            at = (at + 1) & (size - 1)
        if table[at] >= 0:
            continue
        table[at] = k
        again = out[head[REMAKES_OUT]]
        again["instrument"] = wanted[k, 0]
        again["level"] = wanted[k, 1]
        again["start"] = wanted[k, 2]
        again["end"] = wanted[k, 3]
        again["available_at"] = instant
        again["offset"] = offset
        again["row"] = row
        head[REMAKES_OUT] += 1
    head[REMAKES_N] = 0
