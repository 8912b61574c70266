"""The live figures of each feed: what its trades became, last price, rate, lag, open gaps, connection.

Counting is the pipeline's; gaps and connections are taken from the rows that it makes, as they come.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from tickhouse.kernel.tally import Tally
from tickhouse.live import Board
from tickhouse.model import NO_TIME
from tickhouse.serving.hours import Hours
from tickhouse.serving.rows import Record, records
from tickhouse.sinks.base import Outputs

__all__ = ["FeedFigures"]

_UNKNOWN: Mapping[str, Hours] = MappingProxyType({})
_CONNECTION = {"connected": True, "disconnected": False}


class FeedFigures:
    """What the `feeds` channel shows; from any thread.

    Args:
        hours: Of the venues whose hours are known.
    """

    def __init__(self, hours: Mapping[str, Hours] = _UNKNOWN) -> None:
        self._hours = hours
        self._lock = threading.Lock()
        self._board = Board()
        self._gaps: dict[tuple[str, str], set[tuple[int, int]]] = {}
        self._connected: dict[str, bool] = {}

    def begin(self, tallies: Sequence[Tally], clock: int, gaps: Iterable[Record], events: Iterable[Record]) -> None:
        """Take up a house.

        Args:
            tallies: What its pipelines count.
            clock: Where they begin, NO_TIME = at the beginning.
            gaps: Those stored, in their current state.
            events: Those stored, by rising cause.
        """
        self._board.begin(tallies, clock)
        with self._lock:
            self._gaps.clear()
            self._connected.clear()
            self._take_gaps(gaps)
            self._take_events(events)

    def add(self, outputs: Outputs) -> None:
        """Take what a batch became."""
        self._board.mark(outputs.position.clock)
        gaps, events = outputs.tables.get("gold.gaps"), outputs.tables.get("bronze.events")
        if gaps is not None or events is not None:
            with self._lock:
                self._take_gaps([] if gaps is None else records(gaps))
                self._take_events([] if events is None else records(events))

    def knows(self, symbol: str, venue: str | None) -> bool:
        """Say whether any trade of an instrument was accepted; None = of any venue."""
        return self._board.knows(symbol, venue)

    def records(self) -> list[Record]:
        """Return one row an instrument, busiest first."""
        clock = None if self._board.clock == NO_TIME else self._board.clock
        markets = {} if clock is None else {venue: hours.state(clock) for venue, hours in self._hours.items()}
        with self._lock:
            return [
                {
                    "venue": line.venue,
                    "symbol": line.symbol,
                    "source": line.source or None,
                    "connected": self._connected.get(line.source),
                    "market": markets.get(line.venue),
                    "last": line.last or None,
                    "change_pct": line.change_pct,
                    "rate": line.rate,
                    "lag_us": line.lag_us,
                    "trades": line.trades,
                    "late": line.late,
                    "duplicate": line.duplicate,
                    "rejected": line.rejected,
                    "open_gaps": len(self._gaps.get((line.venue, line.symbol), ())),
                    "clock": clock,
                }
                for line in self._board.lines()
            ]

    def _take_gaps(self, gaps: Iterable[Record]) -> None:
        for row in gaps:
            opened = self._gaps.setdefault((row["venue"], row["symbol"]), set())
            key = row["epoch"], row["first_missing_id"]
            if row["state"] == "open":
                opened.add(key)
            else:
                opened.discard(key)

    def _take_events(self, events: Iterable[Record]) -> None:
        for row in events:
            state = _CONNECTION.get(row["event"])
            if state is not None and row["source"] is not None:
                self._connected[row["source"]] = state
