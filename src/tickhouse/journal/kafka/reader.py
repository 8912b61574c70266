"""Reads one partition of a topic forward: whole messages, in whatever form they are, as batches.

Engines read for ever from where they left off; an executor reads a range and no further. What cannot be read becomes a
rejected record with its reason and its bytes; what is gone stops the reader with the loss named.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka import Message as Received

from tickhouse.errors import LogCorruptError, NotConnectedError
from tickhouse.journal.kafka.client import GONE, MISSING, MISSING_S, PARTITION_END, client_config, meaning, quiet
from tickhouse.journal.kafka.decode import Decoder
from tickhouse.model import Batch
from tickhouse.settings import KafkaSettings

__all__ = ["READING", "Ends", "KafkaReader", "TopicEnds", "must_be_kept"]

READING: dict[str, Any] = {
    "group.id": "tickhouse",  # the library wants one; nothing is ever committed under it
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # never skip what is gone
    "isolation.level": "read_committed",
    "fetch.queue.backoff.ms": 1,  # 1,000 by default: the reader would sleep most of the time
    "fetch.wait.max.ms": 500,
    "fetch.message.max.bytes": 8 << 20,
    "queued.min.messages": 200_000,
    "queued.max.messages.kbytes": 64 << 10,
    "check.crcs": False,
}
"""How every consumer of a journal is configured."""

_BATCH_ROWS = _BATCH_MESSAGES = 1 << 16
"""A batch has at most this many rows: the larger, the less a row costs."""
_BEHIND_S = 3.0
_SMALL_BYTES = 2_048
_ROW_BYTES = 55


class Ends(Protocol):
    """Where a partition begins and ends."""

    @property
    def low(self) -> int:
        """The first offset that is still there."""
        ...

    @property
    def high(self) -> int:
        """The offset after the last message."""
        ...


class TopicEnds(Protocol):
    """What a reader asks of its topic."""

    settings: KafkaSettings

    def ends(self, partition: int) -> Ends:
        """Return where a partition begins and ends now."""
        ...


class KafkaReader:
    """Reads from an offset on, for ever or up to another one.

    Args:
        topic: Whose partition.
        partition: Which one.
        start: The first offset wanted.
        decoder: Makes batches of messages; keeps the clock.
        until: Read no further than below this offset; None = for ever.

    Raises:
        LogCorruptError: messages from `start` on are gone, or the topic ends before it.
    """

    def __init__(self, topic: TopicEnds, partition: int, start: int, decoder: Decoder, until: int | None) -> None:
        self._topic = topic
        self._partition = partition
        self._decoder = decoder
        self._until = until
        self._arrived = _NOTHING
        self._missing_since: float | None = None
        """When the broker began to say that there is no such topic."""
        self.position = start
        """The next offset: every message below it was given out."""
        self._check_kept()
        ends_matter = {"enable.partition.eof": until is not None}
        self._consumer = Consumer({**client_config(topic.settings), **READING, **ends_matter, "error_cb": quiet})
        self._at = TopicPartition(topic.settings.topic, partition, start)
        self._consumer.assign([self._at])

    @property
    def clock(self) -> int:
        """The last heartbeat given out."""
        return self._decoder.clock

    @property
    def exhausted(self) -> bool:
        """True once everything below `until` was read."""
        return self._until is not None and self.position >= self._until

    @property
    def drained(self) -> bool:
        """True where the partition has nothing more, as far as the last answer of the broker told."""
        _, high = self._consumer.get_watermark_offsets(self._at, cached=True)
        return bool(high >= 0) and not self._arrived.end and self.position >= high

    def read_on(self, until: int) -> None:
        """Move the end of the range: what follows is read by the same connection, with what it has fetched ahead."""
        self._until = until

    def read(self, timeout_s: float) -> Batch | None:
        """Return whatever has arrived, at most 65,536 rows of trades; None when nothing came in `timeout_s`.

        Raises:
            LogCorruptError: messages were deleted before they were read.
        """
        if self.exhausted:
            return None
        if not self._arrived.end:
            self._arrived = self._receive(timeout_s)
        taken, self._arrived = self._arrived.cut(self._until)
        if taken.end <= self.position:
            return None
        self.position = taken.end
        return self._decoder.batch(taken.offsets, taken.values, taken.times, taken.end)

    def close(self) -> None:
        """Release the connection."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _receive(self, timeout_s: float) -> _Arrived:
        messages = self._consumer.consume(_BATCH_MESSAGES, 0)
        if not messages:
            first = self._consumer.poll(timeout_s)
            if first is None:
                return _NOTHING
            messages = [first, *self._consumer.consume(_BATCH_MESSAGES - 1, 0)]
        # After a new assignment, what the position has passed may come once more.
        good = [message for message in messages if message.error() is None and message.offset() >= self.position]
        end = good[-1].offset() + 1 if good else 0
        if good:
            self._missing_since = None
        if len(good) < len(messages):
            ends = [self._end_at(message) for message in messages if message.error() is not None]
            end = max([end, *ends])
        return _Arrived(
            [message.offset() for message in good],
            [message.value() for message in good],
            [1_000 * message.timestamp()[1] for message in good] if self._decoder.wants_times else [],
            end,
        )

    def _end_at(self, message: Received) -> int:
        """Return the offset that a notice of the partition's end tells; 0 for a connection lost, which is found again.

        Offsets below the end may hold no message for us: those of a compaction, or of a transaction that was undone.
        """
        error = message.error()
        assert error is not None
        if error.code() == PARTITION_END:
            return int(message.offset())
        if error.code() in GONE:
            self._check_kept()
            self._consumer.assign(
                [TopicPartition(self._at.topic, self._partition, self.position)]
            )  # it has stopped at the error
            return 0
        if error.code() in MISSING:
            self._missing_since = self._missing_since or time.monotonic()
            if time.monotonic() - self._missing_since < MISSING_S:
                return 0
        wrong = meaning(
            error, f"reading partition {self._partition} of {self._topic.settings.topic}", self._topic.settings.servers
        )
        if isinstance(wrong, NotConnectedError):
            return 0
        raise wrong

    def _check_kept(self) -> None:
        must_be_kept(self._topic, self._partition, self.position)


