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
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tickhouse.model import I32, NO_TIME, Batch, Instrument, Offsets
from tickhouse.serving.feeds import FeedFigures
from tickhouse.serving.open_bars import Look, OpenBars
from tickhouse.serving.ring import CHANNELS, Piece, Ring, Series, Wanted
from tickhouse.serving.rows import Record, records, shown_columns
from tickhouse.serving.subscription import Past, Subscription
from tickhouse.sinks.base import Outputs
from tickhouse.tables import TIME
from tickhouse.telemetry import timer

__all__ = ["Hub"]

_ALL: Series = (None, None, None)
_RING_ROWS = 50_000
_INBOX_PIECES = 2_000
FEEDS_EVERY_S = 1.0
_SOON_S = 0.01
"""Where something was published so shortly ago, more is on its way."""


class _Published(NamedTuple):
    """What a batch became."""

    partition: int
    end: int
    tables: list[tuple[str, pa.Table, pa.Table | None]]
    """(channel, rows, values of indicators beside bars)."""
    instruments: I32
    received_at: int | None


class Hub:
    """What subscribers share.

    Args:
        wake: Called, from the engine's thread, when there is something to pump and nobody has been told yet.
        figures: The live figures of the feeds.
    """

    def __init__(self, wake: Callable[[], None], figures: FeedFigures | None = None) -> None:
        self._wake = wake
        self._inbox: deque[_Published | Offsets] = deque()
        """Offsets = a pipeline of each partition begins there."""
        self._told = False
        self._room = threading.Condition()
        self._subscriptions: dict[tuple[str, Series], dict[Subscription, Callable[[], None]]] = {}
        self._all: Counter[str] = Counter()
        """How many subscriptions a channel has ..."""
        self._narrow: Counter[str] = Counter()
        """... and how many of them are of some series only."""
        self._feeds_at = 0.0
        self._newest: int | None = None
        self._published_at = 0.0
        """When something was last pumped, monotonic seconds."""
        self._begun: tuple[Past, Look, Sequence[Sequence[Instrument]], bool] | None = None
        self.rings = {channel: Ring(_RING_ROWS) for channel, table in CHANNELS.items() if table}
        self.figures = figures or FeedFigures()
        self.position: Offsets = (0,)
        """How far everything was pumped."""
        self.generation = 0
        """Counts the houses followed: offsets of different ones mean nothing to each other."""
        self.open_bars = OpenBars()
        self.open_received_at: int | None = None
        """Of the newest trade in the last read-out of open bars."""
        self.feeds_version = 0
        self.past: Past | None = None

    # The engine's thread.

    def begin(
        self, position: Offsets, past: Past, look: Look, instruments: Sequence[Sequence[Instrument]], *, is_same_house: bool
    ) -> None:
        """Learn that the pipelines start; called before the first `publish`.

        Args:
            position: The journal offsets where they do.
            past: How stored rows are read.
            look: How their open bars are read.
            instruments: Those that each knows, by partition; they grow.
            is_same_house: Whether the pipelines before were of the same house.
        """
        with self._room:
            self._inbox.clear()
            self._begun = (past, look, instruments, is_same_house)
            self._inbox.append(position)
        self._tell()

    def publish(self, batch: Batch, outputs: Outputs, instruments: I32) -> None:
        """Take what a batch became, in the order of each partition; waits while the subscribers' thread is far behind.

        Args:
            batch: As the pipeline was fed with it.
            outputs: What it made of it.
            instruments: Codes of those with trades in it, as `Look` takes them.
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
        self._all[wanted.channel] += 1
        self._narrow[wanted.channel] += wanted.series != _ALL
        if wanted.channel == "bars":
            self._make_ready("bars", self._opened(self.open_bars.subscribe(wanted)))
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Take a subscriber away."""
        key = subscription.wanted.channel, subscription.wanted.series
        group = self._subscriptions.get(key, {})
        if group.pop(subscription, None) is not None:
            self._all[key[0]] -= 1
            self._narrow[key[0]] -= key[1] != _ALL
            if key[0] == "bars":
                self.open_bars.unsubscribe(subscription.wanted)
        if not group:
            self._subscriptions.pop(key, None)

    @property
    def subscribers(self) -> int:
        """How many subscriptions there are."""
        return self._all.total()

    def pump(self) -> float | None:
        """Hand out what was published.

        Returns:
            In how many seconds to pump again even if nobody wakes: open bars and figures are sent at a steady pace. None =
            only when woken.
        """
        self._told = False
        is_fresh = False
        touched: dict[str, set[Series]] = {}
        while self._inbox:
            published = self._inbox.popleft()
            if not isinstance(published, _Published):
                self._start(published)
                continue
            for piece in self._pieces(published):
                self.rings[piece.channel].add(piece)
                if self._all[piece.channel]:
                    series = touched.setdefault(piece.channel, set())
                    if self._narrow[piece.channel]:
                        series.update(piece.series())
                if piece.channel == "bars":
                    self.open_bars.close(piece.table)
            self.open_bars.touch(published.instruments)
            is_fresh = True
            if published.received_at is not None:
                self._newest = published.received_at
                timer("tickhouse_serve_latency_seconds")(max(0.0, time.time() - published.received_at / 1e6), "hub")
        with self._room:
            self._room.notify_all()
        for channel, series in touched.items():
            self._make_ready(channel, series)
        now = time.monotonic()
        if is_fresh:
            self._published_at = now
        return self._pace(now, is_fresh=is_fresh)

    def _pieces(self, published: _Published) -> list[Piece]:
        """Return what was published as pieces, and move the position."""
        begin, at = self.position, published.partition
        self.position = end = (*begin[:at], published.end, *begin[at + 1 :])
        return [Piece(channel, begin, end, published.received_at, table, values) for channel, table, values in published.tables]

    def _start(self, position: Offsets) -> None:
        assert self._begun is not None
        self.past, look, instruments, is_same_house = self._begun
        self.open_bars.begin(look, instruments)
        for ring in self.rings.values():
            ring.clear(position)
        if not is_same_house:
            self.generation += 1
        self.position = position
        for group in self._subscriptions.values():
            for subscription, ready in group.items():
                subscription.is_stale = subscription.is_stale or not is_same_house
                ready()

    def _pace(self, now: float, *, is_fresh: bool) -> float | None:
        waits = []
        # While a market is busy, open bars are read right after their trades came, not between two batches.
        soon = self._published_at + _SOON_S
        if is_fresh or now >= soon:
            self._make_ready("bars", self._opened(self.open_bars.read_due(now)))
        due_at = self.open_bars.due_at()
        if due_at is not None:
            waits.append(max(due_at, soon) - now)
        if self._all["feeds"]:
            if now >= self._feeds_at:
                self._feeds_at = now + FEEDS_EVERY_S
                self.feeds_version += 1
                self._make_ready("feeds", None)
            waits.append(self._feeds_at - now)
        return min(waits, default=None)

    def _opened(self, changed: set[Series]) -> set[Series]:
        if changed:
            self.open_received_at = self._newest
        return changed

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

    def feed_records(self, wanted: Wanted) -> list[Record]:
        """Return the figures of the feeds that are wanted."""
        return [row for row in self.figures.records() if wanted.takes((row["venue"], row["symbol"], None))]


def _wildcards(series: Series) -> list[Series]:
    """Return every way to ask for a series."""
    venue, symbol, interval = series
    intervals = (interval, None) if interval is not None else (None,)
    return [(v, s, i) for v in {venue, None} for s in {symbol, None} for i in intervals]
