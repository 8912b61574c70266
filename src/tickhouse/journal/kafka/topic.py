"""The topic that is a journal: made where it is missing, identified, and asked where it begins and ends.

`KafkaJournal` gives it the state of a house beside it; whoever only reads ranges (an executor on another machine) needs no
more than this.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import ConfigResource, NewTopic

from tickhouse.errors import ConfigError, NotConnectedError, SchemaMismatchError
from tickhouse.journal.kafka.avro import AvroReader, Registry
from tickhouse.journal.kafka.client import MISSING, PARTITION_END, TOLD, Patience, TopicIdentity, admin, client_config
from tickhouse.journal.kafka.decode import Decoder
from tickhouse.journal.kafka.messages import rules_of
from tickhouse.journal.kafka.reader import READING, KafkaReader
from tickhouse.model import NO_TIME, Feeds
from tickhouse.rules import Rules, parse_duration
from tickhouse.settings import KafkaSettings

__all__ = ["Ends", "KafkaTopic", "TopicIdentity", "another_topic"]

_T = TypeVar("_T")
_MESSAGE_BYTES = 4 << 20
_FEW_MESSAGES, _TAIL_MESSAGES = 8, 1_000
_LOOK_S = 5.0
_BRIEFLY_S = 1.0

_log = structlog.get_logger(__name__)


class Ends(NamedTuple):
    """Where a partition begins and ends."""

    low: int
    """The first offset that is still there."""
    high: int
    """The offset after the last message."""


class KafkaTopic:
    """A topic, opened; use `open`.

    Args:
        settings: Of the house's [kafka].
        identity: What was found.
        patience: Waits for brokers.
        message_bytes: The largest message the topic takes.
    """

    def __init__(self, settings: KafkaSettings, identity: TopicIdentity, patience: Patience, message_bytes: int) -> None:
        self.settings = settings
        self.identity = identity
        self.partitions = identity.partitions
        self.patience = patience
        self.message_bytes = message_bytes
        self.registry = Registry(settings.registry) if settings.registry else None
        self._consumer = self._connected()

    @classmethod
    def open(cls, settings: KafkaSettings, give_up: threading.Event | None = None, *, make: bool = True) -> KafkaTopic:
        """Return the topic of `settings`; waits while no broker can be reached.

        Args:
            settings: Which topic, where.
            give_up: Set = stop waiting; set from the first = never wait.
            make: Make it where there is none.

        Raises:
            ConfigError: the brokers refuse who we are, or the topic.
            NotConnectedError: told to give up waiting, or there is no such topic and none is to be made.
        """
        patience = Patience(settings.servers, give_up)
        opening = f"opening topic {settings.topic}"
        if not patience.call(opening, lambda timeout: _exists(settings, patience, timeout)):
            if not make:
                raise NotConnectedError(f"there is no topic {settings.topic} at {settings.servers}")
            patience.call(f"making topic {settings.topic}", lambda timeout: _create(settings, patience, timeout))
        # A topic just made is not known to every broker at once: that there is none is not believed for a while.
        identity = patience.call(opening, lambda timeout: _identify(settings, patience, timeout))
        limit = patience.call(
            f"asking about topic {settings.topic}", lambda timeout: _message_bytes(settings, patience, timeout)
        )
        return cls(settings, identity, patience, limit)

    def ends(self, partition: int) -> Ends:
        """Return where a partition begins and ends now; waits for a broker."""
        at = TopicPartition(self.settings.topic, partition)
        low, high = self._ask("asking where {} ends", lambda timeout: self._consumer.get_watermark_offsets(at, timeout))
        return Ends(low, high)

    def ends_if_told(self, partition: int) -> Ends | None:
        """The same, for who does not wait for a broker: None where none answers within a second."""
        at = TopicPartition(self.settings.topic, partition)
        try:
            return Ends(*self._consumer.get_watermark_offsets(at, _BRIEFLY_S))
        except (KafkaException, RuntimeError):  # whoever reads tells what that means; another thread may connect anew
            return None

    def must_be_same(self) -> None:
        """See that the topic is the one that was opened; nothing is said where no broker answers at the moment.

        The library goes on with another topic of the same name, at the same offsets. Asked every few seconds.

        Raises:
            SchemaMismatchError: it was deleted and made anew, or has another number of partitions.
        """
        try:
            found = _identify(self.settings, self.patience, _LOOK_S)
        except KafkaException:  # whoever reads or writes tells what that means
            return
        if found != self.identity:
            raise SchemaMismatchError(another_topic("it was opened", self.identity, found))

    def rules(self) -> Rules | None:
        """Return the rules that stand first in partition 0; None where another program's messages do, or where it is empty."""
        messages = self._some(0, 0, 1)
        if not messages or messages[0][0] != 0:
            return None
        message = self._decoder(0, Feeds(), NO_TIME, makes_beats=False).message(messages[0][1])
        return rules_of(message) if message is not None and message.type == "rules" else None

    def makes_beats(self) -> bool | None:
        """Say whether another program writes this topic: then heartbeats are made from record times. None while it is empty."""
        decoder = self._decoder(0, Feeds(), NO_TIME, makes_beats=False)
        is_empty = True
        for count in (_FEW_MESSAGES, _TAIL_MESSAGES):  # ours begin with the rules; a thousand batches would take a while
            for partition in range(self.partitions):
                for _, payload in self._some(partition, self.ends(partition).low, count):
                    is_empty = False
                    message = decoder.message(payload)
                    if message is not None and message.type in {"rules", "heartbeat"}:
                        return False
        return None if is_empty else True

    def last_clock(self, partition: int, before: int | None = None) -> int:
        """Return the last heartbeat of a partition, below offset `before` where it is given; NO_TIME where there is none."""
        decoder = self._decoder(0, Feeds(), NO_TIME, makes_beats=False)
        low, high = self.ends(partition)
        high = high if before is None else min(high, before)
        size = _TAIL_MESSAGES
        while high > low:
            begin = max(low, high - size)
            for _, payload in reversed(self._some(partition, begin, high - begin)):
                message = decoder.message(payload)
                if message is not None and message.type == "heartbeat" and message.clock is not None:
                    return message.clock
            high, size = begin, 10 * size
        return NO_TIME

    def reader(
        self,
        partition: int,
        start: int,
        feeds: Feeds,
        *,
        clock: int | None = None,
        until: int | None = None,
        makes_beats: bool | None = None,
        gathers: bool = False,
    ) -> KafkaReader:
        """Return a reader from offset `start` on, interning into `feeds`.

        Args:
            partition: Which one.
            start: The first offset wanted.
            feeds: The pipeline's.
            clock: The last heartbeat before `start`; None = not known: where heartbeats are made it is found by reading.
            until: Read up to this offset and no further: the reader is then exhausted. None = for ever.
            makes_beats: The topic has no heartbeats: make them from the records' times (rule R3). None = find out.
            gathers: See `KafkaReader`.

        Raises:
            LogCorruptError: messages from `start` on are gone, or the topic ends before it.
        """
        if not 0 <= partition < self.partitions:
            raise ConfigError(f"topic {self.settings.topic} has partitions 0 to {self.partitions - 1}, not {partition}")
        if makes_beats is None:
            makes_beats = self.makes_beats()
        if clock is None:
            clock = self._made_clock(partition, start) if makes_beats else NO_TIME
        decoder = self._decoder(partition, feeds, clock, makes_beats=makes_beats)
        return KafkaReader(self, partition, start, decoder, until, gathers=gathers)

    def close(self) -> None:
        """Release the connections."""
        self._consumer.close()
        if self.registry is not None:
            self.registry.close()

    def last(self, partition: int) -> bytes | None:
        """Return the last message of a partition; None where it has none, or a tombstone there."""
        low, high = self.ends(partition)
        while high > low:
            found = self._consume(partition, high - 1, 1)
            if found:
                return found[0].value() or None
            high -= 1  # the end of a transaction
        return None

    def tail(self, partition: int) -> tuple[int, list[tuple[str, bytes]]] | None:
        """Return (offset, headers) of a partition's last message; None where it has none."""
        low, high = self.ends(partition)
        while high > low:
            found = self._consume(partition, high - 1, 1)
            if found:
                return found[0].offset(), found[0].headers() or []
            high -= 1
        return None

    def _decoder(self, partition: int, feeds: Feeds, clock: int, *, makes_beats: bool | None) -> Decoder:
        avro = AvroReader(self.registry) if self.registry is not None else None
        return Decoder(partition, feeds, avro, clock, makes_beats=makes_beats)

    def _some(self, partition: int, start: int, count: int) -> list[tuple[int, bytes]]:
        return [(message.offset(), message.value() or b"") for message in self._consume(partition, start, count)]

    def _consume(self, partition: int, start: int, count: int) -> list[Message]:
        """Return up to `count` messages from `start` on, fewer at the end of the partition."""
        low, high = self.ends(partition)
        start = max(start, low)
        if start >= min(high, start + count):
            return []
        at = TopicPartition(self.settings.topic, partition, start)

        def read(timeout: float) -> list[Message]:
            self._consumer.assign([at])
            try:
                return _drain(self._consumer, count, timeout)
            finally:
                self._consumer.unassign()

        return self._ask("reading {}", read)

    def _ask(self, what: str, work: Callable[[float], _T]) -> _T:
        """Return what `work` returns; where it finds no such topic or partition, it is tried again by a new connection.

        One that was made while the topic was, or the broker started, may have learned of a part of it, and keeps to that.
        """

        def tried(timeout: float) -> _T:
            try:
                return work(timeout)
            except KafkaException as error:
                if error.args[0].code() in MISSING:
                    self._consumer.close()
                    self._consumer = self._connected()
                raise

        return self.patience.call(what.format(self.settings.topic), tried)

    def _connected(self) -> Consumer:
        return Consumer({**client_config(self.settings), **READING, "enable.partition.eof": True, **TOLD})

    def _made_clock(self, partition: int, start: int) -> int:
        """Return the heartbeat that record times below `start` make, by reading them all."""
        low = min(start, self.ends(partition).low)
        with self.reader(partition, low, Feeds(), clock=NO_TIME, until=start, makes_beats=True) as reader:
            while not reader.exhausted:
                reader.read(1.0)
            return reader.clock


