"""What every route is given: the house, what follows it, the hub, and the settings in force."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

from starlette.requests import HTTPConnection

from tickhouse.api.problems import ProblemError
from tickhouse.errors import ConfigError, OutOfRangeError
from tickhouse.follower import Follower
from tickhouse.house import House
from tickhouse.rules import Rules
from tickhouse.serving.hub import Hub
from tickhouse.serving.questions import Questions
from tickhouse.settings import ServeSettings
from tickhouse.symbols import normalise

__all__ = ["Context", "context", "instant", "microseconds", "spelled"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STALE_US = 5_000_000


@dataclass(frozen=True, slots=True)
class Context:
    """One server's."""

    house: House
    follower: Follower
    hub: Hub
    questions: Questions
    settings: ServeSettings
    now: Callable[[], int] = lambda: time.time_ns() // 1000
    """Tells the time, UTC microseconds."""

    def rules(self) -> Rules:
        """Return the rules of the house.

        Raises:
            ProblemError: there is no house yet.
        """
        rules = self.follower.rules or self.house.stored_rules()
        if rules is None:
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"there is no house at {self.house.path.name!r} yet; `tickhouse run` or `tickhouse replay FILES` makes one",
                {"Retry-After": "1"},
            )
        return rules

    def interval(self, given: str) -> str:
        """Return an interval of the house.

        Raises:
            ProblemError: it has no bars of that length.
        """
        have = self.rules().intervals
        if given not in have:
            raise ProblemError(
                HTTPStatus.UNPROCESSABLE_ENTITY, f"interval: this house has no bars of {given[:40]!r}; it has {', '.join(have)}"
            )
        return given

    def writer_runs(self) -> bool:
        """Say whether some process writes the house."""
        clock = self.follower.state.clock
        return self.house.is_written() or (clock is not None and abs(self.now() - clock) < _STALE_US)


def context(connection: HTTPConnection) -> Context:
    """Return the context of the server that a request or a WebSocket came to."""
    found: Context = connection.app.state.context
    return found


def instant(name: str, given: str | None) -> datetime | None:
    """Return a time that a client wrote: integer microseconds UTC, or ISO text.

    Raises:
        ProblemError: it is neither.
    """
    if given is None or given == "":
        return None
    text = given.strip()
    try:
        if text.lstrip("-").isdigit():
            return _EPOCH + timedelta(microseconds=int(text))
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"{name}: {given[:60]!r} is no time; write UTC microseconds, or ISO text like 2026-01-31T09:30:00Z",
        ) from error


def microseconds(when: datetime) -> int:
    """Return UTC microseconds since the epoch."""
    return (when - _EPOCH) // timedelta(microseconds=1)


def spelled(symbol: str | None, venue: str | None) -> tuple[str | None, str | None]:
    """Return (venue, canonical symbol) as a client meant them, each None where any will do.

    Raises:
        ConfigError: the symbol names nothing.
    """
    if not symbol:
        return (venue or "").strip().upper() or None, None
    try:
        where, canonical = normalise(symbol, venue)
    except OutOfRangeError as error:
        raise ConfigError(str(error)) from error
    return (where if ":" in symbol or venue else None), canonical
