"""The live figures of each instrument: last price, rates, lag, what was late, duplicate or refused, open gaps, connection.

The hub adds the outputs of every batch, which costs next to nothing; they are worked off together when somebody looks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import pyarrow as pa

from tickhouse.live import Board
from tickhouse.model import NO_TIME, Position
from tickhouse.serving.rows import Record, records
from tickhouse.sinks.base import Outputs

__all__ = ["FeedFigures"]

_LOOKED_AT = ("bronze.trades", "bronze.rejected", "silver.trades", "bronze.events", "gold.gaps")
_MOST_PIECES = 500
_CONNECTION = {"connected": True, "disconnected": False}


class FeedFigures:
    """What the `feeds` channel shows; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, list[pa.Table]] = {name: [] for name in _LOOKED_AT}
        self._pieces = 0
        self._board = Board()
        self._gaps: dict[tuple[str, str], set[tuple[int, int]]] = {}
        self._connected: dict[str, bool] = {}
        self._sources: dict[tuple[str, str], str] = {}
        self._position = Position()

    def begin(self, gaps: Iterable[Record], events: Iterable[Record]) -> None:
        """Take up what is stored: gaps in their current state, connection events by rising cause."""
        with self._lock:
            self._gaps.clear()
            self._connected.clear()
            self._take_gaps(gaps)
            self._take_events(events)

    def add(self, outputs: Outputs) -> None:
        """Take what a batch became."""
        with self._lock:
            for name, waiting in self._waiting.items():
                table = outputs.tables.get(name)
                if table is not None and len(table):
                    waiting.append(table)
            self._position = outputs.position
            self._pieces += 1
            if self._pieces >= _MOST_PIECES:
                self._work_off()

    def knows(self, symbol: str, venue: str | None) -> bool:
        """Say whether trades of an instrument were seen since the follower began."""
        with self._lock:
            self._work_off()
            return any(s == symbol and venue in (None, v) for v, s in self._sources)

    def records(self) -> list[Record]:
        """Return one row an instrument, busiest first."""
        with self._lock:
            self._work_off()
            now = time.monotonic()
            return [
                {
                    "venue": line.venue,
                    "symbol": line.symbol,
                    "source": (source := self._sources.get((line.venue, line.symbol))),
                    "connected": self._connected.get(source or ""),
                    "last": line.last or None,
                    "change_pct": line.change_pct,
                    "rate": line.rate(now),
                    "lag_us": line.lag_us,
                    "trades": line.trades,
                    "late": line.late,
                    "duplicate": line.duplicate,
                    "rejected": line.rejected,
                    "open_gaps": len(self._gaps.get((line.venue, line.symbol), ())),
                    "clock": None if self._board.clock == NO_TIME else self._board.clock,
                }
                for line in self._board.lines()
            ]

    def _work_off(self) -> None:
        merged = {name: _merged(tables) for name, tables in self._waiting.items() if tables}
        for waiting in self._waiting.values():
            waiting.clear()
        self._pieces = 0
        if "bronze.trades" in merged:
            names = merged["bronze.trades"].select(["venue", "symbol", "source"]).group_by(["venue", "symbol", "source"])
            for row in names.aggregate([]).to_pylist():
                self._sources[row["venue"], row["symbol"]] = row["source"]
        if "gold.gaps" in merged:
            self._take_gaps(records(merged["gold.gaps"]))
        if "bronze.events" in merged:
            self._take_events(records(merged["bronze.events"]))
        self._board.update(None, Outputs(0, self._position, merged))

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


def _merged(tables: list[pa.Table]) -> pa.Table:
    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables(tables, promote_options="permissive").unify_dictionaries().combine_chunks()