def another_topic(since: str, known: TopicIdentity, found: TopicIdentity) -> str:
    """Return what to say of a topic that is not the one it was, though it has its name.

    Args:
        since: What it is known since, e.g. "house/ read it".
        known: What it was.
        found: What it is.
    """
    if known.topic_id != found.topic_id:
        return (
            f"topic {found.topic} was deleted and made anew since {since}: everything in it that was not read is lost; "
            "begin a new house for the new topic"
        )
    return (
        f"topic {found.topic} has {found.partitions} partitions, but had {known.partitions} when {since}: symbols are in other "
        "partitions now; make a new topic with the number you want, and a new house for it (docs/scale.md)"
    )


def _drain(consumer: Consumer, count: int, timeout: float) -> list[Message]:
    """Return up to `count` messages, fewer where the partition ends or nothing comes for `timeout` seconds."""
    found: list[Message] = []
    while len(found) < count:
        first = consumer.poll(timeout)
        if first is None:
            return found
        # `consume` with a timeout would wait until there are as many as asked for, though the partition has ended.
        for message in [first, *consumer.consume(count - len(found) - 1, 0)]:
            error = message.error()
            if error is None:
                found.append(message)
            elif error.code() == PARTITION_END:
                return found
            else:
                raise KafkaException(error)
    return found


