"""Runs the API: one process that follows a house and answers for it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from tickhouse.api.access import is_loopback
from tickhouse.api.app import make_app
from tickhouse.errors import ConfigError
from tickhouse.house import House
from tickhouse.settings import ServeSettings
from tickhouse.telemetry import own_metrics

__all__ = ["configuration", "listen", "serve"]

_BACKLOG = 1024


def serve(house: House, settings: ServeSettings, say: Callable[[str], None], stop: threading.Event) -> None:
    """Serve until `stop` is set.

    Args:
        house: It need not exist yet.
        settings: Where to listen, and what to allow.
        say: Told the address, once it can be asked.
        stop: From any thread, or a signal's handler.

    Raises:
        ConfigError: the address cannot be had.
    """
    own_metrics()
    listening = listen(settings.host, settings.port)
    host, port = listening.getsockname()[:2]
    server = _Server(configuration(make_app(house, settings)))
    threading.Thread(target=_stop_when, args=(stop, server), name="tickhouse-stop", daemon=True).start()
    hint = "documentation: /docs"
    if not is_loopback(settings.host):
        hint += "; every request needs a token: `tickhouse token add NAME`"
    server.announce = lambda: say(f"API on http://{f'[{host}]' if ':' in host else host}:{port}  ({hint})")
    server.run([listening])


class _Server(uvicorn.Server):
    """Leaves signals to the command line, and says when it is there."""

    announce: Callable[[], None] = staticmethod(lambda: None)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.announce()


def _stop_when(stop: threading.Event, server: uvicorn.Server) -> None:
    stop.wait()
    server.should_exit = True


def configuration(app: FastAPI) -> uvicorn.Config:
    """Return how the server runs: quiet, and bounded in what a client can make it hold."""
    return uvicorn.Config(
        app, log_level="warning", access_log=False, ws="websockets-sansio", ws_max_size=1 << 20, ws_ping_interval=20.0,
        ws_ping_timeout=20.0, ws_per_message_deflate=False, h11_max_incomplete_event_size=64 << 10, timeout_graceful_shutdown=3,
    )  # fmt: skip


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigError: the address is in use, or not ours.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(found[0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        listening.listen(_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); name another with --port (0 = any free one)"
        ) from error
    return listening
