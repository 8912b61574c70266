"""The embedded engine: one pipeline in one process, its rows group-committed to every sink by a second thread.

The loop takes whatever has arrived, feeds it, hands the outputs out at once, and passes them on to the writer; it never waits
for a timer. A slow sink fills the writer's bounded queue and so slows the reading of the journal, never the receiving.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from tickhouse.errors import TickhouseError, TransientError
from tickhouse.history import History
from tickhouse.journal.base import Journal, Reader
from tickhouse.model import MAX_MESSAGE_ROWS, Batch, Position
from tickhouse.pipeline import Pipeline
from tickhouse.sinks.base import Outputs, Sink

__all__ = ["EmbeddedEngine", "Listener"]

_log = structlog.get_logger(__name__)

Listener = Callable[[Batch, Outputs], None]
"""Called in the engine's thread with each batch and what it became, before any sink has it."""

_COMMIT_ROWS = 1_000_000
_QUEUED_ROWS = 400_000
_READ_TIMEOUT_S = 0.1
_RETRIES = 5


class _Snapshot(NamedTuple):
    position: Position
    state: bytes


class EmbeddedEngine:
    """Runs one partition of a journal through its pipeline into sinks.

    Args:
        journal: Where batches come from, and where snapshots are kept.
        pipeline: At the position of its snapshot.
        history: What the pipeline reads back; told what is committed.
        sinks: Each has its own positions.
        commit_every_s: How often rows become visible.
        snapshot_every_s: How often the state is stored; also at the end.
        listener: Sees every batch and its outputs at once.
    """

    def __init__(
        self,
        journal: Journal,
        pipeline: Pipeline,
        history: History,
        sinks: Sequence[Sink],
        *,
        commit_every_s: float = 1.0,
        snapshot_every_s: float = 60.0,
        listener: Listener | None = None,
    ) -> None:
        self._journal = journal
        self._pipeline = pipeline
        self._listener = listener
        self._snapshot_every_s = snapshot_every_s
        self._writer = _Writer(journal, history, sinks, pipeline.partition, commit_every_s)
        self._until = math.inf
        self._finishing = False
        self.reader: Reader | None = None
        """While running: for those who show how far it has come."""

    def stop(self) -> None:
        """Ask `run` to commit, store its state and return; from any thread."""
        self._until = 0.0

    def finish(self, within_s: float) -> None:
        """The same, once the journal has nothing more at the moment, or after so many seconds."""
        self._until = time.monotonic() + within_s
        self._finishing = True

    def run(self, start: Position, *, until_drained: bool = False) -> Position:
        """Work from `start` until the journal is exhausted or `stop` is called; return the position reached and committed.

        Args:
            start: Where the pipeline's snapshot was taken.
            until_drained: Also end when a live journal has nothing more at the moment.

        Raises:
            TickhouseError: what stopped a sink; everything committed before stays.
        """
        position, stored = start, start
        reader = self.reader = self._journal.reader(self._pipeline.partition, start.offset, self._pipeline.feeds)
        self._writer.start()
        try:
            due = time.monotonic() + self._snapshot_every_s
            while time.monotonic() < self._until:
                batch = reader.read(_READ_TIMEOUT_S)
                if batch is not None:
                    position = self._work(batch)
                elif until_drained or self._finishing or reader.exhausted:
                    break
                if time.monotonic() >= due and position != stored:
                    self._writer.put(_Snapshot(position, self._pipeline.snapshot()))
                    stored, due = position, time.monotonic() + self._snapshot_every_s
            if position != stored:
                self._writer.put(_Snapshot(position, self._pipeline.snapshot()))
            self._writer.finish()
        except BaseException:
            self._writer.abandon()
            raise
        finally:
            reader.close()
        return position

    def _work(self, batch: Batch) -> Position:
        outputs = self._pipeline.feed(batch, catching_up=len(batch.trades) > MAX_MESSAGE_ROWS // 8)
        if self._listener is not None:
            self._listener(batch, outputs)
        self._writer.put(outputs)
        return outputs.position


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

    def __init__(
        self, journal: Journal, history: History, sinks: Sequence[Sink], partition: int, commit_every_s: float
    ) -> None:
        self._journal = journal
        self._history = history
        self._sinks = sinks
        self._partition = partition
        self._commit_every_s = commit_every_s
        self._queue = _Handover(_QUEUED_ROWS)
        self._error: BaseException | None = None
        self._abandoned = False
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
        waiting_rows, commit_at = 0, 0.0
        while not self._abandoned:
            timeout = max(0.0, commit_at - time.monotonic()) if waiting_rows else None
            try:
                item = self._queue.get(timeout=timeout)
            except queue.Empty:
                self._commit(everything=False)
                waiting_rows = 0
                continue
            if item is None:
                self._commit(everything=False)
                return
            if isinstance(item, _Snapshot):
                self._commit(everything=True)
                self._journal.store_checkpoint(self._partition, item.position, item.state)
                waiting_rows = 0
                continue
            if not waiting_rows:
                commit_at = time.monotonic() + self._commit_every_s
            waiting_rows += _rows(item)
            for sink in self._sinks:
                sink.write(item)
            if waiting_rows >= _COMMIT_ROWS or time.monotonic() >= commit_at:
                self._commit(everything=False)
                waiting_rows = 0

    def _commit(self, *, everything: bool) -> None:
        for sink in self._sinks:
            _with_retries(sink, everything=everything)
        self._history.committed()


def _with_retries(sink: Sink, *, everything: bool) -> None:
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
