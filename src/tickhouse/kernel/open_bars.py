"""Reads out the bars that are not final yet, without touching the state (rule R9, as of now).

A coarser bar holds what was merged into it when finer bars became final; the trades of those still open are in these. So an
open bar of any level is its own slot, if it has one, and every open bar of the levels it is made from that lies within it.
`Kernel.open_bars` calls this for those who show the house live; nothing that is stored depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tickhouse.kernel.bars import window_of
from tickhouse.kernel.compiling import SOURCES, Array, Record, cached, inner
from tickhouse.kernel.exact import LIMBS, clear_sums, merge_sums, round_notional, round_volume
from tickhouse.kernel.state import CLOCK, LOCAL_SOURCE, SLOT, SLOTS, SOURCE, Settings, State, grown
from tickhouse.model import I32, NO_TIME

__all__ = ["OpenBars"]

_SUM, _TERM = 0, 1
"""Rows of the limbs that a read-out works in."""


@inner
def _add_bar(made: Record, scratch: Array, state: State, slot: int, times: Array) -> None:
    """Merge the bar at `slot` into `made`; `times` are the ts of its open and its close so far."""
    bar = state.bars[slot]
    if made["trades"] == 0 or bar["open_ts"] < times[0]:
        times[0] = bar["open_ts"]
        made["open"] = bar["open"]
        made["first_trade_id"] = bar["open_id"]
        times[2] = bar["open_numeric"]
    if made["trades"] == 0 or bar["close_ts"] > times[1]:
        times[1] = bar["close_ts"]
        made["close"] = bar["close"]
        made["last_trade_id"] = bar["close_id"]
        times[3] = bar["close_numeric"]
    if made["trades"] == 0:
        made["high"] = bar["high"]
        made["low"] = bar["low"]
    made["high"] = max(made["high"], bar["high"])
    made["low"] = min(made["low"], bar["low"])
    made["trades"] += bar["trades"]
    for k in range(LIMBS):
        scratch[_TERM, k] = state.limbs[slot, k]
    merge_sums(scratch, _SUM, _TERM)


@inner
def _open_end(state: State, slot: int, reached: int) -> int:
    """Return the end of the bar at `slot` while it is open, else 0."""
    bar = state.bars[slot]
    end: int = bar["end"]
    return end if bar["ordinal"] != 0 and bar["trades"] > 0 and end > reached else 0


@inner
def _read_level(
    state: State,
    settings: Settings,
    instrument: int,
    level: int,
    reached: int,
    out: Array,
    count: int,
    scratch: Array,
    times: Array,
) -> int:
    """Write the open bars of one instrument and level; return how many rows of `out` are used then."""
    zone = state.instruments[instrument]["zone"]
    base = instrument * settings.stride
    column = LOCAL_SOURCE if zone >= 0 else SOURCE
    first = count
    finer = level
    while finer >= 0:
        for k in range(settings.levels[finer, SLOTS]):
            slot = base + settings.levels[finer, SLOT] + k
            if _open_end(state, slot, reached) == 0:
                continue
            _, start, end = window_of(settings, zone, level, state.bars[slot]["start"])
            if end <= reached:
                continue
            at = first
            while at < count and out[at]["start"] != start:
                at += 1
            if at < count:
                continue
            made = out[count]
            count += 1
            _read_bar(state, settings, base, level, column, start, end, reached, made, scratch, times)
            made["instrument"] = instrument
            made["level"] = level
        finer = settings.levels[finer, column]
    return count


@inner
def _read_bar(
    state: State, settings: Settings, base: int, level: int, column: int, start: int, end: int, reached: int,
    made: Record, scratch: Array, times: Array,
) -> None:  # fmt: skip
    """Merge into `made` what the slots of a level and of those it is made from hold of [start, end)."""
    made["trades"] = 0
    made["start"] = start
    made["end"] = end
    made["revision"] = 0
    made["available_at"] = 0
    made["offset"] = 0
    made["row"] = 0
    clear_sums(scratch, _SUM)
    finer = level
    while finer >= 0:
        for k in range(settings.levels[finer, SLOTS]):
            slot = base + settings.levels[finer, SLOT] + k
            bar = state.bars[slot]
            if _open_end(state, slot, reached) > 0 and bar["start"] >= start and bar["end"] <= end:
                _add_bar(made, scratch, state, slot, times)
        finer = settings.levels[finer, column]
    numeric = times[2] & times[3]
    made["has_ids"] = numeric
    if not numeric:
        made["first_trade_id"] = 0
        made["last_trade_id"] = 0
    made["volume"] = round_volume(scratch, _SUM)
    made["notional"] = round_notional(scratch, _SUM)


def _entry(sources: int) -> Callable[..., int]:
    """Return the loop as Python enters it; see `step`."""

    def run(
        state: State, settings: Settings, instruments: Array, levels: Array, reached: int, out: Array, scratch: Array,
        times: Array,
    ) -> int:  # fmt: skip
        """Write the open bars of some instruments and levels into `out`; return how many, or -1 where there is no room."""
        count = 0
        most = settings.stride
        for instrument in instruments:
            for level in levels:
                if count + most > out.shape[0] or sources < 0:
                    return -1
                count = _read_level(state, settings, instrument, level, reached, out, count, scratch, times)
        return count

    return run


_run = cached(_entry(SOURCES))


class OpenBars:
    """Reads open bars out of a kernel's state.

    Args:
        row: The form in which the kernel issues bars.
    """

    def __init__(self, row: np.dtype[np.void]) -> None:
        self._out: Array = np.zeros(256, row)
        self._scratch = np.zeros((2, LIMBS), np.int64)
        self._times = np.zeros(4, np.int64)

    def read(
        self, state: State, settings: Settings, known: int, instruments: I32 | None, levels: Sequence[int] | None
    ) -> Array:
        """Return one row for each open bar, good until the next call.

        Args:
            state: Not changed.
            settings: Of the same kernel.
            known: How many instruments the state has.
            instruments: Codes; None = all.
            levels: Indices into the rules' intervals; None = all.
        """
        clock = int(state.head[CLOCK])
        reached = clock if clock == NO_TIME else clock - settings.lateness
        wanted = np.arange(known) if instruments is None else instruments[instruments < known]
        chosen = range(len(settings.levels)) if levels is None else levels
        codes, columns = np.ascontiguousarray(wanted, np.int32), np.array(chosen, np.int64)
        while (made := _run(state, settings, codes, columns, reached, self._out, self._scratch, self._times)) < 0:
            self._out = grown(self._out, 2 * len(self._out))
        return self._out[:made]
