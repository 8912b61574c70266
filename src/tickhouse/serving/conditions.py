"""Which rows are asked for: an instrument in any spelling, times in any form, as conditions of SQL with their values."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any, Self

from tickhouse.errors import ConfigError, OutOfRangeError
from tickhouse.symbols import normalise

__all__ = ["When", "Where", "instant"]

When = datetime | date | str
"""An instant: aware, or naive and then UTC; text in ISO form, e.g. `2026-01-31` or `2026-01-31T09:30:00Z`."""


class Where:
    """Conditions that all hold; each call adds one, or none where it is given None."""

    def __init__(self) -> None:
        self.symbol: str | None = None
        """Canonical, once an instrument was named."""
        self.venue: str | None = None
        self.values: list[Any] = []
        """For the question marks of `text`, in order."""
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """What follows WHERE."""
        return " AND ".join(self._parts) or "true"

    def equal(self, column: str, value: Any) -> Self:
        """Ask for one value of a column."""
        return self._and(f'"{column}" = ?', value)

    def instrument(self, symbol: str | None, venue: str | None) -> Self:
        """Ask for a symbol, in any spelling, and a venue.

        Raises:
            ConfigError: the symbol means nothing.
        """
        if symbol is not None:
            try:
                where, self.symbol = normalise(symbol, venue)
            except OutOfRangeError as error:
                raise ConfigError(str(error)) from error
            venue = where if ":" in symbol or venue is not None else None
            self.equal("symbol", self.symbol)
        if venue is not None:
            self.venue = venue.upper()
            self.equal("venue", self.venue)
        return self

    def below(self, offset: int) -> Self:
        """Ask for what was caused below an offset."""
        return self._and('"offset" < ?', offset)

    def between(self, column: str, start: When | None, end: When | None) -> Self:
        """Ask for times in [start, end).

        Raises:
            ConfigError: a text is no time.
        """
        for bound, sign in ((start, ">="), (end, "<")):
            if bound is not None:
                self._and(f'"{column}" {sign} ?', instant(bound))
        return self

    def _and(self, condition: str, value: Any) -> Self:
        self._parts.append(condition)
        self.values.append(value)
        return self


def instant(when: When) -> datetime:
    """Return an instant, aware and in UTC.

    Raises:
        ConfigError: a text is no time.
    """
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when)
        except ValueError as error:
            raise ConfigError(f"{when!r} is no time; write it like 2026-01-31 or 2026-01-31T09:30:00Z") from error
    if not isinstance(when, datetime):
        when = datetime(when.year, when.month, when.day, tzinfo=UTC)
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
