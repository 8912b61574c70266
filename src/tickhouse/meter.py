"""Turns what a pipeline has counted into metrics, a batch at a time; an engine's listener calls it."""

from __future__ import annotations

import time

from tickhouse.model import NO_TIME, Batch
from tickhouse.pipeline import Counts
from tickhouse.telemetry import counter, timer

__all__ = ["Meter"]

_PLAIN = {
    "accepted": "tickhouse_trades_accepted",
    "duplicate": "tickhouse_trades_duplicate",
    "late": "tickhouse_trades_late",
    "bars": "tickhouse_bars",
    "revisions": "tickhouse_revisions",
    "anomalies": "tickhouse_anomalies",
}


class Meter:
    """Remembers what it has told of already."""

    def __init__(self) -> None:
        self._told: dict[str, int] | None = None
        self._reasons: dict[str, int] = {}

    def count(self, counts: Counts, batch: Batch) -> None:
        """Tell of what was counted since the last call, and how long the newest trade of a batch took to get here."""
        present = {name: getattr(counts, name) for name in _PLAIN}
        if self._told is None:  # what the house counted before this process is none of its doing
            self._told, self._reasons = present, dict(counts.rejected)
            return
        for name, metric in _PLAIN.items():
            if present[name] != self._told[name]:
                counter(metric)(present[name] - self._told[name])
        self._told = present
        for reason, number in counts.rejected.items():
            if number != self._reasons.get(reason, 0):
                counter("tickhouse_rejected")(number - self._reasons.get(reason, 0), reason)
                self._reasons[reason] = number
        newest = int(batch.trades.received_at[-1]) if len(batch.trades) else NO_TIME
        if newest != NO_TIME:
            timer("tickhouse_latency_seconds")(max(0.0, time.time() - newest / 1e6), "kernel")
