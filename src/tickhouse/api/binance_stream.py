"""Binance's streams `<symbol>@kline_<interval>`, `<symbol>@trade` and `<symbol>@aggTrade`, single and combined.

A bar that late trades changed after it was final is told of again, with `x` true; Binance itself never does that. The volume of
aggressive buyers (`V`, `Q`) is not known of an open bar and left out.
Reference: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
from fastapi import APIRouter, WebSocket

from tickhouse.api.binance_words import Instruments, decimal, trade_id
from tickhouse.api.connection import Connection
from tickhouse.api.context import Context, context
from tickhouse.api.problems import BinanceError, ProblemError
from tickhouse.serving.ring import Wanted
from tickhouse.serving.rows import Record, encode
from tickhouse.serving.subscription import Message

__all__ = ["router"]

router = APIRouter()

_PACE_S = 0.25
"""Binance sends a bar at most once in 1 to 2 seconds."""
_STREAM = re.compile(r"([a-z0-9._-]{1,50})@(?:(kline)_(\w{1,5})|(trade)|(aggTrade))", re.IGNORECASE)
_MOST_STREAMS = 200


class _Method(msgspec.Struct):
    """What a client may send."""

    method: str
    params: list[Any] = []
    id: int | str | None = None


class _BinanceStream(Connection):
    """One client.

    Args:
        socket: Accepted.
        here: The server's context.
        combined: Say with each event which stream it is of.
    """

    def __init__(self, socket: WebSocket, here: Context, *, combined: bool) -> None:
        super().__init__(socket, here, as_records=True)
        self._combined = combined
        self._names: dict[str, str] = {}

    async def add(self, streams: list[str]) -> None:
        """Subscribe to streams; those that are subscribed already stay as they are."""
        known = await asyncio.to_thread(Instruments.of, self.here)
        for stream in streams:
            if stream in self._names:
                continue
            found = _STREAM.fullmatch(stream)
            if found is None:
                raise BinanceError(2, f"Invalid request: unknown stream {stream[:60]!r}")
            name = found[1].upper()
            instrument = known.named(name)
            if found[2]:
                if found[3] not in self.here.rules().intervals:
                    raise BinanceError(-1120, "Invalid interval.")
                wanted = Wanted("bars", instrument.symbol, instrument.venue, found[3])
            else:
                wanted = Wanted("trades", instrument.symbol, instrument.venue)
            self.subscribe(stream, wanted)
            self._names[stream] = name

    def pace_s(self, name: str) -> float:
        """Return the least time between two frames of a subscription."""
        return _PACE_S if "@kline_" in name else 0.0

    async def take(self, payload: str | bytes) -> None:
        """Work off a frame of the client."""
        try:
            ask = msgspec.json.decode(payload, type=_Method)
        except msgspec.MsgspecError as error:
            raise ProblemError(400, f"Invalid JSON: {error}") from error
        streams = [stream for stream in ask.params if isinstance(stream, str)]
        try:
            await self._work(ask.method, streams)
        except BinanceError as error:
            self.say(encode({"error": error.body, "id": ask.id}))
            return
        result = list(self._names) if ask.method == "LIST_SUBSCRIPTIONS" else None
        self.say(encode({"result": result, "id": ask.id}))

    async def _work(self, method: str, streams: list[str]) -> None:
        if method == "SUBSCRIBE":
            await self.add(streams)
        elif method == "UNSUBSCRIBE":
            for stream in streams:
                self.unsubscribe(stream)
                self._names.pop(stream, None)
        elif method not in ("LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY"):
            raise BinanceError(2, f"Invalid request: unknown method {method[:40]!r}")

    def refuse(self, error: ProblemError, name: str | None = None) -> bytes:  # noqa: ARG002  (Binance names no stream)
        """Return the frame that tells of an error."""
        return encode({"error": {"code": 3 if error.status == 400 else -1000, "msg": error.detail}, "id": None})

    def spell(self, name: str, message: Message) -> list[bytes]:
        """Return a frame an event; what a first snapshot holds beside the open bar is history and not sent."""
        now = self.here.now() // 1000
        symbol = self._names.get(name, "")
        is_kline = "@kline_" in name
        rows = [row for row in message.records if is_kline or message.kind == "delta"]
        kind = "aggTrade" if name.lower().endswith("@aggtrade") else "trade"
        events = [_kline(row, symbol, now) if is_kline else _trade(row, symbol, now, kind) for row in rows]
        return [encode({"stream": name, "data": event} if self._combined else event) for event in events]


def _kline(row: Record, symbol: str, now: int) -> dict[str, Any]:
    return {
        "e": "kline", "E": now, "s": symbol,
        "k": {
            "t": row["start"] // 1000, "T": row["end"] // 1000 - 1, "s": symbol, "i": row["interval"],
            "f": row["first_trade_id"] if row["first_trade_id"] is not None else -1,
            "L": row["last_trade_id"] if row["last_trade_id"] is not None else -1,
            "o": decimal(row["open"]), "c": decimal(row["close"]), "h": decimal(row["high"]), "l": decimal(row["low"]),
            "v": decimal(row["volume"]), "n": row["trades"], "x": row["final"], "q": decimal(row["notional"]), "B": "0",
        },
    }  # fmt: skip


def _trade(row: Record, symbol: str, now: int, kind: str) -> dict[str, Any]:
    number = trade_id(row)
    common = {"e": kind, "E": now, "s": symbol, "p": decimal(row["price"]), "q": decimal(row["size"])}
    common |= {"T": row["ts"] // 1000, "m": row["side"] == "sell", "M": True}
    return common | ({"a": number, "f": number, "l": number} if kind == "aggTrade" else {"t": number})


async def _serve(socket: WebSocket, streams: list[str], *, combined: bool) -> None:
    await socket.accept()
    connection = _BinanceStream(socket, context(socket), combined=combined)
    try:
        await connection.add([stream for stream in streams[:_MOST_STREAMS] if stream])
    except (BinanceError, ProblemError) as error:
        await socket.close(1008, str(error)[:120])
        return
    await connection.run()


@router.websocket("/stream")
async def combined_stream(socket: WebSocket) -> None:
    """Serve `/stream?streams=a/b`."""
    await _serve(socket, socket.query_params.get("streams", "").split("/"), combined=True)


@router.websocket("/ws")
async def empty_stream(socket: WebSocket) -> None:
    """Serve `/ws`: the client subscribes by a message."""
    await _serve(socket, [], combined=False)


@router.websocket("/ws/{streams:path}")
async def single_stream(socket: WebSocket, streams: str) -> None:
    """Serve `/ws/STREAM`; what is no stream's name (ccxt numbers its connections) subscribes by messages."""
    await _serve(socket, [] if streams.isdigit() else streams.split("/"), combined=False)
