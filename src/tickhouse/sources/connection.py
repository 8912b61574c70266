"""One WebSocket connection: opens it, pumps its frames into an inbox, says why it ended.

`transport.py` keeps such connections open one after the other; nothing here retries.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
from pydantic import BaseModel, ConfigDict, Field

from tickhouse.clock import Clock
from tickhouse.errors import ConfigError, NotConnectedError, RateLimitedError, TransientError
from tickhouse.model import Event
from tickhouse.sources.base import Frame

__all__ = ["Connection", "Inbox", "Target", "TransportSettings", "connect"]

_WORTH_RETRYING = {403, 408, 418, 425, 429}
"""Refusals (4xx) that pass: firewalls and quotas."""


class TransportSettings(BaseModel):
    """How patient a connection is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quiet_s: float = Field(default=45.0, gt=0)
    """A socket with neither data nor ping for so long is dead; more than twice the provider's ping interval."""
    renew_after_s: float = Field(default=23 * 3600.0, gt=0)
    """A connection is renewed at this age."""
    overlap_s: float = Field(default=2.0, ge=0)
    """How long both connections of a renewal go on once both deliver."""
    overlap_limit_s: float = Field(default=60.0, gt=0)
    """In a quiet market a renewal waits no longer than this for both to deliver."""
    open_timeout_s: float = Field(default=10.0, gt=0)
    close_timeout_s: float = Field(default=1.0, gt=0)
    first_back_off_s: float = Field(default=0.5, gt=0)
    """Doubled at every failure in a row, with a jitter of a half either way."""
    longest_back_off_s: float = Field(default=30.0, gt=0)
    attempts: int = Field(default=300, ge=1)
    """At most so many connection attempts ..."""
    attempts_window_s: float = Field(default=300.0, gt=0)
    """... in so many seconds."""
    messages_per_s: float = Field(default=5.0, gt=0)
    """At most so many messages are sent to the provider."""
    longest_message_bytes: int = Field(default=16 << 20, ge=1024)
    pending_frames: int = Field(default=65_536, ge=1)
    """Frames held for a slow reader before receiving waits, and with it the provider."""


@dataclass(frozen=True, slots=True)
class Target:
    """What to connect to, and how."""

    source: str
    """Name of the source, for events and errors."""
    url: str
    clock: Clock
    settings: TransportSettings
    opening: Sequence[str]
    """Sent first."""
    asks_renewal: Callable[[bytes], bool] | None

    @property
    def address(self) -> str:
        """The address without its query, which may be long or hold a key."""
        return self.url.partition("?")[0]


class Inbox:
    """Frames and events on their way to the one reader, in order.

    Args:
        limit: Items from which on writers are asked to wait.
    """

    def __init__(self, limit: int) -> None:
        self.items: deque[Frame | Event] = deque()
        self._limit = limit
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()

    def put(self, item: Frame | Event) -> bool:
        """Take `item`; False says that the inbox is full and `room` should be awaited."""
        self.items.append(item)
        self._arrived.set()
        return self.has_room()

    def has_room(self) -> bool:
        """Say whether the reader keeps up."""
        return len(self.items) < self._limit

    def wake(self) -> None:
        """Let the reader look again, though nothing arrived."""
        self._arrived.set()

    async def room(self) -> None:
        """Wait until the reader has caught up."""
        self._room.clear()
        while not self.has_room():
            await self._room.wait()
            self._room.clear()

    async def arrived(self) -> None:
        """Wait until there is something to read, or `wake`."""
        self._room.set()
        await self._arrived.wait()
        self._arrived.clear()


