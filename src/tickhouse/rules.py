"""The rules in force in a house: what a `rules` record in the journal holds.

Two houses with the same journal and the same rules have the same tables. A house keeps the rules it was made with.
"""

from __future__ import annotations

import hashlib

import msgspec

from tickhouse.errors import ConfigError

__all__ = ["DEFAULT_INDICATORS", "REVISION_STEP_US", "Rules", "format_duration", "parse_duration"]

REVISION_STEP_US = 10_000_000
"""Revisions are issued at instants t with t - lateness a multiple of this (rule R5)."""

DEFAULT_INDICATORS = ("sma(20)", "ema(20)", "bbands(20,2)", "volatility(20)")

_UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_DAY_US = _UNITS["d"]
_SPELLED = ("d", "h", "m", "s", "ms", "us")


def parse_duration(text: str) -> int:
    """Return the microseconds of `text`, e.g. `10s`, `250ms`, `1m`, `1h`, `1d`.

    Raises:
        ConfigError: `text` is no duration.
    """
    stripped = text.strip()
    digits = stripped.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = stripped[len(digits) :]
    try:
        us = round(float(digits) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        us = -1
    if us < 0:
        raise ConfigError(f"{text!r} is not a duration; write a number and a unit, e.g. 250ms, 10s, 1m, 1h, 1d")
    return us


def format_duration(us: int) -> str:
    """Return the shortest spelling of `us` microseconds that `parse_duration` reads, e.g. `1m`."""
    for unit in _SPELLED:
        if us % _UNITS[unit] == 0 and us >= _UNITS[unit]:
            return f"{us // _UNITS[unit]}{unit}"
    return "0s"


class Rules(msgspec.Struct, frozen=True):
    """Everything besides the journal that decides what the tables hold."""

    lateness_us: int = 10_000_000
    """A bar is final this long after its end; a multiple of 250 ms (rule R5)."""
    intervals: tuple[str, ...] = ("1m", "5m", "15m", "1h", "1d")
    """From finest to coarsest; each a multiple of the finest, each dividing a day (rule R9)."""
    indicators: tuple[str, ...] = DEFAULT_INDICATORS
    indicator_intervals: tuple[str, ...] = ("1m",)
    detector: str = "zscore(100,3)"
    """The trade detector: window and threshold in sample deviations (rule R11)."""
    timezones: tuple[tuple[str, str], ...] = (("IEX", "America/New_York"), ("SIP", "America/New_York"))
    """(venue, IANA zone): the daily bar of these venues covers the exchange's local date (rule R4)."""
    version: int = 1

    def __post_init__(self) -> None:
        if self.lateness_us < 0 or self.lateness_us % 250_000:
            raise ConfigError(f"lateness {format_duration(self.lateness_us)} must be a multiple of 250ms, 0 or more")
        steps = self.interval_us
        if not steps or list(steps) != sorted(set(steps)):
            raise ConfigError(f"intervals {list(self.intervals)} must go from finest to coarsest, each once")
        for name, step in zip(self.intervals, steps, strict=True):
            if step < 1_000_000 or step % steps[0] or _DAY_US % step:
                raise ConfigError(f"interval {name!r} must be 1s or more, a multiple of {self.intervals[0]} and divide a day")
        for name in self.indicator_intervals:
            if name not in self.intervals:
                raise ConfigError(f"indicators on {name!r} need that interval among {list(self.intervals)}")

    @property
    def interval_us(self) -> tuple[int, ...]:
        """The intervals in microseconds, finest first."""
        return tuple(parse_duration(name) for name in self.intervals)

    def to_json(self) -> bytes:
        """Return the canonical JSON that the journal keeps."""
        return msgspec.json.encode(self, order="sorted")

    @classmethod
    def from_json(cls, data: bytes) -> Rules:
        """Return the rules that `to_json` wrote."""
        return msgspec.json.decode(data, type=cls)

    def fingerprint(self) -> str:
        """Return 12 hexadecimal digits that name these rules."""
        return hashlib.sha256(self.to_json()).hexdigest()[:12]
