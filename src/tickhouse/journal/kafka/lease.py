"""One ingest a topic: a lease that a second one is refused, and that a stalled one notices to have lost.

The lease is membership of a consumer group of the topic's own. Who starts looks first whether somebody else is in it, so the
one that runs is never disturbed; the same house on the same host takes its own place again at once, also after a kill. The
holder confirms its membership every second, by a commit that Kafka refuses to anyone who is no member any more; the commit
says who made it, so that the next one sees whether somebody else held the lease in between. A broker that was away may have
made the holder a new member meanwhile, and refuse the old one as a stranger: then it joins anew.
"""

from __future__ import annotations

import threading
import time
import uuid
from types import TracebackType
from typing import Any, Self

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tickhouse.errors import FatalError, HouseLockedError, NotConnectedError, SchemaMismatchError, TickhouseError
from tickhouse.journal.kafka.client import TOLD_BY_US, admin, client_config, meaning
from tickhouse.journal.kafka.topic import KafkaTopic

__all__ = ["LEASE_S", "Lease"]

LEASE_S = 10.0
"""How long a lease stands that is not confirmed; a killed ingest on another host blocks the topic this long."""

_CONFIRM_S = 1.0
_LOOK_S = 0.5
_ASK_S = 5.0
_JOIN_S = 60.0

_STRANGER = frozenset({KafkaError.FENCED_INSTANCE_ID, KafkaError._FATAL})
"""Codes of: somebody else has the place of this member; the library's client is of no use from then on."""

_log = structlog.get_logger(__name__)


