"""`Kernel` owns a partition's state: makes room for the loop in `step`, runs it over a batch, and keeps snapshots.

The pipeline feeds it trades and heartbeats and gets verdicts, bars, changes of gaps and remakes; `base` is the contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np

from tickhouse.errors import SchemaMismatchError
from tickhouse.kernel.base import GAP_LOST, Bars, Gaps, Remakes, StepOutputs
from tickhouse.kernel.compiling import Array
from tickhouse.kernel.exact import LIMBS
from tickhouse.kernel.levels import settings_of, zones_of
from tickhouse.kernel.open_bars import OpenBars
from tickhouse.kernel.state import (
    AT_BEAT,
    AT_TRADE,
    BARS_OUT,
    CLOCK,
    DIRTY_N,
    GAPS_OUT,
    GAPS_USED,
    HOLES_USED,
    PENDING_FROM,
    PENDING_N,
    REMAKES_N,
    REMAKES_OUT,
    SEEN_FROM,
    SEEN_N,
    State,
    Stored,
    empty_state,
    grown,
    packed,
    power_of_two,
    unpacked,
    with_instruments,
)
from tickhouse.kernel.step import (
    BAR_ROW,
    GAP_ROW,
    KIND,
    KINDS,
    MORE_GAPS,
    MORE_IDS,
    REMAKE_ROW,
    UNIQUE,
    Inputs,
    Outputs,
    run_step,
)
from tickhouse.kernel.unique_ids import link_all
from tickhouse.model import I32, I64, Beats, Feeds, Trades
from tickhouse.rules import Rules

__all__ = ["Kernel"]

_VERSION = 1
_PIECE = 16_384
"""Trades between two looks at the room there is: what they can add at most stays small."""


class _Snapshot(msgspec.Struct, frozen=True):
    version: int
    rules: str
    spaces: list[tuple[str, str]]
    state: Stored


def _frozen(array: Array, dtype: type) -> Array:
    """Return a read-only view: one type for the loop, whether the columns can be written or are another's memory."""
    flags = array.flags
    if array.dtype != dtype or not (flags.c_contiguous and flags.aligned):
        array = np.require(array, dtype, ["C", "A"])
    view = array.view()
    view.flags.writeable = False
    return view


