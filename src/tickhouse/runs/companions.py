"""What runs beside a live run: the API and the dashboard, each in a process of its own.

They read only. Whether they start, fail or end changes nothing for the run; it says what became of them in a line each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tickhouse.errors import FatalError
from tickhouse.processes import Child
from tickhouse.settings import Settings

__all__ = ["Companions"]

_FIRST_LINE_S = 120.0
_ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104  (compared, not listened on)


class Companions:
    """Children that serve what a run makes; a context manager that stops them.

    Args:
        commands: One for each. The first serves, and its first line names its address; each of the others starts once it is
            there, and is told the address by `--api`.
        settings: Handed over whole.
        say: Told what each has to say once it is there, or why it is not; from a thread.
    """

    def __init__(self, commands: Sequence[Sequence[str]], settings: Settings, say: Callable[[str], None]) -> None:
        self._commands = commands
        self._settings = settings
        self._say = say
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._leaving = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._start_all, name="tickhouse-companions", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._leaving = True
        self._stack.close()

    def _start_all(self) -> None:
        told: list[str] = []
        for command in self._commands:
            with self._lock:
                if self._leaving:
                    return
                child = self._stack.enter_context(Child([*command, *told], self._settings))
            try:
                line = child.first_line(_FIRST_LINE_S)
            except FatalError as error:
                if not self._leaving:
                    self._say(f"no {child.name}: {error}; the run goes on without it")
                return
            self._say(line)
            told = told or ["--api", _address(line)]


def _address(line: str) -> str:
    """Return the address by which this machine reaches what listens where a line says."""
    given = next(word for word in line.split() if word.startswith("http://"))
    host, port = urlsplit(given).hostname or "", urlsplit(given).port
    name = "127.0.0.1" if host in _ANY_ADDRESS else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"
