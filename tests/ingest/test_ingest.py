"""Ingest: heartbeats by rule R3 on a hand-moved clock, the order of the journal, and a clean end of its threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.journals import drained
from tickhouse.clock import ManualClock, SystemClock
from tickhouse.errors import ConfigError, FatalError, NotConnectedError, TransientError
from tickhouse.ingest import Ingest, IngestCore
from tickhouse.journal.sqlite import SqliteJournal
from tickhouse.model import HEARTBEAT_US, MAX_MESSAGE_ROWS, NO_TIME, Batch, Event, Feed, Feeds, Rejected, Trade
from tickhouse.rules import Rules
from tickhouse.sources.base import IGNORED, Frame, Parsed

FEED = Feed("numbers", "V", "A-B", "trade", "contiguous", "AB")
START = 1_700_000_000_000_000


class Numbers:
    """A source whose frames are numbers: each a trade with that id; `ignore` is ignored, anything else rejected."""

    name = "numbers"

    def __init__(self, *script: Frame | Event | Exception, endless: bool = False) -> None:
        self._script = list(script)
        self._endless = endless

    def parse(self, payload: bytes, received_at: int) -> Parsed:
        if payload == b"crash":
            raise ZeroDivisionError
        if payload == b"ignore":
            return IGNORED
        if not payload.isdigit():
            return Parsed(rejected=[Rejected(self.name, received_at, "malformed", payload)])
        return Parsed([Trade(FEED, received_at, 1.0, 1.0, int(payload))])

    def recognises(self, payload: bytes) -> bool:
        return payload.isdigit()

    async def stream(self) -> AsyncIterator[Frame | Event]:
        while self._script:
            item = self._script.pop(0)
            if isinstance(item, Exception):
                raise item
            yield item
        if self._endless:
            await asyncio.Event().wait()

    async def check(self) -> str:
        return "numbers are always there"


def frame(payload: object, received_at: int = START) -> Frame:
    return Frame(str(payload).encode(), received_at)


@pytest.fixture
def journal(tmp_path: Path):
    with closing(SqliteJournal.create_or_open(tmp_path / "house", Rules())) as opened:
        yield opened


@pytest.fixture
def appender(journal):
    with closing(journal.appender()) as opened:
        yield opened


def read_all(journal: SqliteJournal, start: int = 1) -> list[Batch]:
    return drained(journal.reader(0, start, Feeds()))


def read(journal: SqliteJournal) -> Batch:
    (batch,) = read_all(journal)
    return batch


def beats(journal: SqliteJournal) -> list[int]:
    return [(clock - START) // HEARTBEAT_US for batch in read_all(journal) for clock in batch.beats.clock.tolist()]


# Heartbeats (rule R3).


def test_first_heartbeat_is_the_quarter_second_begun(journal, appender):
    core = IngestCore(appender, ManualClock(START + 100_000), NO_TIME)
    core.tick()
    core.tick()
    core.flush()
    assert beats(journal) == [0]


def test_heartbeat_marks_every_quarter_second_also_after_a_stall(journal, appender):
    clock = ManualClock(START)
    core = IngestCore(appender, clock, NO_TIME)
    for step in (0, 249_999, 1, 100_000, 650_000):
        clock.advance(step)
        core.tick()
    core.flush()
    assert beats(journal) == [0, 1, 2, 3, 4]


def test_heartbeat_stands_before_the_trade_received_after_it(journal, appender):
    clock = ManualClock(START)
    core = IngestCore(appender, clock, NO_TIME)
    source = Numbers()
    core.frame(source, frame(1))
    clock.advance(HEARTBEAT_US)
    core.frame(source, frame(2))
    core.frame(source, frame(3))
    core.flush()
    batch = read(journal)
    assert batch.trades.trade_id.tolist() == [1, 2, 3]
    assert batch.beats.at.tolist() == [0, 1]


def test_wall_clock_set_back_changes_no_heartbeat(journal, appender):
    clock = ManualClock(START)
    core = IngestCore(appender, clock, NO_TIME)
    core.tick()
    clock.step_wall(-3_600_000_000)
    for _ in range(2):
        clock.advance(HEARTBEAT_US)
        core.tick()
    core.flush()
    assert beats(journal) == [0, 1, 2]
    assert read(journal).events == []


def test_forward_step_up_to_a_second_is_not_followed(journal, appender):
    clock = ManualClock(START)
    core = IngestCore(appender, clock, NO_TIME)
    core.tick()
    clock.step_wall(1_000_000)
    core.tick()
    core.flush()
    assert beats(journal) == [0]


def test_suspend_jumps_to_the_latest_heartbeat_with_an_event(journal, appender):
    clock = ManualClock(START)
    core = IngestCore(appender, clock, NO_TIME)
    core.tick()
    clock.step_wall(3_600_000_000 + 10)
    core.tick()
    clock.advance(HEARTBEAT_US)
    core.tick()
    core.flush()
    assert beats(journal) == [0, 14_400, 14_401]
    (event,) = read(journal).events
    assert (event.event, event.detail) == ("clock_jumped", {"from": START, "to": START + 3_600_000_010})


def test_restart_after_an_hour_makes_one_heartbeat(journal, appender):
    appender.heartbeat(START)
    core = IngestCore(appender, ManualClock(START + 3_600_000_000), START)
    core.tick()
    core.flush()
    assert beats(journal) == [0, 14_400]


def test_start_a_little_behind_the_journal_waits_and_never_goes_back(journal, appender):
    appender.heartbeat(START)
    clock = ManualClock(START - 4_000_000)
    core = IngestCore(appender, clock, START)
    assert core.heartbeats.behind_us() == 4_000_000
    core.tick()
    clock.advance(4_000_000)
    assert core.heartbeats.behind_us() == 0
    core.tick()
    clock.advance(HEARTBEAT_US)
    core.tick()
    core.flush()
    assert beats(journal) == [0, 1]


def test_start_far_behind_the_journal_is_refused_naming_both_times(appender):
    with pytest.raises(FatalError, match=r"says 2023-11-14T22:13:14\.000.*is 2023-11-14T22:13:20\.000"):
        IngestCore(appender, ManualClock(START - 6_000_000), START)


# What becomes of a frame.


def test_every_frame_is_accounted_for(journal, appender):
    core = IngestCore(appender, ManualClock(START), NO_TIME)
    source = Numbers()
    for i, payload in enumerate((1, "bad", 2, "ignore", "crash")):
        core.frame(source, frame(payload, START + i))
    core.event(Event(event="connected", source="numbers"))
    core.flush()
    batch = read(journal)
    assert batch.trades.trade_id.tolist() == [1, 2]
    assert [(rejected.reason, rejected.payload) for rejected in batch.rejected] == [
        ("malformed", b"bad"),
        ("parser_failed", b"crash"),
    ]
    assert batch.ignored == 1
    counters = core.counters["numbers"]
    assert (counters.received, counters.trades, counters.rejected, counters.ignored) == (5, 2, 2, 1)
    assert counters.last_received_at == START + 4


def test_refill_larger_than_a_message_is_cut(journal, appender):
    core = IngestCore(appender, ManualClock(START), NO_TIME)
    trades = [Trade(FEED, START, 1.0, 1.0, i, backfilled=True) for i in range(MAX_MESSAGE_ROWS + 1)]
    core.trades("numbers", trades, START)
    core.flush()
    assert [len(batch.trades) for batch in read_all(journal)] == [MAX_MESSAGE_ROWS, 1]


# The threads.


def run(ingest: Ingest, until: Callable[[], bool]) -> None:
    ingest.start()
    waited = threading.Event()
    for _ in range(2_000):
        if until() or not ingest.alive:
            break
        waited.wait(0.005)
    ingest.stop()
    assert ingest.join(120)


def of(sources: Numbers | Sequence[Numbers], appender, **more) -> Ingest:
    return Ingest(sources, appender, SystemClock(), **more)


def test_what_sources_send_is_in_the_journal_after_stop(journal, appender):
    first = Numbers(*(frame(i) for i in range(0, 600, 2)), endless=True)
    second = Numbers(*(frame(i) for i in range(1, 600, 2)), Event(event="connected"))
    ingest = of([first, second], appender)
    run(ingest, lambda: ingest.counters().get("numbers") is not None and ingest.counters()["numbers"].received == 600)
    found = [int(i) for batch in read_all(journal) for i in batch.trades.trade_id]
    assert [i for i in found if i % 2 == 0] == list(range(0, 600, 2))
    assert [i for i in found if i % 2] == list(range(1, 600, 2))
    assert not ingest.alive


def test_full_inbox_makes_a_source_wait_and_loses_nothing(journal, appender):
    ingest = of(Numbers(*(frame(i) for i in range(500))), appender, queue_size=4)
    run(ingest, lambda: ingest.drained)
    assert [int(i) for batch in read_all(journal) for i in batch.trades.trade_id] == list(range(500))


class Costly(SystemClock):
    """A clock by which every look at it takes 100 us."""

    spent = 0

    def monotonic(self) -> int:
        self.spent += 100
        return self.spent


def test_a_slow_flush_is_shared_by_what_gathered_meanwhile(journal, appender, monkeypatch):
    clock, sent, groups = Costly(), threading.Event(), []

    class Source(Numbers):
        async def stream(self) -> AsyncIterator[Frame | Event]:
            async for item in super().stream():
                yield item
            sent.set()

    def flush() -> None:
        groups.append(ingest.counters()["numbers"].received if "numbers" in ingest.counters() else 0)
        assert sent.wait(120)
        clock.spent += 30_000
        original()

    original = appender.flush
    monkeypatch.setattr(appender, "flush", flush)
    ingest = Ingest(Source(*(frame(i) for i in range(1_000))), appender, clock)
    run(ingest, lambda: ingest.drained)
    assert [int(i) for batch in read_all(journal) for i in batch.trades.trade_id] == list(range(1_000))
    assert len(groups) < 20, "as long as a flush lasts, records are taken for the next one"


def test_heartbeats_go_on_while_nothing_arrives(journal, appender):
    ingest = of(Numbers(endless=True), appender)
    run(ingest, lambda: sum(len(batch.beats) for batch in read_all(journal)) >= 3)
    (batch,) = read_all(journal)
    assert set((batch.beats.clock[1:] - batch.beats.clock[:-1]).tolist()) == {HEARTBEAT_US}


def test_refusal_of_a_provider_stops_ingest_and_is_raised(journal, appender):
    ingest = of(Numbers(frame(1), ConfigError("no such symbol")), appender)
    ingest.start()
    with pytest.raises(ConfigError, match="no such symbol"):
        ingest.join(120)
    assert [int(i) for batch in read_all(journal) for i in batch.trades.trade_id] == [1]


def test_lost_connection_is_an_event_and_is_tried_again(journal, appender):
    ingest = of(Numbers(frame(1), NotConnectedError("gone", retry_after_s=0.01), frame(2)), appender)
    run(ingest, lambda: ingest.drained)
    (batch,) = read_all(journal)
    assert batch.trades.trade_id.tolist() == [1, 2]
    assert [(event.event, event.at, event.detail) for event in batch.events] == [("disconnected", 1, {"reason": "gone"})]


def test_full_disk_stops_ingest_and_is_raised(appender):
    pages = appender._connection.execute("PRAGMA page_count").fetchone()[0]
    appender._connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    ingest = of(Numbers(*(frame(i) for i in range(5_000)), endless=True), appender)
    ingest.start()
    with pytest.raises(FatalError, match="no room left"):
        ingest.join(120)
    appender._connection.execute("PRAGMA max_page_count = 1000000").fetchall()


def test_refills_and_their_events_enter_in_order(journal, appender):
    ingest = of(Numbers(endless=True), appender)
    ingest.start()
    ingest.submit("numbers", [Trade(FEED, START, 1.0, 1.0, 5, backfilled=True)], START)
    ingest.announce(Event(event="refilled", venue="V", symbol="A-B", detail={"first": 5, "last": 5}))
    ingest.stop()
    assert ingest.join(120)
    (batch,) = read_all(journal)
    assert batch.trades.backfilled.tolist() == [1]
    assert [(event.event, event.at) for event in batch.events] == [("refilled", 1)]
    with pytest.raises(TransientError, match="has stopped"):
        ingest.announce(Event(event="refilled"))
