"""One WebSocket client with its subscriptions: the part that every kind of stream has in common.

A connection has one task that reads what the client asks and one that sends. What is sent is taken from the hub when the client
has taken what was sent before, so a client that does not read costs its place in the hub and nothing more.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from http import HTTPStatus

from starlette.websockets import WebSocket, WebSocketDisconnect

from tickhouse.api.context import Context
from tickhouse.api.problems import ProblemError, problem_of
from tickhouse.serving.ring import Wanted
from tickhouse.serving.subscription import Message, Subscription

__all__ = ["MAX_SUBSCRIPTIONS", "Connection"]

MAX_SUBSCRIPTIONS = 200
_MAX_FRAME_BYTES = 64 << 10
_MAX_BAD_FRAMES = 20
_MAX_ANSWERS = 10 * MAX_SUBSCRIPTIONS


class Connection(ABC):
    """One client.

    Args:
        socket: Accepted.
        here: The server's context.
        as_records: Take rows from the hub as records, not as JSON.
    """

    def __init__(self, socket: WebSocket, here: Context, *, as_records: bool = False) -> None:
        self.here = here
        self._socket = socket
        self._as_records = as_records
        self._subscriptions: dict[str, Subscription] = {}
        self._ready: dict[str, None] = {}
        self._not_before: dict[str, float] = {}
        self._woken = asyncio.Event()
        self._answers: list[bytes] = []
        self._bad = 0

    @abstractmethod
    async def take(self, payload: str | bytes) -> None:
        """Work off a frame of the client.

        Raises:
            ProblemError: it cannot be; the client is told.
        """

    @abstractmethod
    def spell(self, name: str, message: Message) -> list[bytes]:
        """Return the frames that tell of a message."""

    @abstractmethod
    def refuse(self, error: ProblemError, name: str | None = None) -> bytes:
        """Return the frame that tells of an error."""

    def pace_s(self, name: str) -> float:  # noqa: ARG002  (for those who override it)
        """Return the least time between two frames of a subscription, seconds."""
        return 0.0

    @property
    def names(self) -> list[str]:
        """The subscriptions there are."""
        return list(self._subscriptions)

    def subscribe(self, name: str, wanted: Wanted) -> None:
        """Add a subscription.

        Raises:
            ProblemError: there are too many.
        """
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"a connection may have {MAX_SUBSCRIPTIONS} subscriptions; leave the symbol out for all symbols",
            )
        self._subscriptions[name] = self.here.hub.subscribe(wanted, lambda: self._mark(name), as_records=self._as_records)
        self._mark(name)

    def unsubscribe(self, name: str) -> bool:
        """Take a subscription away; return whether there was one."""
        subscription = self._subscriptions.pop(name, None)
        self._not_before.pop(name, None)
        if subscription is not None:
            self.here.hub.unsubscribe(subscription)
        return subscription is not None

    def say(self, frame: bytes) -> None:
        """Send a frame."""
        self._answers.append(frame)
        self._woken.set()

    async def run(self) -> None:
        """Serve the client until it goes."""
        tasks = {asyncio.create_task(self._send_all()), asyncio.create_task(self._receive_all())}
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass  # the client has gone
        finally:
            for task in tasks:
                task.cancel()
            for name in self.names:
                self.unsubscribe(name)

    async def _receive_all(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            payload: str | bytes = message.get("text") or message.get("bytes") or b""
            if len(payload) > _MAX_FRAME_BYTES:
                await self._socket.close(1009, f"a frame may have {_MAX_FRAME_BYTES} bytes")
                return
            try:
                await self.take(payload)
            except Exception as error:  # noqa: BLE001  (the client is told; `problem_of` hides what is not for it)
                problem = problem_of(error)
                self._bad += problem.status == HTTPStatus.BAD_REQUEST
                self.say(self.refuse(problem))
            if self._bad > _MAX_BAD_FRAMES or len(self._answers) > _MAX_ANSWERS:
                await self._socket.close(1008, "too many frames that cannot be understood, or answers that are not read")
                return

    def _mark(self, name: str) -> None:
        self._ready[name] = None
        self._woken.set()

    async def _send_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._answers:
                await self._socket.send_text(self._answers.pop(0).decode())
            for name in list(self._ready):
                del self._ready[name]
                wait_s = self._not_before.get(name, 0.0) - loop.time()
                if wait_s > 0:
                    loop.call_later(wait_s, self._mark, name)
                elif await self._send_from(name):
                    self._not_before[name] = loop.time() + self.pace_s(name)

    async def _send_from(self, name: str) -> bool:
        """Send what a subscription has; return whether it had anything."""
        subscription = self._subscriptions.get(name)
        if subscription is None:
            return False
        message = subscription.take()
        if subscription.is_stale:
            place = subscription.begin()
            try:
                message = await asyncio.to_thread(subscription.finish, place)
            except Exception as error:  # noqa: BLE001  (the client is told)
                self.unsubscribe(name)
                self.say(self.refuse(problem_of(error), name))
                return False
        frames = [] if message is None else self.spell(name, message)
        for frame in frames:
            await self._socket.send_text(frame.decode())
        if subscription.has_more and name in self._subscriptions:
            self._mark(name)
        return bool(frames)
