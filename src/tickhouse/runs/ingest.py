"""`tickhouse ingest`: sources -> journal, until it is stopped. The receiving half of `run`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from tickhouse.clock import SystemClock
from tickhouse.errors import TickhouseError
from tickhouse.house import House
from tickhouse.house.journals import live_kind, open_appender, open_live
from tickhouse.ingest import Ingest
from tickhouse.journal.frames import FrameRecorder
from tickhouse.journal.sqlite import SqliteJournal
from tickhouse.plugins import SOURCES, build, load
from tickhouse.settings import Settings
from tickhouse.sources.base import Source
from tickhouse.telemetry import share_metrics

__all__ = ["IngestRun"]

_REACHABLE_S = 5.0
_MAINTAIN_S = 1.0

_log = structlog.get_logger(__name__)


class IngestRun:
    """Receives while the context is open; leaving it flushes what was received.

    Args:
        house: Whose journal.
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
        self._house = house
        self._give_up = give_up
        self._settings = settings
        self._record = record
        self._sources, names, why = _choose(settings, symbols)
        self.headline = f"{names} -> {house.path}  ({why})"
        self._stack = ExitStack()
        self._ingest: Ingest | None = None

    @property
    def running(self) -> bool:
        """False once a source or the journal stopped it; leaving then raises why."""
        return self._ingest is not None and self._ingest.alive and self._ingest.error is None

    def __enter__(self) -> Self:
        with self._stack as stack:
            stack.enter_context(self._house.appending(live_kind(self._house, self._settings)))
            share_metrics(self._house.path)
            journal = open_live(self._house, self._settings, self._give_up)
            stack.callback(journal.close)
            appender = open_appender(self._house, journal)
            stack.callback(appender.close)
            recorder = stack.enter_context(FrameRecorder(self._record)) if self._record else None
            self._ingest = Ingest(self._sources, appender, SystemClock(), last_clock=journal.last_clock(), recorder=recorder)
            self._ingest.start()
            if isinstance(journal, SqliteJournal):
                _keep_up(journal.maintain, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._ingest is not None
        with self._stack:
            self._ingest.stop()
            self._ingest.join()


def _keep_up(maintain: Callable[[], None], stack: ExitStack) -> None:
    """Run upkeep in a thread until the stack is left."""
    leaving = threading.Event()
    upkeep = threading.Thread(target=_maintain, args=(maintain, leaving), name="journal-upkeep", daemon=True)
    stack.callback(upkeep.join)
    stack.callback(leaving.set)
    upkeep.start()


def _maintain(maintain: Callable[[], None], leaving: threading.Event) -> None:
    """Fold the write-ahead log into the file, now and then, so that no append has to."""
    while not leaving.wait(_MAINTAIN_S):
        try:
            maintain()
        except TickhouseError as error:
            _log.warning("journal_upkeep_failed", error=str(error))


def _choose(settings: Settings, symbols: Sequence[str] | None) -> tuple[list[Source], str, str]:
    """Return the sources to run, their names, and why these."""
    for name in settings.sources.options:
        load(SOURCES, name)  # a mistyped section would be settings that nobody reads
    asked = settings.sources.enabled
    if asked:
        sources = [_source(name, settings, symbols) for name in asked]
        return sources, "+".join(asked), "as asked"
    binance = _source("binance", settings, symbols)
    try:
        asyncio.run(asyncio.wait_for(binance.check(), _REACHABLE_S))
    except (TickhouseError, TimeoutError) as error:
        reason = str(error) or f"no answer in {_REACHABLE_S:g} s"
        why = f"the built-in SYNTHETIC market, no real prices; Binance cannot be reached: {reason}"
        return [_source("synthetic", settings, None)], "synthetic", why
    return [binance], "binance", "Binance's public trade stream"


def _source(name: str, settings: Settings, symbols: Sequence[str] | None) -> Source:
    options = dict(settings.sources.options.get(name, {}))
    if symbols is not None:
        options["symbols"] = tuple(symbols)
    source: Source = build(SOURCES, name, options)
    return source
