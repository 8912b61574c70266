"""Publishes tables to topics for other programs: each row once, as JSON, in a transaction with the position it reaches.

A sink like the lake, handed to the engine where `[kafka] publish` names tables. A table's topic has the partitions of the
house's journal; the last message of each is how far that partition has come, so a restart goes on there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import KafkaException, Producer

from tickhouse.errors import ConfigError, TransientError
from tickhouse.journal.kafka.client import TOLD, client_config, meaning
from tickhouse.journal.kafka.topic import KafkaTopic
from tickhouse.model import Position
from tickhouse.settings import KafkaSettings
from tickhouse.tables import TABLES

__all__ = ["KafkaPublisher", "PublishedRows"]

_TIMEOUT_S = 30.0


class _Told(msgspec.Struct, frozen=True):
    """The last message of each partition."""

    type: Literal["position"]
    partition: int
    offset: int
    clock: int


_TOLD = msgspec.json.Decoder(_Told)


class PublishedRows(Protocol):
    """What a pipeline made, as sinks get it."""

    @property
    def partition(self) -> int:
        """Of the journal."""
        ...

    @property
    def position(self) -> Position:
        """Reached with these rows."""
        ...

    @property
    def tables(self) -> Mapping[str, pa.Table]:
        """By table name."""
        ...


class KafkaPublisher:
    """The sink of published tables; used by one engine, from one thread.

    Args:
        settings: Which tables, where.
        partitions: Of the house's journal.
        holder: Names the house: a second publisher of the same name ends the first.
        begin: Where each partition's publishing begins that never published: what was made before is not published.

    Raises:
        ConfigError: a table that the house does not know.
    """

    name = "kafka"

    def __init__(self, settings: KafkaSettings, partitions: int, holder: str, begin: list[Position]) -> None:
        for table in settings.publish:
            if table not in TABLES:
                raise ConfigError(f"[kafka] publish names {table!r}; there are {', '.join(TABLES)}")
        self._settings = settings
        self._topics = {table: _opened(settings, table, partitions) for table in settings.publish}
        self._reached = {
            (table, partition): _position(topic, partition) or begin[partition]
            for table, topic in self._topics.items()
            for partition in range(partitions)
        }
        self._rows: dict[tuple[str, int], list[tuple[bytes | None, bytes]]] = {}
        self._written: dict[tuple[str, int], Position] = {}
        self._producer = Producer(
            {
                **client_config(settings),
                "transactional.id": f"tickhouse-publish.{holder}",
                "compression.type": "lz4",
                **TOLD,
            }
        )
        self._guarded(lambda: self._producer.init_transactions(_TIMEOUT_S))

    def positions(self, partition: int) -> dict[str, Position]:
        """Return how far each published table has come."""
        return {table: self._reached[table, partition] for table in self._topics}

    def write(self, outputs: PublishedRows) -> None:
        """Take rows of the published tables; those that their topic has are skipped."""
        for table in self._topics:
            place = (table, outputs.partition)
            reached = self._written.get(place, self._reached[place])
            if outputs.position.offset <= reached.offset:
                continue
            rows = outputs.tables.get(table)
            if rows is not None:
                new = rows.filter(pc.greater_equal(rows.column("offset"), reached.offset))
                self._rows.setdefault(place, []).extend(_messages(table, new))
            self._written[place] = outputs.position

    def commit(self, *, everything: bool = False) -> None:
        """Publish what was written, each partition of a table with its position, in one transaction.

        Raises:
            TransientError: nothing was published; try again.
        """
        places = list(self._written) if everything else [place for place in self._written if self._rows.get(place)]
        if not places:
            return
        self._guarded(lambda: self._publish(places))
        for place in places:
            self._reached[place] = self._written.pop(place)
            self._rows.pop(place, None)

    def check(self) -> str:
        """Return a line that says where tables are published."""
        return f"Kafka {self._settings.servers}: " + ", ".join(topic.settings.topic for topic in self._topics.values())

    def close(self) -> None:
        """Release the connections without publishing."""
        self._producer.purge()
        for topic in self._topics.values():
            topic.close()

    def _publish(self, places: list[tuple[str, int]]) -> None:
        self._producer.begin_transaction()
        try:
            for table, partition in places:
                topic = self._topics[table].settings.topic
                for key, row in self._rows.get((table, partition), ()):
                    self._producer.produce(topic, row, key, partition)
                    self._producer.poll(0)
                position = self._written[table, partition]
                told = _Told("position", partition, *position)
                self._producer.produce(topic, msgspec.json.encode(told), None, partition)
            self._producer.commit_transaction(_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].txn_requires_abort():
                self._producer.abort_transaction(_TIMEOUT_S)
            raise

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except BufferError as full:
            self._producer.abort_transaction(_TIMEOUT_S)
            raise TransientError(f"Kafka at {self._settings.servers} takes nothing at the moment") from full
        except KafkaException as failed:
            error = failed.args[0]
            if error.retriable() or error.txn_requires_abort():
                raise TransientError(f"publishing to Kafka at {self._settings.servers} failed: {error.str()}") from failed
            raise meaning(error, "publishing", self._settings.servers) from failed


def _opened(settings: KafkaSettings, table: str, partitions: int) -> KafkaTopic:
    own = {"topic": f"{settings.prefix}{table}", "partitions": partitions, "registry": None}
    topic = KafkaTopic.open(settings.model_copy(update=own))
    if topic.partitions != partitions:
        raise ConfigError(
            f"topic {topic.settings.topic} has {topic.partitions} partitions, the house {partitions}: "
            "delete it, or set another [kafka] prefix"
        )
    return topic


def _position(topic: KafkaTopic, partition: int) -> Position | None:
    """Return the position that the last message of a partition tells; None where nothing was ever published."""
    payload = topic.last(partition)
    if payload is None:
        return None
    try:
        told = _TOLD.decode(payload)
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f"topic {topic.settings.topic} holds something that this house did not publish: set another [kafka] prefix"
        ) from error
    return Position(told.offset, told.clock)


def _messages(table: str, rows: pa.Table) -> list[tuple[bytes | None, bytes]]:
    """Return (key, message) of each row; times are whole microseconds."""
    spelled = [
        column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column.cast(TABLES[table].schema.field(name).type)
        for name, column in zip(rows.column_names, rows.columns, strict=True)
    ]
    found = []
    for row in pa.table(spelled, names=rows.column_names).to_pylist():
        symbol = row.get("symbol")
        key = f"{row['venue']}:{symbol}".encode() if symbol else None
        found.append((key, msgspec.json.encode({"type": table, **row})))
    return found
