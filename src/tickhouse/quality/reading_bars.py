"""Rules R2, R4 to R9 read plainly: the bars of one instrument and their revisions.

Takes the accepted trades of an instrument (from `reading.py`) and the partition's last clock, and gives tuples in the order of
`gold.bars`. Every bar is made from its trades, by sorting and `math.fsum`, which rounds the exact sum once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pyarrow as pa

from tickhouse.quality.reading_ids import id_key
from tickhouse.quality.reading_records import ReceivedTrade, plain_column
from tickhouse.rules import REVISION_STEP_US, Rules

__all__ = ["BarRow", "Windows", "bar_rows", "read_bars"]

_DAY_US = 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=ZoneInfo("UTC"))
_US = timedelta(microseconds=1)


class BarRow(NamedTuple):
    """A row of `gold.bars`, without its cause."""

    venue: str
    symbol: str
    interval: str
    start: int
    end: int
    origin: str
    revision: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    notional: float
    vwap: float | None
    trades: int
    first_trade_id: int | None
    last_trade_id: int | None
    available_at: int


class Windows:
    """Which window of an interval holds an instant (rule R4).

    Args:
        rules: The rules in force.
        venue: Decides whether the daily bar covers a local date.
    """

    def __init__(self, rules: Rules, venue: str) -> None:
        self._steps = dict(zip(rules.intervals, rules.interval_us, strict=True))
        zone = dict(rules.timezones).get(venue)
        self._zone = None if zone is None else ZoneInfo(zone)
        self._midnights: dict[date, int] = {}

    def window(self, interval: str, ts: int) -> tuple[int, int]:
        """Return start and end of the window."""
        step = self._steps[interval]
        if step == _DAY_US and self._zone is not None:
            return self._local_day(ts)
        start = ts - ts % step
        return start, start + step

    def _local_day(self, ts: int) -> tuple[int, int]:
        day = (_EPOCH + ts * _US).astimezone(self._zone).date()
        if self._midnight(day) > ts:
            day -= timedelta(days=1)
        return self._midnight(day), self._midnight(day + timedelta(days=1))

    def _midnight(self, day: date) -> int:
        if day not in self._midnights:
            self._midnights[day] = (datetime(day.year, day.month, day.day, tzinfo=self._zone) - _EPOCH) // _US
        return self._midnights[day]


def read_bars(trades: Sequence[ReceivedTrade], venue: str, symbol: str, rules: Rules, since: int, clock: int) -> list[BarRow]:
    """Return every bar and revision issued from `since` up to `clock`, of all intervals.

    Args:
        trades: The accepted trades that make bars, in journal order.
        venue: Of the instrument.
        symbol: Of the instrument.
        rules: The rules in force.
        since: Bars issued before it are left out.
        clock: The partition's last heartbeat.
    """
    windows = Windows(rules, venue)
    rows = []
    for interval in rules.intervals:
        members: dict[tuple[int, int], list[ReceivedTrade]] = {}
        for trade in trades:
            members.setdefault(windows.window(interval, trade.ts), []).append(trade)
        for (start, end), inside in members.items():
            final_at = end + rules.lateness_us
            for due in _due_instants(inside, final_at, rules.lateness_us):
                if not since <= due <= clock:
                    continue
                known = [trade for trade in inside if _clock(trade) < due]
                revision = sum(_clock(trade) >= final_at for trade in known)
                rows.append(_bar((venue, symbol, interval, start, end, "trades", revision), known, due))
    return rows


def bar_rows(table: pa.Table) -> dict[tuple[str, str], list[BarRow]]:
    """Return stored rows of `gold.bars` by (venue, symbol)."""
    rows: dict[tuple[str, str], list[BarRow]] = {}
    columns = [plain_column(table.column(name)).to_pylist() for name in BarRow._fields]
    for cells in zip(*columns, strict=True):
        rows.setdefault(cells[:2], []).append(BarRow(*cells))
    return rows


def _due_instants(trades: Sequence[ReceivedTrade], final_at: int, lateness: int) -> list[int]:
    late = [_clock(trade) for trade in trades if _clock(trade) >= final_at]
    dues = {lateness + ((late_clock - lateness) // REVISION_STEP_US + 1) * REVISION_STEP_US for late_clock in late}
    if len(late) < len(trades):
        dues.add(final_at)
    return sorted(dues)


def _bar(key: tuple[str, str, str, int, int, str, int], trades: Sequence[ReceivedTrade], available_at: int) -> BarRow:
    first, last = min(trades, key=_canonical), max(trades, key=_canonical)
    prices = [trade.price for trade in trades]
    volume = math.fsum(trade.size for trade in trades)
    notional = math.fsum(trade.price * trade.size for trade in trades)
    return BarRow(
        *key,
        first.price,
        max(prices),
        min(prices),
        last.price,
        volume,
        notional,
        notional / volume if volume else None,
        len(trades),
        *_bar_ids(first, last),
        available_at,
    )


def _canonical(trade: ReceivedTrade) -> tuple[int, int, int, int]:
    return trade.ts, id_key(trade), trade.offset, trade.row


def _bar_ids(first: ReceivedTrade, last: ReceivedTrade) -> tuple[int | None, int | None]:
    """Return both ids, or neither: a bar has ids where those of its open and its close are numbers."""
    if any(trade.identity == "none" or trade.trade_ref is not None for trade in (first, last)):
        return None, None
    return first.trade_id, last.trade_id


def _clock(trade: ReceivedTrade) -> int:
    assert trade.clock is not None  # an accepted trade has one (rule R3)
    return trade.clock
