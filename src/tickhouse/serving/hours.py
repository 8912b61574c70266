"""When a venue is open, where its weekly hours are configured: so that "closed" can be said, and is never guessed.

The live figures ask for it. Holidays are not known: on one, a market that should be open is shown as one where nobody trades.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tickhouse.errors import ConfigError

__all__ = ["Hours"]

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FORM = re.compile(r"(\w{3})(?:-(\w{3}))? (\d\d):(\d\d)-(\d\d):(\d\d) (\S+)")
_EXAMPLE = "Mon-Fri 09:30-16:00 America/New_York"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MIDNIGHT = 24 * 60


class Hours(NamedTuple):
    """The weekly hours of a venue, on its own clock."""

    days: frozenset[int]
    """0 = Monday."""
    opens: int
    """Minutes since midnight."""
    closes: int
    """The same; at most 24:00."""
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> Hours:
        """Return hours such as `Mon-Fri 09:30-16:00 America/New_York`.

        Raises:
            ConfigError: the text is not of this form.
        """
        found = _FORM.fullmatch(text.strip())
        first, last = (found[1], found[2] or found[1]) if found else ("", "")
        if found is None or first not in _DAYS or last not in _DAYS:
            raise ConfigError(f"{text!r} are no hours; write them like {_EXAMPLE!r}")
        opens, closes = int(found[3]) * 60 + int(found[4]), int(found[5]) * 60 + int(found[6])
        if not opens < closes <= _MIDNIGHT or int(found[4]) > 59 or int(found[6]) > 59:
            raise ConfigError(f"{text!r}: a market closes after it opens, by 24:00 at the latest; e.g. {_EXAMPLE!r}")
        try:
            zone = ZoneInfo(found[7])
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ConfigError(f"{text!r}: time zone {found[7]!r} is not known; write an IANA name") from error
        begin, end = _DAYS.index(first), _DAYS.index(last)
        return cls(frozenset((begin + day) % 7 for day in range((end - begin) % 7 + 1)), opens, closes, zone)

    def state(self, at: int) -> Literal["open", "closed"]:
        """Return whether the market is open at an instant, UTC microseconds."""
        local = (_EPOCH + timedelta(microseconds=at)).astimezone(self.zone)
        minute = local.hour * 60 + local.minute
        return "open" if local.weekday() in self.days and self.opens <= minute < self.closes else "closed"
