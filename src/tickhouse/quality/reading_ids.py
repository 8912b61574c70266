"""Rules R1 and R14 read plainly: which trades repeat, which ids are missing.

One `Ids` per instrument, fed by `reading.py` in journal order. Gap rows are tuples in the order of `gold.gaps`.
"""

from __future__ import annotations

import bisect
import hashlib
from dataclasses import dataclass, field

from tickhouse.quality.reading_records import FeedEvent, ReceivedTrade

__all__ = ["UNIQUE_US", "Gap", "GapRow", "IdState", "Ids", "Interval", "id_key"]

_CONFLICT_US = 60_000_000
UNIQUE_US = 600_000_000
"""How long an id without order is remembered (rule R1)."""
_MAX_INTERVALS = 1_000

GapRow = tuple[str, str, int, int, int, str, int]


@dataclass(slots=True)
class Interval:
    """A run of ids seen, and the span of their times."""

    first: int
    last: int
    min_ts: int
    max_ts: int


@dataclass(frozen=True, slots=True)
class Gap:
    """A run of ids missing."""

    first: int
    last: int
    clock: int
    """Of the trade that revealed it."""
    due: int
    """When it opens."""


def id_key(trade: ReceivedTrade) -> int:
    """Return the id as a number for canonical order and sightings; 0 where ids mean nothing."""
    if trade.identity == "none":
        return 0
    if trade.trade_ref is not None:
        return int.from_bytes(hashlib.blake2b(trade.trade_ref.encode("utf-8", "surrogatepass"), digest_size=16).digest(), "big")
    return trade.trade_id or 0


@dataclass(slots=True)
class IdState:
    """What the trades so far leave behind."""

    epoch: int = 0
    space: tuple[str, str] | None = None
    """Id space and identity of the epoch's first trade."""
    intervals: list[Interval] = field(default_factory=list)
    """Ascending, none adjacent."""
    pending: list[Gap] = field(default_factory=list)
    """Not yet due."""
    tracked: list[Gap] = field(default_factory=list)
    """Open: neither healed nor lost."""
    sighted: dict[int, int] = field(default_factory=dict)
    """Clock of the last acceptance, by id."""
    ever: set[int] = field(default_factory=set)
    """Ids in `silver.trades`, of every epoch and id space."""


