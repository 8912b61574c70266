"""One ingest a topic: a lease that a second one is refused, and that a stalled one notices to have lost.

The lease is membership of a consumer group of the topic's own. Who starts looks first whether somebody else is in it, so the
one that runs is never disturbed; the same house on the same host takes its own place again at once, also after a kill. The
holder confirms its membership every second, by a commit that Kafka refuses to anyone who is no member any more. A broker that
was away may have made it a new member meanwhile, and refuse the old one as a stranger: then it joins anew.
"""

from __future__ import annotations

import threading
import time
import uuid
from types import TracebackType
from typing import Any, Self

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tickhouse.errors import FatalError, HouseLockedError, NotConnectedError, TickhouseError
from tickhouse.journal.kafka.client import Patience, admin, client_config, meaning, quiet
from tickhouse.settings import KafkaSettings

__all__ = ["LEASE_S", "Lease"]

LEASE_S = 10.0
"""How long a lease stands that is not confirmed; a killed ingest on another host blocks the topic this long."""

_CONFIRM_S = 1.0
_JOIN_S = 60.0

_STRANGER = frozenset({KafkaError.FENCED_INSTANCE_ID, KafkaError._FATAL})
"""Codes of: somebody else has the place of this member; the library's client is of no use from then on."""

_log = structlog.get_logger(__name__)


class Lease:
    """The right to write a topic; a context manager.

    Args:
        settings: Which topic, where.
        holder: Names who asks: the same name takes its own place again.
        patience: Waits for brokers.
    """

    def __init__(self, settings: KafkaSettings, holder: str, patience: Patience) -> None:
        self._settings = settings
        self._holder = holder
        self._patience = patience
        self._group = f"tickhouse-ingest.{settings.topic}"
        self._client = f"tickhouse-{uuid.uuid4().hex[:12]}"
        """Tells this process from another one of the same house."""
        self._consumer: Consumer | None = None
        self._using = threading.Lock()
        """Held by whoever uses the consumer, or joins anew."""
        self._confirmed = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._confirm_all, name="kafka-lease", daemon=True)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + LEASE_S + 2
        while other := self._other():
            if time.monotonic() > deadline:
                raise HouseLockedError(
                    f"topic {self._settings.topic} is being written by another ingest ({other}): a topic has one; "
                    "stop that one, or use another topic ([kafka] topic)"
                )
            _log.warning("kafka_topic_is_written", topic=self._settings.topic, by=other, hint="waiting to see whether it lives")
            if self._ended.wait(2.0):
                break
        try:
            self._join()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(2.0)
        if self._consumer is not None:
            self._consumer.close()

    def check(self) -> None:
        """See that the topic is still ours to write; called before each flush, and quick while the lease is confirmed.

        Raises:
            FatalError: this process, or its connection, stood still for so long that another ingest has taken over.
        """
        if self._is_fresh():
            return
        deadline = time.monotonic() + _JOIN_S
        while not self._is_fresh() and time.monotonic() < deadline:
            error = self._confirm()
            if error is not None and error.code() in _STRANGER:
                break  # this house was started again
            if error is not None and isinstance(meaning(error, "", ""), NotConnectedError):
                deadline = time.monotonic() + _JOIN_S  # nobody else can have it either
            if error is not None:
                time.sleep(0.1)
        if not self._is_fresh() or self._other() is not None:
            raise FatalError(
                f"this ingest stood still for more than {LEASE_S:.0f} s and another one may write {self._settings.topic} now; "
                "start it again: it goes on, or is told who has the topic"
            )

    def _members(self) -> list[Any]:
        """Return who is in the group."""

        def ask(timeout: float) -> Any:
            with admin(self._settings, self._patience) as client:
                # First something simple: librdkafka can abort the process where it looks for a coordinator that is away.
                client.list_topics(timeout=timeout)
                asked = client.describe_consumer_groups([self._group], request_timeout=timeout)
                return asked[self._group].result(timeout + 1)

        return list(self._patience.call("asking who writes the topic", ask).members)

    def _other(self) -> str | None:
        """Return who else is in the group."""
        others = [member for member in self._members() if member.group_instance_id != self._holder]
        return (
            ", ".join(f"{member.group_instance_id or member.client_id} at {member.host.lstrip('/')}" for member in others)
            or None
        )

    def _join(self) -> None:
        config = {
            "client.id": self._client,
            "group.id": self._group,
            "group.instance.id": self._holder,
            "session.timeout.ms": round(LEASE_S * 1e3),
            "enable.auto.commit": False,
            "error_cb": quiet,
        }
        self._consumer = consumer = Consumer({**client_config(self._settings), **config})
        assigned = threading.Event()

        def take(of: Consumer, _partitions: list[TopicPartition]) -> None:
            of.assign([])  # membership is all that is wanted
            assigned.set()

        consumer.subscribe([self._settings.topic], on_assign=take)
        deadline = time.monotonic() + _JOIN_S
        while not assigned.is_set():
            consumer.poll(0.1)
            if time.monotonic() > deadline or self._ended.is_set():
                raise FatalError(
                    f"could not join the group {self._group} at {self._settings.servers} in {_JOIN_S:.0f} s; try again"
                )
        other = self._other()
        if other is not None:
            raise HouseLockedError(
                f"another ingest ({other}) began on topic {self._settings.topic} at the same time; start one of them"
            )
        if self._commit() is not None:
            raise FatalError(f"could not take the lease of topic {self._settings.topic}; try again")

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._confirmed < LEASE_S

    def _confirm(self) -> KafkaError | None:
        """Commit as a member, one that has joined anew where that is needed; return why it was refused."""
        with self._using:
            error = self._commit()
            if error is None or error.code() not in _STRANGER or self._ended.is_set() or not self._is_own_place():
                return error
            assert self._consumer is not None
            self._consumer.close()
            self._join()
            return None

    def _is_own_place(self) -> bool:
        """Say whether the place of this house is this very process's, or nobody's."""
        return all(member.client_id == self._client for member in self._members() if member.group_instance_id == self._holder)

    def _commit(self) -> KafkaError | None:
        """Commit; return why it was refused. The lease counts from when it was asked for."""
        assert self._consumer is not None
        asked = time.monotonic()
        try:
            self._consumer.commit(offsets=[TopicPartition(self._settings.topic, 0, 0)], asynchronous=False)
        except KafkaException as failed:
            error: KafkaError = failed.args[0]
            return error
        self._confirmed = asked
        return None

    def _confirm_all(self) -> None:
        while not self._ended.wait(_CONFIRM_S):
            try:
                with self._using:
                    assert self._consumer is not None
                    self._consumer.poll(0)  # joins again where it was put out
                self._confirm()
            except RuntimeError:  # closed, while a broker was waited for
                return
            except TickhouseError as error:  # `check` finds the lease not fresh, and says so
                _log.warning("kafka_lease_not_confirmed", topic=self._settings.topic, error=str(error))