def must_be_kept(topic: TopicEnds, partition: int, at: int) -> Ends:
    """Return where a partition begins and ends, having seen that it still has what is to be read from `at` on.

    Raises:
        LogCorruptError: it has not; the loss is named.
    """
    ends, name = topic.ends(partition), topic.settings.topic
    until = time.monotonic() + _BEHIND_S
    while at > ends.high and time.monotonic() < until:  # a broker that was killed finds its end a moment after its start
        time.sleep(0.2)
        ends = topic.ends(partition)
    if at < ends.low:
        raise LogCorruptError(
            f"{ends.low - at:,} messages of partition {partition} of {name} are lost: {at} to {ends.low - 1} "
            "were deleted by retention before they were read; keep longer ([kafka] retention), and begin a new house"
        )
    if at > ends.high:
        raise LogCorruptError(
            f"{at - ends.high:,} messages of partition {partition} of {name} are lost: it ends at {ends.high}, "
            f"but was read up to {at} before; restore the topic, or begin a new house"
        )
    return ends


class _Arrived(NamedTuple):
    """Messages in order, taken apart."""

    offsets: list[int]
    values: list[bytes | None]
    times: list[int]
    """Record times, UTC microseconds; empty where nobody asks."""
    end: int
    """The offset after the last, 0 where nothing arrived."""

    def cut(self, until: int | None) -> tuple[_Arrived, _Arrived]:
        """Return what makes one batch, by rows and by the end of the range, and the rest."""
        count = len(self.offsets) if until is None else bisect_left(self.offsets, until)
        sizes = [len(value) if value else 0 for value in self.values]
        if sizes and max(sizes) > _SMALL_BYTES:
            count = min(count, _fitting(sizes))
        if count == len(self.offsets):
            end = self.end if until is None else min(self.end, until)
            return self._replace(end=end), _NOTHING
        end = self.offsets[count] if until is None else min(self.offsets[count], until)
        first = _Arrived(self.offsets[:count], self.values[:count], self.times[:count], end)
        return first, _Arrived(self.offsets[count:], self.values[count:], self.times[count:], self.end)


def _fitting(sizes: list[int]) -> int:
    """Return how many messages make a batch, where some may be batches themselves: a row has 55 bytes at least."""
    rows = 0
    for count, size in enumerate(sizes):
        rows += 1 + size // _ROW_BYTES if size > _SMALL_BYTES else 1
        if count and rows > _BATCH_ROWS:
            return count
    return len(sizes)


_NOTHING = _Arrived([], [], [], 0)
