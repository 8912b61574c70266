"""Pumps a hub in an asyncio loop, as soon as an engine's thread has published something to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

__all__ = ["Pump"]


class Pump:
    """Wakes a hub.

    Args:
        gap_s: The shortest time between two handings-out: latency against cost.
    """

    def __init__(self, gap_s: float = 0.001) -> None:
        self._gap_s = gap_s
        self._event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def wake(self) -> None:
        """Ask for a pump; from any thread."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._event.set)

    async def run(self, pump: Callable[[], float | None]) -> None:
        """Pump until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._event.set()
        while True:
            pumped = self._loop.time()
            wait_s = pump()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), wait_s)
            self._event.clear()
            await asyncio.sleep(max(0.0, pumped + self._gap_s - self._loop.time()))
