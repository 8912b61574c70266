"""The only clock of the house: everything that needs the time is handed one of these.

Only sources, ingest and the engine's commit timer hold a clock; nothing after the journal reads one (rule R3).
"""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """What tells the time, in microseconds."""

    def wall(self) -> int:
        """Return UTC microseconds since the epoch; may jump either way when the host's clock is set."""
        ...

    def monotonic(self) -> int:
        """Return microseconds since some fixed instant; never goes back, stands still in a suspend."""
        ...


class SystemClock:
    """The host's clocks."""

    def wall(self) -> int:
        """Return the host's UTC time in microseconds."""
        return time.time_ns() // 1000

    def monotonic(self) -> int:
        """Return the host's monotonic time in microseconds."""
        return time.monotonic_ns() // 1000


class ManualClock:
    """A clock that a test moves by hand.

    Args:
        at: The first reading of both clocks, microseconds.
    """

    def __init__(self, at: int = 0) -> None:
        self._wall = at
        self._monotonic = at

    def wall(self) -> int:
        """Return the wall time last set."""
        return self._wall

    def monotonic(self) -> int:
        """Return the monotonic time last set."""
        return self._monotonic

    def advance(self, us: int) -> None:
        """Move both clocks forward by `us` microseconds."""
        self._wall += us
        self._monotonic += us

    def step_wall(self, us: int) -> None:
        """Move the wall clock alone, as a suspend or a correction of the host's clock does."""
        self._wall += us
