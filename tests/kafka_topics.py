"""Topics for tests: settings of a fresh one, records to put there, and a producer that knows nothing of Tickhouse."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from tests.services.kafka import Broker
from tickhouse.model import Feed, Trade
from tickhouse.settings import KafkaSettings

__all__ = ["T0", "counter", "ends", "feed", "fresh", "group_offsets", "plain_messages", "produce", "trade"]

T0 = 1_768_478_400_000_000
"""2026-01-15 12:00 UTC."""
_NUMBERS = itertools.count()


def fresh(broker: Broker, **more: Any) -> KafkaSettings:
    """Return the settings of a topic that does not exist yet."""
    return KafkaSettings(**{"servers": broker.servers, "topic": f"ticks-{next(_NUMBERS)}", "partitions": 2, **more})


def feed(symbol: str = "BTC-USDT", **more: Any) -> Feed:
    """Return a feed."""
    fields = {"source": "s", "venue": "BINANCE", "id_space": "trade", "identity": "contiguous", "provider_symbol": "X", **more}
    return Feed(symbol=symbol, **fields)


def trade(number: int, of: Feed | None = None, **more: Any) -> Trade:
    """Return the trade with id `number`, a millisecond after the one before."""
    return Trade(
        **{"feed": of or feed(), "ts": T0 + 1_000 * number, "price": 100.5 + number, "size": 0.25, "trade_id": number, **more}
    )


def produce(settings: KafkaSettings, values: Sequence[Any], partition: int = 0, **more: Any) -> None:
    """Write messages as any program may: objects as JSON, bytes as they are, None as a tombstone."""
    producer = Producer({"bootstrap.servers": settings.servers, "log_level": 0, "message.max.bytes": 8 << 20})
    for value in values:
        payload = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        producer.produce(settings.topic, payload, partition=partition, **more)
    assert producer.flush(30) == 0


def plain_messages(settings: KafkaSettings, partition: int) -> list[Message]:
    """Read a partition from its beginning to its end with nothing but the client library."""
    consumer = Consumer({"bootstrap.servers": settings.servers, "group.id": "plain", "log_level": 0})
    at = TopicPartition(settings.topic, partition, 0)
    try:
        _, high = consumer.get_watermark_offsets(at, 30)
        consumer.assign([at])
        found: list[Message] = []
        while len(found) < high:
            found += consumer.consume(high - len(found), 10)
        return found
    finally:
        consumer.close()


@contextmanager
def counter(settings: KafkaSettings) -> Iterator[Callable[[], int]]:
    """Give a function that returns how many messages a topic has; 0 where there is none, or no broker."""
    consumer = Consumer({"bootstrap.servers": settings.servers, "group.id": "ends", "log_level": 0})

    def count() -> int:
        marks = []
        for partition in range(settings.partitions):
            try:
                marks.append(consumer.get_watermark_offsets(TopicPartition(settings.topic, partition), 2))
            except KafkaException:
                return 0
        return sum(high for _, high in marks)

    try:
        yield count
    finally:
        consumer.close()


def ends(settings: KafkaSettings) -> int:
    """Return how many messages a topic has; 0 where there is none."""
    consumer = Consumer({"bootstrap.servers": settings.servers, "group.id": "ends", "log_level": 0})
    try:
        places = [TopicPartition(settings.topic, partition) for partition in range(settings.partitions)]
        return sum(consumer.get_watermark_offsets(place, 60)[1] for place in places)
    except KafkaException as error:
        if error.args[0].code() in {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC}:
            return 0
        raise
    finally:
        consumer.close()


def group_offsets(settings: KafkaSettings) -> dict[str, list[tuple[int, int]]]:
    """Return what every consumer group has committed of a topic: (partition, offset)."""
    admin = AdminClient({"bootstrap.servers": settings.servers, "log_level": 0})
    found = {}
    for group in admin.list_consumer_groups().result(60).valid:
        asked = ConsumerGroupTopicPartitions(group.group_id)
        told = admin.list_consumer_group_offsets([asked])[group.group_id].result(60).topic_partitions
        found[group.group_id] = sorted((one.partition, one.offset) for one in told if one.topic == settings.topic)
    return {group: offsets for group, offsets in found.items() if offsets}