class Ids:
    """The id space of one instrument, and what is missing in it.

    Args:
        venue: Of the instrument.
        symbol: Of the instrument.
        lateness_us: How long a hole may wait to be filled before it is a gap.
        state: What earlier trades left behind; none have come where it is not given.
    """

    def __init__(self, venue: str, symbol: str, lateness_us: int, state: IdState | None = None) -> None:
        self.gap_rows: list[GapRow] = []
        self._venue, self._symbol, self._lateness_us = venue, symbol, lateness_us
        state = state or IdState()
        self._epoch, self._space, self._intervals = state.epoch, state.space, state.intervals
        self._pending, self._tracked, self._sighted, self._ever = state.pending, state.tracked, state.sighted, state.ever

    def judge(self, trade: ReceivedTrade) -> str:
        """Return the verdict on a valid trade, and remember it if it is accepted."""
        trade.epoch = self._epoch
        space = (trade.id_space, trade.identity)
        if self._space not in (None, space):
            return "identity"
        verdict = self._verdict(trade)
        if verdict != "identity":
            self._space = space
        if verdict == "accepted" and trade.identity != "none" and trade.kind == "trade":
            self._ever.add(id_key(trade))
        return verdict

    def _verdict(self, trade: ReceivedTrade) -> str:
        if trade.identity == "contiguous":
            return self._contiguous(trade)
        return self._unique(trade) if trade.identity == "unique" else "accepted"

    def settle(self, clock: int | None) -> None:
        """Open the gaps that are due at `clock` or before, by a heartbeat after the trade that revealed them."""
        if clock is None or not self._pending:
            return
        for gap in [gap for gap in self._pending if gap.due <= clock > gap.clock]:
            self._pending.remove(gap)
            for first, last in self._holes(gap.first, gap.last):
                self._tracked.append(Gap(first, last, gap.clock, gap.due))
                self._row(first, last, "open", gap.due)

    def new_ids(self, event: FeedEvent) -> None:
        """Begin the next epoch."""
        for gap in self._tracked:
            self._row(gap.first, gap.last, "lost", event.clock)
        self._epoch += 1
        self._space = None
        self._intervals, self._pending, self._tracked, self._sighted = [], [], [], {}

    def refilled(self, event: FeedEvent) -> None:
        """Give up what a finished refill left missing."""
        first, last = int(event.detail["first"]), int(event.detail["last"])
        for gap in [gap for gap in self._tracked if first <= gap.first and gap.last <= last]:
            self._tracked.remove(gap)
            self._row(gap.first, gap.last, "lost", event.clock)

    def _unique(self, trade: ReceivedTrade) -> str:
        assert trade.clock is not None
        key = id_key(trade)
        if key in self._sighted and trade.clock - self._sighted[key] <= UNIQUE_US:
            return "duplicate"
        if trade.backfilled and key in self._ever:
            return "duplicate"
        self._sighted[key] = trade.clock
        return "accepted"

    def _contiguous(self, trade: ReceivedTrade) -> str:
        assert trade.clock is not None
        if trade.trade_id is None:
            return "identity"
        seen = self._interval_of(trade.trade_id)
        if seen is not None:
            near = seen.min_ts - _CONFLICT_US <= trade.ts <= seen.max_ts + _CONFLICT_US
            return "duplicate" if near else "id_conflict"
        highest = self._intervals[-1].last if self._intervals else None
        self._add(trade.trade_id, trade.ts)
        if highest is not None and trade.trade_id > highest + 1 and not trade.backfilled:
            self._pending.append(Gap(highest + 1, trade.trade_id - 1, trade.clock, trade.clock + self._lateness_us))
        for gap in [gap for gap in self._tracked if gap.first <= trade.trade_id <= gap.last]:
            if not self._holes(gap.first, gap.last):
                self._tracked.remove(gap)
                self._row(gap.first, gap.last, "healed", trade.clock)
        if len(self._intervals) > _MAX_INTERVALS:
            self._close_oldest_hole(trade.clock)
        return "accepted"

    def _interval_of(self, trade_id: int) -> Interval | None:
        place = bisect.bisect_right(self._intervals, trade_id, key=lambda interval: interval.first) - 1
        if place >= 0 and trade_id <= self._intervals[place].last:
            return self._intervals[place]
        return None

    def _add(self, trade_id: int, ts: int) -> None:
        place = bisect.bisect_right(self._intervals, trade_id, key=lambda interval: interval.first)
        self._intervals.insert(place, Interval(trade_id, trade_id, ts, ts))
        if place + 1 < len(self._intervals) and self._intervals[place + 1].first == trade_id + 1:
            self._merge(place)
        if place > 0 and self._intervals[place - 1].last == trade_id - 1:
            self._merge(place - 1)

    def _merge(self, place: int) -> None:
        """Make one of the interval at `place` and the next one."""
        low, high = self._intervals[place], self._intervals.pop(place + 1)
        self._intervals[place] = Interval(low.first, high.last, min(low.min_ts, high.min_ts), max(low.max_ts, high.max_ts))

    def _holes(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return the maximal runs of ids not seen in [first, last]."""
        holes = []
        place = max(bisect.bisect_right(self._intervals, first, key=lambda interval: interval.first) - 1, 0)
        for interval in self._intervals[place:]:
            if interval.first > last:
                break
            if interval.first > first:
                holes.append((first, interval.first - 1))
            first = max(first, interval.last + 1)
        return [*holes, (first, last)] if first <= last else holes

    def _close_oldest_hole(self, clock: int) -> None:
        first, last = self._intervals[0].last + 1, self._intervals[1].first - 1
        self._merge(0)
        inside = [gap for gap in self._tracked if gap.first <= last and gap.last >= first]
        for gap in inside:
            self._tracked.remove(gap)
            self._row(gap.first, gap.last, "lost", clock)
        if not inside:
            self._row(first, last, "lost", clock)

    def _row(self, first: int, last: int, state: str, clock: int | None) -> None:
        assert clock is not None
        self.gap_rows.append((self._venue, self._symbol, self._epoch, first, last, state, clock))
