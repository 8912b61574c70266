"""Starts the dashboard: Streamlit, the relay to the API and the files of `web/` on one port."""

from __future__ import annotations

import importlib.util
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tickhouse.errors import ConfigError

__all__ = ["serve"]

_OPTIONS: dict[str, object] = {
    "server.headless": True,
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": False,
    "client.toolbarMode": "minimal",
    "client.showErrorLinks": False,
    "logger.hideWelcomeMessage": True,
    "runner.magicEnabled": False,
}


def serve(api: str, host: str, port: int, token: str | None = None, say: Callable[[str], None] = print) -> None:
    """Serve the dashboard until a signal ends the process.

    Args:
        api: The API's address, e.g. `http://127.0.0.1:8000`; it need not answer yet.
        host: Where to listen.
        port: Where to listen; 0 = any free one.
        token: The API's token, where it wants one; beyond loopback also what readers sign in with.
        say: Told the address, once it can be opened.

    Raises:
        ConfigError: the extra `dashboard` is not installed, the address cannot be had, or there is no token to sign in with
            beyond loopback.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise ConfigError("the dashboard is not installed; do it with: pip install 'tickhouse[dashboard]'")

    import streamlit as st
    from starlette.middleware import Middleware

    from tickhouse.dashboard import app as _script  # loaded now, so that the first reader does not wait for it
    from tickhouse.dashboard import assets, theme
    from tickhouse.dashboard.access import SignIn, ThisMachine, is_loopback
    from tickhouse.dashboard.relay import Relay

    relay = Relay(api, token)
    if is_loopback(host):
        guard = Middleware(ThisMachine)
    elif token:
        guard = Middleware(SignIn, token=token)
    else:
        raise ConfigError(f"--host {host} can be reached from elsewhere: give --token, with which readers sign in")
    _must_be_free(host, port)

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        async with relay.connected():
            say(f"dashboard on http://{host if ':' not in host else f'[{host}]'}:{st.get_option('server.port')}")
            yield

    app = st.App(
        str(_script.__file__),
        routes=[*relay.routes, *assets.routes()],
        middleware=[guard],
        lifespan=lifespan,
        secrets={"api": api, "token": token or ""},
    )
    # Streamlit takes uvloop where it is installed, and in it this process crashed now and then, seconds after its start (as
    # https://github.com/MagicStack/uvloop/issues/706, open on 2026-11-26). Python's own loop is fast enough for readers.
    sys.modules["uvloop"] = None  # type: ignore[assignment]
    app.run(config={**_OPTIONS, **theme.options(), "server.address": host, "server.port": port})


def _must_be_free(host: str, port: int) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(found[0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[4])
    except OSError as error:
        told = f"cannot listen on {host}:{port} ({error.strerror or error}); name another with --port (0 = any free one)"
        raise ConfigError(told) from error
