"""How a command runs: until a signal, as a child of another, with what it shows meanwhile."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tickhouse.cli.options import seconds

if TYPE_CHECKING:
    from tickhouse.runs.companions import Companions
    from tickhouse.settings import Settings

__all__ = ["childs_settings", "print_json", "progress", "serving", "stop_on_signals", "watch"]

_SAME_S = 1.0
"""A Ctrl-C often comes twice at once: from the terminal to all its processes, and from the one that started them."""


def stop_on_signals() -> threading.Event:
    """Return an event that Ctrl-C or a TERM sets; a second one, a second later, leaves at once."""
    stop = threading.Event()
    first = 0.0

    def handle(signum: int, _frame: object) -> None:
        nonlocal first
        if not stop.is_set():
            first = time.monotonic()
            stop.set()
        elif time.monotonic() > first + _SAME_S:
            os._exit(128 + signum)

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return stop


def childs_settings(stop: threading.Event) -> Settings:
    """Return the settings of the parent, whose end ends this process too."""
    from tickhouse.processes import parents_settings, stop_with_parent

    settings = parents_settings()
    stop_with_parent(stop)
    return settings


def serving(house: Path, settings: Settings, dashboard_port: int | None, *, as_json: bool) -> Companions:
    """Return the API of a house and its dashboard (None = without), to be started beside a run of it."""
    from tickhouse.cli import screen
    from tickhouse.runs.companions import Companions

    commands = [["serve", "--house", str(house)]]
    if dashboard_port is not None:
        commands.append(["dashboard", "--port", str(dashboard_port)])
    say = (screen.errors if as_json else screen.console).print
    return Companions(commands, settings, lambda line: say(line, highlight=False, soft_wrap=True))


def watch(live: Any, stop: threading.Event, duration: str | None, beside: Companions | None = None, *, as_json: bool) -> None:
    """Show a run until it is stopped, and its balance at the end; `beside` starts once it runs: no trade waits for it."""
    from rich.live import Live

    from tickhouse import runs
    from tickhouse.cli import screen

    lasts_s = seconds(duration)
    shown = screen.console.is_terminal and not as_json
    with live, beside or nullcontext():
        started = time.monotonic()
        (screen.errors if as_json else screen.console).print(live.headline, highlight=False)
        with Live(console=screen.console, auto_refresh=False, transient=False) if shown else nullcontext() as view:
            while not stop.wait(0.25) and live.running and time.monotonic() < started + lasts_s:
                if view is not None:
                    view.update(screen.live_view(live.board, live.counts, started), refresh=True)
    if as_json:
        print_json({**runs.summary(live.counts, live.positions), "seconds": round(live.seconds, 3)})
    else:
        screen.console.print("committed; the balance since the house began:")
        screen.console.print(screen.counts_table(live.counts))


class progress:  # noqa: N801  (used like a function)
    """A progress bar on standard error; hands out a function (done, total) -> None."""

    def __init__(self, what: str, *, shown: bool) -> None:
        self._what = what
        self._shown = shown

    def __enter__(self) -> Callable[[float, float], None]:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        from tickhouse.cli import screen

        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
            console=screen.errors, transient=True, disable=not (self._shown and screen.errors.is_terminal),
        )  # fmt: skip
        self._bar.start()
        task = self._bar.add_task(self._what, total=None)
        return lambda done, total: self._bar.update(task, completed=done, total=total or None)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def print_json(data: Any) -> None:
    """Print what machines read."""
    print(json.dumps(data, indent=2, default=str))
