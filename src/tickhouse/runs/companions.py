"""What runs beside a live run: the API and the dashboard, each in a process of its own.

They read only. Whether they start, fail or end changes nothing for the run; it says what became of them in a line each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from tickhouse.errors import FatalError
from tickhouse.processes import Child
from tickhouse.settings import Settings

__all__ = ["Companions"]

_FIRST_LINE_S = 120.0


class Companions:
    """Children that serve what a run makes; a context manager that stops them.

    Args:
        commands: One for each.
        settings: Handed over whole.
        say: Told what each has to say once it is there, or why it is not; from threads.
    """

    def __init__(self, commands: Sequence[Sequence[str]], settings: Settings, say: Callable[[str], None]) -> None:
        self._commands = commands
        self._settings = settings
        self._say = say
        self._stack = ExitStack()
        self._leaving = False

    def __enter__(self) -> Self:
        with self._stack as stack:
            for command in self._commands:
                child = stack.enter_context(Child(command, self._settings))
                threading.Thread(target=self._introduce, args=(child,), name=f"tickhouse-{child.name}", daemon=True).start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leaving = True
        self._stack.close()

    def _introduce(self, child: Child) -> None:
        try:
            self._say(child.first_line(_FIRST_LINE_S))
        except FatalError as error:
            if not self._leaving:
                self._say(f"no {child.name}: {error}; the run goes on without it")
