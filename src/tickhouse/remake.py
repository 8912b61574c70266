"""Bars made again from stored trades: revisions of bars that have left the kernel's state (rules R5, R15).

The pipeline calls this for the kernel's `Remakes`; the result is the same, to the bit, as if the bar had never left.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from tickhouse.columns import text_id_key
from tickhouse.kernel.base import Bars, Remakes
from tickhouse.model import Cause, Feeds, Instrument

__all__ = ["TradeHistory", "merge_bars", "remake"]

_UNSIGNED = 1 << 64


class TradeHistory(Protocol):
    """The part of History that bars are made again from."""

    def trades(self, instrument: Instrument, start: int, end: int, before: Cause) -> pa.Table:
        """Return rows of `silver.trades` with ts in [start, end) and a cause before the given one."""
        ...


def remake(remakes: Remakes, history: TradeHistory, feeds: Feeds, partition: int, lateness_us: int) -> Bars:
    """Return the revision each remake asks for, in order."""
    rows = []
    for i in range(len(remakes.start)):
        start, end = int(remakes.start[i]), int(remakes.end[i])
        cause = Cause(partition, int(remakes.offset[i]), int(remakes.row[i]))
        instrument = feeds.instruments[int(remakes.instrument[i])]
        found = history.trades(instrument, start, end, cause)
        trades = found.to_pylist()
        clocks = found.column("clock").cast(pa.int64()).to_pylist()
        times = found.column("ts").cast(pa.int64()).to_pylist()
        for trade, clock, ts in zip(trades, clocks, times, strict=True):
            trade["clock"], trade["ts"] = clock, ts
        trades.sort(key=_canonical)
        prices = [trade["price"] for trade in trades]
        first, last = trades[0], trades[-1]
        has_ids = first["trade_id"] is not None and last["trade_id"] is not None
        rows.append((
            remakes.instrument[i], remakes.level[i], start, end,
            sum(trade["clock"] >= end + lateness_us for trade in trades),
            first["price"], max(prices), min(prices), last["price"],
            math.fsum(trade["size"] for trade in trades),
            math.fsum(trade["price"] * trade["size"] for trade in trades),
            len(trades), first["trade_id"] if has_ids else 0, last["trade_id"] if has_ids else 0, int(has_ids),
            remakes.available_at[i], remakes.offset[i], remakes.row[i],
        ))  # fmt: skip
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(_DTYPES)
    return Bars(*(np.array(column, dtype) for column, dtype in zip(columns, _DTYPES, strict=True)))


def merge_bars(pieces: list[Bars]) -> Bars:
    """Return bars of one feed as one, in the order of their due instants (stable)."""
    if len(pieces) == 1:
        return pieces[0]
    joined = {name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in Bars.__dataclass_fields__}
    order = np.argsort(joined["available_at"], kind="stable")
    return Bars(**{name: column[order] for name, column in joined.items()})


_DTYPES: tuple[Any, ...] = (
    np.int32, np.int8, np.int64, np.int64, np.int32,
    np.float64, np.float64, np.float64, np.float64, np.float64, np.float64,
    np.int64, np.int64, np.int64, np.int8, np.int64, np.int64, np.int32,
)  # fmt: skip


def _canonical(trade: dict[str, Any]) -> tuple[int, int, int, int, int]:
    """Rule R2: ts, then the id, then where it stands in the journal."""
    high, low = 0, trade["trade_id"] or 0
    if trade["trade_ref"] is not None:
        low, high = (half % _UNSIGNED for half in text_id_key(trade["trade_ref"]))
    return trade["ts"], high, low, trade["offset"], trade["row"]
