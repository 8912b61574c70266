"""A topic as journal, on a real broker: what is appended is read, in order, by partition; what is lost is named."""

from __future__ import annotations

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from structlog.testing import capture_logs

from tests.journals import drained
from tests.kafka_topics import T0, feed, fresh, plain_messages, produce, trade
from tests.services.kafka import Broker
from tests.services.registry import Registry
from tickhouse.columns import TradesBuilder
from tickhouse.errors import ConfigError, HouseLockedError, LogCorruptError, NotConnectedError, SchemaMismatchError
from tickhouse.house import House
from tickhouse.house.work import open_work
from tickhouse.journal.kafka import reader as readers
from tickhouse.journal.kafka import topic as topics
from tickhouse.journal.kafka.client import TOLD, Patience, TopicIdentity
from tickhouse.journal.kafka.journal import KafkaJournal
from tickhouse.journal.kafka.lease import LEASE_S
from tickhouse.journal.kafka.topic import KafkaTopic
from tickhouse.model import HEARTBEAT_US, NO_TIME, Event, Feeds, Position, Rejected
from tickhouse.rules import Rules
from tickhouse.settings import JournalSettings, KafkaSettings, Settings

SYMBOLS = [feed(f"S{i}-USD") for i in range(6)]


def filled(path: Path, settings, rounds: int = 3) -> KafkaJournal:
    """Return the journal of a house whose topic has trades, heartbeats, an event and rejected bytes."""
    journal = KafkaJournal.create_or_open(path, settings, None)
    with closing(journal.appender("test")) as appender:
        for number in range(rounds):
            appender.trades([trade(number, one) for one in SYMBOLS], T0)
            appender.event(Event("new_ids", "s", "BINANCE", SYMBOLS[0].symbol))
            appender.rejected(Rejected("s", T0, "malformed", b"?"))
            appender.heartbeat(T0 + number * HEARTBEAT_US)
    return journal


@pytest.mark.parametrize("form", ["json", "avro", "arrow"])
def test_what_is_appended_is_read_by_partition(broker: Broker, registry: Registry, tmp_path: Path, form: str):
    with closing(filled(tmp_path, fresh(broker, form=form, registry=registry.url))) as journal:
        symbols, rejected, events = [], 0, []
        for partition in range(2):
            feeds = Feeds()
            for batch in drained(journal.reader(partition, 0, feeds)):
                symbols += [
                    (feeds.feeds[code].symbol, int(number))
                    for code, number in zip(batch.trades.feed, batch.trades.trade_id, strict=True)
                ]
                rejected += len(batch.rejected)
                events += [(partition, event.event) for event in batch.events]
                assert batch.beats.clock.tolist() == [T0, T0 + HEARTBEAT_US, T0 + 2 * HEARTBEAT_US]
            where = {one.symbol for one in feeds.feeds}
            assert where.isdisjoint({symbol for symbol, _ in symbols} - where)
        assert sorted(symbols) == sorted((one.symbol, number) for one in SYMBOLS for number in range(3))
        assert rejected == 3
        assert sorted(event for _, event in events) == ["new_ids"] * 3 + ["rules"] * 2
        assert journal.last_clock() == T0 + 2 * HEARTBEAT_US


def test_a_range_is_read_exactly_and_on(broker: Broker, tmp_path: Path):
    with closing(filled(tmp_path, fresh(broker, partitions=1), 40)) as journal:
        whole = drained(journal.reader(0, 0, Feeds()))
        end = whole[-1].next_offset
        ids = [int(number) for batch in whole for number in batch.trades.trade_id]
        found: list[int] = []
        reader = journal.topic.reader(0, 0, Feeds(), until=0)
        for until in (1, 2, 50, 51, 200, end):
            reader.read_on(until)
            while not reader.exhausted:
                batch = reader.read(5.0)
                assert batch is not None
                assert batch.next_offset <= until
                found += batch.trades.trade_id.tolist()
            assert reader.position == until
            assert reader.read(0.0) is None
        reader.close()
        assert found == ids
        with journal.topic.reader(0, 120, Feeds(), until=121) as one:
            batch = one.read(5.0)
            assert batch is not None
            assert batch.next_offset == 121
            assert one.exhausted


