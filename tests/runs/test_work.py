"""What a run notices beside its work: a host's clock that is behind a venue's."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tests.table_rows import rows, trade
from tickhouse.clock import ManualClock
from tickhouse.model import Position
from tickhouse.runs.work import ClockWatch
from tickhouse.sinks.base import Outputs

MINUTE = 60_000_000


def outputs(good: dict[str, int], early: dict[str, int]) -> Outputs:
    """Return what became of trades: so many of each source accepted, so many rejected as future."""
    trades = [{**trade(i), "source": source} for source, count in good.items() for i in range(count)]
    refused = [{"source": source, "reason": "future"} for source, count in early.items() for _ in range(count)]
    return Outputs(
        0, Position(), {"bronze.trades": rows("bronze.trades", trades), "bronze.rejected": rows("bronze.rejected", refused)}
    )


@pytest.mark.parametrize(("early", "warned"), [(1, []), (2, ["ahead"])])
def test_a_source_with_more_than_one_percent_from_the_future_is_named(early: int, warned: list[str]) -> None:
    clock = ManualClock()
    watch = ClockWatch(clock)
    with capture_logs() as logs:
        watch.update(outputs({"steady": 1_000, "ahead": 100 - early}, {"ahead": early}))
        assert not logs
        clock.advance(MINUTE)
        watch.update(outputs({}, {}))
    assert [log["source"] for log in logs if log["event"] == "clock_behind"] == warned


def test_every_minute_is_counted_by_itself() -> None:
    clock = ManualClock()
    watch = ClockWatch(clock)
    with capture_logs() as logs:
        for early in (50, 0):
            watch.update(outputs({"ahead": 100}, {"ahead": early}))
            clock.advance(MINUTE)
            watch.update(outputs({}, {}))
    assert len(logs) == 1
