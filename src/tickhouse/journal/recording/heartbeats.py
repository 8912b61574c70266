"""Makes the heartbeats of a recording from the times its lines tell (rule R3).

The recording journal calls it once a block of lines. The running maximum never falls, also not from one file to the next; a
time that leaps ahead must be confirmed by the lines after it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tickhouse.model import HEARTBEAT_US, I64, NO_TIME

__all__ = ["LEAP_US", "LOOKAHEAD", "RecordedClock"]

LEAP_US = 60_000_000
"""A time further ahead of the running maximum than this is not believed without confirmation."""
LOOKAHEAD = 10
"""How many of the next lines that tell a time are asked."""


class RecordedClock:
    """The running maximum of a recording's times and the heartbeats that follow from it.

    Args:
        running: The maximum so far; NO_TIME at the start of a recording.
        last: The last heartbeat; NO_TIME before the first.
    """

    def __init__(self, running: int = NO_TIME, last: int = NO_TIME) -> None:
        self._state = np.array([running, last], np.int64)

    @property
    def running(self) -> int:
        """The running maximum."""
        return int(self._state[0])

    @property
    def last(self) -> int:
        """The last heartbeat."""
        return int(self._state[1])

    def mark(self, lines: I64, times: I64, ahead: I64, *, is_end: bool) -> tuple[I64, I64] | None:
        """Return (lines, instants) of the heartbeats that stand before lines of a block.

        Args:
            lines: The lines of the block that tell a time.
            times: What each tells.
            ahead: The times of the lines after the block, as far as they are known.
            is_end: The file has no more than these.

        Returns:
            None where more of `ahead` must be known; nothing has changed then.
        """
        count = len(lines)
        out_line, out_clock = np.empty(count, np.int64), np.empty(count, np.int64)
        every = times if len(ahead) == 0 else np.concatenate([times, ahead[:LOOKAHEAD]])
        state = self._state.copy()
        made = _mark(lines, every, is_end, state, out_line, out_clock)
        if made < 0:
            return None
        self._state = state
        return out_line[:made].copy(), out_clock[:made].copy()

    def take(self, beats: list[tuple[int, int]]) -> tuple[I64, I64]:
        """Return (lines, instants) of recorded heartbeats, less those that do not move the clock on."""
        rising: list[tuple[int, int]] = []
        for line, instant in beats:
            if instant > self._state[1]:
                self._state[:] = max(self.running, instant), instant
                rising.append((line, instant))
        columns = np.array(rising, np.int64).reshape(-1, 2)
        return np.ascontiguousarray(columns[:, 0]), np.ascontiguousarray(columns[:, 1])


def _mark_lines(lines: I64, times: I64, is_end: bool, state: I64, out_line: I64, out_clock: I64) -> int:  # noqa: FBT001 - compiled
    running, last = state[0], state[1]
    made = 0
    for i in range(len(lines)):
        time = times[i]
        if time <= running:
            continue
        if running == NO_TIME or time - running > LEAP_US:
            asked = min(LOOKAHEAD, len(times) - 1 - i)
            if asked < LOOKAHEAD and not is_end:
                return -1
            near = 0
            for j in range(i + 1, i + 1 + asked):
                if times[j] >= time - LEAP_US:
                    near += 1
            if asked > 0 and 2 * near <= asked:
                continue
        running = time
        clock = time // HEARTBEAT_US * HEARTBEAT_US
        if clock > last:
            last = clock
            out_line[made] = lines[i]
            out_clock[made] = clock
            made += 1
    state[0], state[1] = running, last
    return made


_mark = njit(cache=True, nogil=True, _nrt=False)(_mark_lines)
