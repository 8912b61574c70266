"""What ingest appends and in which order: every record after the heartbeats that came before it (rule R3).

Driven by ingest's writer thread, or by a test with a clock of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tickhouse.clock import Clock
from tickhouse.ingest.heartbeats import Heartbeats
from tickhouse.journal.base import Appender
from tickhouse.model import MAX_MESSAGE_ROWS, NO_TIME, Event, Rejected, Trade
from tickhouse.sources.base import Frame, Parsed, Source
from tickhouse.telemetry import counter, timer

__all__ = ["IngestCore", "Recorder", "SourceCounters"]

_TELL_US = 100_000
"""The counters of the metrics are brought up to date so often."""


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
        self._tell_at = 0
        self._has_new = False
        """Something came since the last flush ..."""
        self._newest = NO_TIME
        """... and when the newest payload of it did."""
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
        self._has_new = True
        self._newest = max(self._newest, frame.received_at)
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
        self._has_new = True
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
        if self._has_new:
            timer("tickhouse_journal_flush_seconds")(self.flush_us / 1e6)
            if self._newest != NO_TIME:
                timer("tickhouse_latency_seconds")(max(0, self._base + ended - self._newest) / 1e6, "journal")
            self._has_new, self._newest = False, NO_TIME
        if ended >= self._tell_at:
            self._tell_at = ended + _TELL_US
            self.tell()

    def tell(self) -> None:
        """Bring the metrics up to date with what was received; also done by `flush`, now and then."""
        for source, counters in self.counters.items():
            before = self._told.get(source, SourceCounters())
            if counters == before:
                continue
            self._told[source] = replace(counters)
            for name in ("frames", "trades", "rejected", "ignored"):
                field = "received" if name == "frames" else name
                counter(f"tickhouse_ingest_{name}")(getattr(counters, field) - getattr(before, field), source)

    def _event(self, event: Event) -> None:
        self._appender.event(event)
        if self._recorder is not None:
            self._recorder.event(event, self.heartbeats.now())

    def _counters(self, source: str) -> SourceCounters:
        counters = self.counters.get(source)
        if counters is None:
            counters = self.counters[source] = SourceCounters()
        return counters


def _parse(source: Source, frame: Frame) -> Parsed:
    try:
        return source.parse(frame.payload, frame.received_at)
    except Exception:  # noqa: BLE001  (a fault in a source must not lose the payload that shows it)
        return Parsed(rejected=(Rejected(source.name, frame.received_at, "parser_failed", frame.payload),))
