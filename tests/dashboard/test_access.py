"""Beyond loopback nothing of the dashboard is seen without the token: no page, no file, no stream."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from tickhouse.dashboard.access import SignIn, ThisMachine, is_loopback
from tickhouse.dashboard.server import serve
from tickhouse.errors import ConfigError

TOKEN = "th_example-token"


@pytest.fixture
def client() -> TestClient:
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    async def page(_request: object) -> PlainTextResponse:
        return PlainTextResponse("secret")

    routes = [Route("/{path:path}", page, methods=["GET", "POST"]), WebSocketRoute("/api/v1/stream", echo)]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(SignIn, token=TOKEN)]))


@pytest.mark.parametrize("path", ["/", "/chart", "/api/v1/bars", "/web/chart.js", "/_stcore/health", "/sign-in"])
def test_without_the_token_every_path_is_the_sign_in_page(client: TestClient, path: str):
    answer = client.get(path)
    assert answer.status_code == 401
    assert "secret" not in answer.text
    assert 'name="token"' in answer.text


def test_websocket_without_the_token_is_refused(client: TestClient):
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("/api/v1/stream"):
        pass
    assert refused.value.code == 4401


def test_token_opens_pages_and_streams_and_is_not_in_the_cookie(client: TestClient):
    answer = client.post("/sign-in", data={"token": f" {TOKEN} "})
    assert answer.text == "secret"
    assert answer.history[0].status_code == 303
    cookie = answer.history[0].headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    with client.websocket_connect("/api/v1/stream") as socket:
        socket.send_text("hello")
        assert socket.receive_text() == "hello"


@pytest.mark.parametrize("given", [{"token": ""}, {"token": TOKEN[:-1]}, {"token": TOKEN + "x"}, {"tokens": TOKEN}, {}])
def test_anything_else_than_the_token_is_refused(client: TestClient, given: dict[str, str]):
    answer = client.post("/sign-in", data=given)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


def test_upload_or_huge_body_or_bytes_are_no_token(client: TestClient):
    assert client.post("/sign-in", files={"token": TOKEN.encode()}).status_code == 401
    assert client.post("/sign-in", data={"token": "x" * 20_000}).status_code == 413
    assert client.post("/sign-in", content=b"token=\xff\xfe%ff").status_code == 401


@pytest.mark.parametrize(("name", "status"), [
    ("localhost:8501", 200), ("127.0.0.1:8501", 200), ("[::1]:8501", 200), ("LOCALHOST", 200),
    ("evil.example", 421), ("evil.example:8501", 421), ("192.168.1.5:8501", 421), ("localhost.evil.example", 421),
    ("", 421), ("[", 421),
])  # fmt: skip
def test_on_loopback_only_the_names_of_this_machine_are_answered(name: str, status: int):
    async def page(_request: object) -> PlainTextResponse:
        return PlainTextResponse("secret")

    here = TestClient(Starlette(routes=[Route("/", page)], middleware=[Middleware(ThisMachine)]))
    answer = here.get("/", headers={"host": name})
    assert answer.status_code == status
    assert ("secret" in answer.text) is (status == 200)


@pytest.mark.parametrize(("host", "loopback"), [
    ("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True),
    ("0.0.0.0", False), ("::", False), ("192.168.1.5", False), ("example.org", False), ("", False),
])  # fmt: skip
def test_loopback_is_told_from_the_rest(host: str, loopback: bool):
    assert is_loopback(host) is loopback


def test_beyond_loopback_the_dashboard_does_not_start_without_a_token():
    with pytest.raises(ConfigError, match="--token"):
        serve("http://127.0.0.1:8000", "0.0.0.0", 0)
