"""What goes into the kernel and what comes out: the contract between the numba loops and the pipeline.

`Kernel` (kernel/kernel.py) has exactly these calls; the pipeline is its only user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tickhouse.model import F64, I8, I32, I64, Beats, Feeds, Trades
from tickhouse.rules import Rules

__all__ = [
    "ACCEPTED",
    "DUPLICATE",
    "GAP_HEALED",
    "GAP_LOST",
    "GAP_OPEN",
    "REASONS",
    "Bars",
    "Gaps",
    "KernelProtocol",
    "Remakes",
    "StepOutputs",
]

ACCEPTED, DUPLICATE = 0, 1
REASONS = {2: "symbol", 3: "price", 4: "size", 5: "ts", 6: "future", 7: "identity", 8: "id_conflict"}
"""Verdict code -> reason of a rejected trade."""

GAP_OPEN, GAP_HEALED, GAP_LOST = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars and revisions, in the order they were issued."""

    instrument: I32
    level: I8
    """Index into `Rules.intervals`."""
    start: I64
    end: I64
    revision: I32
    open: F64
    high: F64
    low: F64
    close: F64
    volume: F64
    notional: F64
    trades: I64
    first_trade_id: I64
    """Numeric ids only: see `has_ids`."""
    last_trade_id: I64
    has_ids: I8
    """1 where first and last are numeric ids."""
    available_at: I64
    offset: I64
    """Cause: the heartbeat."""
    row: I32


@dataclass(frozen=True, slots=True)
class Gaps:
    """Changes of tracked gaps (rule R14), in order."""

    instrument: I32
    epoch: I32
    first: I64
    last: I64
    state: I8
    clock: I64
    offset: I64
    row: I32


@dataclass(frozen=True, slots=True)
class Remakes:
    """Revisions due of bars that have left the state: the pipeline makes them from History (rules R5, R15)."""

    instrument: I32
    level: I8
    start: I64
    end: I64
    available_at: I64
    offset: I64
    """Cause: the heartbeat that reached the due instant; History answers with the trades before it."""
    row: I32


@dataclass(frozen=True, slots=True)
class StepOutputs:
    """What one call of `feed` gives; per-trade arrays have one entry for each trade fed."""

    verdict: I8
    clock: I64
    """NO_TIME before the first heartbeat."""
    epoch: I32
    late: I8
    """For the finest interval; 0 where not accepted."""
    anomaly: I8
    score: F64
    """NaN where not scored."""
    baseline: F64
    """The mean compared with; NaN where not scored."""
    bars: Bars
    gaps: Gaps
    remakes: Remakes


class KernelProtocol(Protocol):
    """All state of one partition that the rules need, and the loop over it."""

    def __init__(self, rules: Rules, feeds: Feeds) -> None: ...

    @property
    def clock(self) -> int:
        """The last heartbeat fed, NO_TIME before the first."""
        ...

    def feed(self, trades: Trades, beats: Beats) -> StepOutputs:
        """Judge trades and work off what the heartbeats make due, in journal order."""
        ...

    def known_duplicates(self, trades: Trades, indices: I64) -> None:
        """Say that these trades of the NEXT feed are in silver.trades already (a backfill's unique ids): duplicates."""
        ...

    def new_ids(self, instrument: int, offset: int, row: int) -> Gaps:
        """Begin a new epoch for an instrument; return the gaps that this closes."""
        ...

    def refilled(self, instrument: int, first: int, last: int, offset: int, row: int) -> Gaps:
        """Close as lost what a finished refill has left missing."""
        ...

    def open_bars(self, instruments: I32 | None = None, levels: Sequence[int] | None = None) -> Bars:
        """Return the bars that are not final yet, each as if it were issued now; a pure read-out, never stored.

        Their `revision`, `available_at` and cause mean nothing. Not while `feed` runs.

        Args:
            instruments: Codes; None = all.
            levels: Indices into `Rules.intervals`; None = all.
        """
        ...

    def snapshot(self) -> bytes:
        """Return the whole state with a format version; equal states give equal bytes."""
        ...

    def restore(self, data: bytes) -> None:
        """Take up a state that `snapshot` gave, made with the same rules.

        Raises:
            SchemaMismatchError: the snapshot is of another version or of other rules.
        """
        ...