class Kernel:
    """A partition's verdicts, bars and gaps: see `KernelProtocol`.

    Args:
        rules: In force in the house.
        feeds: The partition's, which may grow between two calls.

    Raises:
        ConfigError: the rules name a detector or time zone that we do not know.
    """

    def __init__(self, rules: Rules, feeds: Feeds) -> None:
        self._rules = rules
        self._feeds = feeds
        self._settings = settings_of(rules)
        self._zones = zones_of(rules)
        self._spaces: dict[tuple[str, str], int] = {}
        self._met = 0
        self._known: I64 | None = None
        self._feed_table = np.zeros((0, 4), np.int64)
        self._state = self._empty()
        self._bars = np.zeros(256, BAR_ROW)
        self._gaps = np.zeros(256, GAP_ROW)
        self._remakes = np.zeros(64, REMAKE_ROW)
        self._open = OpenBars(BAR_ROW)

    def _empty(self) -> State:
        return empty_state(len(self._settings.levels), self._settings.window, LIMBS)

    @property
    def clock(self) -> int:
        """The last heartbeat fed, NO_TIME before the first."""
        return int(self._state.head[CLOCK])

    def feed(self, trades: Trades, beats: Beats) -> StepOutputs:
        """Judge trades and work off what the heartbeats make due, in journal order."""
        count = len(trades)
        self._meet()
        inputs = self._inputs(trades, beats)
        self._state.head[[BARS_OUT, GAPS_OUT, REMAKES_OUT, AT_TRADE, AT_BEAT]] = 0
        out = Outputs(
            verdict=np.empty(count, np.int8),
            clock=np.empty(count, np.int64),
            epoch=np.empty(count, np.int32),
            late=np.empty(count, np.int8),
            anomaly=np.empty(count, np.int8),
            score=np.empty(count),
            baseline=np.empty(count),
            bars=self._bars,
            gaps=self._gaps,
            remakes=self._remakes,
        )
        with np.errstate(all="ignore"):  # uncompiled, the hash's products wrap around as compiled
            for until in range(_PIECE, max(count, 1) + _PIECE, _PIECE):
                out = self._run_until(min(until, count), inputs, out)
        return self._outputs(out)

    def _run_until(self, until: int, inputs: Inputs, out: Outputs) -> Outputs:
        """Run the loop up to trade `until`, or to the end of the batch, with room for all that this can add."""
        self._make_room(until - int(self._state.head[AT_TRADE]))
        out = out._replace(gaps=self._gaps, remakes=self._remakes)
        while lacking := run_step(self._state, self._settings, inputs, out, until):
            out = self._more(lacking, out)
        return out

    def _more(self, lacking: int, out: Outputs) -> Outputs:
        """Double what is full."""
        state = self._state
        if lacking == MORE_IDS:
            self._state = state._replace(ids=grown(state.ids, 2 * len(state.ids)))
        elif lacking == MORE_GAPS:
            self._state = state._replace(gaps=grown(state.gaps, 2 * len(state.gaps)))
        else:
            self._bars = grown(self._bars, 2 * len(self._bars))
            out = out._replace(bars=self._bars)
        return out

    def _outputs(self, out: Outputs) -> StepOutputs:
        head = self._state.head
        return StepOutputs(
            verdict=out.verdict,
            clock=out.clock,
            epoch=out.epoch,
            late=out.late,
            anomaly=out.anomaly,
            score=out.score,
            baseline=out.baseline,
            bars=_columns(Bars, out.bars[: head[BARS_OUT]]),
            gaps=_columns(Gaps, out.gaps[: head[GAPS_OUT]]),
            remakes=_columns(Remakes, out.remakes[: head[REMAKES_OUT]]),
        )

    def _inputs(self, trades: Trades, beats: Beats) -> Inputs:
        known = np.zeros(len(trades), np.int8)
        if self._known is not None:
            known[self._known] = 1
            self._known = None
        price, size = _frozen(trades.price, np.float64), _frozen(trades.size, np.float64)
        with np.errstate(all="ignore"):  # what overflows here is rejected by its price or size
            value = price * size
        return Inputs(
            feeds=_frozen(self._feed_table, np.int64),
            feed=_frozen(trades.feed, np.int32),
            ts=_frozen(trades.ts, np.int64),
            price=price,
            size=size,
            size_bits=size.view(np.int64),
            value_bits=_frozen(value.view(np.int64), np.int64),
            trade_id=_frozen(trades.trade_id, np.int64),
            trade_id_hi=_frozen(trades.trade_id_hi, np.int64),
            kind=_frozen(trades.kind, np.int8),
            backfilled=_frozen(trades.backfilled, np.int8),
            known=_frozen(known, np.int8),
            offset=_frozen(trades.offset, np.int64),
            row=_frozen(trades.row, np.int32),
            beat_clock=_frozen(beats.clock, np.int64),
            beat_at=_frozen(beats.at, np.int64),
            beat_offset=_frozen(beats.offset, np.int64),
            beat_row=_frozen(beats.row, np.int32),
        )

    def _meet(self) -> None:
        """Take up feeds and instruments that were interned since the last call."""
        feeds, had = self._feeds.feeds, len(self._feed_table)
        if len(feeds) > had:
            fresh = [
                (
                    self._feeds.instrument_of[code],
                    self._spaces.setdefault((feeds[code].id_space, feeds[code].identity), len(self._spaces)),
                    KINDS[feeds[code].identity],
                    int(bool(feeds[code].symbol)),
                )
                for code in range(had, len(feeds))
            ]
            self._feed_table = np.concatenate([self._feed_table, np.array(fresh, np.int64)])
        instruments = self._feeds.instruments
        had = len(self._state.instruments)
        if len(instruments) > had:
            self._state = with_instruments(self._state, len(instruments), self._settings.stride)
        for code in range(self._met, len(instruments)):
            self._state.instruments[code]["zone"] = self._zones.get(instruments[code].venue, -1)
        self._met = len(instruments)

    def _make_room(self, count: int) -> None:
        """Make room for all that a batch of `count` trades can add, but for what the loop asks for itself."""
        state, head = self._state, self._state.head
        levels = len(self._settings.levels)
        pending = int(head[PENDING_N])
        state.pending[:pending] = state.pending[head[PENDING_FROM] : head[PENDING_FROM] + pending].copy()
        head[PENDING_FROM] = 0
        remakes = int(head[REMAKES_N]) + 2 * levels * (count + 1) + len(state.instruments) * self._settings.stride
        intervals = int(head[HOLES_USED]) + len(state.instruments) + count
        self._state = state._replace(
            pending=grown(state.pending, pending + count),
            dirty=grown(state.dirty, int(head[DIRTY_N]) + levels * count),
            remakes=grown(state.remakes, remakes),
        )
        if len(self._state.remake_table) < 2 * len(self._state.remakes):
            room = power_of_two(2 * len(self._state.remakes))
            self._state = self._state._replace(remake_table=np.full(room, -1, np.int64))
        self._remakes = grown(self._remakes, int(head[REMAKES_OUT]) + remakes)
        self._gaps = grown(self._gaps, int(head[GAPS_OUT]) + int(head[GAPS_USED]) + 3 * intervals + 64)
        if np.any(self._feed_table[:, KIND] == UNIQUE):
            self._make_seen_room(int(head[SEEN_N]) + count)

    def _make_seen_room(self, wanted: int) -> None:
        state = self._state
        if wanted <= len(state.seen):
            return
        room = power_of_two(wanted)
        first, count = int(state.head[SEEN_FROM]), int(state.head[SEEN_N])
        seen = np.zeros((room, state.seen.shape[1]), np.int64)
        seen[:count] = state.seen[(first + np.arange(count)) & (len(state.seen) - 1)]
        state.head[SEEN_FROM] = 0
        self._state = state._replace(seen=seen, table=np.full(2 * room, -1, np.int64))
        self._link_seen()

    def _link_seen(self) -> None:
        """Enter all unique ids into a fresh table."""
        state = self._state
        with np.errstate(all="ignore"):
            link_all(state.seen, state.table, int(state.head[SEEN_FROM]), int(state.head[SEEN_N]))

    def known_duplicates(self, trades: Trades, indices: I64) -> None:
        """Say that these trades of the next feed are in silver.trades already: unique ids of a backfill."""
        if len(indices) and not (int(indices.min()) >= 0 and int(indices.max()) < len(trades)):
            raise ValueError(f"indices of known duplicates must be below {len(trades)}, the number of trades of the next feed")
        self._known = indices

    def new_ids(self, instrument: int, offset: int, row: int) -> Gaps:
        """Begin a new epoch for an instrument; return the gaps that this closes."""
        self._meet()
        closed = self._close(instrument, None, offset, row)
        known = self._state.instruments[instrument]
        for name in ("intervals", "top_first", "top_last", "top_min", "top_max"):
            known[name] = 0
        known["space"] = -1
        known["epoch"] += 1
        return closed

    def refilled(self, instrument: int, first: int, last: int, offset: int, row: int) -> Gaps:
        """Close as lost what a finished refill has left missing."""
        self._meet()
        return self._close(instrument, (first, last), offset, row)

    def _close(self, instrument: int, within: tuple[int, int] | None, offset: int, at: int) -> Gaps:
        """Close an instrument's tracked gaps that lie within first..last (None: all) as lost."""
        known = self._state.instruments[instrument]
        start, count = int(known["gaps_from"]), int(known["gaps"])
        tracked = self._state.gaps[start : start + count]
        inside = np.full(count, True) if within is None else (tracked[:, 0] >= within[0]) & (tracked[:, 1] <= within[1])
        closed = tracked[inside]
        rows = np.zeros(len(closed), GAP_ROW)
        rows["first"], rows["last"] = closed[:, 0], closed[:, 1]
        rows["instrument"], rows["epoch"], rows["state"] = instrument, known["epoch"], GAP_LOST
        rows["clock"], rows["offset"], rows["row"] = self.clock, offset, at
        left = tracked[~inside]
        self._state.gaps[start : start + len(left)] = left
        known["gaps"] = len(left)
        return _columns(Gaps, rows)

    def open_bars(self, instruments: I32 | None = None, levels: Sequence[int] | None = None) -> Bars:
        """Return the bars that are not final yet, each as if it were issued now; changes nothing."""
        return _columns(Bars, self._open.read(self._state, self._settings, self._met, instruments, levels))

    def snapshot(self) -> bytes:
        """Return the whole state with a format version; equal states give equal bytes."""
        self._meet()
        stored = packed(self._state, len(self._feeds.instruments), self._settings.stride)
        return msgspec.msgpack.encode(_Snapshot(_VERSION, self._rules.fingerprint(), list(self._spaces), stored))

    def restore(self, data: bytes) -> None:
        """Take up a state that `snapshot` gave, made with the same rules.

        Raises:
            SchemaMismatchError: the snapshot is of another version or of other rules.
        """
        try:
            taken = msgspec.msgpack.decode(data, type=_Snapshot)
        except msgspec.MsgspecError as error:
            raise SchemaMismatchError(
                f"the kernel's snapshot cannot be read ({error}); remove it and replay the journal"
            ) from error
        if taken.version != _VERSION or taken.rules != self._rules.fingerprint():
            raise SchemaMismatchError(
                f"the kernel's snapshot has version {taken.version} and rules {taken.rules}, "
                f"this house needs version {_VERSION} and rules {self._rules.fingerprint()}; remove it and replay the journal"
            )
        self._known = None
        self._spaces = {space: code for code, space in enumerate(taken.spaces)}
        self._feed_table = np.zeros((0, 4), np.int64)
        self._state = unpacked(taken.state, self._empty(), len(self._feeds.instruments), self._settings.stride)
        self._met = taken.state.instruments
        self._meet()
        self._link_seen()


_Columns = TypeVar("_Columns", Bars, Gaps, Remakes)


def _columns(kind: type[_Columns], rows: Array) -> _Columns:
    """Return rows as the columns of the contract, each in memory of its own."""
    return kind(**{name: rows[name].copy() for name in kind.__dataclass_fields__})
