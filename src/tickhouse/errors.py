"""The exception tree: one root, split by what the caller does next.

::

    TickhouseError
    ├── ConfigError            fix the setting and start again
    ├── TransientError         try again after `retry_after_s`; only the engine retries, never a component
    │   ├── NotConnectedError
    │   ├── RateLimitedError
    │   └── BackpressureError
    ├── DataError              becomes a rejected record and is counted; never raised past a source
    │   ├── MalformedError
    │   └── OutOfRangeError
    └── FatalError             stop and say the command that repairs
        ├── HouseLockedError
        ├── LogCorruptError
        └── SchemaMismatchError

Errors carry fields, not only text; the text says what happened, where, and what to do.
"""

from __future__ import annotations

__all__ = [
    "BackpressureError",
    "ConfigError",
    "DataError",
    "FatalError",
    "HouseLockedError",
    "LogCorruptError",
    "MalformedError",
    "NotConnectedError",
    "OutOfRangeError",
    "RateLimitedError",
    "SchemaMismatchError",
    "TickhouseError",
    "TransientError",
]


class TickhouseError(Exception):
    """Root of everything Tickhouse raises on purpose."""


class ConfigError(TickhouseError):
    """A setting, option or file given by the user cannot be used; the text says which, and what is allowed."""


class TransientError(TickhouseError):
    """Something outside failed and may work later.

    Args:
        message: What failed and where.
        retry_after_s: How long to wait before the next try, in seconds; None = the engine's own back-off.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotConnectedError(TransientError):
    """The other side cannot be reached, or closed the connection."""


class RateLimitedError(TransientError):
    """The provider asked for a pause."""


class BackpressureError(TransientError):
    """The receiver is full; nothing was taken."""


class DataError(TickhouseError):
    """A payload that cannot become trades.

    Args:
        reason: One short stable word for counting (`malformed`, `price`, ...).
        detail: What exactly is wrong, for people.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class MalformedError(DataError):
    """The payload is not of the documented form."""

    def __init__(self, detail: str = "") -> None:
        super().__init__("malformed", detail)


class OutOfRangeError(DataError):
    """The payload has the documented form, but a value nobody can trade at (rule R12)."""


class FatalError(TickhouseError):
    """The house cannot go on; the text says the command that repairs."""


class HouseLockedError(FatalError):
    """Another process writes this house."""


class LogCorruptError(FatalError):
    """The journal does not hold what it should."""


class SchemaMismatchError(FatalError):
    """The house was written by another version, or with other rules."""
