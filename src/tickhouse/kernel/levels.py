"""The levels of bars that the rules ask for, laid out for the loops (rules R4 and R9).

Made once by `Kernel` from the rules: lengths, slots, which level is merged from which, and the table of local midnights.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from tickhouse.errors import ConfigError
from tickhouse.kernel.anomaly import parse_detector
from tickhouse.kernel.state import NEVER, Settings
from tickhouse.model import I64
from tickhouse.rules import Rules

__all__ = ["FUTURE_US", "settings_of", "zones_of"]

FUTURE_US = 5_000_000
"""A trade may be this far ahead of its clock (rule R12)."""

_DAY_US = 86_400_000_000
_CLOSED_SLOTS = 2
"""Slots a level beyond those that can be open at once: late trades then seldom meet a bar that has gone."""

_FIRST_DATE = datetime(1989, 12, 31)  # noqa: DTZ001 - a local date of any zone
_DATES = 40_183
_WEEK = 7
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def zones_of(rules: Rules) -> dict[str, int]:
    """Return which row of the table of midnights each venue with a time zone follows."""
    names = list(dict.fromkeys(zone for _, zone in rules.timezones))
    return {venue: names.index(zone) for venue, zone in rules.timezones}


@lru_cache(maxsize=16)
def _midnights(name: str) -> I64:
    """Return the UTC instants at which a local date begins, 1990 to 2100."""
    try:
        zone = ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigError(f"time zone {name!r} is not known; write an IANA name, e.g. America/New_York") from error
    step = timedelta(microseconds=1)

    def begin(day: int) -> int:
        return ((_FIRST_DATE + timedelta(days=day)).replace(tzinfo=zone).astimezone(UTC) - _EPOCH) // step

    # Where a week is seven days long no date in it is changed: asking for every date would cost a tenth of a second a zone.
    begins = np.empty(_DATES, np.int64)
    late = begin(0)
    for first in range(0, _DATES, _WEEK):
        last = min(first + _WEEK, _DATES - 1)
        early, late = late, begin(last)
        if late - early == (last - first) * _DAY_US:
            begins[first:last] = early + np.arange(last - first) * _DAY_US
        else:
            begins[first:last] = [begin(day) for day in range(first, last)]
        begins[last] = late
    different = np.unique(begins)  # Samoa skipped a date
    return np.concatenate([different, np.full(_DATES - len(different), NEVER)])


def _source(level: int, intervals: tuple[int, ...], multiples: I64) -> int:
    """Return the coarsest lower level of which every border of `level` is a border too."""
    for lower in range(level - 1, -1, -1):
        if not np.any(multiples % intervals[lower]):
            return lower
    raise ConfigError(
        f"bars of {intervals[0] // 1_000_000} s do not fit into the local days of a time zone in the rules; "
        "use 15m or less as the finest"
    )


def settings_of(rules: Rules) -> Settings:
    """Return the rules as the loops need them.

    Raises:
        ConfigError: a detector or a time zone is not known, or local days cannot be made of the finest bars.
    """
    window, threshold = parse_detector(rules.detector)
    intervals = rules.interval_us
    zones = list(dict.fromkeys(zone for _, zone in rules.timezones))
    midnights = np.array([_midnights(zone) for zone in zones], np.int64).reshape(len(zones), _DATES)
    zoned = intervals.index(_DAY_US) if zones and _DAY_US in intervals else -1
    source = np.full((2, len(intervals)), -1, np.int64)
    for level in range(1, len(intervals)):
        source[:, level] = _source(level, intervals, np.array([intervals[level]], np.int64))
        if level == zoned:
            source[1, level] = _source(level, intervals, midnights[midnights < NEVER])
    # A coarser bar appears when its first source is final: then only one can be open. A local day may have 23 hours.
    shortest = min(intervals[0], 23 * 3_600_000_000)
    at_once = (rules.lateness_us + FUTURE_US) // shortest + 2
    slots = np.array([at_once + _CLOSED_SLOTS] + [1 + _CLOSED_SLOTS] * (len(intervals) - 1), np.int64)
    return Settings(
        lateness=rules.lateness_us,
        window=window,
        threshold=threshold,
        stride=int(slots.sum()),
        levels=np.column_stack([np.array(intervals, np.int64), np.cumsum(slots) - slots, slots, source[0], source[1]]).copy(),
        midnights=midnights,
        zoned=zoned,
    )