class Connection:
    """One open socket and the task that reads it."""

    def __init__(self, target: Target, socket: aiohttp.ClientWebSocketResponse[bool], number: int) -> None:
        self.number = number
        self.delivered = 0
        """Data frames received."""
        self.reason = ""
        """Why it ended."""
        self.turn: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Resolved when the connection ends, or the provider asks for another."""
        self._target = target
        self._socket = socket
        self._task: asyncio.Task[None] | None = None

    def ended(self) -> bool:
        """Say whether nothing more will come."""
        return self._task is not None and self._task.done()

    def start(self, inbox: Inbox) -> None:
        """Begin to put what arrives into `inbox`."""
        self._task = asyncio.create_task(self._pump(inbox))
        self._task.add_done_callback(lambda _: self._resolve("it ended"))

    async def stop(self) -> None:
        """Close the socket; what it has not delivered yet is lost."""
        if self._task is None:
            await self._socket.close()
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _resolve(self, why: str) -> None:
        if not self.turn.done():
            self.turn.set_result(why)

    async def _pump(self, inbox: Inbox) -> None:
        quiet_s = self._target.settings.quiet_s
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(quiet_s) as patience:
                while True:
                    message = await self._socket.receive()
                    # Moving a deadline costs more than reading a frame, so it moves in steps of a sixteenth.
                    deadline = loop.time() + quiet_s
                    if deadline - (patience.when() or 0.0) > quiet_s / 16:
                        patience.reschedule(deadline)
                    if message.type is aiohttp.WSMsgType.TEXT or message.type is aiohttp.WSMsgType.BINARY:
                        if not self._take(message.data, inbox):
                            patience.reschedule(None)
                            await inbox.room()
                            patience.reschedule(loop.time() + quiet_s)
                    elif message.type is aiohttp.WSMsgType.PING:
                        await self._socket.pong(message.data)
                    elif message.type is not aiohttp.WSMsgType.PONG:
                        self.reason = self._farewell(message.type, message.data, message.extra)
                        return
        except TimeoutError:
            self.reason = f"dead: neither data nor ping for {quiet_s:g} s"
        except (aiohttp.ClientError, OSError) as error:
            self.reason = f"broken: {error!r}"
        finally:
            await self._socket.close()

    def _take(self, payload: bytes, inbox: Inbox) -> bool:
        self.delivered += 1
        has_room = inbox.put(Frame(payload, self._target.clock.wall()))
        asks = self._target.asks_renewal
        if asks is not None and asks(payload):
            self._resolve("the provider asked for it")
        return has_room

    def _farewell(self, kind: aiohttp.WSMsgType, data: object, extra: object) -> str:
        if kind is aiohttp.WSMsgType.ERROR:
            return f"broken: {self._socket.exception()!r}"
        if kind is aiohttp.WSMsgType.CLOSE:
            return f"closed by the provider with code {data} {extra or ''}".rstrip()
        return f"closed with code {self._socket.close_code}"


async def connect(target: Target, session: aiohttp.ClientSession, number: int) -> Connection:
    """Return an open connection on which the opening messages were sent.

    Raises:
        ConfigError: the provider refuses what is asked for, and would again.
        TransientError: it may work later.
    """
    settings = target.settings
    try:
        socket = await asyncio.wait_for(
            session.ws_connect(
                target.url,
                autoping=False,
                timeout=aiohttp.ClientWSTimeout(ws_close=settings.close_timeout_s),
                max_msg_size=settings.longest_message_bytes,
                decode_text=False,
            ),
            settings.open_timeout_s,
        )
    except aiohttp.InvalidURL as error:
        raise ConfigError(f"{target.source}: {target.url!r} is no WebSocket address") from error
    except aiohttp.WSServerHandshakeError as error:
        raise _refusal(target, error) from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise NotConnectedError(f"{target.source}: cannot connect to {target.address}: {error!r}") from error
    try:
        await _send(socket, target.opening, 1 / settings.messages_per_s)
    except (aiohttp.ClientError, OSError) as error:
        await socket.close()
        raise NotConnectedError(f"{target.source}: {target.address} closed during subscription: {error!r}") from error
    except asyncio.CancelledError:
        await socket.close()
        raise
    return Connection(target, socket, number)


async def _send(socket: aiohttp.ClientWebSocketResponse[bool], messages: Sequence[str], spacing_s: float) -> None:
    for sent, text in enumerate(messages):
        if sent:
            await asyncio.sleep(spacing_s)
        await socket.send_str(text)


def _refusal(target: Target, error: aiohttp.WSServerHandshakeError) -> ConfigError | TransientError:
    said = f"{target.source}: {target.address} refused the connection with HTTP {error.status} {error.message}"
    if error.status in {HTTPStatus.TOO_MANY_REQUESTS, 418}:
        wait = error.headers.get("Retry-After", "") if error.headers else ""
        return RateLimitedError(said, float(wait) if wait.isdigit() else None)
    if 400 <= error.status < 500 and error.status not in _WORTH_RETRYING:
        return ConfigError(f"{said}; check the address and the stream names")
    return NotConnectedError(said)
