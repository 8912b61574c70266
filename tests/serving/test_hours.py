"""When a market is closed, where its hours are set."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from tickhouse.errors import ConfigError
from tickhouse.serving.hours import Hours

NEW_YORK = ZoneInfo("America/New_York")


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("local", "state"),
    [
        ("2026-01-15 09:29", "closed"),  # a Thursday
        ("2026-01-15 09:30", "open"),
        ("2026-01-15 15:59", "open"),
        ("2026-01-15 16:00", "closed"),
        ("2026-07-15 09:30", "open"),  # in summer time
        ("2026-07-15 09:29", "closed"),
        ("2026-01-17 12:00", "closed"),  # a Saturday
    ],
)
def test_a_market_is_open_at_its_hours_on_its_own_clock(local: str, state: str) -> None:
    assert Hours.parse("Mon-Fri 09:30-16:00 America/New_York").state(at(local)) == state


def test_days_may_go_over_the_end_of_the_week() -> None:
    weekend = Hours.parse("Sat-Mon 00:00-24:00 UTC")
    days = [weekend.state((4 + day) * 86_400_000_000) for day in range(7)]  # from a Monday on
    assert days == ["open", "closed", "closed", "closed", "closed", "open", "open"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("always", "are no hours"),
        ("Mon-Fry 09:30-16:00 UTC", "are no hours"),
        ("Mon 9:30-16:00 UTC", "are no hours"),
        ("Mon 16:00-09:30 UTC", "closes after it opens"),
        ("Mon 09:30-25:00 UTC", "closes after it opens"),
        ("Mon 09:60-16:00 UTC", "closes after it opens"),
        ("Mon 09:30-16:00 Mars/Olympus", "'Mars/Olympus' is not known"),
        ("Mon 09:30-16:00 ../../etc/passwd", "is not known"),
    ],
)
def test_hours_that_mean_nothing_are_refused_with_an_example(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Hours.parse(text)