class Lease:
    """The right to write a topic; a context manager.

    Args:
        topic: Which one.
        holder: Names who asks: the same name takes its own place again.
    """

    def __init__(self, topic: KafkaTopic, holder: str) -> None:
        self._topic = topic
        self._settings = topic.settings
        self._holder = holder
        self._patience = topic.patience
        self._group = f"tickhouse-ingest.{topic.settings.topic}"
        self._place = TopicPartition(topic.settings.topic, 0)
        self._token = f"{holder}/{uuid.uuid4().hex[:12]}"
        """Tells this process from another one of the same house."""
        self._commits = 0
        self._consumer = self._connected()
        self._is_subscribed = False
        self._is_joined = False
        self._lost: TickhouseError | None = None
        """Why the topic is not ours to write any more, once that is known."""
        self._using = threading.Lock()
        """Held by whoever uses the consumer, or puts another one in its place."""
        self._confirmed = -LEASE_S
        self._end = 0
        """Of partition 0, the furthest seen: every heartbeat moves it."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._confirm_all, name="kafka-lease", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._wait_for_others()
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
        self._consumer.close()

    def check(self) -> None:
        """See that the topic is still ours to write; called before each flush, and quick while the lease is confirmed.

        Raises:
            FatalError: this process, or its connection, stood still for so long that another ingest has taken over.
            SchemaMismatchError: there is another topic of that name.
        """
        deadline = time.monotonic() + _JOIN_S
        while not self._is_fresh() and self._lost is None and time.monotonic() < deadline:
            error = self._confirm()
            if error is not None and isinstance(meaning(error, "", ""), NotConnectedError):
                deadline = time.monotonic() + _JOIN_S  # nobody else can have it either
            if error is not None:
                time.sleep(0.1)
        if self._lost is not None:
            raise self._lost
        if not self._is_fresh():
            raise self._taken("another one")

    # At the start.

    def _wait_for_others(self) -> None:
        """Return once nobody else is in the group; one that was killed stays in it for as long as a lease stands.

        Raises:
            HouseLockedError: somebody is, and lives.
        """
        deadline = time.monotonic() + LEASE_S + 2
        seen = None
        while (other := self._other()) and not self._ended.wait(_LOOK_S):
            said = self._patience.call("asking who writes the topic", self._said)
            if seen is None:
                _log.warning("kafka_topic_is_written", topic=self._settings.topic, by=other, hint="seeing whether it lives")
                seen = said
            if said != seen or time.monotonic() > deadline:
                raise HouseLockedError(
                    f"topic {self._settings.topic} is being written by another ingest ({other}): a topic has one; "
                    "stop that one, or use another topic ([kafka] topic)"
                )

    def _other(self) -> str | None:
        """Return who else is in the group.

        Asked at the start only: where a broker goes away at that moment, librdkafka up to 2.16 can abort the process
        (https://github.com/confluentinc/librdkafka/pull/5397, open on 2026-11-26). One that has received nothing loses nothing.
        """

        def ask(timeout: float) -> Any:
            with admin(self._settings, self._patience) as client:
                client.list_topics(timeout=timeout)  # something simple first, which waits for brokers
                asked = client.describe_consumer_groups([self._group], request_timeout=timeout)
                return asked[self._group].result(timeout + 1)

        members = self._patience.call("asking who writes the topic", ask).members
        others = [member for member in members if member.group_instance_id != self._holder]
        return (
            ", ".join(f"{member.group_instance_id or member.client_id} at {member.host.lstrip('/')}" for member in others)
            or None
        )

    def _join(self) -> None:
        self._subscribe()
        deadline = time.monotonic() + _JOIN_S
        while not self._is_joined:
            self._consumer.poll(0.1)
            if time.monotonic() > deadline or self._ended.is_set():
                raise FatalError(
                    f"could not join the group {self._group} at {self._settings.servers} in {_JOIN_S:.0f} s; try again"
                )
        other = self._other()
        if other is not None:
            raise HouseLockedError(
                f"another ingest ({other}) began on topic {self._settings.topic} at the same time; start one of them"
            )
        try:
            self._commit()  # refused where somebody has joined since
        except KafkaException as error:
            raise FatalError(f"could not take the lease of topic {self._settings.topic}; try again") from error

    # While it is held.

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._confirmed < LEASE_S

    def _confirm_all(self) -> None:
        while not self._ended.wait(_CONFIRM_S):
            try:
                self._confirm()  # where it fails, `check` finds the lease not fresh, and says so
            except RuntimeError:  # closed, while a broker was waited for
                return

    def _confirm(self) -> KafkaError | None:
        """Commit as a member, unless somebody else has done so meanwhile; return why it was refused.

        Whoever joins later than this member finds it in the group, and is refused. Whoever joined while it was out of the group
        has committed before writing anything, which is seen here; or commits later, and is refused as of another generation.
        """
        with self._using:
            try:
                return self._confirmed_by_commit()
            except SchemaMismatchError as failed:
                self._lost = failed
                return None
            except KafkaException as failed:
                error: KafkaError = failed.args[0]
            if error.code() in _STRANGER and not self._ended.is_set():
                _log.warning(
                    "kafka_lease_refused",
                    topic=self._settings.topic,
                    reason=error.str(),
                    hint="the broker was away; joining anew",
                )
                self._consumer.close()
                self._consumer = self._connected()
                self._is_subscribed = self._is_joined = False
            return error

    def _confirmed_by_commit(self) -> KafkaError | None:
        if self._is_subscribed:
            self._consumer.poll(0)  # joins again where it was put out
        said = self._said().rpartition(" ")[0]
        if said not in {self._token, ""}:
            self._lost = self._taken(f"another one ({said})")
            return None
        # Brokers forget what was committed of a topic that is deleted; or they came back without it. Where they did so just
        # before a commit, only the topic's end tells.
        if not said or not self._has_grown():
            self._topic.must_be_same()
        if not self._is_subscribed:
            self._subscribe()
        if not self._is_joined:
            return KafkaError(KafkaError.REBALANCE_IN_PROGRESS)
        self._commit()
        return None

    def _has_grown(self) -> bool:
        """Return whether the topic ends where it did, or further on; also where no broker tells."""
        ends = self._topic.ends_if_told(0)
        if ends is None:
            return True
        if ends.high >= self._end:
            self._end = ends.high
            return True
        return False

    def _taken(self, by: str) -> FatalError:
        return FatalError(
            f"this ingest stood still for more than {LEASE_S:.0f} s and {by} may write {self._settings.topic} now; "
            "start it again: it goes on, or is told who has the topic"
        )

    def _commit(self) -> None:
        """Commit; the lease counts from when it was asked for."""
        asked = time.monotonic()
        self._commits += 1
        place = TopicPartition(self._place.topic, self._place.partition, 0, f"{self._token} {self._commits}")
        self._consumer.commit(offsets=[place], asynchronous=False)
        self._confirmed = asked

    def _said(self, timeout: float = _ASK_S) -> str:
        """Return what the last commit said: who made it, and which of his it was; empty where there is none."""
        (found,) = self._consumer.committed([self._place], timeout)
        if found.error is not None:
            raise KafkaException(found.error)
        return found.metadata or ""

    def _connected(self) -> Consumer:
        config = {
            "group.id": self._group,
            "group.instance.id": self._holder,
            "session.timeout.ms": round(LEASE_S * 1e3),
            "enable.auto.commit": False,
        }
        return Consumer({**client_config(self._settings), **config, **TOLD_BY_US})

    def _subscribe(self) -> None:
        def take(of: Consumer, _partitions: list[TopicPartition]) -> None:
            of.assign([])  # membership is all that is wanted
            self._is_joined = True

        self._consumer.subscribe([self._settings.topic], on_assign=take)
        self._is_subscribed = True
