"""Where the reading of one day begins: what the stored rows from before it leave behind.

The rows of earlier days are taken as they stand (each day is proven by a reading of its own), and by columns instead of one by
one. Heartbeats are not stored; what they did is in `gold.gaps`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickhouse.model import NO_TIME
from tickhouse.quality.reading_bars import Windows
from tickhouse.quality.reading_ids import UNIQUE_US, Gap, GapRow, IdState, Interval, id_key
from tickhouse.quality.reading_records import InstrumentRecords, ReceivedTrade, received
from tickhouse.rules import REVISION_STEP_US, Rules

__all__ = ["Before", "before"]


@dataclass(slots=True)
class Before:
    """What an instrument's reading goes on from."""

    ids: IdState = field(default_factory=IdState)
    prices: list[float] = field(default_factory=list)
    """The detector's newest samples, from its last anchor but one."""
    bar_trades: list[ReceivedTrade] = field(default_factory=list)
    """Accepted trades of all windows in which a bar can still be issued."""


def before(
    records: InstrumentRecords, gaps: Sequence[GapRow], rules: Rules, samples: int, since: int
) -> tuple[InstrumentRecords, Before]:
    """Return the records from `since` on, and what the earlier ones leave behind.

    Args:
        records: Of one instrument, the trades before `since` in `before`.
        gaps: The instrument's rows of `gold.gaps` from before `since`.
        rules: The rules in force.
        samples: How many prices the detector remembers.
        since: The first clock that is read.
    """
    rows = records.before
    epoch = sum(event.event == "new_ids" and _is_before(event.clock, since) for event in records.events)
    gaps = [row for row in gaps if row[2] == epoch]
    if rows is None or since == NO_TIME:
        return records, Before()
    if any(state == "lost" for *_, state, _clock in gaps):
        # Whether the ids of a hole that was given up may still come, the rows do not say: read from the first trade.
        return InstrumentRecords(records.venue, records.symbol, [*received(rows), *records.trades], records.events), Before()
    within = InstrumentRecords(
        records.venue,
        records.symbol,
        [trade for trade in records.trades if not _is_before(trade.clock, since)],
        [event for event in records.events if not _is_before(event.clock, since)],
    )
    silver = _equal(_equal(rows, "verdict", "accepted"), "kind", "trade")
    prices = _equal(silver, "backfilled", False).column("price").to_numpy()
    state = _id_state(_equal(rows, "epoch", epoch), gaps, rules, since)
    state.epoch = epoch
    if any(trade.backfilled and trade.identity == "unique" for trade in within.trades):
        state.ever = {id_key(trade) for trade in received(silver) if trade.identity != "none"}
    bar_trades = _bar_trades(silver, within.trades, Windows(rules, records.venue), rules, since)
    return within, Before(state, prices[max(len(prices) // samples - 1, 0) * samples :].tolist(), bar_trades)


def _id_state(rows: pa.Table, gaps: Sequence[GapRow], rules: Rules, since: int) -> IdState:
    """Return what the rows of an epoch leave behind."""
    if not len(rows):
        return IdState()
    identity = rows.column("identity")[0].as_py()
    state = IdState(space=(rows.column("id_space")[0].as_py(), identity))
    accepted = _equal(rows, "verdict", "accepted")
    if identity == "unique":
        recent = accepted.filter(pc.greater_equal(accepted.column("clock"), since - UNIQUE_US))
        state.sighted = {id_key(trade): trade.clock for trade in received(recent) if trade.clock is not None}
    elif identity == "contiguous":
        state.intervals = _intervals(accepted)
        state.pending = _pending(accepted, int(rows.column("clock")[-1].as_py()), rules.lateness_us)
        open_gaps = Counter(row[3:5] for row in gaps if row[5] == "open")
        open_gaps.subtract(row[3:5] for row in gaps if row[5] == "healed")
        state.tracked = [
            Gap(first, last, since, since)
            for (first, last), times in open_gaps.items()
            if times > 0 and not any(gap.first <= first <= gap.last for gap in state.pending)
        ]
    return state


def _intervals(accepted: pa.Table) -> list[Interval]:
    ids, times = (accepted.column(name).to_numpy() for name in ("trade_id", "ts"))
    order = np.argsort(ids, kind="stable")
    ids, times = ids[order], times[order]
    begins = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1] + 1]))
    ends = np.concatenate([begins[1:], [len(ids)]]) - 1
    spans = np.minimum.reduceat(times, begins), np.maximum.reduceat(times, begins)
    return [Interval(*cells) for cells in zip(*(part.tolist() for part in (ids[begins], ids[ends], *spans)), strict=True)]


def _pending(accepted: pa.Table, clock: int, lateness_us: int) -> list[Gap]:
    """Return the gaps that no record up to `clock`, the last one's, has opened."""
    ids, clocks = (accepted.column(name).to_numpy() for name in ("trade_id", "clock"))
    expected = np.maximum.accumulate(ids)[:-1] + 1
    reveals = (ids[1:] > expected) & ~accepted.column("backfilled").to_numpy(zero_copy_only=False)[1:]
    settled = (clocks[1:] + lateness_us <= clock) & (clocks[1:] < clock)
    places = np.flatnonzero(reveals & ~settled)
    return [
        Gap(first, last - 1, seen, seen + lateness_us)
        for first, last, seen in zip(
            expected[places].tolist(), ids[1:][places].tolist(), clocks[1:][places].tolist(), strict=True
        )
    ]


def _bar_trades(
    silver: pa.Table, within: Sequence[ReceivedTrade], windows: Windows, rules: Rules, since: int
) -> list[ReceivedTrade]:
    """Return the trades of windows that end so late, or got a trade so late, that a bar may be issued at `since` or after."""
    recent = silver.filter(pc.greater_equal(silver.column("clock"), since - REVISION_STEP_US - rules.lateness_us))
    times = [since - rules.lateness_us - 1, *(trade.ts for trade in within if trade.clock is not None), *_times(recent)]
    first = min(windows.window(interval, min(times))[0] for interval in rules.intervals)
    return received(silver.filter(pc.greater_equal(silver.column("ts"), first)))


def _times(rows: pa.Table) -> list[int]:
    least = pc.min(rows.column("ts")).as_py()
    return [] if least is None else [least]


def _equal(rows: pa.Table, name: str, value: object) -> pa.Table:
    return rows.filter(pc.equal(rows.column(name), value))


def _is_before(clock: int | None, since: int) -> bool:
    return clock is None or clock < since