def test_a_range_may_end_in_what_a_transaction_left(broker: Broker, tmp_path: Path):
    settings = fresh(broker, partitions=1)
    with closing(KafkaJournal.create_or_open(tmp_path, settings, None)) as journal:
        producer = Producer({"bootstrap.servers": broker.servers, "transactional.id": settings.topic, "log_level": 0})
        producer.init_transactions(30)
        for ending in (producer.abort_transaction, producer.commit_transaction):
            producer.begin_transaction()
            producer.produce(settings.topic, b'{"symbol": "A", "price": 1, "size": 1, "ts": %d}' % T0)
            producer.flush(30)
            ending(30)
        high, until = 0, time.monotonic() + 30
        while high < 4 and time.monotonic() < until:  # the broker ends a transaction a moment after it says so
            high = journal.topic.ends(0).high
        assert high == 4
        with journal.topic.reader(0, 0, Feeds(), until=high) as reader:
            batches = []
            while not reader.exhausted:
                batches.append(reader.read(5.0))
        assert sum(len(batch.trades) for batch in batches if batch) == 1
        assert reader.position == high


def test_what_a_transaction_left_at_the_end_of_a_topic_is_read_past(broker: Broker, tmp_path: Path):
    settings = Settings(journal=JournalSettings(kind="kafka"), kafka=fresh(broker, partitions=1))
    producer = Producer({"bootstrap.servers": broker.servers, "transactional.id": settings.kafka.topic, "log_level": 0})
    house = House(tmp_path)
    with house.writing("kafka"), closing(KafkaJournal.create_or_open(house.journal_path, settings.kafka, None)) as journal:
        producer.init_transactions(30)
        producer.begin_transaction()
        for number in range(3):
            value = b'{"symbol": "A", "price": 1, "size": 1, "ts": %d}' % (T0 + number)
            producer.produce(settings.kafka.topic, value)
        producer.commit_transaction(30)
        work = open_work(house, journal, Rules(), settings)
        reached = work.engine.run(work.starts, until_drained=True)
        work.close()
        assert [position.offset for position in reached] == [journal.topic.ends(0).high] == [4]


def test_an_open_transaction_holds_nobody_up(broker: Broker, tmp_path: Path):
    settings = Settings(journal=JournalSettings(kind="kafka"), kafka=fresh(broker, partitions=1))
    house = House(tmp_path)
    with house.writing("kafka"), closing(filled(house.journal_path, settings.kafka)) as journal:
        before = journal.topic.ends(0).high
        producer = Producer({"bootstrap.servers": broker.servers, "transactional.id": settings.kafka.topic, "log_level": 0})
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.produce(settings.kafka.topic, b'{"symbol": "A", "price": 1, "size": 1, "ts": %d}' % T0)
        producer.flush(30)
        work = open_work(house, journal, journal.rules(), settings)
        reached = work.engine.run(work.starts, until_drained=True)
        work.close()
        producer.abort_transaction(30)
        assert [position.offset for position in reached] == [before]


