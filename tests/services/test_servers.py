"""The servers that tests rest on: they answer, keep what they promise over a crash, and leave nothing running."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from tests.services.kafka import Broker
from tests.services.maven import ServiceMissingError, fetch
from tests.services.registry import Registry


def test_acknowledged_messages_survive_a_killed_broker(tmp_path: Path) -> None:
    server = Broker(tmp_path / "kafka").start()
    try:
        server.create_topic("kept")
        producer = Producer({"bootstrap.servers": server.servers, "enable.idempotence": True, "log_level": 0})
        for number in range(500):
            producer.produce("kept", str(number))
        assert producer.flush(30) == 0
        server.kill()
        server.start()
        consumer = Consumer({"bootstrap.servers": server.servers, "group.id": "reader", "log_level": 0})
        consumer.assign([TopicPartition("kept", 0, 0)])
        found = consumer.consume(500, 30)
        consumer.close()
        assert [message.value() for message in found] == [str(number).encode() for number in range(500)]
    finally:
        server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_registry_refuses_an_incompatible_schema(registry: Registry) -> None:
    wider = '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"%s}]}'
    with SchemaRegistryClient({"url": registry.url}) as client:
        client.set_compatibility("servers", level="BACKWARD")
        client.register_schema("servers", Schema('{"type": "record", "name": "R", "fields": []}', "AVRO"))
        assert client.test_compatibility("servers", Schema(wider % ', "default": 0', "AVRO"))
        assert not client.test_compatibility("servers", Schema(wider % "", "AVRO"))


def test_without_maven_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pom = tmp_path / "thing-pom.xml"
    pom.write_text("<project/>", "utf-8")
    monkeypatch.setenv("TICKHOUSE_SERVICES", str(tmp_path / "cache"))
    monkeypatch.setattr("tests.services.maven.shutil.which", lambda name, path=None: "/x/java" if name == "java" else None)
    with pytest.raises(ServiceMissingError, match="mvn is missing: install Maven"):
        fetch(pom)
    monkeypatch.setattr("tests.services.maven.shutil.which", lambda name, path=None: None)
    with pytest.raises(ServiceMissingError, match="java is missing: install a Java 17"):
        fetch(pom)
