"""Who may ask, and how often: in front of every route, HTTP and WebSocket.

On loopback nobody needs a token, but a page of another site, open in the browser of this machine, is kept out: by the `Host`
that it asks for, and by the `Origin` of a WebSocket, which no other rule of browsers covers. Beyond loopback every request
needs one.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tickhouse.api.problems import ProblemError, respond
from tickhouse.api.tokens import Tokens
from tickhouse.settings import ServeSettings

__all__ = ["Access", "Buckets", "is_loopback"]

_MOST_BODY_BYTES = 64 << 10
_MOST_URL_BYTES = 16 << 10
_MOST_CLIENTS = 10_000
_FREE = ("/docs", "/docs-assets/", "/openapi.json")
"""What shows nothing of the house."""


def is_loopback(host: str) -> bool:
    """Say whether a name or address means this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Buckets:
    """A token bucket for each client: so many requests at once, so many a second in the long run.

    Args:
        rate: Requests a second.
        burst: At once.
        now: Monotonic seconds.
    """

    def __init__(self, rate: float, burst: int, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._now = now
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Count a request; return 0, or in how many seconds the next one will be taken."""
        now = self._now()
        left, at = self._clients.pop(client, (float(self._burst), now))
        left = min(float(self._burst), left + (now - at) * self._rate)
        wait_s = 0.0 if left >= 1 else (1 - left) / self._rate
        self._clients[client] = (left - 1 if wait_s == 0 else left, now)
        if len(self._clients) > _MOST_CLIENTS:
            self._clients.popitem(last=False)  # the one that has been quiet longest
        return wait_s


class Access:
    """An ASGI middleware.

    Args:
        app: What it guards.
        tokens: Of the house.
        settings: Where the server listens, whom it allows.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, settings: ServeSettings) -> None:
        self._app = app
        self._tokens = tokens
        self._needs_token = not is_loopback(settings.host)
        self._origins: Sequence[str] = settings.cors
        self._buckets = Buckets(settings.rate_per_s, settings.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ProblemError as error:
            await _refuse(error, scope, receive, send)
            return
        await self._app(scope, _bounded(receive), send)

    def _check(self, scope: Scope) -> None:
        if len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"]) > _MOST_URL_BYTES:
            raise ProblemError(HTTPStatus.REQUEST_URI_TOO_LONG, f"an address may have {_MOST_URL_BYTES} bytes")
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > _MOST_BODY_BYTES:
            raise _too_large()
        self._check_place(scope, headers)
        if scope["path"].startswith(_FREE) or scope["path"] == "/" or scope.get("method") == "OPTIONS":
            return
        client = self._client(scope, headers)
        wait_s = self._buckets.take(client)
        if wait_s:
            raise ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"too many requests; the next will be taken in {wait_s:.2f} s",
                {"Retry-After": str(max(1, round(wait_s + 0.5)))},
            )

    def _check_place(self, scope: Scope, headers: Headers) -> None:
        """Keep pages of other sites out."""
        host = _host_of(headers.get("host", ""))
        if not self._needs_token and host and not is_loopback(host):
            raise ProblemError(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"this server is for localhost and 127.0.0.1 only, not for {host[:100]!r}; listen on another --host for that",
            )
        origin = headers.get("origin")
        if scope["type"] == "websocket" and origin and origin not in self._origins:
            where = urlsplit(origin).hostname or ""
            if where != host and not (is_loopback(where) and is_loopback(host)):
                raise ProblemError(HTTPStatus.FORBIDDEN, f"pages of {origin[:100]} may not connect; allow them by [serve] cors")

    def _client(self, scope: Scope, headers: Headers) -> str:
        token = _token_of(scope, headers)
        name = self._tokens.name_of(token) if token else None
        if name is not None:
            return f"token {name}"
        if self._needs_token:
            told = "this token is not known" if token else "a token is needed: send it as `Authorization: Bearer TOKEN`"
            raise ProblemError(
                HTTPStatus.UNAUTHORIZED, f"{told}; `tickhouse token add NAME` makes one", {"WWW-Authenticate": "Bearer"}
            )
        return str((scope.get("client") or ("unknown",))[0])


def _token_of(scope: Scope, headers: Headers) -> str | None:
    """Return the token that came: in the header, in that of Binance's clients, or for a WebSocket in the address."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return token.strip()
    key = headers.get("x-mbx-apikey")
    if key:
        return key
    if scope["type"] == "websocket":
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        return given[0] if given else None
    return None


def _bounded(receive: Receive) -> Receive:
    """Return `receive`, ended by an error where a body without a stated length is too long."""
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            if taken > _MOST_BODY_BYTES:
                raise _too_large()
        return message

    return bounded


def _too_large() -> ProblemError:
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body may have {_MOST_BODY_BYTES} bytes")


def _host_of(header: str) -> str:
    try:
        return urlsplit("//" + header).hostname or ""
    except ValueError:
        return header


async def _refuse(error: ProblemError, scope: Scope, receive: Receive, send: Send) -> None:
    response = respond(scope["path"], error)
    if scope["type"] == "http":
        await response(scope, receive, send)
        return
    if "websocket.http.response" in scope.get("extensions", {}):
        await receive()
        start = {"type": "websocket.http.response.start", "status": error.status, "headers": response.raw_headers}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": response.body})
        return
    await send({"type": "websocket.close", "code": 1008, "reason": error.detail[:120]})
