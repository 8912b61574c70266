"""What every live journal must do: keep records in order by partition, read on from any offset, keep a snapshot a partition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.journals import drained
from tests.kafka_topics import T0, feed, fresh, trade
from tests.services.kafka import Broker
from tests.services.registry import Registry
from tickhouse.journal.kafka.forms import numbers_of
from tickhouse.journal.kafka.journal import KafkaJournal
from tickhouse.journal.sqlite import SqliteJournal
from tickhouse.model import HEARTBEAT_US, Batch, Event, Feeds, Position, Rejected
from tickhouse.rules import Rules

KINDS = ("sqlite", "kafka-json", "kafka-avro", "kafka-arrow")
SYMBOLS = [feed(f"S{i}-USD") for i in range(5)] + [feed("AAPL", venue="IEX", identity="none", id_space="")]


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """A function that opens the journal of one and the same house, again and again."""
    journals: list[Any] = []
    if request.param == "sqlite":

        def make() -> Any:
            return SqliteJournal.create_or_open(tmp_path, Rules())

    else:
        broker: Broker = request.getfixturevalue("broker")
        registry: Registry = request.getfixturevalue("registry")
        settings = fresh(broker, form=request.param.removeprefix("kafka-"), registry=registry.url, partitions=3)

        def make() -> Any:
            return KafkaJournal.create_or_open(tmp_path, settings, Rules())

    def one_more() -> Any:
        journals.append(make())
        return journals[-1]

    yield one_more
    for journal in journals:
        journal.close()


def appender(journal: Any) -> Any:
    return journal.appender() if isinstance(journal, SqliteJournal) else journal.appender("conformance")


def fill(journal: Any, rounds: int = 4, first: int = 0) -> None:
    writer = appender(journal)
    for number in range(first, first + rounds):
        writer.heartbeat(T0 + number * HEARTBEAT_US)
        writer.trades([trade(number, one, trade_id=number if one.identity != "none" else None) for one in SYMBOLS], T0 + number)
        writer.trades([trade(number + 100, SYMBOLS[0], side="sell", conditions="1")], T0 + number)
        writer.event(Event("new_ids", "s", "BINANCE", SYMBOLS[0].symbol, {"n": number}))
        writer.rejected(Rejected("s", T0, "malformed", b"\x00\xff"))
        writer.ignored(2)
        writer.flush()
    writer.close()


def records(batches: list[Batch], feeds: Feeds) -> list[Any]:
    """Return everything in a partition, in order, without offsets."""
    found = []
    for batch in batches:
        offsets = batch.trades.offset.tolist()
        rows = batch.trades.row.tolist()
        for pair, offset, row in zip(numbers_of(batch.trades, feeds), offsets, rows, strict=True):
            found.append(((offset, row), "trade", *pair))
        beats = (batch.beats.offset.tolist(), batch.beats.row.tolist(), batch.beats.clock.tolist())
        found += [((offset, row), "beat", clock) for offset, row, clock in zip(*beats, strict=True)]
        found += [((one.offset, one.row), "event", one.event, one.detail) for one in batch.events]
        found += [((one.offset, one.row), "rejected", one.reason, one.payload) for one in batch.rejected]
    return sorted(found, key=lambda one: one[0])


def whole(journal: Any, partition: int, start: int = 0) -> list[Any]:
    feeds = Feeds()
    return records(drained(journal.reader(partition, start, feeds)), feeds)


def test_every_record_is_there_once_in_order_and_a_symbol_in_one_partition(opened: Callable[[], Any]) -> None:
    journal = opened()
    fill(journal)
    homes: dict[str, int] = {}
    for partition in range(journal.partitions):
        found = whole(journal, partition)
        assert [one[2] for one in found if one[1] == "beat"] == [T0 + number * HEARTBEAT_US for number in range(4)]
        for one in SYMBOLS:
            mine = [numbers.trade_id for _, kind, *rest in found if kind == "trade" and rest[0] == one for numbers in rest[1:]]
            if mine:
                assert homes.setdefault(one.symbol, partition) == partition
                alone = list(range(4))
                both = [each for number in alone for each in (number, number + 100)]
                assert mine == ([None] * 4 if one.identity == "none" else both if one is SYMBOLS[0] else alone)
        events = [one[3]["n"] for one in found if one[1] == "event" and one[2] == "new_ids"]
        assert events == (list(range(4)) if homes.get(SYMBOLS[0].symbol) == partition else [])
        assert len([one for one in found if one[1] == "rejected"]) == (4 if partition == 0 else 0)
    assert set(homes) == {one.symbol for one in SYMBOLS}
    assert journal.last_clock() == T0 + 3 * HEARTBEAT_US


def test_reading_on_from_any_offset_gives_what_reading_at_once_gives(opened: Callable[[], Any]) -> None:
    journal = opened()
    fill(journal)
    at_once = whole(journal, 0)
    for start in sorted({one[0][0] for one in at_once})[::3]:
        assert whole(journal, 0, start) == [one for one in at_once if one[0][0] >= start]


def test_what_was_flushed_is_there_for_the_next_process_and_is_continued(opened: Callable[[], Any]) -> None:
    first = opened()
    fill(first, 2)
    fill(opened(), 2, 2)
    assert [one[2] for one in whole(opened(), 0) if one[1] == "beat"] == [T0 + number * HEARTBEAT_US for number in range(4)]
    assert msgspec.to_builtins(opened().rules()) == msgspec.to_builtins(Rules())


def test_a_snapshot_is_kept_for_each_partition(opened: Callable[[], Any]) -> None:
    journal = opened()
    for partition in range(journal.partitions):
        assert journal.checkpoint(partition) is None
        journal.store_checkpoint(partition, Position(5 + partition, T0), b"older")
        journal.store_checkpoint(partition, Position(7 + partition, T0), bytes([partition]))
    again = opened()
    for partition in range(journal.partitions):
        assert again.checkpoint(partition) == (Position(7 + partition, T0), bytes([partition]))


def test_a_heartbeat_that_goes_back_is_refused(opened: Callable[[], Any]) -> None:
    writer = appender(opened())
    writer.heartbeat(T0)
    with pytest.raises(Exception, match="the clock never goes back"):
        writer.heartbeat(T0)
    writer.close()
