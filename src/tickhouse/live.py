"""The live figures of each symbol, for whoever paints them.

The engine's listener feeds a `Board` once a batch; the command line paints it. Nothing here touches a number that is stored.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa

from tickhouse.model import NO_TIME, Batch, Trade
from tickhouse.sinks.base import Outputs

__all__ = ["Board", "SymbolFigures"]

_RATE_WINDOW_S = 5.0


@dataclass(slots=True)
class SymbolFigures:
    """One line of the live table."""

    venue: str
    symbol: str
    first: float = 0.0
    last: float = 0.0
    trades: int = 0
    late: int = 0
    duplicate: int = 0
    rejected: int = 0
    """Of those that could be read as a trade of this symbol."""
    lag_us: int | None = None
    """received_at - ts of the newest trade; the venue's clock and ours may differ."""
    recent: deque[tuple[float, int]] = field(default_factory=deque)
    """(monotonic seconds, trades) of the last few seconds."""

    @property
    def change_pct(self) -> float:
        """Change of the price since the run began, in percent."""
        return (self.last / self.first - 1) * 100 if self.first else 0.0

    def rate(self, now: float) -> float:
        """Return accepted trades a second over the last five seconds."""
        while self.recent and self.recent[0][0] < now - _RATE_WINDOW_S:
            self.recent.popleft()
        return sum(count for _, count in self.recent) / _RATE_WINDOW_S


class Board:
    """Live figures by symbol; fed by the engine's thread, read by the one that paints."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[tuple[str, str], SymbolFigures] = {}
        self.clock = NO_TIME

    def update(self, batch: Batch | None, outputs: Outputs) -> None:
        """Take the outputs of a batch, or of several together; an engine's listener."""
        del batch
        self.clock = outputs.position.clock
        self._count_rejected(outputs)
        table = outputs.tables.get("bronze.trades")
        if table is None:
            return
        venues, venue_names = _codes(table.column("venue"))
        symbols, symbol_names = _codes(table.column("symbol"))
        verdicts, verdict_names = _codes(table.column("verdict"))
        accepted = verdicts == verdict_names.index("accepted")
        price = table.column("price").to_numpy()
        lags = (table.column("received_at").cast(pa.int64()).to_numpy(zero_copy_only=False)) - table.column("ts").cast(
            pa.int64()
        ).to_numpy(zero_copy_only=False)
        late = self._late(outputs)
        now = time.monotonic()
        groups = venues.astype(np.int64) * len(symbol_names) + symbols
        with self._lock:
            for group in np.unique(groups):
                rows = np.flatnonzero(groups == group)
                venue, symbol = venue_names[int(group) // len(symbol_names)], symbol_names[int(group) % len(symbol_names)]
                line = self._line(venue, symbol)
                taken = rows[accepted[rows]]
                line.duplicate += len(rows) - len(taken)
                line.late += late.get((venue, symbol), 0)
                if not len(taken):
                    continue
                line.trades += len(taken)
                line.first = line.first or float(price[taken[0]])
                line.last = float(price[taken[-1]])
                lag = lags[taken[-1]]
                line.lag_us = None if np.isnan(lag) else int(lag)
                line.recent.append((now, len(taken)))

    def _count_rejected(self, outputs: Outputs) -> None:
        table = outputs.tables.get("bronze.rejected")
        if table is None:
            return
        for payload in table.column("payload").to_pylist():
            with contextlib.suppress(msgspec.MsgspecError):  # a payload that never was a trade is in the total only
                feed = msgspec.json.decode(payload, type=Trade).feed
                with self._lock:
                    self._line(feed.venue, feed.symbol).rejected += 1

    def _line(self, venue: str, symbol: str) -> SymbolFigures:
        return self._lines.setdefault((venue, symbol), SymbolFigures(venue, symbol))

    def _late(self, outputs: Outputs) -> dict[tuple[str, str], int]:
        silver = outputs.tables.get("silver.trades")
        if silver is None or not silver.column("late").to_numpy(zero_copy_only=False).any():
            return {}
        counted: dict[tuple[str, str], int] = {}
        late = silver.filter(silver.column("late")).select(["venue", "symbol"])
        for row in late.to_pylist():
            key = (row["venue"], row["symbol"])
            counted[key] = counted.get(key, 0) + 1
        return counted

    def lines(self) -> list[SymbolFigures]:
        """Return the symbols seen, busiest first."""
        with self._lock:
            return sorted(self._lines.values(), key=lambda line: -line.trades)


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], list[str]]:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    return array.indices.to_numpy(zero_copy_only=False).astype(np.int64), array.dictionary.to_pylist()
