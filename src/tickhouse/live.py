"""The live figures of each symbol, for whoever paints them: what its pipeline has counted, and how fast that grows.

The engine's listener marks a `Board` once a batch; the command line paints it, the hub tells of it. Nothing here touches a
number that is stored.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tickhouse.kernel.tally import Tally
from tickhouse.model import I64, NO_TIME

__all__ = ["Board", "SymbolFigures"]

_RATE_WINDOW_S = 5.0
_MARK_EVERY_S = 0.5
_LEAST_WINDOW_S = 1.0


@dataclass(frozen=True, slots=True)
class SymbolFigures:
    """One line of the live table; counts are since the house began."""

    venue: str
    symbol: str
    source: str
    """That of its newest trade."""
    first: float
    """The price that the UTC day of the newest trade began with; 0 where no trade came live yet."""
    last: float
    """The newest price; 0 where no trade came live yet."""
    trades: int
    late: int
    duplicate: int
    rejected: int
    """Of those that could be read as a trade of this symbol."""
    lag_us: int | None
    """received_at - ts of the newest trade; the venue's clock and ours may differ."""
    rate: float
    """Accepted trades a second over the last five seconds."""

    @property
    def change_pct(self) -> float:
        """Change of the price since the UTC day began, in percent."""
        return (self.last / self.first - 1) * 100 if self.first else 0.0


class Board:
    """Live figures by symbol; marked by the engine's threads, read by the one that paints.

    Args:
        monotonic: Tells seconds that pass.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._tallies: Sequence[Tally] = ()
        self._marks: deque[tuple[float, list[I64]]] = deque()
        """When, and how many trades were accepted then, by tally and instrument."""
        self.clock = NO_TIME

    def begin(self, tallies: Sequence[Tally], clock: int = NO_TIME) -> None:
        """Show these from now on: those of a house's pipelines, before they are fed.

        Args:
            tallies: One a partition.
            clock: The last heartbeat that they were fed with.
        """
        with self._lock:
            self._tallies, self.clock = tallies, clock
            self._marks.clear()
            self._mark(self._monotonic())

    def mark(self, clock: int) -> None:
        """Take note of the clock reached, and now and then of the counts; an engine calls it with each batch."""
        self.clock = clock
        now = self._monotonic()
        if not self._marks or now >= self._marks[-1][0] + _MARK_EVERY_S:
            with self._lock:
                self._mark(now)

    def _mark(self, now: float) -> None:
        self._marks.append((now, [tally.rows["accepted"].copy() for tally in self._tallies]))
        while len(self._marks) > 1 and self._marks[1][0] <= now - _RATE_WINDOW_S:
            self._marks.popleft()

    def knows(self, symbol: str, venue: str | None) -> bool:
        """Say whether any trade of an instrument was accepted; None = of any venue."""
        with self._lock:
            return any(
                instrument.symbol == symbol and venue in (None, instrument.venue) and count > 0
                for tally in self._tallies
                for instrument, count in zip(tally.feeds.instruments, tally.rows["accepted"], strict=False)
            )

    def lines(self) -> list[SymbolFigures]:
        """Return the symbols seen, busiest first."""
        with self._lock:
            now = self._monotonic()
            self._mark(now)
            at, before = self._marks[0]
            window_s = max(now - at, _LEAST_WINDOW_S)
            found = [
                line for tally, counts in zip(self._tallies, before, strict=True) for line in _lines(tally, counts, window_s)
            ]
        return sorted(found, key=lambda line: -line.trades)


def _lines(tally: Tally, before: I64, window_s: float) -> list[SymbolFigures]:
    feeds = tally.feeds
    found = []
    for code, row in enumerate(tally.rows.tolist()):
        accepted, duplicate, late, rejected, _, lag, first, last, feed = row
        if not accepted and not rejected:
            continue
        venue, symbol = feeds.instruments[code].venue, feeds.instruments[code].symbol
        source = feeds.feeds[feed].source if accepted else ""
        lag_us = None if not last or lag == NO_TIME else lag
        rate = (accepted - (int(before[code]) if code < len(before) else 0)) / window_s
        found.append(SymbolFigures(venue, symbol, source, first, last, accepted, late, duplicate, rejected, lag_us, rate))
    return found
