"""The hub: hands what a house makes to any number of subscribers, as it is made.

An engine's thread publishes; everything else happens in one other thread, that of the subscribers (usually an asyncio loop),
which calls `pump` when it is woken. There are no queues: the hub keeps the newest pieces of each table, a subscription is a
place in them and takes what came since, when it can. One that is too slow for that gets a snapshot of what it missed; bars
that are still open are shown in their newest state only.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickhouse.model import I32, NO_TIME, Batch, Offsets
from tickhouse.serving.feeds import FeedFigures
from tickhouse.serving.ring import CHANNELS, Piece, Ring, Series, Wanted
from tickhouse.serving.rows import Record, joined, records, shown_columns
from tickhouse.serving.subscription import Past, Subscription
from tickhouse.sinks.base import Outputs
from tickhouse.tables import TIME
from tickhouse.telemetry import timer

__all__ = ["Hub", "OpenBars"]

_ALL: Series = (None, None, None)
_RING_ROWS = 50_000
_INBOX_PIECES = 2_000
OPEN_EVERY_S = 0.05
"""The open bars of an instrument are read out at most this often."""
_OPEN_STEPS = 10
"""Read-outs in that time, each of other instruments."""
FEEDS_EVERY_S = 1.0

OpenBars = Callable[[I32 | None], pa.Table]
"""Reads the open bars of some instruments (None = all), as rows of `gold.bars`; from any thread."""


class _Published(NamedTuple):
    """What a batch became."""

    partition: int
    end: int
    tables: list[tuple[str, pa.Table, pa.Table | None]]
    """(channel, rows, values of indicators beside bars)."""
    instruments: I32
    received_at: int | None


class _OpenBar(NamedTuple):
    version: int
    record: Record
    encoded: bytes


class Hub:
    """What subscribers share.

    Args:
        wake: Called, from the engine's thread, when there is something to pump and nobody has been told yet.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._inbox: deque[_Published | Offsets] = deque()
        """Offsets = a pipeline of each partition begins there."""
        self._told = False
        self._room = threading.Condition()
        self._subscriptions: dict[tuple[str, Series], dict[Subscription, Callable[[], None]]] = {}
        self._narrow: Counter[str] = Counter()
        """How many subscriptions of a channel are of some series only."""
        self._open: dict[Series, dict[int, _OpenBar]] = {}
        self._series_of: dict[str, set[Series]] = {}
        """The series in `_open` of each symbol."""
        self._touched: set[int] = set()
        self._not_before: dict[int, float] = {}
        """When the open bars of an instrument may be read again, monotonic seconds."""
        self._open_at = 0.0
        self._feeds_at = 0.0
        self._look: OpenBars | None = None
        self._seen_all = False
        """Whether every open bar has been read since the pipeline began."""
        self._newest: int | None = None
        self._begun: tuple[Past, OpenBars, bool] | None = None
        self.rings = {channel: Ring(_RING_ROWS) for channel, table in CHANNELS.items() if table}
        self.figures = FeedFigures()
        self.position: Offsets = (0,)
        """How far everything was pumped."""
        self.generation = 0
        """Counts the houses followed: offsets of different ones mean nothing to each other."""
        self.version = 0
        """Counts the read-outs of open bars."""
        self.feeds_version = 0
        self.open_received_at: int | None = None
        self.past: Past | None = None

    # The engine's thread.

    def begin(self, position: Offsets, past: Past, look: OpenBars, *, is_same_house: bool) -> None:
        """Learn that the pipelines start at `position`; called before the first `publish`."""
        with self._room:
            self._inbox.clear()
            self._begun = (past, look, is_same_house)
            self._inbox.append(position)
        self._tell()

    def publish(self, batch: Batch, outputs: Outputs, instruments: I32) -> None:
        """Take what a batch became, in the order of each partition; waits while the subscribers' thread is far behind.

        Args:
            batch: As the pipeline was fed with it.
            outputs: What it made of it.
            instruments: Codes of those with trades in it, as `OpenBars` takes them.
        """
        received_at = None
        if len(batch.trades):
            newest = int(batch.trades.received_at.max())
            received_at = None if newest == NO_TIME else newest
            if received_at is not None:
                at = int(batch.trades.received_at.argmax())
                timer("tickhouse_serve_latency_seconds")(max(0, newest - int(batch.trades.ts[at])) / 1e6, "received")
        tables = []
        for channel, name in CHANNELS.items():
            table = outputs.tables.get(name)
            if table is not None and len(table):
                tables.append((channel, table, outputs.tables.get("gold.indicators") if channel == "bars" else None))
        self.figures.add(outputs)
        with self._room:
            while len(self._inbox) >= _INBOX_PIECES:
                self._room.wait(1.0)
            self._inbox.append(_Published(outputs.partition, outputs.position.offset, tables, instruments, received_at))
        self._tell()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._wake()

    # The subscribers' thread.

    def subscribe(self, wanted: Wanted, ready: Callable[[], None], *, as_records: bool = False) -> Subscription:
        """Add a subscriber; it needs a snapshot first.

        Args:
            wanted: What of.
            ready: Called by `pump` when there may be something to take.
            as_records: Give rows as records, not as JSON.
        """
        subscription = Subscription(self, wanted, as_records=as_records)
        self._subscriptions.setdefault((wanted.channel, wanted.series), {})[subscription] = ready
        self._narrow[wanted.channel] += wanted.series != _ALL
        if wanted.channel == "bars":
            self._refresh_open()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Take a subscriber away."""
        key = subscription.wanted.channel, subscription.wanted.series
        group = self._subscriptions.get(key, {})
        if group.pop(subscription, None) is not None:
            self._narrow[key[0]] -= key[1] != _ALL
        if not group:
            self._subscriptions.pop(key, None)

    @property
    def subscribers(self) -> int:
        """How many subscriptions there are."""
        return sum(len(group) for group in self._subscriptions.values())

    def pump(self) -> float | None:
        """Hand out what was published.

        Returns:
            In how many seconds to pump again even if nobody wakes: open bars and figures are sent at a steady pace. None =
            only when woken.
        """
        self._told = False
        touched: dict[str, set[Series]] = {}
        while self._inbox:
            published = self._inbox.popleft()
            if not isinstance(published, _Published):
                self._start(published)
                continue
            for piece in self._pieces(published):
                self.rings[piece.channel].add(piece)
                if self._has_subscribers(piece.channel):
                    series = touched.setdefault(piece.channel, set())
                    if self._narrow[piece.channel]:
                        series.update(piece.series())
                if piece.channel == "bars":
                    self._close_bars(piece)
            self._touched.update(published.instruments.tolist())
            if published.received_at is not None:
                self._newest = published.received_at
                timer("tickhouse_serve_latency_seconds")(max(0.0, time.time() - published.received_at / 1e6), "hub")
        with self._room:
            self._room.notify_all()
        for channel, series in touched.items():
            self._make_ready(channel, series)
        return self._pace(time.monotonic())

    def _pieces(self, published: _Published) -> list[Piece]:
        """Return what was published as pieces, and move the position."""
        begin, at = self.position, published.partition
        self.position = end = (*begin[:at], published.end, *begin[at + 1 :])
        return [Piece(channel, begin, end, published.received_at, table, values) for channel, table, values in published.tables]

    def _start(self, position: Offsets) -> None:
        assert self._begun is not None
        self.past, self._look, is_same_house = self._begun
        self._seen_all = False
        for ring in self.rings.values():
            ring.clear(position)
        self._open.clear()
        self._series_of.clear()
        self._touched.clear()
        self._not_before.clear()
        if not is_same_house:
            self.generation += 1
        self.position = position
        for group in self._subscriptions.values():
            for subscription, ready in group.items():
                subscription.is_stale = subscription.is_stale or not is_same_house
                ready()

    def _pace(self, now: float) -> float | None:
        waits = []
        if self._touched and self._has_subscribers("bars"):
            if now >= self._open_at:
                self._open_at = now + OPEN_EVERY_S / _OPEN_STEPS
                self._make_ready("bars", self._read_due(now))
            due = min((self._not_before.get(code, 0.0) for code in self._touched), default=None)
            if due is not None:
                waits.append(max(due, self._open_at) - now)
        if self._has_subscribers("feeds"):
            if now >= self._feeds_at:
                self._feeds_at = now + FEEDS_EVERY_S
                self.feeds_version += 1
                self._make_ready("feeds", None)
            waits.append(self._feeds_at - now)
        return min(waits, default=None)

    def _has_subscribers(self, channel: str) -> bool:
        return any(key[0] == channel for key in self._subscriptions)

    def _make_ready(self, channel: str, series: Iterable[Series] | None) -> None:
        if series is None:
            for (of, _), group in self._subscriptions.items():
                if of == channel:
                    for ready in group.values():
                        ready()
            return
        keys = {_ALL, *(key for each in series for key in _wildcards(each))}
        for key in keys:
            for ready in self._subscriptions.get((channel, key), {}).values():
                ready()

    # Open bars.

    def fresh_bars(self, wanted: Wanted, start: int) -> list[Record]:
        """Return final bars from a start on in their latest revision, committed or not; from any thread."""
        past = self.past
        if past is None:
            return []
        asked = (pc.field("start") >= pa.scalar(start, TIME)) & (pc.field("origin") == "trades")
        for column, value in (("symbol", wanted.symbol), ("venue", wanted.venue), ("interval", wanted.interval)):
            if value is not None:
                asked &= pc.field(column) == value
        found = past.rows("gold.bars", asked, None, first=start, symbol=wanted.symbol)
        latest: dict[tuple[str, int], Record] = {}
        for row in records(
            found.sort_by([("available_at", "ascending"), ("revision", "ascending")]), shown_columns("gold.bars")
        ):
            latest[row["venue"], row["start"]] = {**row, "final": True}
        return list(latest.values())

    def open_now(self, wanted: Wanted) -> list[Record]:
        """Return the bars that are open now; from any thread."""
        look = self._look
        if look is None:
            return []
        found = [_as_open(row) for row in records(look(None), shown_columns("gold.bars"))]
        return [row for row in found if wanted.takes((row["venue"], row["symbol"], row["interval"]))]

    def _refresh_open(self) -> None:
        """Make what is known of open bars complete: nobody may have looked for a while."""
        if self._look is None:
            return
        if not self._seen_all:
            self._seen_all = True
            self._touched.clear()
            self._take_open(self._look(None))
        elif self._touched:
            self._make_ready("bars", self._read(set(self._touched)))

    def _read_due(self, now: float) -> set[Series]:
        """Read the open bars of the instruments that were not read for a while."""
        due = {code for code in self._touched if self._not_before.get(code, 0.0) <= now}
        for code in due:
            # At first sight instruments are spread over the pace, so that not all of them are sent at one moment.
            share = 1.0 if code in self._not_before else (code % _OPEN_STEPS + 1) / _OPEN_STEPS
            self._not_before[code] = now + OPEN_EVERY_S * share
        return self._read(due)

    def _read(self, instruments: set[int]) -> set[Series]:
        self._touched -= instruments
        if self._look is None or not instruments:
            return set()
        return self._take_open(self._look(np.array(sorted(instruments), np.int32)))

    def _take_open(self, table: pa.Table) -> set[Series]:
        self.version += 1
        self.open_received_at = self._newest
        changed: set[Series] = set()
        found: dict[Series, dict[int, Record]] = {}
        for row in records(table, shown_columns("gold.bars")):
            _as_open(row)
            found.setdefault((row["venue"], row["symbol"], row["interval"]), {})[row["start"]] = row
        for series, rows in found.items():
            before, now = self._open.get(series, {}), {}
            for start, row in rows.items():
                known = before.get(start)
                if known is not None and known.record["trades"] == row["trades"]:
                    now[start] = known
                    continue
                now[start] = _OpenBar(self.version, row, joined([row]))
                changed.add(series)
            self._open[series] = now
            self._series_of.setdefault(series[1] or "", set()).add(series)
        return changed

    def _close_bars(self, piece: Piece) -> None:
        for row in records(piece.table, ["venue", "symbol", "interval", "start"]):
            bars = self._open.get((row["venue"], row["symbol"], row["interval"]))
            if bars:
                bars.pop(row["start"], None)

    def _open_bars(self, wanted: Wanted, version: int) -> list[_OpenBar]:
        if wanted.channel != "bars":
            return []
        # Nearly everyone asks for a symbol: there are thousands of series, and a few of each symbol.
        among = self._open if wanted.symbol is None else self._series_of.get(wanted.symbol, ())
        groups = [self._open[series] for series in among if wanted.takes(series)]
        return [bar for bars in groups for bar in bars.values() if bar.version > version]

    def open_records(self, wanted: Wanted, version: int) -> list[Record]:
        """Return the open bars that are wanted and have changed since a read-out."""
        return [dict(bar.record) for bar in self._open_bars(wanted, version)]

    def open_encoded(self, wanted: Wanted, version: int) -> list[bytes]:
        """Return them as JSON."""
        return [bar.encoded for bar in self._open_bars(wanted, version)]

    def feed_records(self, wanted: Wanted) -> list[Record]:
        """Return the figures of the feeds that are wanted."""
        return [row for row in self.figures.records() if wanted.takes((row["venue"], row["symbol"], None))]


def _as_open(row: Record) -> Record:
    row["revision"] = row["available_at"] = None
    row["final"] = False
    return row


def _wildcards(series: Series) -> list[Series]:
    """Return every way to ask for a series."""
    venue, symbol, interval = series
    intervals = (interval, None) if interval is not None else (None,)
    return [(v, s, i) for v in {venue, None} for s in {symbol, None} for i in intervals]
