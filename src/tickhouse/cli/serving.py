"""Commands that let others see: `serve`, `dashboard`."""

from __future__ import annotations

import os
import signal
import threading
from typing import Annotated

import typer

from tickhouse.cli.options import DEFAULT_HOUSE, AsChild, ConfigFile, Host, HouseDir, Port, house_at, settings_of
from tickhouse.cli.support import childs_settings, stop_on_signals

__all__ = ["dashboard", "serve"]


def serve(
    house: HouseDir = DEFAULT_HOUSE,
    config: ConfigFile = None,
    host: Host = None,
    port: Port = None,
    as_child: AsChild = False,
) -> None:
    """Serve a house over HTTP and WebSocket, live, also while another process writes it.

    Reads only; the house need not exist yet. Documentation is at /docs.
    """
    stop = stop_on_signals()

    from tickhouse.api.server import serve as run_server

    settings = childs_settings(stop) if as_child else settings_of(config, {"serve.host": host, "serve.port": port})
    run_server(house_at(house, settings), settings.serve, lambda line: print(line, flush=True), stop)


def dashboard(
    api: Annotated[
        str | None, typer.Option(envvar="TICKHOUSE_API", help="The API of the house to show; default http://127.0.0.1:8000.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 = any free port.")] = 8501,
    host: Annotated[str, typer.Option(help="Where to listen; beyond loopback readers sign in with the token.")] = "127.0.0.1",
    token: Annotated[str | None, typer.Option(envvar="TICKHOUSE_TOKEN", help="The API's token, where it wants one.")] = None,
    as_child: AsChild = False,
) -> None:
    """Show a house in the browser, live, until Ctrl-C: markets, charts, feeds, history, SQL."""
    if as_child:
        stop = threading.Event()
        childs_settings(stop)
        threading.Thread(target=_end_when, args=(stop,), daemon=True).start()

    from tickhouse.dashboard.server import serve

    serve(api or "http://127.0.0.1:8000", host, port, token, lambda line: print(line, flush=True))


def _end_when(stop: threading.Event) -> None:
    stop.wait()
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:  # the server still loads: nobody would hear it
        os._exit(0)
    os.kill(os.getpid(), signal.SIGTERM)
