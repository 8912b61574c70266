"""The time of the house while it receives: the wall clock at the start, the monotonic one from then on (rule R3)."""

from __future__ import annotations

from datetime import UTC, datetime

from tickhouse.clock import Clock
from tickhouse.errors import FatalError
from tickhouse.model import HEARTBEAT_US, NO_TIME

__all__ = ["Heartbeats"]

_JUMP_US = 1_000_000
"""A forward step of the wall clock beyond this is a jump (rule R3)."""
_MAX_WAIT_US = 5_000_000
"""A start this far behind the journal's last heartbeat waits; further behind it refuses (rule R3)."""


class Heartbeats:
    """Wall time at start plus the monotonic clock, cut at every quarter second (rule R3).

    Args:
        clock: The host's clocks.
        last: The journal's last heartbeat, NO_TIME where there is none.

    Raises:
        FatalError: the host's clock is more than 5 s behind `last`.
    """

    def __init__(self, clock: Clock, last: int) -> None:
        self._clock = clock
        self._base = clock.wall() - clock.monotonic()
        self.last = last
        """The last heartbeat given out, or the journal's."""
        if self.behind_us() > _MAX_WAIT_US:
            raise FatalError(
                f"the clock of this host says {_spelled(self.now())}, but the journal's last heartbeat is {_spelled(last)}: "
                "set the host's clock, or start when that time has passed"
            )

    def now(self) -> int:
        """Return the time of the house, which never goes back."""
        return self._base + self._clock.monotonic()

    def behind_us(self) -> int:
        """Return how long to wait until the time of the house has reached the last heartbeat; 0 where it has."""
        return max(0, self.last - self.now())

    def is_quiet(self) -> bool:
        """Say that neither a heartbeat is due nor the wall clock has jumped: the answer nearly always, so it is quick."""
        now = self._base + self._clock.monotonic()
        return now < self.last + HEARTBEAT_US and self._clock.wall() - now <= _JUMP_US

    def step(self) -> tuple[int, int] | None:
        """Follow a jump of the wall clock (a suspend, a correction); return (from, to) where there was one."""
        wall, now = self._clock.wall(), self.now()
        if wall - now <= _JUMP_US:
            return None
        self._base += wall - now
        return now, wall

    def due(self, *, jumped: bool) -> range:
        """Return the heartbeats reached since the last call; after a jump, and at the start, only the latest."""
        latest = self.now() // HEARTBEAT_US * HEARTBEAT_US
        if latest <= self.last:
            return range(0)
        first = latest if jumped or self.last == NO_TIME else self.last + HEARTBEAT_US
        return range(first, latest + 1, HEARTBEAT_US)


def _spelled(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="milliseconds")
