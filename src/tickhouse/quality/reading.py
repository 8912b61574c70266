"""The rules read plainly, apart from the kernel: slow, obviously right, and in no engine.

`verify` feeds it one partition's bronze tables and compares what it derives (silver and gold) with what is stored. Nothing here
is shared with the production path but the record types, the tables and the rules; nothing is kept between batches, nothing is
clever. Identity and gaps are in `reading_ids.py`, bars in `reading_bars.py`, indicators in `reading_indicators.py`.

Heartbeats are not stored and not needed: all that is due at t <= the last clock was issued, and a trade counts for an instant t
if its own clock is before t.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from tickhouse.errors import ConfigError
from tickhouse.model import NO_TIME
from tickhouse.quality.reading_bars import BarRow, Windows, bar_rows, read_bars
from tickhouse.quality.reading_before import before
from tickhouse.quality.reading_ids import GapRow, Ids
from tickhouse.quality.reading_indicators import functions, read_indicators
from tickhouse.quality.reading_records import FeedEvent, InstrumentRecords, ReceivedTrade, instruments, plain_column
from tickhouse.rules import Rules
from tickhouse.tables import CAUSE, TABLES

__all__ = ["DERIVED", "Known", "OtherVerdict", "Reading", "read_partition"]

DERIVED = ("silver.trades", "gold.bars", "gold.indicators", "gold.anomalies", "gold.gaps")
"""The tables that follow from bronze."""

_FIRST_TS, _END_TS = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000 for year in (1990, 2100))
_FUTURE_US = 5_000_000
_FLUSH_ROWS = 200_000


@dataclass(frozen=True, slots=True)
class OtherVerdict:
    """A received trade whose stored verdict or epoch is not what the rules say."""

    offset: int
    row: int
    stored: str
    recomputed: str
    was_rejected: bool
    """The row stands in bronze.rejected."""


@dataclass(slots=True)
class Reading:
    """What the rules make of one partition."""

    tables: dict[str, pa.Table]
    """By name, all of `DERIVED`, without the cause columns; rows in no particular order."""
    other_verdicts: list[OtherVerdict] = field(default_factory=list)


def read_partition(
    trades: pa.Table,
    rejected: pa.Table,
    events: pa.Table,
    rules: Rules,
    clock: int,
    progress: Callable[[int], None] | None = None,
    since: int = NO_TIME,
    known: Known | None = None,
) -> Reading:
    """Derive silver and gold from one partition's bronze.

    Args:
        trades: All columns of `bronze.trades`.
        rejected: All columns of `bronze.rejected`.
        events: All columns of `bronze.events`.
        rules: The rules of the house.
        clock: The last heartbeat below the position that the tables were read to; NO_TIME before the first.
        progress: Called with the number of trades done, now and then.
        since: Only rows that appeared at this clock or later are derived, going on from the bronze rows before it and from
            `known`.
        known: The derived rows from before `since`.

    Raises:
        ConfigError: the rules name an indicator or detector that is not known.
        LogCorruptError: a bronze row cannot be read as what it should be.
    """
    rows = _Rows()
    reading = Reading({})
    known_bars = bar_rows(known.bars) if known is not None else {}
    known_gaps = _gap_rows(known.gaps) if known is not None else {}
    for records in instruments(trades, rejected, events, since):
        key = records.venue, records.symbol
        scope = _Scope(since, clock, known_bars.get(key, []), known_gaps.get(key, []))
        _read_instrument(records, rules, scope, rows, reading)
        rows.flush(at_least=_FLUSH_ROWS)
        if progress is not None:
            progress(len(records.trades) + (0 if records.before is None else len(records.before)))
    rows.flush()
    reading.tables = rows.tables()
    return reading


@dataclass(frozen=True, slots=True)
class Known:
    """Stored rows of one partition from before the span that is read."""

    bars: pa.Table
    """Of `gold.bars`; the indicators go on from them."""
    gaps: pa.Table
    """Of `gold.gaps`."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """Which rows of an instrument are asked for."""

    since: int
    clock: int
    known_bars: list[BarRow]
    known_gaps: list[GapRow]

    def has(self, clock: int | None) -> bool:
        return self.since == NO_TIME or (clock is not None and clock >= self.since)


def _read_instrument(records: InstrumentRecords, rules: Rules, scope: _Scope, rows: _Rows, reading: Reading) -> None:
    detector = _Detector(rules.detector)
    records, left = before(records, scope.known_gaps, rules, detector.size, scope.since)
    ids = Ids(records.venue, records.symbol, rules.lateness_us, left.ids)
    detector.go_on(left.prices)
    windows = Windows(rules, records.venue)
    bar_trades = left.bar_trades
    for record in records.in_order():
        ids.settle(record.clock)
        if isinstance(record, FeedEvent):
            (ids.new_ids if record.event == "new_ids" else ids.refilled)(record)
            continue
        record.verdict = _invalid(record) or ids.judge(record)
        if scope.has(record.clock):
            _compare(record, reading)
        if record.makes_bars:
            assert record.clock is not None
            _, end = windows.window(rules.intervals[0], record.ts)
            record.late = record.clock >= end + rules.lateness_us
            if not record.backfilled:
                anomaly = detector.look_at(record)
                if anomaly is not None and scope.has(record.clock):
                    rows.add("gold.anomalies", [anomaly])
            bar_trades.append(record)
    ids.settle(scope.clock)
    bars = read_bars(bar_trades, records.venue, records.symbol, rules, scope.since, scope.clock)
    wanted = functions(rules.indicators)
    rows.add("silver.trades", (_silver_row(trade) for trade in bar_trades if scope.has(trade.clock)))
    rows.add("gold.bars", bars)
    for interval in rules.indicator_intervals:
        issued, known = ([bar for bar in some if bar.interval == interval] for some in (bars, scope.known_bars))
        rows.add("gold.indicators", read_indicators(issued, wanted, known))
    rows.add("gold.gaps", [row for row in ids.gap_rows if scope.has(row[-1])])


def _gap_rows(table: pa.Table) -> dict[tuple[str, str], list[GapRow]]:
    """Return stored rows of `gold.gaps` by (venue, symbol)."""
    rows: dict[tuple[str, str], list[GapRow]] = {}
    names = ("venue", "symbol", "epoch", "first_missing_id", "last_missing_id", "state", "clock")
    for cells in zip(*(plain_column(table.column(name)).to_pylist() for name in names), strict=True):
        rows.setdefault(cells[:2], []).append(cells)
    return rows


def _invalid(trade: ReceivedTrade) -> str:
    """Return the reason by which rule R12 rejects a trade; empty for a valid one."""
    if not trade.symbol:
        return "symbol"
    if not 1e-12 <= trade.price <= 1e12:
        return "price"
    if not (trade.size == 0 or 1e-18 <= trade.size <= 1e15):
        return "size"
    if not _FIRST_TS <= trade.ts < _END_TS:
        return "ts"
    return "future" if trade.clock is None or trade.ts > trade.clock + _FUTURE_US else ""


def _compare(trade: ReceivedTrade, reading: Reading) -> None:
    was_rejected = trade.stored_epoch is None
    stored, recomputed = trade.stored_verdict, trade.verdict
    if not was_rejected and recomputed in {"accepted", "duplicate"} and trade.epoch != trade.stored_epoch:
        stored, recomputed = f"{stored} in epoch {trade.stored_epoch}", f"{recomputed} in epoch {trade.epoch}"
    if stored != recomputed:
        reading.other_verdicts.append(OtherVerdict(trade.offset, trade.row, stored, recomputed, was_rejected))


def _silver_row(trade: ReceivedTrade) -> tuple[Any, ...]:
    return (
        trade.venue,
        trade.symbol,
        None if trade.identity == "none" else trade.trade_id,
        trade.trade_ref,
        trade.ts,
        trade.clock,
        trade.price,
        trade.size,
        trade.price * trade.size,
        trade.side,
        trade.late,
        trade.anomaly,
        trade.score,
    )


class _Detector:
    """Rule R11: one instrument's remembered prices, with the rule's own order of operations."""

    def __init__(self, specification: str) -> None:
        match = re.fullmatch(r"zscore\((\d+),(\d+(?:\.\d*)?)\)", re.sub(r"\s+", "", specification).lower())
        if match is None:
            raise ConfigError(f"detector {specification!r} is not known; use zscore(N,K), e.g. zscore(100,3)")
        self._name = specification
        self.size, self._threshold = int(match[1]), float(match[2])
        self._ring: list[float] = []
        self._count = 0
        self._a = self._s = self._q = 0.0

    def go_on(self, prices: Sequence[float]) -> None:
        """Remember the prices that came before, from an anchor on: what is older than that is forgotten anyway."""
        for price in prices:
            self._remember(price)

    def look_at(self, trade: ReceivedTrade) -> tuple[Any, ...] | None:
        """Compare a trade with the prices before it, then remember its own; return the row of an anomaly."""
        size, price, found = self.size, trade.price, None
        if self._count >= size:
            mean = self._a + self._s / size
            var = (self._q - self._s * self._s / size) / (size - 1)
            deviation = math.sqrt(var) if var > 0 else 0.0
            if deviation > 0:
                trade.score = (price - mean) / deviation
                trade.anomaly = abs(price - mean) > self._threshold * deviation
            if trade.anomaly:
                cells = (self._name, price, trade.score, mean, self._threshold)
                found = (trade.venue, trade.symbol, trade.ts, trade.clock, *cells)
        self._remember(price)
        return found

    def _remember(self, price: float) -> None:
        self._count += 1
        self._ring.append(price)
        oldest = self._ring.pop(0) if len(self._ring) > self.size else price
        if self._count % self.size == 0:
            self._a, self._s, self._q = price, 0.0, 0.0
            for remembered in self._ring:
                d = remembered - self._a
                self._s += d
                self._q += d * d
        elif self._count > self.size:
            d = price - self._a
            self._s += d
            self._q += d * d
            e = oldest - self._a
            self._s -= e
            self._q -= e * e


class _Rows:
    """Collects rows of the derived tables, and keeps them as columns."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in DERIVED}
        self._done: dict[str, list[pa.Table]] = {name: [] for name in DERIVED}

    def add(self, name: str, rows: Iterator[tuple[Any, ...]] | list[Any]) -> None:
        """Take rows with the cells of `Table.values`; times as microseconds."""
        self._rows[name].extend(rows)

    def flush(self, at_least: int = 0) -> None:
        """Turn lists of `at_least` rows into columns."""
        for name, rows in self._rows.items():
            if len(rows) >= at_least:
                self._done[name].append(_columns(name, rows))
                self._rows[name] = []

    def tables(self) -> dict[str, pa.Table]:
        """Return all that was flushed."""
        return {name: pa.concat_tables(parts) for name, parts in self._done.items()}


def _columns(name: str, rows: list[tuple[Any, ...]]) -> pa.Table:
    schema = pa.schema([field for field in TABLES[name].schema if field.name not in CAUSE])
    cells = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    arrays = []
    for field_, values in zip(schema, cells, strict=True):
        is_time = pa.types.is_timestamp(field_.type)
        array = pa.array(values, pa.int64() if is_time else field_.type)
        arrays.append(array.view(field_.type) if is_time else array)
    return pa.table(arrays, schema=schema)
