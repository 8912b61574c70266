"""Published tables: each row once, with the position in its transaction; a plain consumer reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench.standard_work import write
from confluent_kafka import Consumer, TopicPartition

from tests.kafka_topics import fresh
from tests.services.kafka import Broker
from tests.table_rows import bar, rows
from tests.test_cli import tickhouse
from tickhouse.errors import ConfigError
from tickhouse.journal.kafka.publisher import KafkaPublisher
from tickhouse.model import Position
from tickhouse.settings import KafkaSettings
from tickhouse.sinks.base import Outputs
from tickhouse.sinks.lake import LakeTables


def publishing(broker: Broker, **more) -> KafkaSettings:
    settings = fresh(broker, publish=("gold.bars",), **more)
    return settings.model_copy(update={"prefix": f"{settings.topic}."})


def opened(settings: KafkaSettings) -> KafkaPublisher:
    return KafkaPublisher(settings, 1, settings.topic, [Position()])


def published(settings: KafkaSettings, partition: int = 0) -> list[dict]:
    """Return the rows on the topic, as a program reads them that knows nothing of us."""
    consumer = Consumer({"bootstrap.servers": settings.servers, "group.id": "p", "log_level": 0, "enable.partition.eof": True})
    consumer.assign([TopicPartition(f"{settings.prefix}gold.bars", partition, 0)])
    found = []
    while (message := consumer.poll(30)) is not None and message.error() is None:
        found.append(json.loads(message.value()))
    consumer.close()
    return [row for row in found if row["type"] == "gold.bars"]


def bars(*offsets: int) -> dict:
    return {"gold.bars": rows("gold.bars", [bar(offset, offset * 60_000_000) for offset in offsets])}


def test_rows_are_published_once_whatever_is_offered_again(broker: Broker):
    settings = publishing(broker)
    sink = opened(settings)
    sink.write(Outputs(0, Position(3, 7), bars(1, 2)))
    sink.commit()
    sink.write(Outputs(0, Position(5, 8), bars(4)))
    sink.close()  # as a kill does: written, not committed
    sink = opened(settings)
    assert sink.positions(0) == {"gold.bars": Position(3, 7)}
    sink.write(Outputs(0, Position(5, 8), bars(1, 2, 4)))
    sink.write(Outputs(0, Position(6, 9), {}))
    sink.commit(everything=True)
    sink.close()
    assert opened(settings).positions(0) == {"gold.bars": Position(6, 9)}
    assert [row["offset"] for row in published(settings)] == [1, 2, 4]


def test_what_was_made_before_publishing_began_is_not_published(broker: Broker):
    settings = publishing(broker)
    sink = KafkaPublisher(settings, 1, settings.topic, [Position(2, 5)])
    sink.write(Outputs(0, Position(4, 6), bars(1, 3)))
    sink.commit()
    sink.close()
    assert [row["offset"] for row in published(settings)] == [3]


def test_a_table_that_is_none_is_named(broker: Broker):
    with pytest.raises(ConfigError, match=r"publish names 'gold.bar'"):
        KafkaPublisher(fresh(broker, publish=("gold.bar",)), 1, "x", [Position()])


def test_a_house_publishes_the_bars_that_it_stores(broker: Broker, tmp_path: Path):
    settings = publishing(broker)
    write(tmp_path / "market.ndjson", 20_000, 20, 1)
    (tmp_path / "t.toml").write_text(
        f'[journal]\nkind = "kafka"\n[kafka]\nservers = "{settings.servers}"\ntopic = "{settings.topic}"\npartitions = 2\n'
        f'publish = ["gold.bars"]\nprefix = "{settings.prefix}"\n',
        "utf-8",
    )
    options = ["--house", tmp_path / "house", "--config", tmp_path / "t.toml"]
    tickhouse("replay", tmp_path / "market.ndjson", "--to", "kafka", *options)
    tickhouse("work", "--until-drained", *options)
    stored = LakeTables(tmp_path / "house" / "lake").table("gold.bars").to_pylist()
    found = [row for partition in range(2) for row in published(settings, partition)]
    spelled = {(row["symbol"], row["interval"], row["start"], row["revision"], row["close"], row["volume"]) for row in found}
    assert len(found) == len(stored) > 50
    assert spelled == {
        (
            row["symbol"],
            row["interval"],
            int(row["start"].timestamp()) * 1_000_000,
            row["revision"],
            row["close"],
            row["volume"],
        )
        for row in stored
    }
