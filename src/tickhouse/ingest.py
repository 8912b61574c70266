"""From sources to the journal: receives payloads, parses them, keeps time, and flushes what has arrived as one group.

Two threads: one runs the sources' asyncio loop and does nothing but receive; the other parses, appends and flushes, so that a
slow disk delays only its own flush. Between them stands a bounded inbox. `IngestCore` is the second thread's work without the
thread: the rules about heartbeats (R3) are there, driven by any clock.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from tickhouse.clock import Clock
from tickhouse.errors import FatalError, TransientError
from tickhouse.journal.base import Appender
from tickhouse.model import HEARTBEAT_US, MAX_MESSAGE_ROWS, NO_TIME, Event, Rejected, Trade
from tickhouse.sources.base import Frame, Parsed, Source
from tickhouse.telemetry import counter, timer

__all__ = ["Heartbeats", "Ingest", "IngestCore", "Recorder", "SourceCounters"]

JUMP_US = 1_000_000
"""A forward step of the wall clock beyond this is a jump (rule R3)."""
MAX_WAIT_US = 5_000_000
"""A start this far behind the journal's last heartbeat waits; further behind it refuses (rule R3)."""

_GROUP_US = 1_000
_MOST_US = 100_000
"""A group is flushed after at least the first and at most the second, by how long a flush takes."""
_QUEUE_SIZE = 16_384
_FULL_S = 0.002
_STOP_S = 0.5
_RETRY_S = (1.0, 60.0)


class Recorder(Protocol):
    """Keeps frames as they came; called in the order of the journal, by ingest's writer."""

    def frame(self, source: str, payload: bytes, received_at: int) -> None:
        """Keep a frame."""
        ...

    def event(self, event: Event, at: int) -> None:
        """Keep a feed event."""
        ...

    def heartbeat(self, clock: int) -> None:
        """Keep a heartbeat."""
        ...

    def close(self) -> None:
        """End the recording."""
        ...


@dataclass(slots=True)
class SourceCounters:
    """What came from one source since ingest started."""

    received: int = 0
    """Frames."""
    trades: int = 0
    rejected: int = 0
    ignored: int = 0
    last_received_at: int = NO_TIME


class Heartbeats:
    """Wall time at start plus the monotonic clock, cut at every quarter second (rule R3).

    Args:
        clock: The host's clocks.
        last: The journal's last heartbeat, NO_TIME where there is none.

    Raises:
        FatalError: the host's clock is more than 5 s behind `last`.
    """

    def __init__(self, clock: Clock, last: int) -> None:
        self._clock = clock
        self._base = clock.wall() - clock.monotonic()
        self.last = last
        """The last heartbeat given out, or the journal's."""
        if self.behind_us() > MAX_WAIT_US:
            raise FatalError(
                f"the clock of this host says {_spelled(self.now())}, but the journal's last heartbeat is {_spelled(last)}: "
                "set the host's clock, or start when that time has passed"
            )

    def now(self) -> int:
        """Return the time of the house, which never goes back."""
        return self._base + self._clock.monotonic()

    def behind_us(self) -> int:
        """Return how long to wait until the time of the house has reached the last heartbeat; 0 where it has."""
        return max(0, self.last - self.now())

    def is_quiet(self) -> bool:
        """Say that neither a heartbeat is due nor the wall clock has jumped: the answer nearly always, so it is quick."""
        now = self._base + self._clock.monotonic()
        return now < self.last + HEARTBEAT_US and self._clock.wall() - now <= JUMP_US

    def step(self) -> tuple[int, int] | None:
        """Follow a jump of the wall clock (a suspend, a correction); return (from, to) where there was one."""
        wall, now = self._clock.wall(), self.now()
        if wall - now <= JUMP_US:
            return None
        self._base += wall - now
        return now, wall

    def due(self, *, jumped: bool) -> range:
        """Return the heartbeats reached since the last call; after a jump, and at the start, only the latest."""
        latest = self.now() // HEARTBEAT_US * HEARTBEAT_US
        if latest <= self.last:
            return range(0)
        first = latest if jumped or self.last == NO_TIME else self.last + HEARTBEAT_US
        return range(first, latest + 1, HEARTBEAT_US)


