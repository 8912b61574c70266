"""A WebSocket that stays up: what every streaming source stands on, whatever the provider.

It reconnects with exponential back-off and jitter, tells a dead socket from a quiet market (the provider's pings count as
life), answers pings, and renews a connection before the provider cuts it, without a hole: the successor delivers before the
predecessor is dropped, and what both deliver is removed downstream by its trade id (rule R1). A source's `stream` is
`WebSocketTransport(...).frames()`; what the frames mean is the source's `parse`.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

import aiohttp

from tickhouse.clock import Clock
from tickhouse.errors import ConfigError, TransientError
from tickhouse.model import Event
from tickhouse.sources.base import Frame
from tickhouse.sources.connection import Connection, Inbox, Target, TransportSettings, connect

__all__ = ["TransportSettings", "WebSocketTransport"]

_BACK_OFF_DOUBLINGS = 16
_OVERLAP_STEP_S = 0.05


class WebSocketTransport:
    """A subscription over WebSockets that reconnects and renews by itself.

    Args:
        source: Name in the `source` field of the events.
        url: Where to connect, stream names included.
        clock: Stamps what is received.
        settings: Patience and limits.
        opening: Text messages sent first on every connection (subscriptions), spaced by `messages_per_s`.
        asks_renewal: Says whether a payload is the provider's request to connect anew.
    """

    def __init__(
        self,
        source: str,
        url: str,
        clock: Clock,
        settings: TransportSettings | None = None,
        *,
        opening: Sequence[str] = (),
        asks_renewal: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._target = Target(source, url, clock, settings or TransportSettings(), tuple(opening), asks_renewal)

    async def frames(self) -> AsyncIterator[Frame | Event]:
        """Yield payloads as bytes, and `connected`, `disconnected`, `renewed` events, for ever.

        Events stand between the frames where they happened. Frames that two connections of a renewal deliver come twice.

        Raises:
            ConfigError: the very first connection is refused for what was asked; fix the address or the streams.
        """
        inbox = Inbox(self._target.settings.pending_frames)
        async with aiohttp.ClientSession() as session:
            keeper = _Keeper(self._target, session, inbox)
            task = asyncio.create_task(keeper.run())
            task.add_done_callback(lambda _: inbox.wake())
            try:
                while True:
                    while inbox.items:
                        yield inbox.items.popleft()
                    if task.done():
                        task.result()
                    await inbox.arrived()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


class _Keeper:
    """Keeps one line open, and changes lines without a hole."""

    def __init__(self, target: Target, session: aiohttp.ClientSession, inbox: Inbox) -> None:
        self._target = target
        self._settings = target.settings
        self._session = session
        self._inbox = inbox
        self._attempts: deque[float] = deque(maxlen=self._settings.attempts)
        self._failures = 0
        self._opened = 0
        self._lines: set[Connection] = set()

    async def run(self) -> None:
        try:
            while True:
                line: Connection | None = await self._connect()
                while line is not None:
                    line = await self._follow(line)
        finally:
            await asyncio.gather(*(line.stop() for line in self._lines))

    async def _connect(self) -> Connection:
        while True:
            try:
                line = await self._attempt()
            except ConfigError:
                if not self._opened:
                    raise
                await self._after_failure()
            except TransientError as error:
                if not self._failures and not self._opened:
                    self._announce("disconnected", reason=str(error))
                await self._after_failure(error.retry_after_s)
            else:
                self._announce("connected", connection=line.number)
                line.start(self._inbox)
                return line

    async def _follow(self, line: Connection) -> Connection | None:
        """Watch a line until it ends (None) or has a successor."""
        await asyncio.wait({line.turn}, timeout=self._settings.renew_after_s)
        if line.ended():
            await self._lost(line)
            return None
        return await self._renew(line, line.turn.result() if line.turn.done() else "its age")

    async def _lost(self, line: Connection) -> None:
        self._lines.discard(line)
        self._announce("disconnected", connection=line.number, reason=line.reason or "the connection failed")
        self._failures = 0 if line.delivered else self._failures + 1
        await asyncio.sleep(self._back_off())

    async def _renew(self, line: Connection, why: str) -> Connection | None:
        while not line.ended():
            try:
                successor = await self._attempt()
            except (ConfigError, TransientError) as error:
                await self._after_failure(getattr(error, "retry_after_s", None))
                continue
            if line.ended():
                self._lines.discard(line)
                self._announce("disconnected", connection=line.number, reason=line.reason)
                self._announce("connected", connection=successor.number)
                successor.start(self._inbox)
                return successor
            successor.start(self._inbox)
            if await self._overlap(line, successor):
                self._failures = 0
                await self._drop(line)
                self._announce("renewed", connection=successor.number, replaced=line.number, reason=why)
                return successor
            await self._drop(successor)
            self._failures += 1
            await asyncio.sleep(self._back_off())
        await self._lost(line)
        return None

    async def _overlap(self, line: Connection, successor: Connection) -> bool:
        """Wait until both deliver, and a little longer; False when the successor ended first."""
        loop = asyncio.get_running_loop()
        limit = loop.time() + self._settings.overlap_limit_s
        until: float | None = None
        seen: int | None = None
        while not line.ended() and not successor.ended():
            now = loop.time()
            if seen is None and successor.delivered:
                seen = line.delivered
            if until is None and ((seen is not None and line.delivered > seen) or now >= limit):
                until = now + self._settings.overlap_s
            # While the reader is behind, the old line may still hold what the new one never had.
            if until is not None and now >= until and self._inbox.has_room():
                break
            await asyncio.sleep(min(_OVERLAP_STEP_S, self._settings.overlap_limit_s / 4))
        return not successor.ended()

    async def _attempt(self) -> Connection:
        loop = asyncio.get_running_loop()
        if len(self._attempts) == self._settings.attempts:
            await asyncio.sleep(max(0.0, self._attempts[0] + self._settings.attempts_window_s - loop.time()))
        self._attempts.append(loop.time())
        line = await connect(self._target, self._session, self._opened + 1)
        self._opened += 1
        self._lines.add(line)
        return line

    async def _after_failure(self, retry_after_s: float | None = None) -> None:
        self._failures += 1
        await asyncio.sleep(max(retry_after_s or 0.0, self._back_off()))

    def _back_off(self) -> float:
        settings = self._settings
        doubled = settings.first_back_off_s * 2.0 ** min(max(self._failures - 1, 0), _BACK_OFF_DOUBLINGS)
        return min(doubled, settings.longest_back_off_s) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, no secret

    async def _drop(self, line: Connection) -> None:
        self._lines.discard(line)
        await line.stop()

    def _announce(self, event: str, **detail: object) -> None:
        self._inbox.put(Event(event=event, source=self._target.source, detail={"address": self._target.address, **detail}))
