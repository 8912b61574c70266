"""Counts what became of the trades of each instrument and keeps its last price: what is shown live beside the balance.

The pipeline feeds it after the kernel, and its snapshot holds it, so the figures are those since the house began. Nothing that
is stored in a table depends on them.
"""

from __future__ import annotations

import numpy as np

from tickhouse.kernel.base import ACCEPTED, DUPLICATE, StepOutputs
from tickhouse.kernel.compiling import Array, cached
from tickhouse.kernel.state import grown
from tickhouse.model import I32, NO_TIME, Feeds, Trades

__all__ = ["Tally"]

_DAY_US = 86_400_000_000
_ROW = np.dtype(
    [(name, np.int64) for name in ("accepted", "duplicate", "late", "rejected", "day", "lag")]
    + [(name, np.float64) for name in ("first", "last")]
    + [("feed", np.int32)]
)


@cached
def _count(
    rows: Array, instrument: Array, feed: Array, verdict: Array, late: Array, backfilled: Array, ts: Array, received_at: Array,
    price: Array,
) -> None:  # fmt: skip
    for i in range(instrument.shape[0]):
        row = rows[instrument[i]]
        if verdict[i] == DUPLICATE:
            row["duplicate"] += 1
        elif verdict[i] != ACCEPTED:
            row["rejected"] += 1
        else:
            row["accepted"] += 1
            row["late"] += late[i]
            row["feed"] = feed[i]
            if backfilled[i] == 0:
                day = ts[i] // _DAY_US
                if day > row["day"]:
                    row["day"] = day
                    row["first"] = price[i]
                row["last"] = price[i]
                row["lag"] = NO_TIME if received_at[i] == NO_TIME else received_at[i] - ts[i]


class Tally:
    """The figures of a partition's instruments.

    Args:
        feeds: The partition's; it grows.
        stored: What `pack` gave; empty = a new house.
    """

    def __init__(self, feeds: Feeds, stored: bytes = b"") -> None:
        self.feeds = feeds
        self._rows: Array = np.frombuffer(stored, _ROW).copy()

    @property
    def rows(self) -> Array:
        """One row an instrument, by its code; `accepted` is 0 where none of its trades was; from any thread.

        Backfilled trades aside: `first` is the price that the UTC day `day` began with, `last` the newest; `lag` is how long it
        took, received_at - ts in microseconds, NO_TIME where unknown. `feed` is the code of the feed that delivered last.
        """
        return self._rows[: len(self.feeds.instruments)]

    def take(self, trades: Trades, step: StepOutputs, instrument: I32) -> None:
        """Count trades that the kernel has judged.

        Args:
            trades: As they were fed to it.
            step: What it said.
            instrument: The instrument code of each trade.
        """
        self._rows = grown(self._rows, len(self.feeds.instruments))
        _count(
            self._rows, instrument, trades.feed, step.verdict, step.late, trades.backfilled, trades.ts, trades.received_at,
            trades.price,
        )  # fmt: skip

    def pack(self) -> bytes:
        """Return the figures for a snapshot; equal figures give equal bytes."""
        return bytes(self.rows.tobytes())
