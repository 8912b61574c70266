"""`tickhouse work`: journal -> engine -> lake, until it is stopped. The computing half of `run`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import structlog

from tickhouse.house import House, Work
from tickhouse.journal.base import Journal
from tickhouse.journal.sqlite import SqliteJournal
from tickhouse.live import Board
from tickhouse.model import NO_TIME, Position
from tickhouse.pipeline import Counts
from tickhouse.rules import parse_duration
from tickhouse.settings import Settings

__all__ = ["WorkRun", "summary"]

_UPKEEP_S = 5.0
_FINISH_S = 1.0
_HINT_SHARE = 0.01
_MINUTE_S = 60.0

_log = structlog.get_logger(__name__)


def summary(counts: Counts, positions: Sequence[Position]) -> dict[str, Any]:
    """Return the balance and how far a run came, for `--json`."""
    clock = min((position.clock for position in positions), default=NO_TIME)
    return {
        "received": counts.received,
        "accepted": counts.accepted,
        "duplicate": counts.duplicate,
        "rejected": dict(sorted(counts.rejected.items())),
        "ignored": counts.ignored,
        "late": counts.late,
        "bars": counts.bars,
        "revisions": counts.revisions,
        "anomalies": counts.anomalies,
        "position": sum(position.offset for position in positions),
        "positions": [position.offset for position in positions],
        "clock_us": None if clock == NO_TIME else clock,
    }


class WorkRun:
    """Works off a house's journal in threads of this process; a context manager that commits on leaving.

    Args:
        house: Whose journal and lake.
        settings: All of them.
        give_up: Set = stop waiting for a broker.
        until_drained: End when the journal has nothing more at the moment.
    """

    def __init__(
        self, house: House, settings: Settings, give_up: threading.Event | None = None, *, until_drained: bool = False
    ) -> None:
        self._house = house
        self._until_drained = until_drained
        self._ended = False
        self._give_up = give_up
        self._settings = settings
        self.headline = f"journal of {house.path} -> tables"
        self.board = Board()
        self._stack = ExitStack()
        self._work: Work | None = None
        self._journal: Journal | None = None
        self._threads: list[threading.Thread] = []
        self._leaving = threading.Event()
        self._error: BaseException | None = None
        self.positions: list[Position] = []
        """How far the engine came in each partition; known after leaving."""

    @property
    def counts(self) -> Counts:
        """The balance since the house began."""
        return self._work.counts if self._work else Counts()

    @property
    def running(self) -> bool:
        """False once the work has ended by itself; where an error ended it, leaving raises that."""
        return self._error is None and not self._ended

    def __enter__(self) -> Self:
        with self._stack as stack:
            stack.enter_context(self._house.writing(self._house.live_kind(self._settings)))
            self._journal = journal = self._house.live(self._settings, self._give_up)
            stack.callback(journal.close)
            self._work = work = self._house.work(journal, journal.rules(), self._settings, self.board.update)
            stack.callback(work.close)
            self._threads = [
                threading.Thread(target=self._guarded, args=(part,), name=f"tickhouse-{name}", daemon=True)
                for name, part in (("engine", self._engine), ("upkeep", self._upkeep))
            ]
            for thread in self._threads:
                thread.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._work is not None
        with self._stack:
            self._leaving.set()
            self._work.engine.finish(_FINISH_S)
            for thread in self._threads:
                thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _guarded(self, part: Callable[[], None]) -> None:
        try:
            part()
        except BaseException as error:  # noqa: BLE001  the run's boundary: raised again on leaving
            self._error = self._error or error

    def _engine(self) -> None:
        assert self._work is not None
        self.positions = self._work.engine.run(self._work.starts, until_drained=self._until_drained)
        self._ended = True

    def _upkeep(self) -> None:
        """Keep the journal small: what every table has is dropped by age. A topic does that by itself."""
        keep = parse_duration(self._settings.journal.keep)
        watch = _ClockWatch()
        while not self._leaving.wait(_UPKEEP_S):
            watch.look(self.counts)
            if isinstance(self._journal, SqliteJournal) and (checkpoint := self._journal.checkpoint(0)) is not None:
                self._journal.prune(checkpoint[0].offset, keep)


class _ClockWatch:
    """Rule R12: many trades from the future within a minute mean that the host's clock is behind; someone should look."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._received = self._future = 0

    def look(self, counts: Counts) -> None:
        received, future = counts.received, counts.rejected.get("future", 0)
        if time.monotonic() - self._since < _MINUTE_S:
            return
        fresh, early = received - self._received, future - self._future
        if early > _HINT_SHARE * fresh:
            _log.warning(
                "clock_behind",
                future=early,
                received=fresh,
                hint="the host's clock is behind the venue's: is time synchronised?",
            )
        self._since, self._received, self._future = time.monotonic(), received, future
