"""The newest rows of one table, in the pieces in which they were made, shared by all who subscribe to it.

A piece is spelled as JSON once, however many subscribers take it; nothing is kept for a subscriber but its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from itertools import chain, takewhile
from operator import and_
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tickhouse.errors import ConfigError
from tickhouse.history import caused
from tickhouse.model import Offsets
from tickhouse.serving.rows import Record, joined, records, row_objects, shown_columns, wide_name

__all__ = ["CHANNELS", "Piece", "Ring", "Series", "Wanted", "furthest", "has_reached", "wide_records", "with_indicators"]

CHANNELS: dict[str, str] = {
    "trades": "silver.trades",
    "bars": "gold.bars",
    "indicators": "gold.indicators",
    "anomalies": "gold.anomalies",
    "events": "bronze.events",
    "feeds": "",
}
"""Channel -> the table whose rows it carries; `feeds` carries figures that are in no table."""

_RECENT_PIECES = 1_000
_JOINED_PIECES = 50
"""So many pieces become one when they are no longer recent: a few milliseconds of work, for a fiftieth of the memory."""
_SERIES = ("venue", "symbol", "interval")
_WITH_INTERVAL = frozenset({"bars", "indicators"})
_FINAL = {"final": True}
_BAR_KEY = ("venue", "symbol", "interval", "start")

Series = tuple[str | None, str | None, str | None]
"""(venue, symbol, interval) of a row; the interval None where the channel has none."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a subscriber asks for."""

    channel: str
    symbol: str | None = None
    """Canonical; None = all."""
    venue: str | None = None
    """None = all."""
    interval: str | None = None
    """Of bars and indicators; None = all."""
    indicators: bool = False
    """With bars: a column for each output of an indicator."""
    since: int | None = None
    """UTC microseconds: also everything stored from then on, each row once."""
    after: Offsets | None = None
    """A `seq` seen before: also everything made since."""

    def __post_init__(self) -> None:
        if self.channel not in CHANNELS:
            raise ConfigError(f"there is no channel {self.channel!r}; use {', '.join(CHANNELS)}")
        if self.interval is not None and self.channel not in _WITH_INTERVAL:
            raise ConfigError(f"channel {self.channel!r} has no intervals; leave `interval` out")
        if self.after is not None and (not self.after or min(self.after) < 0):
            raise ConfigError(f"after: {list(self.after)} is no `seq`; give one that came with a message")
        if self.is_stitched and not self.table:
            raise ConfigError(f"channel {self.channel!r} stores nothing; leave `since` and `after` out")

    @property
    def table(self) -> str:
        """The table whose rows are wanted; empty for `feeds`."""
        return CHANNELS[self.channel]

    @property
    def is_stitched(self) -> bool:
        """Whether rows stored before the subscription are wanted too."""
        return self.since is not None or self.after is not None

    def takes(self, series: Series) -> bool:
        """Say whether rows of a series are wanted."""
        venue, symbol, interval = series
        return (
            (self.symbol is None or self.symbol == symbol)
            and (self.venue is None or self.venue == venue)
            and (self.interval is None or self.interval == interval)
        )

    @property
    def series(self) -> Series:
        """The series wanted, None for all."""
        return self.venue, self.symbol, self.interval


def has_reached(offsets: Offsets, others: Offsets) -> bool:
    """Say whether offsets are at or beyond others in every partition."""
    return all(mine >= other for mine, other in zip(offsets, others, strict=True))


def furthest(offsets: Offsets, others: Offsets) -> Offsets:
    """Return the larger offset of each partition."""
    return tuple(map(max, offsets, others))


