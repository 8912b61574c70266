"""A topic that lost messages, by way of its broker: whoever reads or writes it stops, names the loss, and skips nothing."""

from __future__ import annotations

import signal
import subprocess
from contextlib import closing, suppress
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from tests.api.live import eventually
from tests.faults.processes import configured, process, reached, said, wait_until
from tests.kafka_topics import T0, counter, ends, feed, fresh, trade
from tests.services.kafka import Broker
from tests.test_cli import tickhouse
from tickhouse.house import House
from tickhouse.journal.kafka.journal import KafkaJournal
from tickhouse.model import HEARTBEAT_US
from tickhouse.settings import KafkaSettings

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

ROUND = 3
"""Messages of a round: two trades and a heartbeat."""


def write(house: Path, settings: KafkaSettings, rounds: range) -> None:
    """Write rounds of trades as an ingest on another host does, each flushed by itself."""
    journal = KafkaJournal.create_or_open(house, settings, None)
    with closing(journal), closing(journal.appender("elsewhere")) as appender:
        for number in rounds:
            appender.trades([trade(2 * number + half, feed()) for half in range(2)], T0 + number)
            appender.heartbeat(T0 + number * HEARTBEAT_US)
            appender.flush()


def ended(child: subprocess.Popen[bytes]) -> str:
    """Return what a process said that stops by itself, as one that failed."""
    assert child.wait(300) == 2, said(child)
    return said(child)


def test_a_broker_that_comes_back_without_its_newest_messages_is_noticed(tmp_path: Path) -> None:
    with Broker(tmp_path / "kafka") as server:
        settings = fresh(server, partitions=1)
        options = configured(tmp_path, settings)
        write(tmp_path / "elsewhere", settings, range(10))
        kept = 1 + 6 * ROUND
        with process("work", "--no-serve", *options) as work:
            assert wait_until(lambda: reached(tmp_path / "house"), ends(settings), work), said(work)
            server.kill()
            server.lose(settings.topic, 0, kept)
            server.start()
            with counter(settings) as count:
                eventually(lambda: count() == kept, 120)
            # Others take their places, with the same ids: only the clock tells.
            write(tmp_path / "elsewhere", settings, range(20, 40))
            assert f"of partition 0 of {settings.topic} are lost" in ended(work)
        for command in (["work", "--until-drained"], ["ingest", "--source", "synthetic"]):
            assert "are lost: the brokers came back without" in tickhouse(*command, *options, code=2)


def test_work_that_falls_behind_retention_stops_and_says_what_is_lost(broker: Broker, tmp_path: Path) -> None:
    settings = fresh(broker, partitions=1)
    options = configured(tmp_path, settings)
    write(tmp_path / "elsewhere", settings, range(2))
    with process("work", "--no-serve", *options) as work:
        before, house = ends(settings), House(tmp_path / "house")
        assert wait_until(house.snapshot_offset, before, work), said(work)
        work.send_signal(signal.SIGSTOP)
        write(tmp_path / "elsewhere", settings, range(2, 8))  # of which it gets no more than what it had asked for
        keep_for_a_moment(broker, settings.topic)
        high = ends(settings)
        wait_until(lambda: first_kept(settings), high, work)
        work.send_signal(signal.SIGCONT)
        told = ended(work)
    assert f"of partition 0 of {settings.topic} are lost: " in told
    assert f"to {high - 1} were deleted by retention before they were read; keep longer ([kafka] retention)" in told
    assert "were deleted by retention" in tickhouse("work", "--until-drained", *options, code=2)


def test_a_topic_made_anew_stops_who_reads_and_who_writes_it(broker: Broker, tmp_path: Path) -> None:
    settings = fresh(broker)
    options = configured(tmp_path, settings)
    elsewhere = ["--house", tmp_path / "elsewhere", "--config", tmp_path / "t.toml"]
    admin = AdminClient({"bootstrap.servers": broker.servers, "log_level": 0})
    with (
        process("ingest", "--source", "synthetic", *elsewhere) as ingest,
        process("work", "--no-serve", *options) as work,
    ):
        assert wait_until(lambda: reached(tmp_path / "house"), 100, work), said(work)
        admin.delete_topics([settings.topic])[settings.topic].result(60)
        eventually(lambda: made(broker, settings), 120)
        assert "was deleted and made anew since" in ended(work)
        told = ended(ingest)
        assert "was deleted and made anew since" in told or "was not taken by topic" in told


def made(broker: Broker, settings: KafkaSettings) -> bool:
    """Make a topic; False while one of its name is still being deleted."""
    with suppress(KafkaException):
        broker.create_topic(settings.topic, settings.partitions)
        return True
    return False


def keep_for_a_moment(broker: Broker, topic: str) -> None:
    """Let a topic keep its messages for half a second."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    for name in ("retention.ms", "segment.ms"):
        resource.add_incremental_config(ConfigEntry(name, "500", incremental_operation=AlterConfigOpType.SET))
    admin = AdminClient({"bootstrap.servers": broker.servers, "log_level": 0})
    admin.incremental_alter_configs([resource])[resource].result(60)


def first_kept(settings: KafkaSettings) -> int:
    """Return the first offset that partition 0 still has."""
    consumer = Consumer({"bootstrap.servers": settings.servers, "group.id": "ends", "log_level": 0})
    try:
        low: int = consumer.get_watermark_offsets(TopicPartition(settings.topic, 0), 60)[0]
        return low
    finally:
        consumer.close()
