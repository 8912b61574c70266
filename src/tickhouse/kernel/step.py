"""The loop over one batch, and `Kernel`, which owns a partition's state: the rules in the order they are read.

The pipeline feeds it trades and heartbeats and gets verdicts, bars, changes of gaps and remakes. `_step` is the loop; all it
calls is in `continuity`, `bars` and `anomaly`. It works on arrays that do not grow while it runs: where one is full it returns,
`Kernel` makes room, and it goes on at the same record.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from numba import njit

from tickhouse.errors import SchemaMismatchError
from tickhouse.kernel.anomaly import remember, score
from tickhouse.kernel.bars import add_late_trade, add_trade, issue_due, issue_revisions, place_bar, window_of
from tickhouse.kernel.base import ACCEPTED, DUPLICATE, GAP_LOST, Bars, Gaps, Remakes, StepOutputs
from tickhouse.kernel.continuity import NO_ROOM, judge_contiguous, judge_unique, link, open_due_gaps
from tickhouse.kernel.exact import LIMBS
from tickhouse.kernel.levels import FUTURE_US, settings_of, zones_of
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
    LEVEL_DUE,
    LEVEL_OPEN,
    NEXT_DUE,
    PENDING_FROM,
    PENDING_N,
    REMAKES_N,
    REMAKES_OUT,
    REVISION_DUE,
    SEEN_FROM,
    SEEN_N,
    Array,
    Record,
    Settings,
    State,
    Stored,
    compiled,
    empty_state,
    grown,
    inner,
    packed,
    power_of_two,
    unpacked,
    with_instruments,
)
from tickhouse.model import I32, I64, NO_TIME, Beats, Feeds, Trades
from tickhouse.rules import Rules

__all__ = ["Kernel"]

_VERSION = 1

_SYMBOL, _PRICE, _SIZE, _TS, _FUTURE, _IDENTITY = 2, 3, 4, 5, 6, 7
_NONE, _UNIQUE, _CONTIGUOUS = 0, 1, 2
_KINDS = {"none": _NONE, "unique": _UNIQUE, "contiguous": _CONTIGUOUS}
_INSTRUMENT, _SPACE, _KIND, _NAMED = 0, 1, 2, 3
"""Columns of `_Inputs.feeds`."""

_FROM_1990 = 631_152_000_000_000
_FROM_2100 = 4_102_444_800_000_000
_SIGN = NO_TIME
"""Flipped, it makes unsigned 64-bit numbers compare as signed ones do."""

_DONE, _MORE_IDS, _MORE_GAPS, _MORE_BARS = 0, 1, 2, 3

_PIECE = 16_384
"""Trades between two looks at the room there is: what they can add at most stays small."""

_BAR_ROW = np.dtype(
    [(name, np.int64) for name in ("start", "end", "trades", "first_trade_id", "last_trade_id", "available_at", "offset")]
    + [(name, np.float64) for name in ("open", "high", "low", "close", "volume", "notional")]
    + [(name, np.int32) for name in ("instrument", "revision", "row")]
    + [(name, np.int8) for name in ("level", "has_ids")]
)
_GAP_ROW = np.dtype(
    [(name, np.int64) for name in ("first", "last", "clock", "offset")]
    + [(name, np.int32) for name in ("instrument", "epoch", "row")]
    + [("state", np.int8)]
)
_REMAKE_ROW = np.dtype(
    [(name, np.int64) for name in ("start", "end", "available_at", "offset")]
    + [(name, np.int32) for name in ("instrument", "row")]
    + [("level", np.int8)]
)


class _Inputs(NamedTuple):
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


class _Outputs(NamedTuple):
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
def _continuous(state: State, settings: Settings, inputs: _Inputs, gaps: Array, i: int, instrument: int, kind: int) -> int:
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
def _trades(state: State, settings: Settings, inputs: _Inputs, out: _Outputs, until: int) -> int:
    """Judge the trades up to `until`, in order, and count in those accepted."""
    # Arrays are taken out of their tuples once: handing on whole tuples is what costs most in a compiled call.
    head, instruments, ring, bars, limbs = state.head, state.instruments, state.ring, state.bars, state.limbs
    feeds, feed, times, prices, sizes = inputs.feeds, inputs.feed, inputs.ts, inputs.price, inputs.size
    size_bits, value_bits, ids, highs = inputs.size_bits, inputs.value_bits, inputs.trade_id, inputs.trade_id_hi
    kinds, backfilled = inputs.kind, inputs.backfilled
    window, threshold = settings.window, settings.threshold
    clock = head[CLOCK]
    reached = clock - settings.lateness if clock != NO_TIME else clock
    for i in range(head[AT_TRADE], until):
        code = feed[i]
        instrument, space, kind = feeds[code, _INSTRUMENT], feeds[code, _SPACE], feeds[code, _KIND]
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
                    return _MORE_IDS
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
def _beat(state: State, settings: Settings, inputs: _Inputs, out: _Outputs, beat: int) -> int:
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
            return _MORE_GAPS
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
def _step(state: State, settings: Settings, inputs: _Inputs, out: _Outputs, until: int) -> int:
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


@compiled
def _link_all(seen: Array, table: Array, first: int, count: int) -> None:
    for k in range(first, first + count):
        link(seen, table, k & (seen.shape[0] - 1))


def _entry(sources: int) -> Callable[..., int]:
    """Return the loop with its machine code cached on disk.

    The cache looks at the date of this file alone; `sources`, a checksum of all the kernel's files, makes it notice the others.
    """

    def run(state: State, settings: Settings, inputs: _Inputs, out: _Outputs, until: int) -> int:
        return _step(state, settings, inputs, out, until) if sources >= 0 else _DONE

    return njit(nogil=True, cache=True, _nrt=False, no_cfunc_wrapper=True)(run)  # type: ignore[no-any-return]


_run = _entry(zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))))


class _Snapshot(msgspec.Struct, frozen=True):
    version: int
    rules: str
    spaces: list[tuple[str, str]]
    state: Stored


def _frozen(array: Any, dtype: type) -> Array:
    """Return a read-only view: one type for the loop, whether the columns can be written or are another's memory."""
    view = np.require(array, dtype, ["C", "A"]).view()
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
        self._bars = np.zeros(256, _BAR_ROW)
        self._gaps = np.zeros(256, _GAP_ROW)
        self._remakes = np.zeros(64, _REMAKE_ROW)
        self._open = OpenBars(_BAR_ROW)

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
        out = _Outputs(
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

    def _run_until(self, until: int, inputs: _Inputs, out: _Outputs) -> _Outputs:
        """Run the loop up to trade `until`, or to the end of the batch, with room for all that this can add."""
        self._make_room(until - int(self._state.head[AT_TRADE]))
        out = out._replace(gaps=self._gaps, remakes=self._remakes)
        while lacking := _run(self._state, self._settings, inputs, out, until):
            out = self._more(lacking, out)
        return out

    def _more(self, lacking: int, out: _Outputs) -> _Outputs:
        """Double what is full."""
        state = self._state
        if lacking == _MORE_IDS:
            self._state = state._replace(ids=grown(state.ids, 2 * len(state.ids)))
        elif lacking == _MORE_GAPS:
            self._state = state._replace(gaps=grown(state.gaps, 2 * len(state.gaps)))
        else:
            self._bars = grown(self._bars, 2 * len(self._bars))
            out = out._replace(bars=self._bars)
        return out

    def _outputs(self, out: _Outputs) -> StepOutputs:
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

    def _inputs(self, trades: Trades, beats: Beats) -> _Inputs:
        known = np.zeros(len(trades), np.int8)
        if self._known is not None:
            known[self._known] = 1
            self._known = None
        price, size = _frozen(trades.price, np.float64), _frozen(trades.size, np.float64)
        with np.errstate(all="ignore"):  # what overflows here is rejected by its price or size
            value = price * size
        return _Inputs(
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
                    _KINDS[feeds[code].identity],
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
        if np.any(self._feed_table[:, _KIND] == _UNIQUE):
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
            _link_all(state.seen, state.table, int(state.head[SEEN_FROM]), int(state.head[SEEN_N]))

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
        rows = np.zeros(len(closed), _GAP_ROW)
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
