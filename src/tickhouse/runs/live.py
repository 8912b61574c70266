"""`tickhouse run`: ingest in a process of its own, the engine in this one, the journal between them.

Receiving never waits for computing, not even for the interpreter's lock; whatever happens to one half, the other goes on from
the journal.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tickhouse.errors import TickhouseError
from tickhouse.house import House
from tickhouse.live import Board
from tickhouse.model import Position
from tickhouse.pipeline import Counts
from tickhouse.processes import Child
from tickhouse.runs.work import WorkRun
from tickhouse.settings import Settings

__all__ = ["LiveRun"]

_FIRST_LINE_S = 60.0


class LiveRun:
    """Sources -> journal -> engine -> lake; a context manager that commits on leaving.

    Args:
        house: Where to.
        settings: All of them.
        symbols: Instead of those a source takes by itself.
        record: Also keep every frame here.
        give_up: Set = stop waiting for a broker.
    """

    def __init__(
        self,
        house: House,
        settings: Settings,
        symbols: Sequence[str] | None = None,
        record: Path | None = None,
        give_up: threading.Event | None = None,
    ) -> None:
        command = ["ingest", "--house", str(house.path)]
        command += ["--symbols", ",".join(symbols)] if symbols else []
        command += ["--record", str(record)] if record else []
        self._stack = ExitStack()
        self._work = WorkRun(house, settings, give_up)
        self._settings = settings
        self._command = command
        self._ingest: Child | None = None
        self.headline = f"{house.path}"
        """Which source, and why; known once the context is entered."""

    @property
    def board(self) -> Board:
        """The live figures."""
        return self._work.board

    @property
    def counts(self) -> Counts:
        """The balance since the house began."""
        return self._work.counts

    @property
    def positions(self) -> list[Position]:
        """How far the engine came in each partition; known after leaving."""
        return self._work.positions

    @property
    def seconds(self) -> float:
        """From opening the journal to the last commit; known after leaving."""
        return self._work.seconds

    @property
    def running(self) -> bool:
        """False once something stopped the run by itself; leaving then raises it."""
        return self._work.running and self._ingest is not None and self._ingest.alive

    def __enter__(self) -> Self:
        with self._stack as stack:
            self._ingest = stack.enter_context(Child(self._command, self._settings))
            stack.enter_context(self._work)
            self.headline = self._ingest.first_line(_FIRST_LINE_S)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._ingest is not None
        failed: TickhouseError | None = None
        with self._stack:
            if not self._ingest.alive:
                failed = self._ingest.failure()
            self._ingest.stop()  # before the engine, which then commits all that was received
        if failed is not None and error is None:
            raise failed
