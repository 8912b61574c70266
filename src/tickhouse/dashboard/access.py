"""Who may see the dashboard: on loopback whoever is on this machine; beyond it, who has signed in with the token.

The browser then keeps a cookie made from the token, not the token. Pages, files, WebSockets and the relay all pass here.
"""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["SignIn", "ThisMachine", "is_loopback"]

_COOKIE = "tickhouse_reader"
_PATH = "/sign-in"
_REFUSED = 4401
_MOST_BYTES = 10_000
_WEEK_S = 7 * 86_400
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Tickhouse</title><style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ display: grid; place-content: center; min-height: 90vh; margin: 0 24px; }}
form {{ display: grid; gap: 12px; width: min(340px, 100%); }}
input, button {{ font: inherit; padding: 8px 12px; border-radius: 6px; border: 1px solid #8888; }}
button {{ background: #0f6f63; color: #fff; border-color: #0f6f63; cursor: pointer; }}
</style><form method="post" action="{path}"><label for="token">{words}</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Sign in</button></form></html>"""


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ThisMachine:
    """Lets through what is asked of this machine by its own name.

    A page of another site can point its name at 127.0.0.1 and then read what it finds there; its requests name that site.

    Args:
        app: What is behind.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        host = HTTPConnection(scope).headers.get("host", "")
        if is_loopback(_name(host)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _REFUSED, "reason": "not asked by the name of this machine"})
        else:
            words = f"This dashboard is for this machine only, not for {host[:100]}; give --host and --token to share it."
            await PlainTextResponse(words, 421)(scope, receive, send)


class SignIn:
    """Lets through who has signed in.

    Args:
        app: What is behind.
        token: That of the API.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()
        self._pass = hmac.new(self._token, b"tickhouse dashboard", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket") or self._has_signed_in(HTTPConnection(scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _REFUSED, "reason": "sign in first"})
        else:
            await (await self._answer(Request(scope, receive)))(scope, receive, send)

    def _has_signed_in(self, connection: HTTPConnection) -> bool:
        return hmac.compare_digest(connection.cookies.get(_COOKIE, "").encode(), self._pass.encode())

    async def _answer(self, request: Request) -> Response:
        if request.method != "POST" or request.url.path != _PATH:
            return _form("The token of this house", 401)
        if int(request.headers.get("content-length", _MOST_BYTES + 1)) > _MOST_BYTES:
            return _form("That was too long for a token", 413)
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        given = form.get("token", [""])[0].strip()
        if not hmac.compare_digest(given.encode(), self._token):
            return _form("This is not the token of this house; try again", 401)
        answer = RedirectResponse("/", 303)
        is_secure = request.url.scheme == "https"
        answer.set_cookie(_COOKIE, self._pass, _WEEK_S, httponly=True, samesite="strict", secure=is_secure)
        return answer


def _name(host: str) -> str:
    """Return a Host header without its port; what cannot be read names nobody."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _form(words: str, status: int) -> Response:
    return HTMLResponse(_PAGE.format(path=_PATH, words=words), status, {"cache-control": "no-store"})
