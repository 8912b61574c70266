"""Reads one partition of a topic forward: whole messages, in whatever form they are, as batches.

Engines read for ever from where they left off; an executor reads a range and no further. What cannot be read becomes a
rejected record with its reason and its bytes; what is gone stops the reader with the loss named.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from confluent_kafka import KafkaError

from tickhouse.errors import LogCorruptError, NotConnectedError
from tickhouse.journal.kafka.client import CUT, GONE, MISSING, MISSING_S, PARTITION_END, client_config, meaning
from tickhouse.journal.kafka.decode import Decoder
from tickhouse.journal.kafka.fetch import Fetcher
from tickhouse.journal.kafka.received import Received, empty_received
from tickhouse.model import I64, Batch
from tickhouse.settings import KafkaSettings

__all__ = ["READING", "Ends", "KafkaReader", "TopicEnds", "must_be_kept", "other_messages"]

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

_GATHERING: dict[str, Any] = {"fetch.min.bytes": 1 << 17, "fetch.wait.max.ms": 50}
"""For who is in no hurry: a broker answers twenty times a second, not as often as something has come."""
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
        """Return where a partition begins and ends now; waits for a broker."""
        ...

    def ends_if_told(self, partition: int) -> Ends | None:
        """The same, or None where no broker answers within a second."""
        ...

    def must_be_same(self) -> None:
        """Raise where another topic has its name by now."""
        ...


class KafkaReader:
    """Reads from an offset on, for ever or up to another one.

    Args:
        topic: Whose partition.
        partition: Which one.
        start: The first offset wanted.
        decoder: Makes batches of messages; keeps the clock.
        until: Read no further than below this offset; None = for ever.
        gathers: What comes within a twentieth of a second is read at once.

    Raises:
        LogCorruptError: messages from `start` on are gone, or the topic ends before it.
    """

    def __init__(
        self, topic: TopicEnds, partition: int, start: int, decoder: Decoder, until: int | None, *, gathers: bool = False
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._decoder = decoder
        self._until = until
        self._arrived = empty_received()
        self._end = 0
        """The offset after what has arrived; 0 = nothing has."""
        self._missing_since: float | None = None
        """When the broker began to say that there is no such topic."""
        self.position = start
        """The next offset: every message below it was given out."""
        self._check_kept()
        settings = topic.settings
        config = {
            **client_config(settings),
            **READING,
            **(_GATHERING if gathers else {}),
            "enable.partition.eof": True,  # tells where offsets without a message, of a transaction, end
        }
        self._fetcher = Fetcher(config, settings.topic, partition, start, _BATCH_MESSAGES)

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
        high = self._fetcher.high()
        return high >= 0 and not self._end and self.position >= high

    def at_end(self) -> bool:
        """Return whether the partition has nothing more; where no broker tells, as far as is known.

        A message that has been written is there for the broker's next answer to this question, while what the reader knows
        comes with the messages that it waits for. A transaction that is still open is no message yet.
        """
        if self._end:
            return False
        ends = self._topic.ends_if_told(self._partition)
        return self.drained if ends is None else self.position >= ends.high

    def read_on(self, until: int) -> None:
        """Move the end of the range: what follows is read by the same connection, with what it has fetched ahead."""
        self._until = until

    def read(self, timeout_s: float) -> Batch | None:
        """Return whatever has arrived, at most 65,536 rows of trades; None when nothing came in `timeout_s`, or at the end.

        Raises:
            LogCorruptError: messages were deleted before they were read.
        """
        if self.exhausted:
            return None
        if not self._end:
            self._receive(timeout_s)
        taken, end = self._next()
        if end <= self.position:
            return None
        self.position = end
        return self._decoder.batch(taken, end)

    def close(self) -> None:
        """Release the connection."""
        self._fetcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _receive(self, timeout_s: float) -> None:
        messages, notices = self._fetcher.fetch(timeout_s)
        # After a new assignment, what the position has passed may come once more.
        self._arrived = messages.select(messages.offsets >= self.position)
        if len(self._arrived):
            self._missing_since = None
            self._end = int(self._arrived.offsets[-1]) + 1
        self._end = max([self._end, *(self._end_at(error, offset) for error, offset in notices)])

    def _next(self) -> tuple[Received, int]:
        """Return what makes one batch, by rows and by the end of the range, and the offset after it; keep the rest."""
        arrived, until = self._arrived, self._until
        count = len(arrived) if until is None else int(np.searchsorted(arrived.offsets, until))
        sizes = arrived.sizes
        if count and sizes.max() > _SMALL_BYTES:
            count = min(count, _fitting(sizes))
        end = self._end if count == len(arrived) else int(arrived.offsets[count])
        if until is not None:
            end = min(end, until)
        self._arrived = arrived.select(slice(count, None))
        if end == self._end:
            self._end = 0
        return arrived.select(slice(0, count)), end

    def _end_at(self, error: KafkaError, offset: int) -> int:
        """Return the offset that a notice of the partition's end tells; 0 for a connection lost, which is found again.

        Offsets below the end may hold no message for us: those of a compaction, or of a transaction that was undone.
        """
        if error.code() == PARTITION_END:
            return offset
        if error.code() in GONE:
            self._check_kept()
            if CUT in error.str():
                raise other_messages(self._topic, self._partition, self.position)
            self._fetcher.assign(self.position)  # it has stopped at the error
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
        SchemaMismatchError: it is another topic.
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
        topic.must_be_same()
        raise LogCorruptError(
            f"{at - ends.high:,} messages of partition {partition} of {name} are lost: it ends at {ends.high}, "
            f"but was read up to {at} before; restore the topic, or begin a new house"
        )
    return ends


def other_messages(topic: TopicEnds, partition: int, read: int) -> LogCorruptError:
    """Return what says that a partition ended below `read` for a while: others stand where messages were read."""
    return LogCorruptError(
        f"messages of partition {partition} of {topic.settings.topic} are lost: the brokers came back without some of those "
        f"below {read}, which were read before, and others have taken their offsets; restore the topic, or begin a new house"
    )


def _fitting(sizes: I64) -> int:
    """Return how many messages make a batch, where some may be batches themselves: a row has 55 bytes at least."""
    rows = np.cumsum(np.where(sizes > _SMALL_BYTES, 1 + sizes // _ROW_BYTES, 1))
    return max(1, int(np.searchsorted(rows, _BATCH_ROWS, side="right")))
