"""The embedded engine: a pipeline for each partition in one process, their rows group-committed to every sink by one thread.

Each partition has a loop that takes whatever has arrived, feeds it, hands the outputs out at once, and passes them on to the
writer; it never waits for a timer. A slow sink fills the writer's bounded queue and so slows the reading of the journal, never
the receiving.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import structlog

from tickhouse.errors import TickhouseError, TransientError
from tickhouse.journal.base import Journal, Reader
from tickhouse.model import MAX_MESSAGE_ROWS, Batch, Position
from tickhouse.pipeline import Pipeline
from tickhouse.processes import cores
from tickhouse.sinks.base import Outputs, Sink
from tickhouse.telemetry import timer

__all__ = ["Committed", "EmbeddedEngine", "Listener", "commit_with_retries"]

_log = structlog.get_logger(__name__)

Listener = Callable[[Batch, Outputs], None]
"""Called in a thread of the engine with each batch and what it became, before any sink has it."""

_COMMIT_ROWS = 2_000_000
_QUEUED_ROWS = 400_000
_READ_TIMEOUT_S = 0.1
_BEHIND_ROWS = MAX_MESSAGE_ROWS // 2
_RETRIES = 5


class Committed(Protocol):
    """Whoever reads back what the sinks have."""

    def committed(self) -> None:
        """Learn that the sinks have more."""
        ...


class _Snapshot(NamedTuple):
    partition: int
    position: Position
    state: bytes


class EmbeddedEngine:
    """Runs the partitions of a journal through their pipelines into sinks.

    Args:
        journal: Where batches come from, and where snapshots are kept.
        pipelines: One a partition, each at the position of its snapshot.
        history: What the pipelines read back; told what is committed.
        sinks: Each has its own positions.
        commit_every_s: How often rows become visible.
        snapshot_every_s: How often the state is stored; also at the end. None = never: the engine follows a house that
            another process writes, has no sinks and changes nothing.
        listener: Sees every batch and its outputs at once; one at a time, whatever the number of partitions.
        pace_s: Shortest time between two batches of a partition that is not behind; it also rests as long as the last one
            took, up to this time again. A batch costs the same for one trade as for a hundred, so whoever only fills
            tables takes larger ones, and whoever is busy loses nothing by waiting.
    """

    def __init__(
        self,
        journal: Journal,
        pipelines: Sequence[Pipeline],
        history: Committed,
        sinks: Sequence[Sink],
        *,
        commit_every_s: float = 1.0,
        snapshot_every_s: float | None = 60.0,
        listener: Listener | None = None,
        pace_s: float = 0.0,
    ) -> None:
        self._pace_s = pace_s
        self._has_sinks = bool(sinks)
        self._journal = journal
        self._pipelines = pipelines
        self._listener = listener
        self._listening = threading.Lock()
        self._snapshot_every_s = snapshot_every_s
        self._writer = _Writer(journal, history, sinks, commit_every_s)
        self._until = math.inf
        self._finishing = False
        self._asked = threading.Event()
        self._working = threading.Semaphore(max(1, cores() - 1))
        """Partitions that decode or compute at once: one core is the writer's. More would only wait for each other."""
        self.feeding = [threading.Lock() for _ in pipelines]
        """Each is held while that pipeline works, for those who look into it from another thread."""
        self.readers: list[Reader] = []
        """While running, one a partition: for those who show how far it has come."""
        self.began = math.inf
        """Monotonic seconds at which the readers stood where they begin."""

    def stop(self) -> None:
        """Ask `run` to commit, store its state and return; from any thread."""
        self._until = 0.0
        self._asked.set()

    def finish(self, within_s: float) -> None:
        """The same, once the journal has nothing more at the moment, or after so many seconds."""
        self._until = time.monotonic() + within_s
        self._finishing = True
        self._asked.set()

    def run(self, starts: Sequence[Position], *, until_drained: bool = False) -> list[Position]:
        """Work until the journal is exhausted or `stop` is called; return the positions reached and committed, by partition.

        Args:
            starts: Where each pipeline's snapshot was taken.
            until_drained: Also end when a live journal has nothing more at the moment.

        Raises:
            TickhouseError: what stopped a pipeline or a sink; everything committed before stays.
        """
        self._finishing = self._finishing or until_drained
        try:
            for pipeline, start in zip(self._pipelines, starts, strict=True):
                self.readers.append(self._journal.reader(pipeline.partition, start.offset, pipeline.feeds))
            self._writer.start()
            self.began = time.monotonic()
            reached = _each(self._partition, list(starts), self.stop)
            self._writer.finish()
        except BaseException:
            self._writer.abandon()
            raise
        finally:
            for reader in self.readers:
                reader.close()
        return reached

    def _partition(self, number: int, start: Position) -> Position:
        """Run one partition: the loop that everything else serves."""
        pipeline, reader = self._pipelines[number], self.readers[number]
        position, stored, due = start, start, self._next_snapshot()
        while time.monotonic() < self._until:
            with self._working:  # what is there already is decoded in turn, too
                batch = reader.read(0.0)
            if batch is None:
                batch = reader.read(_READ_TIMEOUT_S)
            if batch is not None:
                began = time.monotonic()
                position = self._feed(number, batch)
                if self._pace_s and len(batch.trades) < _BEHIND_ROWS and reader.drained and not self._finishing:
                    took = time.monotonic() - began
                    self._asked.wait(max(self._pace_s - took, min(self._pace_s, took)))
            elif reader.exhausted or (self._finishing and reader.at_end()):
                break
            if time.monotonic() >= due and position != stored:
                self._writer.put(_Snapshot(pipeline.partition, position, pipeline.snapshot()))
                stored, due = position, self._next_snapshot()
        if position != stored and self._snapshot_every_s is not None:
            self._writer.put(_Snapshot(pipeline.partition, position, pipeline.snapshot()))
        return position

    def _next_snapshot(self) -> float:
        return math.inf if self._snapshot_every_s is None else time.monotonic() + self._snapshot_every_s

    def _feed(self, number: int, batch: Batch) -> Position:
        with self._working, self.feeding[number]:
            outputs = self._pipelines[number].feed(batch, catching_up=len(batch.trades) > MAX_MESSAGE_ROWS // 8)
        if self._listener is not None:
            with self._listening:
                self._listener(batch, outputs)
        if self._has_sinks:
            self._writer.put(outputs)
        return outputs.position


def _each(work: Callable[[int, Position], Position], starts: list[Position], stop: Callable[[], None]) -> list[Position]:
    """Run `work` for each partition, in a thread each where there are several; raise the first error, after all ended."""
    if len(starts) == 1:
        return [work(0, starts[0])]
    reached: dict[int, Position] = {}
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            reached[number] = work(number, starts[number])
        except BaseException as error:  # noqa: BLE001  a thread's boundary: raised again below
            errors.append(error)
            stop()

    threads = [
        threading.Thread(target=guarded, args=(number,), name=f"tickhouse-partition-{number}", daemon=True)
        for number in range(len(starts))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [reached[number] for number in range(len(starts))]


class _Handover(queue.Queue[Outputs | _Snapshot | None]):
    """What waits for the writer; bounded by rows, because batches differ a thousandfold in size."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._rows = 0

    def _qsize(self) -> int:
        return self._rows

    def _put(self, item: Outputs | _Snapshot | None) -> None:
        super()._put(item)
        self._rows += _rows(item)

    def _get(self) -> Outputs | _Snapshot | None:
        item = super()._get()
        self._rows -= _rows(item)
        return item


def _rows(item: Outputs | _Snapshot | None) -> int:
    """Return how much an item counts for in a queue or a commit: one for itself and one a row."""
    return 1 + sum(len(table) for table in item.tables.values()) if isinstance(item, Outputs) else 1


class _Writer:
    """The second thread: writes outputs to the sinks, commits them in groups, stores snapshots once every table is there."""

    def __init__(self, journal: Journal, history: Committed, sinks: Sequence[Sink], commit_every_s: float) -> None:
        self._journal = journal
        self._history = history
        self._sinks = sinks
        self._commit_every_s = commit_every_s
        self._queue = _Handover(_QUEUED_ROWS)
        self._error: BaseException | None = None
        self._abandoned = False
        self._snapshots: list[_Snapshot] = []
        """Taken after outputs that no commit has had yet; one a partition and round, so they share a commit."""
        self._thread = threading.Thread(target=self._run, name="tickhouse-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: Outputs | _Snapshot | None) -> None:
        """Hand over work; waits while the sinks are behind; raises what stopped the writer."""
        while True:
            if self._error is not None:
                raise self._error
            try:
                self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue
            return

    def finish(self) -> None:
        """Wait until everything is committed."""
        self.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Stop without committing what is still queued; the journal has it."""
        self._abandoned = True
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=0.05)
            except queue.Full:
                continue
            self._thread.join(0.2)

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # noqa: BLE001  the engine's one boundary: handed to the thread that waits
            self._error = error

    def _loop(self) -> None:
        waiting, commit_at = 0, 0.0
        while not self._abandoned:
            timeout = max(0.0, commit_at - time.monotonic()) if waiting else None
            try:
                item = self._queue.get(timeout=timeout)
            except queue.Empty:
                self._commit()
                waiting = 0
                continue
            if item is None:
                self._commit()
                return
            if not waiting:
                commit_at = time.monotonic() + self._commit_every_s
            waiting += _rows(item)
            if isinstance(item, _Snapshot):
                self._snapshots.append(item)
            else:
                for sink in self._sinks:
                    sink.write(item)
            if waiting >= _COMMIT_ROWS or time.monotonic() >= commit_at:
                self._commit()
                waiting = 0

    def _commit(self) -> None:
        """Commit what was written; every table must have it where snapshots wait, which are stored then."""
        began = time.monotonic()
        for sink in self._sinks:
            commit_with_retries(sink, everything=bool(self._snapshots))
        if self._sinks:
            timer("tickhouse_lake_commit_seconds")(time.monotonic() - began)
        self._history.committed()
        for snapshot in self._snapshots:
            self._journal.store_checkpoint(*snapshot)
        self._snapshots.clear()


def commit_with_retries(sink: Sink, *, everything: bool) -> None:
    """Commit what a sink was given; what is transient is tried again, with growing pauses.

    Raises:
        TickhouseError: it still fails, or trying again is of no use.
    """
    for attempt in range(_RETRIES):
        try:
            sink.commit(everything=everything)
        except TransientError as error:
            if attempt == _RETRIES - 1:
                raise TickhouseError(f"sink {sink.name} still fails after {_RETRIES} tries: {error}") from error
            wait_s = error.retry_after_s or 0.2 * 2**attempt
            _log.warning("sink_commit_failed", sink=sink.name, error=str(error), retry_after_s=wait_s)
            time.sleep(wait_s)
        else:
            return
