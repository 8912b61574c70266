"""The table of local midnights: the same as asking for every date, also where zones did odd things."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from tickhouse.kernel.levels import settings_of
from tickhouse.rules import Rules

ZONES = (
    "America/New_York", "Europe/London", "Asia/Tokyo", "Australia/Lord_Howe", "Africa/Casablanca", "Africa/Cairo",
    "Pacific/Apia", "Pacific/Kwajalein", "Asia/Gaza", "America/Caracas", "Asia/Pyongyang", "Antarctica/Troll",
    "America/Sao_Paulo", "Asia/Kathmandu", "Europe/Istanbul",
)  # fmt: skip


@pytest.mark.parametrize("name", ZONES)
def test_every_local_date_begins_where_the_zone_says(name):
    midnights = settings_of(Rules(timezones=(("V", name),))).midnights[0]
    zone, epoch = ZoneInfo(name), datetime(1970, 1, 1, tzinfo=UTC)
    first, days = date(1990, 1, 1), (date(2040, 1, 1) - date(1990, 1, 1)).days
    wanted = {
        (datetime.combine(first + timedelta(days=day), datetime.min.time(), zone).astimezone(UTC) - epoch)
        // timedelta(microseconds=1)
        for day in range(days)
    }
    found = midnights[(midnights >= min(wanted)) & (midnights <= max(wanted))]
    assert np.array_equal(found, sorted(wanted))
