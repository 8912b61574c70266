"""The WebSocket `/v1/stream`: subscriptions to the hub, many on one connection.

A connection has one task that reads what the client asks and one that sends. What is sent is taken from the hub when the client
has taken what was sent before, so a client that does not read costs its place in the hub and nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from tickhouse.api.context import Context, context, instant, microseconds, spelled
from tickhouse.api.problems import ProblemError, body_of, problem_of
from tickhouse.errors import ConfigError
from tickhouse.serving.ring import CHANNELS, Wanted
from tickhouse.serving.rows import encode
from tickhouse.serving.subscription import Message, Subscription

__all__ = ["Pump", "router"]

router = APIRouter()

MAX_SUBSCRIPTIONS = 200
MAX_FRAME_BYTES = 64 << 10
MAX_BAD_FRAMES = 20
_LIST_CHANNELS = ", ".join(CHANNELS)


class Pump:
    """Pumps the hub in the server's event loop whenever it has something.

    Args:
        gap_s: How long to gather before handing out: latency against cost.
    """

    def __init__(self, gap_s: float = 0.002) -> None:
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
            wait_s = pump()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), wait_s)
            self._event.clear()
            await asyncio.sleep(self._gap_s)


class _Ask(msgspec.Struct):
    """What a client sends."""

    op: str
    id: str | int | None = None
    channel: str | None = None
    symbol: str | None = None
    venue: str | None = None
    interval: str | None = None
    indicators: bool = False
    since: int | str | None = None
    after: int | None = None


class _Connection:
    """One client."""

    def __init__(self, socket: WebSocket, here: Context) -> None:
        self._socket = socket
        self._here = here
        self._subscriptions: dict[str, Subscription] = {}
        self._ready: dict[str, None] = {}
        self._woken = asyncio.Event()
        self._answers: list[bytes] = []
        self._bad = 0

    async def run(self) -> None:
        sender = asyncio.create_task(self._send_all())
        receiver = asyncio.create_task(self._receive_all())
        try:
            ended, _ = await asyncio.wait({sender, receiver}, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass  # the client has gone
        finally:
            for task in (sender, receiver):
                task.cancel()
            for subscription in self._subscriptions.values():
                self._here.hub.unsubscribe(subscription)

    async def _receive_all(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            payload: str | bytes = message.get("text") or message.get("bytes") or b""
            if len(payload) > MAX_FRAME_BYTES:
                await self._socket.close(1009, f"a frame may have {MAX_FRAME_BYTES} bytes")
                return
            if not await self._take(payload):
                await self._socket.close(1008, "too many frames that cannot be understood")
                return

    async def _take(self, payload: str | bytes) -> bool:
        """Work off a frame; False = the client is not to be listened to any longer."""
        ask: _Ask | None = None
        try:
            ask = msgspec.json.decode(payload, type=_Ask)
            await self._work(ask)
        except msgspec.MsgspecError as error:
            self._bad += 1
            self._refuse(None, ProblemError(400, f"not understood: {error}; send JSON like {_EXAMPLE}"))
        except Exception as error:  # noqa: BLE001  (the client is told; `problem_of` hides what is not for it)
            self._refuse(ask.id if ask else None, problem_of(error))
        if len(self._answers) > 10 * MAX_SUBSCRIPTIONS:
            return False
        return self._bad <= MAX_BAD_FRAMES

    async def _work(self, ask: _Ask) -> None:
        if ask.op == "ping":
            self._say({"type": "pong"})
        elif ask.op == "subscribe":
            await self._subscribe(ask)
        elif ask.op == "unsubscribe":
            subscription = self._subscriptions.pop(str(ask.id), None)
            if subscription is None:
                raise ProblemError(404, f"there is no subscription {ask.id!r} on this connection")
            self._here.hub.unsubscribe(subscription)
            self._say({"type": "unsubscribed", "id": ask.id})
        else:
            raise ProblemError(400, f"op {ask.op[:40]!r} is none of subscribe, unsubscribe, ping")

    async def _subscribe(self, ask: _Ask) -> None:
        if ask.id is None or len(str(ask.id)) > 100:
            raise ProblemError(422, "id: give each subscription a name of at most 100 characters")
        name = str(ask.id)
        if name in self._subscriptions:
            raise ProblemError(409, f"id {name!r} is in use on this connection; unsubscribe it first")
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise ProblemError(
                429, f"a connection may have {MAX_SUBSCRIPTIONS} subscriptions; leave `symbol` out for all symbols"
            )
        if ask.channel not in CHANNELS:
            raise ProblemError(422, f"channel: {str(ask.channel)[:40]!r} is none of {_LIST_CHANNELS}")
        wanted = await self._wanted(ask)
        self._subscriptions[name] = self._here.hub.subscribe(wanted, lambda: self._mark(name))
        self._mark(name)

    async def _wanted(self, ask: _Ask) -> Wanted:
        venue, symbol = spelled(ask.symbol, ask.venue)
        interval = self._here.interval(ask.interval) if ask.interval is not None else None
        if symbol is not None and not self._here.hub.figures.knows(symbol, venue):
            await asyncio.to_thread(self._here.house.queries.must_be_known, symbol, venue)
        since = instant("since", None if ask.since is None else str(ask.since))
        assert ask.channel is not None
        return Wanted(
            ask.channel, symbol, venue, interval, ask.indicators, None if since is None else microseconds(since), ask.after
        )

    def _mark(self, name: str) -> None:
        self._ready[name] = None
        self._woken.set()

    def _say(self, answer: dict[str, Any]) -> None:
        self._answers.append(encode(answer))
        self._woken.set()

    def _refuse(self, name: str | int | None, error: ProblemError) -> None:
        self._say({"type": "error", "id": name, **{k: v for k, v in body_of(error).items() if k != "type"}})

    async def _send_all(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._answers:
                await self._socket.send_text(self._answers.pop(0).decode())
            for name in list(self._ready):
                del self._ready[name]
                await self._send_from(name)

    async def _send_from(self, name: str) -> None:
        subscription = self._subscriptions.get(name)
        if subscription is None:
            return
        message = subscription.take()
        if subscription.is_stale:
            place = subscription.begin()
            try:
                message = await asyncio.to_thread(subscription.finish, place)
            except Exception as error:  # noqa: BLE001  (the client is told)
                self._subscriptions.pop(name, None)
                self._here.hub.unsubscribe(subscription)
                self._refuse(name, problem_of(error))
                return
        if message is not None:
            await self._socket.send_text(_frame(name, message))
        if subscription.has_more and name in self._subscriptions:
            self._mark(name)


_EXAMPLE = '{"op":"subscribe","id":"c1","channel":"bars","symbol":"BTC-USDT","interval":"1m"}'


def _frame(name: str, message: Message) -> str:
    at = b"" if message.received_at is None else b',"received_at":%d' % message.received_at
    head = b'{"type":"%s","id":%s,"seq":%d%s,"rows":[' % (message.kind.encode(), encode(name), message.seq, at)
    return (head + message.encoded + b"]}").decode()


@router.websocket("/v1/stream")
async def stream(socket: WebSocket) -> None:
    """Serve a client until it goes."""
    here = context(socket)
    await socket.accept()
    try:
        await _Connection(socket, here).run()
    except ConfigError as error:
        await socket.close(1008, str(error)[:120])
