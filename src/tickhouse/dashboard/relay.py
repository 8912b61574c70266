"""The API behind the dashboard's own port: `/api/v1/...` for the browser is `/v1/...` of the API.

So one port is all that a browser, a tunnel or a proxy has to reach, and the API keeps its CORS closed. HTTP answers are passed
on as they come; of a WebSocket every frame is, both ways, and a slow browser slows the reading of the API's, which then sends
snapshots instead of a queue. Every two seconds the relay adds `{"type":"beat","now":...}`, by which the page tells a quiet
market from a dead connection, and its own clock from the house's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import WSMsgType
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from yarl import URL

__all__ = ["PREFIX", "Relay"]

PREFIX = "/api"

_BEAT_S = 2.0
_CONNECT_S = 5.0
_TOTAL_S = 120.0
_PING_S = 5.0
_NO_ANSWER = 4502
_FOREIGN = 4403
_MOST_BYTES = 64 << 20
_BACK = ("content-type", "content-disposition", "link", "retry-after", "www-authenticate")
_FORTH = ("accept", "content-type")


class Relay:
    """Routes that pass requests on to one API.

    Args:
        api: Its address, e.g. `http://127.0.0.1:8000`.
        token: The API's; None = it wants none.
    """

    def __init__(self, api: str, token: str | None = None) -> None:
        self._api = api.rstrip("/")
        self._authorization = {"authorization": f"Bearer {token}"} if token else {}
        self._session: aiohttp.ClientSession | None = None

    @property
    def routes(self) -> list[BaseRoute]:
        """For the server to mount."""
        return [
            WebSocketRoute(f"{PREFIX}/v1/stream", self._stream),
            Route(f"{PREFIX}/v1/{{path:path}}", self._http, methods=["GET", "POST"]),
        ]

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Hold the connections to the API while the server runs."""
        timeout = aiohttp.ClientTimeout(total=_TOTAL_S, connect=_CONNECT_S)
        # The system's resolver, whatever else is installed: it is asked for one name, nearly always an address.
        connector = aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver())
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._session:
            yield

    async def _http(self, request: Request) -> Response:
        assert self._session is not None
        asked = request.scope["raw_path"].decode("ascii").removeprefix(PREFIX)
        query = request.url.query
        try:
            answer = await self._session.request(
                request.method,
                URL(self._api + asked + (f"?{query}" if query else ""), encoded=True),
                data=await request.body() or None,
                headers=_chosen(request.headers, _FORTH) | self._authorization,
            )
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return _no_answer(self._api, error)
        return StreamingResponse(
            answer.content.iter_chunked(1 << 16),
            answer.status,
            _chosen(answer.headers, (*_BACK, "content-encoding")),
            background=BackgroundTask(answer.release),
        )

    async def _stream(self, browser: WebSocket) -> None:
        assert self._session is not None
        await browser.accept()
        if not _same_origin(browser.headers):
            await browser.close(_FOREIGN, "this page is not the dashboard's own")
            return
        url, headers = f"{self._api}/v1/stream", self._authorization
        try:
            async with self._session.ws_connect(url, headers=headers, heartbeat=_PING_S, max_msg_size=_MOST_BYTES) as house:
                told = await _first_of(_forth(browser, house), _back(house, browser), _beat(browser))
                code, reason = house.close_code, told or "the house's API closed the connection"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            code, reason = None, f"the house's API does not answer ({_said(error)})"
        await _close(browser, code, reason)


async def _forth(browser: WebSocket, house: aiohttp.ClientWebSocketResponse) -> None:
    while True:
        await house.send_str(await browser.receive_text())


async def _back(house: aiohttp.ClientWebSocketResponse, browser: WebSocket) -> str:
    """Return why the house ended it."""
    while (message := await house.receive()).type is WSMsgType.TEXT:
        await browser.send_text(message.data)
    return str(message.extra or "")


async def _beat(browser: WebSocket) -> None:
    while True:
        await browser.send_text(f'{{"type":"beat","now":{time.time_ns() // 1000}}}')
        await asyncio.sleep(_BEAT_S)


async def _first_of(*parts: Coroutine[Any, Any, str | None]) -> str:
    """Run until one of the parts ends, then end the others; return what was said in the end, if anything."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, WebSocketDisconnect | RuntimeError):
            raise end
    return next((end for end in ends if isinstance(end, str)), "")


async def _close(browser: WebSocket, code: int | None, reason: str) -> None:
    sendable = code if code is not None and (code in (1000, 1001, 1008, 1011, 1013) or code >= 3000) else _NO_ANSWER
    try:
        await browser.close(sendable, reason[:120])
    except (RuntimeError, WebSocketDisconnect):
        return  # the browser was first


def _no_answer(api: str, error: BaseException) -> Response:
    body = {
        "type": "about:blank",
        "title": "The house does not answer",
        "status": 502,
        "detail": f"the API at {api} does not answer ({_said(error)}); is `tickhouse run` or `tickhouse serve` running?",
    }
    return JSONResponse(body, 502, media_type="application/problem+json")


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _chosen(headers: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


def _same_origin(headers: Mapping[str, str]) -> bool:
    """A browser lets any page open a WebSocket to any host; only the dashboard's own pages may."""
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")
