"""`tickhouse work`: journal -> engine -> lake, until it is stopped. The computing half of `run`."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from tickhouse.clock import Clock, SystemClock
from tickhouse.house import House
from tickhouse.house.journals import live_kind, open_live
from tickhouse.house.work import Work, load_code, open_work
from tickhouse.journal.sqlite import SqliteJournal
from tickhouse.live import Board
from tickhouse.meter import Meter
from tickhouse.model import NO_TIME, Batch, Position
from tickhouse.pipeline import Counts
from tickhouse.rules import Rules, parse_duration
from tickhouse.settings import Settings
from tickhouse.sinks.base import Outputs
from tickhouse.telemetry import share_metrics

if TYPE_CHECKING:
    from tickhouse.journal.kafka.journal import KafkaJournal

__all__ = ["ClockWatch", "WorkRun", "summary"]

_UPKEEP_S = 5.0
_FINISH_S = 1.0
_NICE = 10
_PACE_S = 0.05
"""Tables are committed once a second and figures painted four times: nobody sees the engine wait."""
_HINT_SHARE = 0.01
_MINUTE_US = 60_000_000

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
        self._meter = Meter()
        self._clock_watch = ClockWatch(SystemClock())
        self._stack = ExitStack()
        self._work: Work | None = None
        self._journal: SqliteJournal | KafkaJournal | None = None
        self._threads: list[threading.Thread] = []
        self._leaving = threading.Event()
        self._error: BaseException | None = None
        self.positions: list[Position] = []
        """How far the engine came in each partition; known after leaving."""
        self.seconds = 0.0
        """From the first record asked for to the last commit; known after leaving."""

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
            stack.enter_context(self._house.writing(live_kind(self._house, self._settings)))
            share_metrics(self._house.path)
            loading = threading.Thread(target=load_code, args=(self._house, Rules()), name="tickhouse-loading", daemon=True)
            loading.start()
            self._journal = journal = open_live(self._house, self._settings, self._give_up)
            stack.callback(journal.close)
            self._work = work = open_work(self._house, journal, journal.rules(), self._settings, self._see, pace_s=_PACE_S)
            stack.callback(work.close)
            loading.join()
            self.board.begin([pipeline.tally for pipeline in work.pipelines])
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

    def _see(self, batch: Batch, outputs: Outputs) -> None:
        self.board.mark(outputs.position.clock)
        self._clock_watch.update(outputs)
        self._meter.count(self.counts, batch)

    def _guarded(self, part: Callable[[], None]) -> None:
        if hasattr(os, "setpriority"):
            # Receiving and serving are live; tables are not. The threads that this one starts take its priority.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            part()
        except BaseException as error:  # noqa: BLE001  the run's boundary: raised again on leaving
            self._error = self._error or error

    def _engine(self) -> None:
        assert self._work is not None
        self.positions = self._work.engine.run(self._work.starts, until_drained=self._until_drained)
        self.seconds = time.monotonic() - self._work.engine.began
        self._ended = True

    def _upkeep(self) -> None:
        """Keep the journal small: what every table has is dropped by age. A topic does that by itself, while it is there."""
        keep = parse_duration(self._settings.journal.keep)
        journal = self._journal
        while not self._leaving.wait(_UPKEEP_S):
            if isinstance(journal, SqliteJournal):
                if (checkpoint := journal.checkpoint(0)) is not None:
                    journal.prune(checkpoint[0].offset, keep)
            elif journal is not None:
                journal.topic.must_be_same()


class ClockWatch:
    """Rule R12: many trades of a source from the future within a minute mean that the host's clock is behind.

    Args:
        clock: What tells when a minute is over.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock.monotonic()
        self._received: Counter[str] = Counter()
        self._future: Counter[str] = Counter()

    def update(self, outputs: Outputs) -> None:
        """Count what was made of a batch; once a minute, warn of the sources that send from the future."""
        for name in ("bronze.trades", "bronze.rejected"):
            if name in outputs.tables:
                self._received.update(_by_source(outputs.tables[name]))
        refused = outputs.tables.get("bronze.rejected")
        if refused is not None:
            self._future.update(_by_source(refused.filter(pc.equal(refused.column("reason"), "future"))))
        if self._clock.monotonic() - self._since < _MINUTE_US:
            return
        for source, future in self._future.items():
            if future > _HINT_SHARE * self._received[source]:
                hint = "the host's clock is behind the venue's: is time synchronised?"
                _log.warning("clock_behind", source=source, future=future, received=self._received[source], hint=hint)
        self._since = self._clock.monotonic()
        self._received.clear()
        self._future.clear()


def _by_source(table: pa.Table) -> dict[str, int]:
    counted = pc.value_counts(table.column("source").cast(pa.string()))
    return {each["values"]: each["counts"] for each in counted.to_pylist()}
