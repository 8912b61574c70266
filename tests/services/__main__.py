"""`make services`: fetches every server, starts each once, asks it something, and stops it."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.services.kafka import Broker
from tests.services.maven import ServiceMissingError, cache
from tests.services.registry import Registry
from tests.services.server import ServerFailedError


def _check_kafka(folder: Path) -> str:
    from confluent_kafka import Consumer, Producer, TopicPartition

    with Broker(folder) as broker:
        at = {"bootstrap.servers": broker.servers, "log_level": 0}
        broker.create_topic("check")
        producer = Producer(at)
        for number in range(1_000):
            producer.produce("check", str(number))
        producer.flush(30)
        consumer = Consumer({**at, "group.id": "check"})
        consumer.assign([TopicPartition("check", 0, 0)])
        found = consumer.consume(1_000, 30)
        consumer.close()
        if [message.value() for message in found] != [str(number).encode() for number in range(1_000)]:
            raise ServiceMissingError(f"Kafka gave back {len(found)} of 1,000 messages")
        return "1,000 messages written and read"


def _check_registry(folder: Path) -> str:
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

    with Registry(folder) as registry, SchemaRegistryClient({"url": registry.url}) as client:
        client.register_schema("check", Schema('{"type": "string"}', "AVRO"))
        return f"subjects {client.get_subjects()}"


def main() -> int:
    """Fetch and check all of them."""
    print(f"services: cached in {cache()}; Spark comes with the Python packages", flush=True)
    with tempfile.TemporaryDirectory(prefix="tickhouse-services-") as folder:
        for name, check in (("kafka", _check_kafka), ("registry", _check_registry)):
            began = time.monotonic()
            try:
                told = check(Path(folder) / name)
            except (ServiceMissingError, ServerFailedError) as error:
                print(f"services: {name} cannot be used: {error}", file=sys.stderr)
                return 1
            print(f"services: {name} works: {told} ({time.monotonic() - began:.1f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
