"""Ingest's two threads: one receives from the sources, the other appends what has arrived and flushes it as one group."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from tickhouse.clock import Clock
from tickhouse.errors import TransientError
from tickhouse.ingest.core import IngestCore, Recorder, SourceCounters
from tickhouse.ingest.inbox import Inbox, Work
from tickhouse.journal.base import Appender
from tickhouse.model import HEARTBEAT_US, NO_TIME, Event, Trade
from tickhouse.sources.base import Frame, Source

__all__ = ["Ingest"]

_GROUP_US = 1_000
_MOST_US = 100_000
"""A group is flushed after at least the first and at most the second, by how long a flush takes."""
_QUEUE_SIZE = 16_384
_FULL_S = 0.002
_STOP_S = 0.5
_RETRY_S = (1.0, 60.0)


class Ingest:
    """Runs sources into a journal in threads of its own: `start`, then `stop` and `join`.

    The appender and the recorder are used by the writer's thread only, and are closed by the caller after `join`.

    Args:
        source: One source, or several.
        appender: The journal's writer.
        clock: The host's clocks.
        last_clock: The journal's last heartbeat, NO_TIME where there is none.
        recorder: Keeps every frame as it came; None = nobody does.
        queue_size: Records received and not yet appended; beyond it the sources wait.
    """

    def __init__(
        self,
        source: Source | Sequence[Source],
        appender: Appender,
        clock: Clock,
        *,
        last_clock: int = NO_TIME,
        recorder: Recorder | None = None,
        queue_size: int = _QUEUE_SIZE,
    ) -> None:
        self.sources: tuple[Source, ...] = tuple(source) if isinstance(source, Sequence) else (source,)
        self._clock = clock
        self._core_of = partial(IngestCore, appender, clock, last_clock, recorder)
        self._core: IngestCore | None = None
        self._inbox = Inbox(queue_size)
        self._stop = threading.Event()
        self._receiver = threading.Thread(target=self._receive, name="ingest-receiver", daemon=True)
        self._writer = threading.Thread(target=self._write, name="ingest-writer", daemon=True)
        self._running = len(self.sources)
        self.error: BaseException | None = None
        """What stopped ingest, where it was not `stop`."""

    def start(self) -> None:
        """Begin to receive; waits up to 5 s until the journal's last heartbeat has passed.

        Raises:
            FatalError: the host's clock is more than 5 s behind the journal's last heartbeat.
        """
        self._core = self._core_of()
        self._stop.wait(self._core.heartbeats.behind_us() / 1e6)
        self._receiver.start()
        self._writer.start()

    def stop(self) -> None:
        """Ask both threads to end: what was received is still appended and flushed."""
        self._stop.set()
        self._inbox.wake()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until ingest has ended and everything is flushed; return whether it has.

        Raises:
            TickhouseError: what stopped it: a refusal by a provider, a full disk.
        """
        if self._writer.ident is not None:
            self._writer.join(timeout_s)
        if self._writer.is_alive():
            return False
        if self._receiver.ident is not None:
            self._receiver.join(_STOP_S)
        if self.error is not None:
            raise self.error
        return True

    @property
    def alive(self) -> bool:
        """True while records are appended."""
        return self._writer.is_alive()

    @property
    def drained(self) -> bool:
        """True once every source has ended by itself and all that it sent is flushed."""
        return self._running == 0 and self._inbox.is_idle

    def counters(self) -> dict[str, SourceCounters]:
        """Return what came from each source, for the live table."""
        if self._core is None:
            return {}
        return {name: replace(counters) for name, counters in list(self._core.counters.items())}

    def submit(self, source: str, trades: Sequence[Trade], received_at: int) -> None:
        """Append a refill's trades in order with everything else; waits while the inbox is full. From any thread."""
        self._put(lambda core: core.trades(source, trades, received_at))

    def announce(self, event: Event) -> None:
        """Append an event (`refilled`, ...) in order with everything else; waits while the inbox is full. From any thread."""
        self._put(lambda core: core.event(event))

    def _put(self, work: Work) -> None:
        while not self._stop.is_set():
            if self._inbox.offer(work):
                return
            self._stop.wait(_FULL_S)
        raise TransientError("ingest has stopped and takes nothing more")

    # The receiver's thread.

    def _receive(self) -> None:
        try:
            asyncio.run(self._receive_all())
        except BaseException as error:  # noqa: BLE001  (the thread's boundary: the caller gets it from `join`)
            self._fail(error)

    async def _receive_all(self) -> None:
        tasks = [asyncio.create_task(self._receive_from(source), name=source.name) for source in self.sources]
        try:
            while not self._stop.is_set() and tasks:
                ended, _ = await asyncio.wait(tasks, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
                    tasks.remove(task)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=_STOP_S)

    async def _receive_from(self, source: Source) -> None:
        retry_s = _RETRY_S[0]
        while True:
            try:
                async for item in source.stream():
                    retry_s = _RETRY_S[0]
                    work = _work_of(source, item)
                    if not self._inbox.offer(work):
                        await self._offer(work)
            except TransientError as error:
                detail = {"reason": str(error)}
                await self._offer(_work_of(source, Event(event="disconnected", source=source.name, detail=detail)))
                await asyncio.sleep(error.retry_after_s if error.retry_after_s is not None else retry_s)
                retry_s = min(2 * retry_s, _RETRY_S[1])
                continue
            self._running -= 1
            return

    async def _offer(self, work: Work) -> None:
        try:
            while not self._inbox.offer(work):  # noqa: ASYNC110  (full only while the disk stands still)
                await asyncio.sleep(_FULL_S)
        except asyncio.CancelledError:
            self._inbox.offer(work, beyond_size=True)  # received is received
            raise

    # The writer's thread.

    def _write(self) -> None:
        try:
            assert self._core is not None
            self._append_all(self._core)
        except BaseException as error:  # noqa: BLE001  (the thread's boundary: the caller gets it from `join`)
            self._fail(error)

    def _append_all(self, core: IngestCore) -> None:
        while not self._stop.is_set():
            began = self._clock.monotonic()
            self._append_arrived(core)
            if self._inbox.settle():
                beat_in_us = HEARTBEAT_US - core.heartbeats.now() % HEARTBEAT_US
                self._inbox.wait(beat_in_us / 1e6, unless=self._stop)
            # A flush costs the same for one trade as for a hundred: what comes within a millisecond shares one.
            pause_us = began + _GROUP_US - self._clock.monotonic()
            if pause_us > 0:
                self._stop.wait(pause_us / 1e6)
        self._receiver.join(2 * _STOP_S)
        while not self._inbox.settle():
            self._append_arrived(core)
        core.tell()

    def _append_arrived(self, core: IngestCore) -> None:
        core.tick()
        # As long as a flush lasted: a broker far away then takes half the time at most, whatever has gathered meanwhile.
        deadline = self._clock.monotonic() + min(max(_GROUP_US, core.flush_us), _MOST_US)
        while (work := self._inbox.take()) is not None:
            if type(work) is tuple:
                core.frame(*work)
            else:
                assert callable(work)
                work(core)
            if self._clock.monotonic() >= deadline:
                break
        core.flush()

    def _fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
        self.stop()


def _work_of(source: Source, item: Frame | Event) -> Work:
    return (lambda core: core.event(item)) if isinstance(item, Event) else (source, item)