class IngestCore:
    """Appends what arrives to the journal, each record after the heartbeats that came before it; not thread-safe.

    Args:
        appender: The journal's writer.
        clock: The host's clocks.
        last_clock: The journal's last heartbeat, NO_TIME where there is none.
        recorder: Keeps every frame as it came; None = nobody does.

    Raises:
        FatalError: the host's clock is more than 5 s behind `last_clock`.
    """

    def __init__(self, appender: Appender, clock: Clock, last_clock: int, recorder: Recorder | None = None) -> None:
        self._appender = appender
        self._recorder = recorder
        self._started = False
        self._clock = clock
        self._base = clock.wall() - clock.monotonic()
        self._told: dict[str, SourceCounters] = {}
        self.heartbeats = Heartbeats(clock, last_clock)
        self.flush_us = 0
        """How long the last flush took."""
        self.counters: dict[str, SourceCounters] = {}

    def tick(self) -> None:
        """Append the heartbeats that are due; called before every record, and at every quarter second."""
        if self.heartbeats.is_quiet():
            return
        jump = self.heartbeats.step()
        # The house was down until now: what passed since the journal's last heartbeat is one step, not thousands.
        for beat in self.heartbeats.due(jumped=jump is not None or not self._started):
            self._appender.heartbeat(beat)
            self.heartbeats.last = beat
            if self._recorder is not None:
                self._recorder.heartbeat(beat)
        self._started = True
        if jump is not None:
            self._event(Event(event="clock_jumped", detail={"from": jump[0], "to": jump[1]}))

    def frame(self, source: Source, frame: Frame) -> None:
        """Append what a payload holds."""
        self.tick()
        parsed = _parse(source, frame)
        if self._recorder is not None:
            self._recorder.frame(source.name, frame.payload, frame.received_at)
        counters = self._counters(source.name)
        counters.received += 1
        counters.last_received_at = max(counters.last_received_at, frame.received_at)
        counters.trades += len(parsed.trades)
        counters.rejected += len(parsed.rejected)
        counters.ignored += parsed.ignored
        if parsed.trades:
            self._appender.trades(parsed.trades, frame.received_at)
        for rejected in parsed.rejected:
            self._appender.rejected(rejected)
        if parsed.ignored:
            self._appender.ignored(parsed.ignored)

    def trades(self, source: str, trades: Sequence[Trade], received_at: int) -> None:
        """Append trades that did not come as a frame: a refill's."""
        self.tick()
        counters = self._counters(source)
        counters.trades += len(trades)
        for start in range(0, len(trades), MAX_MESSAGE_ROWS):
            self._appender.trades(trades[start : start + MAX_MESSAGE_ROWS], received_at)

    def event(self, event: Event) -> None:
        """Append a feed event."""
        self.tick()
        self._event(event)

    def flush(self) -> None:
        """Make everything appended durable and visible."""
        began = self._clock.monotonic()
        self._appender.flush()
        ended = self._clock.monotonic()
        self.flush_us = ended - began
        if self._counted(ended):
            timer("tickhouse_journal_flush_seconds")(self.flush_us / 1e6)

    def _counted(self, now: int) -> bool:
        """Bring the metrics up to date with what was received since the last flush; return whether anything was."""
        is_new = False
        for source, counters in self.counters.items():
            before = self._told.get(source, SourceCounters())
            if counters == before:
                continue
            is_new = True
            self._told[source] = replace(counters)
            for name in ("frames", "trades", "rejected", "ignored"):
                field = "received" if name == "frames" else name
                counter(f"tickhouse_ingest_{name}")(getattr(counters, field) - getattr(before, field), source)
            if counters.last_received_at != before.last_received_at:
                age = self._base + now - counters.last_received_at
                timer("tickhouse_latency_seconds")(max(0, age) / 1e6, "journal")
        return is_new

    def _event(self, event: Event) -> None:
        self._appender.event(event)
        if self._recorder is not None:
            self._recorder.event(event, self.heartbeats.now())

    def _counters(self, source: str) -> SourceCounters:
        counters = self.counters.get(source)
        if counters is None:
            counters = self.counters[source] = SourceCounters()
        return counters


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
        self._inbox = _Inbox(queue_size)
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

    def _put(self, work: _Work) -> None:
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

    async def _offer(self, work: _Work) -> None:
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


_Work = Callable[[IngestCore], None] | tuple[Source, Frame]
"""A frame to be appended, or, rarely, anything else to be done in its turn."""


class _Inbox:
    """A bounded queue between the threads, without a lock as long as there is something in it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[_Work] = deque()
        self._changed = threading.Condition()
        self._waiting = False
        self._settled = True

    @property
    def is_idle(self) -> bool:
        """True where everything offered was taken and flushed."""
        return not self._items and self._settled

    def offer(self, work: _Work, *, beyond_size: bool = False) -> bool:
        """Take `work` in; False where the inbox is full."""
        if len(self._items) >= self._size and not beyond_size:
            return False
        self._items.append(work)
        if self._waiting:
            self.wake()
        return True

    def take(self) -> _Work | None:
        """Return the next item, None where there is none."""
        if not self._items:
            return None
        self._settled = False
        return self._items.popleft()

    def settle(self) -> bool:
        """Say that what was taken is flushed; return whether nothing has arrived since."""
        self._settled = True
        return not self._items

    def wait(self, timeout_s: float, unless: threading.Event) -> None:
        """Sleep until something is offered."""
        with self._changed:
            self._waiting = True
            if not self._items and not unless.is_set():
                self._changed.wait(timeout_s)
            self._waiting = False

    def wake(self) -> None:
        """End the sleep."""
        with self._changed:
            self._changed.notify_all()


def _work_of(source: Source, item: Frame | Event) -> _Work:
    return (lambda core: core.event(item)) if isinstance(item, Event) else (source, item)


def _parse(source: Source, frame: Frame) -> Parsed:
    try:
        return source.parse(frame.payload, frame.received_at)
    except Exception:  # noqa: BLE001  (a fault in a source must not lose the payload that shows it)
        return Parsed(rejected=(Rejected(source.name, frame.received_at, "parser_failed", frame.payload),))


def _spelled(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="milliseconds")