def test_whoever_leaves_at_the_end_has_read_what_was_written_before(broker: Broker, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(readers._GATHERING, "fetch.min.bytes", 1 << 20)
    monkeypatch.setitem(readers._GATHERING, "fetch.wait.max.ms", 2_000)
    settings = fresh(broker, partitions=1)
    with (
        closing(KafkaJournal.create_or_open(tmp_path, settings, None)) as journal,
        closing(journal.appender("test")) as appender,
        closing(journal.reader(0, 0, Feeds())) as reader,
    ):

        def add(number: int) -> None:
            appender.trades([trade(number)], T0)
            appender.flush()

        def read() -> int:
            batch = reader.read(5.0)
            return 0 if batch is None else len(batch.trades)

        add(1)
        assert read() == 1
        while not reader.drained:
            read()
        add(2)
        assert reader.read(0.1) is None  # the broker waits for more
        assert reader.drained
        assert not reader.at_end()
        assert read() == 1
        assert reader.at_end()


def test_who_leaves_waits_for_no_broker(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(topics, "_BRIEFLY_S", 0.5)
    with (
        Broker(tmp_path / "kafka") as broker,
        closing(filled(tmp_path / "house", fresh(broker, partitions=1))) as journal,
        closing(journal.reader(0, 0, Feeds())) as reader,
    ):
        while not reader.at_end():
            reader.read(0.1)
        broker.kill()
        assert reader.at_end()


def test_a_topic_made_anew_is_noticed_by_who_wrote_its_lease_again(broker: Broker, tmp_path: Path, monkeypatch):
    settings = fresh(broker, partitions=1)
    with closing(filled(tmp_path, settings)) as journal:
        appender = journal.appender("test")
        lease = appender._lease
        assert lease._confirm() is None
        # The commit that came just after the brokers had forgotten those of before.
        monkeypatch.setattr(lease, "_said", lambda *_: f"{lease._token} 1")
        admin = AdminClient({"bootstrap.servers": broker.servers, "log_level": 0})
        admin.delete_topics([settings.topic])[settings.topic].result(60)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with suppress(KafkaException):
                broker.create_topic(settings.topic, 1)
                break
        while lease._lost is None and time.monotonic() < until:
            lease._confirm()
            time.sleep(0.2)
        with pytest.raises(SchemaMismatchError, match="was deleted and made anew since"):
            appender.close()


def test_a_checkpoint_belongs_to_its_partition(broker: Broker, tmp_path: Path):
    settings = fresh(broker)
    with closing(KafkaJournal.create_or_open(tmp_path, settings, None)) as journal:
        assert journal.checkpoint(1) is None
        journal.store_checkpoint(1, Position(7, T0), b"one")
        journal.store_checkpoint(0, Position(3, NO_TIME), b"zero")
        journal.store_checkpoint(1, Position(9, T0), b"newer")
    with closing(KafkaJournal.create_or_open(tmp_path, settings, None)) as journal:
        assert journal.checkpoint(0) == (Position(3, NO_TIME), b"zero")
        assert journal.checkpoint(1) == (Position(9, T0), b"newer")


def test_a_second_ingest_is_refused_and_the_first_goes_on(broker: Broker, tmp_path: Path):
    settings = fresh(broker)
    with (
        closing(KafkaJournal.create_or_open(tmp_path / "a", settings, None)) as journal,
        closing(journal.appender("first")) as first,
    ):
        with (
            closing(KafkaJournal.create_or_open(tmp_path / "b", settings, None)) as other,
            pytest.raises(HouseLockedError, match=r"another ingest \(first at 127.0.0.1\)"),
        ):
            other.appender("second")
        first.heartbeat(T0)
        first.flush()
        assert journal.last_clock() == T0


def test_a_killed_ingest_takes_its_place_again_at_once(broker: Broker, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    settings = fresh(broker)
    with closing(KafkaJournal.create_or_open(tmp_path, settings, None)) as journal:
        killed = journal.appender("same")
        killed.heartbeat(T0)
        killed.flush()
        killed._lease._ended.set()  # it confirms nothing any more, and never leaves
        with closing(journal.appender("same")) as again:
            assert again.last_clock() == T0
            again.heartbeat(T0 + HEARTBEAT_US)
        killed._lease._confirmed -= LEASE_S
        with pytest.raises(Exception, match=r"stood still for more than 10 s and another one \(same/.* may write"):
            killed.flush()
        assert "FATAL" not in "".join(capfd.readouterr())
        assert journal.last_clock() == T0 + HEARTBEAT_US


def test_an_ingest_that_kafka_takes_for_a_stranger_joins_anew_without_asking_who_is_there(
    broker: Broker, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    settings = fresh(broker)
    group = {"group.id": f"tickhouse-ingest.{settings.topic}", "group.instance.id": "same"}
    with (
        capture_logs() as logs,
        closing(KafkaJournal.create_or_open(tmp_path, settings, None)) as journal,
        closing(journal.appender("same")) as appender,
    ):
        monkeypatch.delattr("tickhouse.journal.kafka.lease.admin")
        member = Consumer({"bootstrap.servers": settings.servers, "log_level": 0, **group})
        member.subscribe([settings.topic])
        while not member.assignment():
            member.poll(0.1)
        member.close()  # which is no leaving of the group
        appender._lease._confirmed -= LEASE_S
        appender.heartbeat(T0)
        appender.flush()
        assert journal.last_clock() == T0
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["kafka_lease_refused"]
    assert "FATAL" not in "".join(capfd.readouterr())


def test_a_recording_goes_on_after_each_partitions_last_message(broker: Broker, tmp_path: Path):
    settings = fresh(broker)

    def send(writer, lines: int) -> int:
        feeds, begin = Feeds(), writer.resume("rec")
        for line in range(begin, lines):
            writer.place(line, -1)
            writer.heartbeat(T0 + line * HEARTBEAT_US)
            builder = TradesBuilder()
            for row, one in enumerate(SYMBOLS):
                builder.add(trade(line, one), feeds.code(one), T0, line, row)
            writer.columns(builder.build(), feeds)
        writer.flush()
        return begin

    with closing(KafkaJournal.create_or_open(tmp_path, settings, None)) as journal:
        for lines, expected in ((1, 0), (4, 0), (4, 3), (9, 3)):
            killed = journal.appender("same")
            killed._lease._ended.set()
            assert send(killed, lines) == expected
        for partition in range(2):
            feeds = Feeds()
            batches = drained(journal.reader(partition, 0, feeds))
            assert [int(clock) for batch in batches for clock in batch.beats.clock] == [
                T0 + line * HEARTBEAT_US for line in range(9)
            ]
            found = [int(number) for batch in batches for number in batch.trades.trade_id]
            assert found == sorted(list(range(9)) * len(feeds))
        with closing(journal.appender("same")) as live:
            live.heartbeat(T0 + 99 * HEARTBEAT_US)
        with closing(journal.appender("same")) as again, pytest.raises(ConfigError, match="is not from a recording"):
            again.resume("rec")


def test_rejected_bytes_beyond_what_a_topic_takes_are_kept_in_part(broker: Broker, tmp_path: Path):
    settings = fresh(broker, partitions=1)
    broker.create_topic(settings.topic, 1, **{"max.message.bytes": "300000"})
    with closing(KafkaJournal.create_or_open(tmp_path, settings, None)) as journal:
        with closing(journal.appender("test")) as appender:
            appender.rejected(Rejected("s", T0, "malformed", b"x" * (3 << 20)))
            for number, size in enumerate((200_000, 160_000, 320_000)):  # two fit, and not into one batch; one does not
                appender.trades([trade(number, conditions=random.Random(number).randbytes(size // 2).hex())], T0)
        batches = drained(journal.reader(0, 0, Feeds()))
    found = [rejected for batch in batches for rejected in batch.rejected]
    assert [one.reason for one in found] == ["malformed", "oversized"]
    assert [one.length // 100_000 for one in found] == [31, 3]
    assert all(len(one.payload) > 200_000 and one.sha256 for one in found)
    assert sum(len(batch.trades) for batch in batches) == 2


def test_messages_of_other_programs_are_read_beside_ours(broker: Broker, tmp_path: Path):
    settings = fresh(broker, partitions=1)
    with closing(filled(tmp_path, settings, 1)) as journal:
        produce(settings, [{"symbol": "AAPL", "price": 1.5, "size": 2, "ts": T0}, None, b"\x01\x02", b"y" * (2 << 20)])
        produce(settings, [{"type": "quote", "bid": 1}, b"\0\0\0\0\x63another schema"])
        feeds = Feeds()
        batches = drained(journal.reader(0, 0, feeds))
    assert feeds.feeds[-1].symbol == "AAPL"
    reasons = [(one.reason, one.length) for batch in batches for one in batch.rejected]
    assert reasons[1:] == [("tombstone", 0), ("malformed", 2), ("malformed", 2 << 20), ("schema", 27), ("schema", 19)]
    assert sum(batch.beats.clock.tolist() == [T0] for batch in batches) == 1


def test_a_topic_of_another_program_gets_heartbeats_from_its_records_times(broker: Broker, tmp_path: Path):
    settings = fresh(broker, partitions=1)
    broker.create_topic(settings.topic, 1)
    for number in range(6):
        at = T0 // 1_000 + number * 100
        produce(settings, [{"symbol": "A", "price": 1.5, "size": 2, "ts": T0}], timestamp=at)
    with closing(KafkaJournal.create_or_open(tmp_path, settings, None)) as journal:
        beats = [int(clock) for batch in drained(journal.reader(0, 0, Feeds())) for clock in batch.beats.clock]
        assert beats == [T0, T0 + 250_000, T0 + 500_000]
        # A reader that goes on knows the clock from what was before.
        assert [batch.beats.clock.tolist() for batch in drained(journal.reader(0, 4, Feeds()))] == [[T0 + 500_000]]
        with pytest.raises(ConfigError, match="messages of another program and no heartbeats"):
            journal.appender("test")


def test_messages_lost_to_retention_stop_the_reader_with_the_loss(broker: Broker, tmp_path: Path):
    settings = fresh(broker, partitions=1)
    with closing(filled(tmp_path, settings)) as journal:
        journal.store_checkpoint(0, Position(4, T0), b"")
        admin = AdminClient({"bootstrap.servers": broker.servers, "log_level": 0})
        at = TopicPartition(settings.topic, 0, 10)
        admin.delete_records([at])[at].result(30)
        with pytest.raises(
            LogCorruptError, match=r"6 messages of partition 0 of .* are lost: 4 to 9 were deleted by retention"
        ):
            journal.reader(0, 4, Feeds())
        with pytest.raises(LogCorruptError, match="10 messages of partition 0"):
            journal.reader(0, 0, Feeds())
    with closing(KafkaJournal.create_or_open(tmp_path / "new", settings, None)) as journal:
        assert journal.beginning(0) == Position(10)
        batches = drained(journal.reader(0, 10, Feeds()))
        assert batches[0].trades.offset.min() >= 10
        assert not batches[0].beats.row.any()


def test_a_house_without_a_snapshot_stops_where_the_topic_lost_what_it_had_read(broker: Broker, tmp_path: Path):
    settings = Settings(journal=JournalSettings(kind="kafka"), kafka=fresh(broker, partitions=1))
    house = House(tmp_path)
    with house.writing("kafka"), closing(filled(house.journal_path, settings.kafka)) as journal:
        work = open_work(house, journal, journal.rules(), settings)
        work.engine.run(work.starts, until_drained=True)
        journal._connection.execute("DELETE FROM checkpoints")  # as a kill before the first one leaves it
        work.close()
        admin = AdminClient({"bootstrap.servers": broker.servers, "log_level": 0})
        at = TopicPartition(settings.kafka.topic, 0, 10)
        admin.delete_records([at])[at].result(30)
        with pytest.raises(
            LogCorruptError, match=r"the state of partition 0 is to be made anew, but .* deleted 10 .*, 0 to 9: "
        ):
            open_work(house, journal, journal.rules(), settings)


def test_a_topic_just_made_is_waited_for_until_every_broker_knows_it(broker: Broker, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def answers(settings: KafkaSettings, patience: Patience, timeout: float) -> TopicIdentity:
        asked.append(timeout)
        if len(asked) in {2, 3, 4}:  # the first answer is true: there is no topic yet
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        return identify(settings, patience, timeout)

    identify = topics._identify
    monkeypatch.setattr(topics, "_identify", answers)
    with closing(KafkaTopic.open(fresh(broker, partitions=3))) as topic:
        assert topic.partitions == 3
    assert len(asked) == 5


def test_a_running_reader_that_falls_behind_retention_stops(broker: Broker, tmp_path: Path):
    settings = fresh(broker, partitions=1)
    with closing(filled(tmp_path, settings)) as journal:
        reader = journal.reader(0, 0, Feeds())
        admin = AdminClient({"bootstrap.servers": broker.servers, "log_level": 0})
        at = TopicPartition(settings.topic, 0, -1)
        admin.delete_records([at])[at].result(30)
        reader._fetcher.assign(0)  # as if it had not fetched ahead
        with closing(reader), pytest.raises(LogCorruptError, match="are lost"):
            next(batch for batch in iter(lambda: reader.read(0.5), 0) if batch is not None)


def test_a_truncated_topic_stops_the_reader_with_the_loss(broker: Broker, tmp_path: Path):
    with closing(filled(tmp_path, fresh(broker, partitions=1))) as journal:
        high = journal.topic.ends(0).high
        with pytest.raises(LogCorruptError, match=f"9 messages of partition 0 of .* are lost: it ends at {high}"):
            journal.reader(0, high + 9, Feeds())


def test_another_topic_is_not_taken_for_the_houses(broker: Broker, tmp_path: Path):
    settings = fresh(broker)
    filled(tmp_path, settings, 1).close()
    with pytest.raises(SchemaMismatchError, match=r"belongs to topic .*: set \[kafka\] topic"):
        KafkaJournal.create_or_open(tmp_path, fresh(broker), None)
    admin = AdminClient({"bootstrap.servers": broker.servers, "log_level": 0})
    admin.create_partitions([NewPartitions(settings.topic, 3)])[settings.topic].result(30)
    with pytest.raises(SchemaMismatchError, match="has 3 partitions, but had 2 when"):
        KafkaJournal.create_or_open(tmp_path, settings, None)
    admin.delete_topics([settings.topic])[settings.topic].result(30)
    with pytest.raises(SchemaMismatchError, match="was deleted and made anew"):
        _until_made_anew(tmp_path, settings.model_copy(update={"partitions": 1}))


def _until_made_anew(path: Path, settings) -> None:
    for _ in range(100):  # a broker tells of a deleted topic for a moment
        KafkaJournal.create_or_open(path, settings, None).close()


def test_a_new_house_may_be_opened_by_several_at_once(broker: Broker, tmp_path: Path):
    settings = fresh(broker)
    KafkaTopic.open(settings).close()
    ready = threading.Barrier(6)

    def opened(_number: int) -> Rules:
        ready.wait(60)
        with closing(KafkaJournal.create_or_open(tmp_path, settings, None)) as journal:
            return journal.rules()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(opened, range(6))) == [Rules()] * 6


def test_a_topic_keeps_its_rules(broker: Broker, tmp_path: Path):
    settings = fresh(broker)
    rules = Rules(lateness_us=500_000)
    with closing(KafkaJournal.create_or_open(tmp_path / "a", settings, rules)) as journal:
        journal.appender("test").close()
    with closing(KafkaJournal.create_or_open(tmp_path / "b", settings, None)) as journal:
        assert journal.rules() == rules
    with pytest.raises(ConfigError, match="begun with other rules"):
        KafkaJournal.create_or_open(tmp_path / "c", settings, Rules())


def test_a_client_that_the_library_gives_up_is_told_by_our_log():
    with capture_logs() as logs:
        TOLD["logger"].critical("FATAL [tickhouse#producer-1] [thrd:main]: Fatal error: Broker: out of order")
    told = {"event": "kafka_client_failed", "log_level": "error", "reason": "Fatal error: Broker: out of order"}
    assert logs == [told]


def test_a_broker_that_is_down_is_waited_for_until_told_otherwise(broker: Broker, tmp_path: Path):
    del broker
    give_up = threading.Event()
    threading.Timer(1.0, give_up.set).start()
    with pytest.raises(NotConnectedError, match=r"Kafka at 127.0.0.1:1 cannot be reached"):
        KafkaTopic.open(fresh_at("127.0.0.1:1"), give_up)


def fresh_at(servers: str):
    """Return settings of a topic at an address."""
    return KafkaSettings(servers=servers, topic="t")


def test_another_consumer_reads_the_documented_json(broker: Broker, tmp_path: Path):
    settings = fresh(broker)
    filled(tmp_path, settings, 2).close()
    for partition in range(2):
        messages = plain_messages(settings, partition)
        records = [json.loads(message.value()) for message in messages]
        assert records[0]["type"] == "rules"
        for message, record in zip(messages, records, strict=True):
            if record["type"] == "trade":
                assert message.key().decode() == f"{record['venue']}:{record['symbol']}"
                assert set(record) <= {
                    *("type", "source", "venue", "symbol", "id_space", "identity", "provider_symbol"),
                    *("ts", "received_at", "price", "size", "trade_id"),
                }
        assert [record["clock"] for record in records if record["type"] == "heartbeat"] == [T0, T0 + HEARTBEAT_US]
        assert any(record["type"] == "rejected" for record in records) == (partition == 0)


def test_keys_are_where_librdkafka_as_java_puts_them(broker: Broker, tmp_path: Path):
    settings = fresh(broker, partitions=7)
    symbols = [feed(f"{chr(65 + i)}{i}-USDT") for i in range(20)]
    with (
        closing(KafkaJournal.create_or_open(tmp_path, settings, None)) as journal,
        closing(journal.appender("test")) as appender,
    ):
        appender.trades([trade(1, one) for one in symbols], T0)
    ours = {
        message.key(): partition for partition in range(7) for message in plain_messages(settings, partition) if message.key()
    }
    other = fresh(broker, partitions=7)
    broker.create_topic(other.topic, 7)
    producer = Producer({"bootstrap.servers": broker.servers, "partitioner": "murmur2_random", "log_level": 0})
    for key in ours:
        producer.produce(other.topic, b"x", key)
    assert producer.flush(30) == 0
    theirs = {message.key(): partition for partition in range(7) for message in plain_messages(other, partition)}
    assert ours == theirs
    assert len(ours) == 20
