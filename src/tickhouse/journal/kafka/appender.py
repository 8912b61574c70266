"""Writes a topic: ingest's records, or a recording's, as messages in the house's form.

Trades go to the partition of their key `venue:symbol`; heartbeats to every partition; an event of a symbol with its trades;
rejected bytes and all else to partition 0. The producer is idempotent and waits for all replicas, so that within a partition
messages are there in order, once. A message from a recording names its place there in a header: after a kill each partition
goes on after its own last one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import structlog
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Delivered

from tickhouse.columns import TradesBuilder, take_trades
from tickhouse.errors import ConfigError, FatalError
from tickhouse.journal.codec import bounded
from tickhouse.journal.kafka.avro import AvroForm
from tickhouse.journal.kafka.client import TOLD, client_config, meaning
from tickhouse.journal.kafka.forms import ARROW_ROWS, ArrowForm, Form, JsonForm, numbers_of
from tickhouse.journal.kafka.lease import Lease
from tickhouse.journal.kafka.messages import Message, event_message, partition_of, rejected_message, rules_message
from tickhouse.journal.kafka.topic import KafkaTopic
from tickhouse.model import I32, MAX_PAYLOAD_BYTES, NO_TIME, Event, Feed, Feeds, Rejected, Trade, Trades
from tickhouse.rules import Rules

__all__ = ["PLACE_HEADER", "KafkaAppender"]

PLACE_HEADER = "tickhouse-place"
"""Header of a message from a recording: `<recording>:<line>:<row>`."""

_PRODUCING: dict[str, Any] = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "lz4",
    "linger.ms": 1,
    "message.timeout.ms": 0,  # a broker that is away is waited for
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 256 << 10,
    "delivery.report.only.error": True,
}
_FLUSH_S = 5.0
_FULL_S = 0.05
_SETTLE_S = 0.5
_log = structlog.get_logger(__name__)


class KafkaAppender:
    """The one writer of a topic.

    Args:
        topic: Opened.
        rules: Written first in every partition of an empty topic.
        holder: Names who writes, for the lease.

    Raises:
        HouseLockedError: another ingest writes the topic.
        ConfigError: the topic holds another program's messages and no heartbeats, or was begun with other rules.
    """

    def __init__(self, topic: KafkaTopic, rules: Rules, holder: str) -> None:
        self._topic = topic
        self._name = topic.settings.topic
        self._lease = Lease(topic, holder)
        self._lease.__enter__()
        try:
            self._begin(rules)
        except BaseException:
            self._lease.__exit__(None, None, None)
            raise

    def _begin(self, rules: Rules) -> None:
        topic = self._topic
        self._form = _form(topic)
        self._error: KafkaError | None = None
        largest = {"message.max.bytes": topic.message_bytes, "batch.size": min(1 << 20, topic.message_bytes)}
        config = {**client_config(topic.settings), **_PRODUCING, **largest, **TOLD, "on_delivery": self._delivered}
        self._producer = Producer(config)
        self._feeds = Feeds()
        self._keys: list[tuple[int, bytes]] = []
        """(partition, key) of each feed."""
        self._builder = TradesBuilder()
        self._clocks = [topic.last_clock(partition) for partition in range(topic.partitions)]
        self._reached: list[tuple[int, int]] = [(-1, 0)] * topic.partitions
        """In each partition, the place of a recording that it has reached."""
        self._place: tuple[int, int] | None = None
        self._recording = ""
        self._begin_partitions(rules)

    def last_clock(self) -> int:
        """Return the last heartbeat of any partition, NO_TIME where there is none."""
        return max(self._clocks)

    # From a recording.

    def resume(self, recording: str) -> int:
        """Take what follows for the recording of this name; return the line to go on from: records that are there are left out.

        Raises:
            ConfigError: the topic's last messages are not a recording's.
        """
        self._recording = recording
        self._settle()
        for partition in range(self._topic.partitions):
            tail = self._topic.tail(partition)
            if tail is None or tail[0] == 0:
                continue  # the rules alone
            place = dict(tail[1]).get(PLACE_HEADER)
            if place is None:
                raise ConfigError(
                    f"the last message in partition {partition} of {self._name} is not from a recording: "
                    "send recordings to a topic of their own ([kafka] topic)"
                )
            name, line, row = place.decode().split(":")
            if name == recording:
                self._reached[partition] = (int(line), int(row))
        return max(0, min(self._reached)[0])

    def _settle(self) -> None:
        """Wait until nothing comes any more: what a killed producer had handed to the network may still arrive."""
        before: list[int] = []
        while True:
            now = [self._topic.ends(partition).high for partition in range(self._topic.partitions)]
            if now == before or max(now) <= 1:
                return
            before = now
            time.sleep(_SETTLE_S)

    def place(self, line: int, row: int) -> None:
        """Say where in the recording the next record stands; trades in columns say it themselves."""
        self._seal()
        self._place = (line, row)

    def reached(self, line: int) -> None:
        """Take note of nothing: each message names its place."""

    def columns(self, trades: Trades, feeds: Feeds) -> None:
        """Append trades that are columns already, with feed codes of `feeds`; their offsets and rows are their places."""
        self._seal()
        found, first = np.unique(trades.feed, return_index=True)
        own = np.zeros(len(feeds), np.int32)
        for code in found[np.argsort(first)].tolist():
            own[code] = self._code(feeds.feeds[code])
        self._put_trades(trades, own[trades.feed], placed=bool(self._recording))

    # From ingest.

    def trades(self, trades: Sequence[Trade], received_at: int) -> None:
        """Append the trades of one payload, in order."""
        for trade in trades:
            self._builder.add(trade, self._code(trade.feed), received_at, 0, 0)
        if len(self._builder) >= ARROW_ROWS:
            self._seal()

    def rejected(self, rejected: Rejected) -> None:
        """Append a payload that became no trade."""
        self._seal()
        self._put(0, None, self._fitting(rejected))

    def event(self, event: Event) -> None:
        """Append a feed event: one of a symbol with its trades."""
        self._seal()
        partition = 0
        if event.venue is not None and event.symbol is not None:
            partition = partition_of(event.venue, event.symbol, self._topic.partitions)
        self._put(partition, None, self._form.message(event_message(event)))

    def heartbeat(self, clock: int) -> None:
        """Append a heartbeat to every partition that has not reached it; a live one is above all of them."""
        self._seal()
        if self._place is None and clock <= max(self._clocks):
            raise FatalError(f"a heartbeat of {clock} after one of {max(self._clocks)}: the clock never goes back")
        payload = self._form.message(Message(type="heartbeat", clock=clock))
        for partition, last in enumerate(self._clocks):
            if clock > last:
                self._clocks[partition] = clock
                self._put(partition, None, payload)

    def ignored(self, count: int) -> None:
        """Count documented messages that are not taken."""
        if count:
            self._seal()
            self._put(0, None, self._form.message(Message(type="ignored", count=count)))

    def flush(self) -> None:
        """Wait until everything appended is acknowledged by all replicas.

        A broker that is away is waited for.

        Raises:
            FatalError: the topic is another's to write by now, or refuses a message.
        """
        self._seal()
        self._lease.check()
        since = time.monotonic()
        told = False
        while self._producer.flush(_FLUSH_S):
            self._raise_failed()
            if not told:
                _log.warning("kafka_flush_waits", servers=self._topic.settings.servers, hint="the broker is away or slow")
                told = True
        self._raise_failed()
        if told:
            _log.warning("kafka_flush_done", after_s=round(time.monotonic() - since, 1))

    def close(self) -> None:
        """Flush and release."""
        try:
            self.flush()
        finally:
            self._producer.purge()
            self._lease.__exit__(None, None, None)

    def _begin_partitions(self, rules: Rules) -> None:
        """Write the rules first in every partition that is empty."""
        if self._topic.makes_beats():
            raise ConfigError(
                f"topic {self._name} holds messages of another program and no heartbeats: `tickhouse work` reads it as it is; "
                "ingest needs a topic of its own ([kafka] topic)"
            )
        begun = self._topic.rules()
        if begun is not None and begun != rules:
            raise ConfigError(
                f"topic {self._name} was begun with other rules than those asked for: a topic keeps its rules; use another"
            )
        payload = self._form.message(rules_message(rules))
        for partition in range(self._topic.partitions):
            if self._topic.ends(partition).high == 0:
                self._put(partition, None, payload)
        self.flush()

    def _code(self, feed: Feed) -> int:
        code = self._feeds.code(feed)
        if code == len(self._keys):
            partition = partition_of(feed.venue, feed.symbol, self._topic.partitions)
            self._keys.append((partition, f"{feed.venue}:{feed.symbol}".encode()))
        return code

    def _seal(self) -> None:
        if len(self._builder):
            trades = self._builder.build()
            self._builder = TradesBuilder()
            self._put_trades(trades, trades.feed, placed=False)

    def _put_trades(self, trades: Trades, codes: I32, *, placed: bool) -> None:
        partitions = np.array([partition for partition, _ in self._keys], np.int32)[codes]
        if placed:
            reached = np.array(self._reached, np.int64)[partitions]
            is_new = (trades.offset > reached[:, 0]) | ((trades.offset == reached[:, 0]) & (trades.row > reached[:, 1]))
            if not is_new.all():
                trades, codes, partitions = take_trades(trades, is_new), codes[is_new], partitions[is_new]
        trades = replace(trades, feed=codes)
        if self._form.batches:
            self._put_batches(trades, partitions, placed=placed)
        else:
            self._put_each(trades, placed=placed)

    def _put_each(self, trades: Trades, *, placed: bool) -> None:
        places: Sequence[Any] = [None] * len(trades)
        if placed:
            places = list(zip(trades.offset.tolist(), trades.row.tolist(), strict=True))
        encode, keys = self._form.trade, self._keys
        for code, (feed, numbers), place in zip(trades.feed.tolist(), numbers_of(trades, self._feeds), places, strict=True):
            partition, key = keys[code]
            self._produce(partition, key, encode(feed, numbers), place)

    def _put_batches(self, trades: Trades, partitions: I32, *, placed: bool) -> None:
        for partition in np.unique(partitions).tolist():
            index = np.flatnonzero(partitions == partition)
            for begin in range(0, len(index), ARROW_ROWS):
                part = take_trades(trades, index[begin : begin + ARROW_ROWS])
                place = (int(part.offset[-1]), int(part.row[-1])) if placed else None
                self._produce(partition, None, self._form.batch(part, self._feeds), place)

    def _put(self, partition: int, key: bytes | None, payload: bytes) -> None:
        if self._place is None:
            self._produce(partition, key, payload, None)
        elif self._place > self._reached[partition]:
            self._produce(partition, key, payload, self._place)

    def _produce(self, partition: int, key: bytes | None, payload: bytes, place: tuple[int, int] | None) -> None:
        headers = None if place is None else [(PLACE_HEADER, b"%b:%d:%d" % (self._recording.encode(), *place))]
        while True:
            try:
                if headers is None:
                    self._producer.produce(self._name, payload, key, partition)
                else:
                    self._producer.produce(self._name, payload, key, partition, headers=headers)
            except BufferError:
                self._producer.poll(_FULL_S)
                self._raise_failed()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise meaning(error.args[0], f"writing {self._name}", self._topic.settings.servers) from error
                too_large = Rejected("ingest", NO_TIME, "oversized", payload)
                self._produce(partition, key, self._fitting(too_large), place)
                return
            else:
                return

    def _fitting(self, rejected: Rejected) -> bytes:
        """Return the message of rejected bytes, of which no more are kept than the topic takes in a message."""
        room = (self._topic.message_bytes - 2_048) * 3 // 4
        return self._form.message(rejected_message(bounded(rejected, min(room, MAX_PAYLOAD_BYTES))))

    def _delivered(self, error: KafkaError | None, _message: Delivered) -> None:
        if error is not None and self._error is None:
            self._error = error

    def _raise_failed(self) -> None:
        if self._error is not None:
            raise FatalError(
                f"a message was not taken by topic {self._name}: {self._error.str()}; what was flushed before is kept"
            )


def _form(topic: KafkaTopic) -> Form:
    if topic.settings.form == "arrow":
        return ArrowForm()
    if topic.settings.form == "json":
        return JsonForm()
    if topic.registry is None:
        raise ConfigError("[kafka] form = 'avro' needs a schema registry: set [kafka] registry to its URL")
    return AvroForm(topic.registry, topic.settings.topic)