def _exists(settings: KafkaSettings, patience: Patience, timeout: float) -> bool:
    try:
        _identify(settings, patience, timeout)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return False
        raise
    return True


def _identify(settings: KafkaSettings, patience: Patience, timeout: float) -> TopicIdentity:
    with admin(settings, patience) as client:
        cluster = client.list_topics(timeout=timeout).cluster_id or ""
        described = client.describe_topics(TopicCollection([settings.topic]), request_timeout=timeout)[settings.topic]
        found = described.result(timeout + 1)
    return TopicIdentity(cluster, settings.topic, str(found.topic_id), len(found.partitions))


def _create(settings: KafkaSettings, patience: Patience, timeout: float) -> None:
    config = {
        "retention.ms": str(parse_duration(settings.retention) // 1_000),
        "max.message.bytes": str(_MESSAGE_BYTES),
        "cleanup.policy": "delete",
    }
    topic = NewTopic(settings.topic, settings.partitions, settings.replication, config=config)
    try:
        with admin(settings, patience) as client:
            client.create_topics([topic], request_timeout=timeout)[settings.topic].result(timeout + 1)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
    _log.info("kafka_topic_made", topic=settings.topic, partitions=settings.partitions)


def _message_bytes(settings: KafkaSettings, patience: Patience, timeout: float) -> int:
    resource = ConfigResource(ConfigResource.Type.TOPIC, settings.topic)
    with admin(settings, patience) as client:
        found = client.describe_configs([resource], request_timeout=timeout)[resource].result(timeout + 1)
    return int(found["max.message.bytes"].value)
