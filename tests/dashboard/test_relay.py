"""What goes through the relay comes out as it went in, both ways; who is not the dashboard's page gets nothing."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from aiohttp import ClientSession, WSMsgType, web
from starlette.applications import Starlette
from yarl import URL

from tickhouse.dashboard.relay import Relay

ROWS = b'{"rows":[{"symbol":"BTC-USD","close":1.5}],"next":null}'


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class House:
    """An API on loopback, in a thread of its own, that tells what it was asked."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.seen: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.left = threading.Event()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(10)

    async def _start(self) -> int:
        app = web.Application()
        app.router.add_get("/v1/stream", self._stream)
        app.router.add_route("*", "/v1/{path:.*}", self._answer)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        return int(self.runner.addresses[0][1])

    async def _answer(self, request: web.Request) -> web.Response:
        self.seen.append(
            (
                request.method,
                request.path_qs,
                await request.read(),
                _lowered(request.headers),
            )
        )
        if request.match_info["path"] == "large":
            return web.Response(body=b"x" * 3_000_000, content_type="text/csv")
        if request.match_info["path"] == "refused":
            return web.json_response({"title": "no", "status": 422}, status=422, content_type="application/problem+json")
        return web.Response(
            body=ROWS, content_type="application/json", headers={"Link": '<next>; rel="next"', "Set-Cookie": "a=b"}
        )

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        self.seen.append(("WS", request.path_qs, b"", _lowered(request.headers)))
        talk = web.WebSocketResponse()
        await talk.prepare(request)
        async for message in talk:
            if message.type is WSMsgType.TEXT:
                if message.data == "leave":
                    await talk.close(code=1013, message=b"too slow")
                else:
                    await talk.send_str(message.data[::-1])
        self.left.set()
        return talk

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(120)
        self.loop.close()


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.close()


@contextmanager
def _served(api: str, token: str | None = None) -> Iterator[str]:
    """The relay in a real server; yields its address."""
    relay = Relay(api, token)
    app = Starlette(routes=relay.routes, lifespan=lambda _app: relay.connected())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="websockets-sansio"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            threading.Event().wait(0.01)
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(120)


@pytest.fixture
def relay(house: House) -> Iterator[str]:
    with _served(f"http://127.0.0.1:{house.port}/", "th_secret") as address:
        yield address


def _ask(relay: str, path: str, method: str = "GET", **options: Any) -> tuple[int, dict[str, str], bytes]:
    async def ask() -> tuple[int, dict[str, str], bytes]:
        async with (
            ClientSession() as session,
            session.request(method, URL(f"http://{relay}{path}", encoded=True), **options) as got,
        ):
            return got.status, _lowered(got.headers), await got.read()

    return asyncio.run(ask())


def _talk(relay: str, say: list[str], messages: int, origin: str | None = None) -> tuple[list[str], int | None, str]:
    """Say these, hear so many messages (or until the end); return them, and how and why it ended."""

    async def talk() -> tuple[list[str], int | None, str]:
        heard: list[str] = []
        async with ClientSession() as session, session.ws_connect(f"ws://{relay}/api/v1/stream", origin=origin) as socket:
            for text in say:
                await socket.send_str(text)
            while len(heard) < messages:
                message = await socket.receive(timeout=120)
                if message.type is not WSMsgType.TEXT:
                    return heard, socket.close_code, str(message.extra)
                heard.append(message.data)
        return heard, None, ""

    return asyncio.run(talk())


def test_answers_pass_unchanged_with_their_status(relay: str, house: House):
    status, headers, body = _ask(
        relay, "/api/v1/bars?symbol=BTC%2FUSD&limit=5", headers={"accept": "text/csv", "cookie": "a=b"}
    )
    assert (status, body) == (200, ROWS)
    assert headers["link"] == '<next>; rel="next"'
    assert "set-cookie" not in headers
    method, path, _, asked = house.seen[0]
    assert (method, path) == ("GET", "/v1/bars?symbol=BTC%2FUSD&limit=5")
    assert asked["accept"] == "text/csv"
    assert asked["authorization"] == "Bearer th_secret"
    assert "cookie" not in {name.lower() for name in asked}
    status, headers, _ = _ask(relay, "/api/v1/refused")
    assert status == 422
    assert headers["content-type"].startswith("application/problem+json")


def test_body_of_a_question_is_passed_on(relay: str, house: House):
    _ask(relay, "/api/v1/sql", "POST", json={"sql": "SELECT 1"})
    assert json.loads(house.seen[0][2]) == {"sql": "SELECT 1"}


def test_large_answers_come_whole(relay: str):
    assert len(_ask(relay, "/api/v1/large")[2]) == 3_000_000


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_only_reading_is_passed_on(relay: str, house: House, method: str):
    assert _ask(relay, "/api/v1/bars", method)[0] == 405
    assert house.seen == []


@pytest.mark.parametrize("path", ["/api/metrics", "/api/", "/api/v1/../../metrics", "/api/v1/..%2f..%2fmetrics", "/api/v1"])
def test_nothing_outside_the_api_can_be_reached(relay: str, house: House, path: str):
    _ask(relay, path)
    assert [asked for _, asked, _, _ in house.seen if not asked.startswith("/v1/")] == []


def test_frames_pass_both_ways_and_the_end_says_why(relay: str, house: House):
    heard, code, reason = _talk(relay, ['{"op":1}', "leave"], 10)
    assert '}1:"po"{' in heard
    assert (code, reason) == (1013, "too slow")
    assert house.seen[0][3]["authorization"] == "Bearer th_secret"


def test_beats_come_where_the_house_is_silent(relay: str):
    heard, _, _ = _talk(relay, [], 2)
    beats = [json.loads(text) for text in heard]
    assert [beat["type"] for beat in beats] == ["beat", "beat"]
    assert 1_000_000 < beats[1]["now"] - beats[0]["now"] < 10_000_000


def test_a_page_from_elsewhere_gets_no_stream(relay: str, house: House):
    heard, code, _ = _talk(relay, [], 1, origin="http://evil.example")
    assert (heard, code) == ([], 4403)
    assert house.seen == []
    assert _talk(relay, [], 1, origin=f"http://{relay}")[0] != []


def test_a_house_that_is_down_is_said_in_words():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # held, not listening: nobody answers there
        with _served(f"http://127.0.0.1:{taken.getsockname()[1]}") as relay:
            status, _, body = _ask(relay, "/api/v1/bars")
            heard, code, reason = _talk(relay, [], 1)
    assert status == 502
    assert "tickhouse serve" in json.loads(body)["detail"]
    assert (heard, code) == ([], 4502)
    assert "does not answer" in reason


def test_browser_that_leaves_ends_the_connection_to_the_house(relay: str, house: House):
    _talk(relay, [], 1)
    assert house.left.wait(120)
