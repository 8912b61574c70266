"""The WebSocket `/v1/stream`: subscriptions to the hub, many on one connection."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from fastapi import APIRouter, WebSocket

from tickhouse.api.connection import Connection
from tickhouse.api.context import context, instant, microseconds, spelled
from tickhouse.api.problems import ProblemError, body_of, problem_of
from tickhouse.errors import TickhouseError
from tickhouse.serving.ring import CHANNELS, Wanted
from tickhouse.serving.rows import encode
from tickhouse.serving.subscription import Message

__all__ = ["router"]

router = APIRouter()

_MOST_NAME = 100
_EXAMPLE = '{"op":"subscribe","id":"c1","channel":"bars","symbol":"BTC-USDT","interval":"1m"}'


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
    after: int | list[int] | None = None


class _Stream(Connection):
    """One client of `/v1/stream`."""

    async def take(self, payload: str | bytes) -> None:
        """Work off a frame of the client."""
        try:
            ask = msgspec.json.decode(payload, type=_Ask)
        except msgspec.MsgspecError as error:
            raise ProblemError(400, f"not understood: {error}; send JSON like {_EXAMPLE}") from error
        if ask.op == "ping":
            self._tell({"type": "pong"})
            return
        if ask.op not in ("subscribe", "unsubscribe"):
            raise ProblemError(400, f"op {ask.op[:40]!r} is none of subscribe, unsubscribe, ping")
        if ask.id is None or len(str(ask.id)) > _MOST_NAME:
            raise ProblemError(422, f"id: give each subscription a name of at most {_MOST_NAME} characters", id=None)
        try:
            await self._work(ask, str(ask.id))
        except ProblemError as error:
            error.more.setdefault("id", ask.id)
            raise

    async def _work(self, ask: _Ask, name: str) -> None:
        if ask.op == "unsubscribe":
            if not self.unsubscribe(name):
                raise ProblemError(404, f"there is no subscription {name!r} on this connection")
            self._tell({"type": "unsubscribed", "id": name})
            return
        if name in self.names:
            raise ProblemError(409, f"id {name!r} is in use on this connection; unsubscribe it first")
        self.subscribe(name, await self._wanted(ask))

    async def _wanted(self, ask: _Ask) -> Wanted:
        if ask.channel not in CHANNELS:
            raise ProblemError(422, f"channel: {str(ask.channel)[:40]!r} is none of {', '.join(CHANNELS)}")
        here = self.here
        try:
            venue, symbol = spelled(ask.symbol, ask.venue)
            if symbol is not None and not here.hub.figures.knows(symbol, venue):
                await asyncio.to_thread(here.house.queries.must_be_known, symbol, venue)
            since = instant("since", None if ask.since is None else str(ask.since))
            return Wanted(
                ask.channel,
                symbol,
                venue,
                here.interval(ask.interval) if ask.interval is not None else None,
                ask.indicators,
                None if since is None else microseconds(since),
                (ask.after,) if isinstance(ask.after, int) else None if ask.after is None else tuple(ask.after),
            )
        except TickhouseError as error:
            raise problem_of(error) from error

    def _tell(self, answer: dict[str, Any]) -> None:
        self.say(encode(answer))

    def refuse(self, error: ProblemError, name: str | None = None) -> bytes:
        """Return the frame that tells of an error."""
        body = body_of(error)
        return encode({**body, "id": body.get("id", name), "type": "error"})

    def spell(self, name: str, message: Message) -> list[bytes]:
        """Return the frame of a message."""
        at = b"" if message.received_at is None else b',"received_at":%d' % message.received_at
        seq = encode(message.seq[0] if len(message.seq) == 1 else message.seq)
        head = b'{"type":"%s","id":%s,"seq":%s%s,"rows":[' % (message.kind.encode(), encode(name), seq, at)
        return [head + message.encoded + b"]}"]


@router.websocket("/v1/stream")
async def stream(socket: WebSocket) -> None:
    """Serve a client until it goes."""
    await socket.accept()
    await _Stream(socket, context(socket)).run()
