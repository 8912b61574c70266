"""The live figures of each symbol, for whoever paints them.

The engine's listener feeds a `Board` once a batch; the command line paints it. Nothing here touches a number that is stored.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickhouse.model import NO_TIME, Batch, Trade
from tickhouse.sinks.base import Outputs

__all__ = ["Board", "SymbolFigures"]

_RATE_WINDOW_S = 5.0
_MOST_WAITING = 200
_COUNTED = ["venue", "symbol", "verdict", "price", "received_at", "ts"]


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
        self._waiting: list[tuple[float, Outputs]] = []
        self.clock = NO_TIME

    def update(self, batch: Batch | None, outputs: Outputs) -> None:
        """Take the outputs of a batch, or of several together; an engine's listener, which puts the counting off."""
        del batch
        with self._lock:
            self.clock = outputs.position.clock
            self._waiting.append((time.monotonic(), outputs))
            if len(self._waiting) >= _MOST_WAITING:
                self._count()

    def _count(self) -> None:
        """Count what was put off; many small batches at once cost little more than one."""
        waiting, self._waiting = self._waiting, []
        for _, outputs in waiting:
            self._count_rejected(outputs)
        tables = [(at, outputs.tables["bronze.trades"]) for at, outputs in waiting if "bronze.trades" in outputs.tables]
        if not tables:
            return
        table = pa.concat_tables([table.select(_COUNTED) for _, table in tables]).unify_dictionaries()
        arrived = np.repeat([at for at, _ in tables], [len(table) for _, table in tables])
        venues, venue_names = _codes(table.column("venue"))
        symbols, symbol_names = _codes(table.column("symbol"))
        verdicts, verdict_names = _codes(table.column("verdict"))
        accepted = verdicts == verdict_names.index("accepted")
        price = table.column("price").to_numpy()
        lags = _times(table.column("received_at")) - _times(table.column("ts"))
        late = self._late([outputs for _, outputs in waiting])
        groups = venues.astype(np.int64) * len(symbol_names) + symbols
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
            instants, counts = np.unique(arrived[taken], return_counts=True)
            line.recent += zip(instants.tolist(), counts.tolist(), strict=True)

    def _count_rejected(self, outputs: Outputs) -> None:
        table = outputs.tables.get("bronze.rejected")
        if table is None:
            return
        for payload in table.column("payload").to_pylist():
            with contextlib.suppress(msgspec.MsgspecError):  # a payload that never was a trade is in the total only
                feed = msgspec.json.decode(payload, type=Trade).feed
                self._line(feed.venue, feed.symbol).rejected += 1

    def _line(self, venue: str, symbol: str) -> SymbolFigures:
        return self._lines.setdefault((venue, symbol), SymbolFigures(venue, symbol))

    def _late(self, outputs: list[Outputs]) -> Counter[tuple[str, str]]:
        counted: Counter[tuple[str, str]] = Counter()
        for each in outputs:
            silver = each.tables.get("silver.trades")
            if silver is not None and pc.any(silver.column("late")).as_py():
                late = silver.filter(silver.column("late")).select(["venue", "symbol"])
                counted.update((row["venue"], row["symbol"]) for row in late.to_pylist())
        return counted

    def lines(self) -> list[SymbolFigures]:
        """Return the symbols seen, busiest first."""
        with self._lock:
            self._count()
            return sorted(self._lines.values(), key=lambda line: -line.trades)


def _codes(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], list[str]]:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    return array.indices.to_numpy(zero_copy_only=False).astype(np.int64), array.dictionary.to_pylist()


def _times(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Return microseconds, NaN where there is no time."""
    times: npt.NDArray[np.float64] = column.cast(pa.int64()).to_numpy(zero_copy_only=False).astype(np.float64)
    return times