class Piece:
    """Rows of one table that were made at one time.

    Args:
        channel: Of which channel.
        begin: How far everything had come before it was made.
        end: How far everything had come with it.
        received_at: The newest trade's in the batch that made it; None where there is none.
        table: The rows.
        values: With bars: the rows of `gold.indicators` made beside them.
    """

    __slots__ = ("_all", "_by_series", "begin", "channel", "end", "received_at", "table", "values")

    def __init__(
        self,
        channel: str,
        begin: Offsets,
        end: Offsets,
        received_at: int | None,
        table: pa.Table,
        values: pa.Table | None = None,
    ) -> None:
        self.channel = channel
        self.begin = begin
        self.end = end
        self.received_at = received_at
        self.table = table
        self.values = values
        self._all: dict[bool, bytes] = {}
        self._by_series: dict[bool, dict[Series, bytes]] = {}

    def from_offsets(self, offsets: Offsets) -> Piece:
        """Return the rows caused from `offsets` on."""
        if has_reached(self.begin, offsets):
            return self
        later = caused(offsets, None)
        values = None if self.values is None else self.values.filter(later)
        return Piece(self.channel, furthest(self.begin, offsets), self.end, self.received_at, self.table.filter(later), values)

    def series(self) -> set[Series]:
        """Return the series that it has rows of."""
        names = [name for name in ("venue", "symbol", "interval") if name in self.table.column_names]
        rows = records(self.table, names)
        return {(row["venue"], row["symbol"], row.get("interval")) for row in rows}

    def records(self, wanted: Wanted) -> list[Record]:
        """Return the rows that are wanted."""
        if wanted.series == (None, None, None):
            return self._records(self.table, wide=wanted.indicators)
        asked = [pc.field(name) == value for name, value in zip(_SERIES, wanted.series, strict=True) if value is not None]
        rows = self.table.filter(reduce(and_, asked))
        found = self._records(rows, wide=wanted.indicators) if len(rows) or self.channel == "bars" else []
        return [row for row in found if wanted.takes(_series_of(row))]

    def encoded(self, wanted: Wanted) -> bytes:
        """Return the rows that are wanted as JSON, commas between, no brackets; empty where there are none."""
        wide = wanted.indicators
        if wanted.series == (None, None, None):
            if wide not in self._all:
                self._all[wide] = joined(self._records(self.table, wide=True) if wide else self._objects())
            return self._all[wide]
        if wide not in self._by_series:
            groups: dict[Series, list[Any]] = {}
            if wide:
                for row in self._records(self.table, wide=True):
                    groups.setdefault(_series_of(row), []).append(row)
            else:
                for row in self._objects():
                    groups.setdefault((row.venue, row.symbol, getattr(row, "interval", None)), []).append(row)
            self._by_series[wide] = {series: joined(group) for series, group in groups.items()}
        found = self._by_series[wide]
        if None not in wanted.series or (wanted.channel not in _WITH_INTERVAL and wanted.venue and wanted.symbol):
            return found.get(wanted.series, b"")
        return b",".join(text for series, text in found.items() if wanted.takes(series))

    def _objects(self) -> list[Any]:
        return row_objects(self.table, shown_columns(CHANNELS[self.channel]), _FINAL if self.channel == "bars" else {})

    def _records(self, rows: pa.Table, *, wide: bool) -> list[Record]:
        found = records(rows, shown_columns(CHANNELS[self.channel]))
        if self.channel == "bars":
            for row in found:
                row["final"] = True
            if wide and self.values is not None:
                return with_indicators(found, self.values)
        return found


def with_indicators(bars: list[Record], values: pa.Table) -> list[Record]:
    """Return bars with a column for each output; where indicators changed without their bar, a row of them alone."""
    wide = wide_records(values)
    latest = {tuple(row[name] for name in _BAR_KEY): row for row in bars}
    for key, columns in wide.items():
        if key in latest:
            latest[key].update(columns)
        else:
            bars.append({**dict(zip(_BAR_KEY, key, strict=True)), "final": True, **columns})
    return bars


def wide_records(values: pa.Table) -> dict[tuple[Any, ...], Record]:
    """Return the outputs of each bar by (venue, symbol, interval, start), the latest where a bar has several."""
    names = ["venue", "symbol", "interval", "start", "indicator", "output", "value"]
    found: dict[tuple[Any, ...], Record] = {}
    for row in records(values, names):
        columns = found.setdefault(tuple(row[name] for name in _BAR_KEY), {})
        columns[_column(row["indicator"], row["output"])] = row["value"]
    return found


class Ring:
    """The pieces of one channel, oldest first. A small piece costs as much memory as a large one: older ones are joined.

    Args:
        most_rows: Kept at most; one piece is always kept.
    """

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._rows = 0
        self._joined: deque[Piece] = deque()
        self._recent: deque[Piece] = deque()
        self.floor: Offsets = (0,)
        """Everything caused from these offsets on is here."""

    def clear(self, floor: Offsets) -> None:
        """Begin anew from some offsets."""
        self._joined.clear()
        self._recent.clear()
        self._rows, self.floor = 0, floor

    def add(self, piece: Piece) -> None:
        """Put a piece at the end; the oldest go where there is no room."""
        self._recent.append(piece)
        self._rows += len(piece.table)
        if len(self._recent) >= _RECENT_PIECES + _JOINED_PIECES:
            self._joined.append(_as_one([self._recent.popleft() for _ in range(_JOINED_PIECES)]))
        while self._rows > self._most_rows and len(self._joined) + len(self._recent) > 1:
            gone = (self._joined or self._recent).popleft()
            self._rows -= len(gone.table)
            self.floor = gone.end

    def since(self, offsets: Offsets) -> Sequence[Piece] | None:
        """Return the pieces with rows caused from `offsets` on; None where some are here no more."""
        if not has_reached(offsets, self.floor):
            return None
        found = list(takewhile(lambda piece: not has_reached(offsets, piece.end), self._backwards()))
        return [piece.from_offsets(offsets) for piece in reversed(found)]

    def newest(self, wanted: Wanted, rows: int) -> list[Record]:
        """Return up to so many of the newest rows that are wanted, oldest first."""
        found: list[Record] = []
        for piece in self._backwards():
            found = piece.records(wanted) + found
            if len(found) >= rows:
                break
        return found[-rows:]

    def _backwards(self) -> Iterator[Piece]:
        return chain(reversed(self._recent), reversed(self._joined))


def _as_one(pieces: Sequence[Piece]) -> Piece:
    """Return pieces that follow each other as one."""
    newest = next((piece.received_at for piece in reversed(pieces) if piece.received_at is not None), None)
    values = [piece.values for piece in pieces if piece.values is not None]
    table = _concatenated([piece.table for piece in pieces])
    return Piece(pieces[0].channel, pieces[0].begin, pieces[-1].end, newest, table, _concatenated(values) if values else None)


def _concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="permissive").unify_dictionaries().combine_chunks()


def _series_of(row: Record) -> Series:
    return row["venue"], row["symbol"], row.get("interval")


_column = cache(wide_name)
