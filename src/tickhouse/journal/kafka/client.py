"""The connection to Kafka: settings as the client library spells them, waiting for brokers, and what errors mean.

Topic, appender and reader build their clients here; confluent_kafka is imported by the journal's Kafka modules only.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from tickhouse.errors import ConfigError, FatalError, NotConnectedError, TickhouseError
from tickhouse.settings import KafkaSettings

__all__ = [
    "CUT",
    "GONE",
    "MISSING",
    "MISSING_S",
    "PARTITION_END",
    "TOLD",
    "TOLD_BY_US",
    "Patience",
    "TopicIdentity",
    "admin",
    "client_config",
    "meaning",
]

GONE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
"""Codes of: what was asked for is not there any more."""

CUT = KafkaError(KafkaError._LOG_TRUNCATION).str()
"""Stands in an error of `GONE` where the brokers came back with less than was read, whatever was written since."""

PARTITION_END = KafkaError._PARTITION_EOF
"""Code of the notice that a consumer has reached the end."""

_T = TypeVar("_T")
_TRY_S = 5.0
_PAUSE_S = 0.5

_AWAY = {
    *(KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE),
    *(KafkaError.REQUEST_TIMED_OUT, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS),
    *(KafkaError.NOT_COORDINATOR, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION),
    *(KafkaError.BROKER_NOT_AVAILABLE, KafkaError.NETWORK_EXCEPTION, KafkaError._WAIT_COORD),
}
MISSING = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_ID}
)
"""Codes of: there is no such topic; a broker that has just started says so of every topic, too."""

MISSING_S = 60.0
"""How long that is not believed."""

_NOT_YET = MISSING | {KafkaError.INVALID_REPLICATION_FACTOR}
"""Codes of what passes on its own where brokers are starting, or a topic was just made."""

_REFUSED = {
    *(KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED),
    *(KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError._SSL),
}

_log = structlog.get_logger(__name__)


class _Forwarding(logging.Handler):
    """Gives a line of the library to our log, without where in its code it was written."""

    def emit(self, record: logging.LogRecord) -> None:
        _log.error("kafka_client_failed", reason=record.getMessage().rpartition("]: ")[2])


def _library_log(handler: logging.Handler) -> logging.Logger:
    logger = logging.Logger("librdkafka")  # noqa: LOG001  known to nobody else, whose handlers would get its lines, too
    logger.addHandler(handler)
    return logger


def _quiet(_error: KafkaError) -> None:
    """Take the library's notices of lost connections; calls that need one say so themselves."""


TOLD: dict[str, Any] = {"error_cb": _quiet, "logger": _library_log(_Forwarding())}
"""Of a client's configuration: what the library would print itself, which is why a client is of no use any more."""

TOLD_BY_US: dict[str, Any] = {"error_cb": _quiet, "logger": _library_log(logging.NullHandler())}
"""The same, of a client whose user tells that."""


class TopicIdentity(NamedTuple):
    """Tells a topic from another one of the same name."""

    cluster: str
    topic: str
    topic_id: str
    partitions: int


def client_config(settings: KafkaSettings) -> dict[str, Any]:
    """Return what every client of this house is configured with."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.servers,
        "client.id": "tickhouse",
        "security.protocol": settings.security,
        # What is lost and found again is told by `Patience`, once; the library would write a line a try.
        "log_level": 0,
        "reconnect.backoff.max.ms": 1_000,
    }
    optional = {
        "sasl.username": settings.username,
        "sasl.password": settings.password.get_secret_value() if settings.password else None,
        "ssl.ca.location": settings.ca_file,
        "ssl.certificate.location": settings.certificate_file,
        "ssl.key.location": settings.key_file,
    }
    config |= {name: value for name, value in optional.items() if value is not None}
    if "sasl" in settings.security:
        config["sasl.mechanism"] = settings.sasl_mechanism
    return config


def meaning(error: KafkaError, what: str, servers: str) -> TickhouseError:
    """Return an error of the library as one of ours."""
    if error.code() in _AWAY or error.retriable():
        return NotConnectedError(f"Kafka at {servers} cannot be reached ({error.str()}): {what}")
    if error.code() in _REFUSED:
        return ConfigError(f"Kafka at {servers} refuses: {what}: {error.str()}; see the settings of [kafka]")
    return FatalError(f"{what} failed at Kafka {servers}: {error.str()}")


class Patience:
    """Calls Kafka, and waits while no broker can be reached: one line when waiting begins, one when it ends.

    Args:
        servers: For the lines.
        give_up: Set = stop waiting; set from the first = never wait.
    """

    def __init__(self, servers: str, give_up: threading.Event | None = None) -> None:
        self._servers = servers
        self._give_up = give_up or threading.Event()
        self._has_reached = False
        self._refused: KafkaError | None = None
        self._reason = ""

    def heard(self, error: KafkaError) -> None:
        """Take the library's notice of an error: why a connection fails is told here; a call only finds nobody."""
        if error.code() in _REFUSED:
            self._refused = error
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._reason = error.str()

    def call(self, what: str, work: Callable[[float], _T]) -> _T:
        """Return what `work`, given a timeout in seconds, returns.

        Raises:
            NotConnectedError: told to give up.
            ConfigError: the broker refuses who we are.
            FatalError: anything else.
        """
        since: float | None = None
        began = time.monotonic()
        while True:
            try:
                result = work(_TRY_S)
            except KafkaException as failed:
                error = meaning(failed.args[0], what, self._servers)
                if self._refused is not None and not self._has_reached:
                    raise meaning(self._refused, what, self._servers) from failed
                is_starting = failed.args[0].code() in _NOT_YET and time.monotonic() - began < MISSING_S
                if self._give_up.is_set() or not (isinstance(error, NotConnectedError) or is_starting):
                    raise error from failed
                if since is None and not is_starting:
                    since = time.monotonic()
                    _log.warning(
                        "kafka_unreachable",
                        servers=self._servers,
                        doing=what,
                        reason=self._reason or failed.args[0].str(),
                        hint="waiting for it; Ctrl-C gives up",
                    )
                self._give_up.wait(_PAUSE_S)
                continue
            self._has_reached = True
            if since is not None:
                _log.warning("kafka_reached", servers=self._servers, after_s=round(time.monotonic() - since, 1))
            return result


@contextmanager
def admin(settings: KafkaSettings, patience: Patience) -> Iterator[AdminClient]:
    """Give a client for questions about topics, in a call of `patience`."""
    client = AdminClient({**client_config(settings), "error_cb": patience.heard})
    try:
        yield client
    finally:
        client.poll(0)  # the library's notices come by this
