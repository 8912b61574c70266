"""How a pipeline reads its own past (rule R15): rows whose cause is before the asking record, stored or still on their way.

The pipeline adds the rows it makes; the engine says when sinks have committed. A table's stored rows and its position come from
one commit, so the rows on their way are exactly those at or above that position: nothing is missing and nothing is double.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from tickhouse.indicators.series import BarColumns, SeriesWanted
from tickhouse.model import NO_TIME, Cause, Instrument, Offsets
from tickhouse.sinks.lake import LakeTables
from tickhouse.sinks.lake_files import DataFile, date_of
from tickhouse.sinks.lake_tail import LakeTail
from tickhouse.tables import TABLES, TIME

if TYPE_CHECKING:
    from tickhouse.indicators.stored_series import SeriesSearch

__all__ = ["History", "LakeHistories", "LakeHistory", "caused"]

_READ_BACK = ("silver.trades", "gold.bars")
_DAY_US = 86_400_000_000
_EPOCH = date_of(0)
_MAX_TIME = 2**62
_FEW_SYMBOLS = 500
_LET_GO = 16


class History(Protocol):
    """What a pipeline is given to read back its past."""

    def add(self, tables: Mapping[str, pa.Table]) -> None:
        """Take rows just made, by table name; called by the pipeline, in the order of their cause, before it asks for them."""
        ...

    def trades(self, instrument: Instrument, start: int, end: int, before: Cause) -> pa.Table:
        """Return rows of `silver.trades` with ts in [start, end) and a cause before the given one, in no particular order."""
        ...

    def bars(self, wanted: Sequence[SeriesWanted], before: Cause) -> Mapping[SeriesWanted, BarColumns]:
        """Return the bars of each series, in their latest revision among rows with a cause before the given one."""
        ...

    def known_ids(self, instrument: Instrument, ids: Sequence[int | str | None], before: Cause) -> set[int | str]:
        """Return which of these trade ids `silver.trades` holds with a cause before the given one."""
        ...


class _Piece:
    """Rows on their way, with the bounds that say whether a question concerns them."""

    def __init__(self, rows: pa.Table, time: str) -> None:
        self.rows = rows
        self.offset = max(int(chunk.to_numpy().max()) for chunk in rows.column("offset").chunks if len(chunk))
        """The largest."""
        self._time = time

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest time of the table's date, microseconds: found when first asked, few pieces ever are."""
        times = pc.min_max(self.rows.column(self._time).cast(pa.int64()))
        first, last = (NO_TIME if times[end].as_py() is None else times[end].as_py() for end in ("min", "max"))
        return first, last


class LakeHistory:
    """History over a lake.

    Args:
        lake: Its tables; read at a version not older than those last taken up.
        partition: Whose past.
        more: Tables to keep beside those that a pipeline reads back.
    """

    def __init__(self, lake: LakeTables, partition: int, more: Sequence[str] = ()) -> None:
        self._lake = lake
        self._partition = partition
        self._lock = threading.Lock()
        self._pending: dict[str, list[_Piece]] = {name: [] for name in (*_READ_BACK, *more)}
        self._gone: deque[_Piece] = deque()
        """Rows that the store has, let go a few at a time: thousands of small tables at once hold up whoever is live."""

    def add(self, tables: Mapping[str, pa.Table]) -> None:
        """Take rows just made; tables that are never read back are left aside."""
        for name in self._pending:
            rows = tables.get(name)
            if rows is None or not len(rows):
                continue
            piece = _Piece(rows, TABLES[name].date_from)
            with self._lock:
                self._pending[name].append(piece)
        with self._lock:
            for _ in range(min(_LET_GO, len(self._gone))):
                self._gone.popleft()

    def take_up(self, newest: LakeTables, tail: LakeTail) -> None:
        """Learn what the lake has now, and drop the rows it has.

        Args:
            newest: Its tables, opened after `tail` looked: they tell their position in one version with their rows.
            tail: How far they are committed.
        """
        reached = {name: tail.position(name, self._partition).offset for name in self._pending}
        with self._lock:
            self._lake = newest
            for name, offset in reached.items():
                self._gone += [piece for piece in self._pending[name] if piece.offset < offset]
                self._pending[name] = [piece for piece in self._pending[name] if piece.offset >= offset]

    def trades(self, instrument: Instrument, start: int, end: int, before: Cause) -> pa.Table:
        """Return rows of `silver.trades` with ts in [start, end) and a cause before the given one, in no particular order."""
        ts = pc.field("ts")
        asked = self._of(instrument) & (ts >= pa.scalar(start, TIME)) & (ts < pa.scalar(end, TIME))
        return self._read("silver.trades", asked, before, start, end - 1, instrument.symbol)

    def known_ids(self, instrument: Instrument, ids: Sequence[int | str | None], before: Cause) -> set[int | str]:
        """Return which of these trade ids `silver.trades` holds with a cause before the given one."""
        numbers = [each for each in ids if isinstance(each, int)]
        texts = [each for each in ids if isinstance(each, str)]
        known = pc.field("trade_id").isin(pa.array(numbers, pa.int64())) | pc.field("trade_ref").isin(
            pa.array(texts, pa.string())
        )
        found = self._read("silver.trades", self._of(instrument) & known, before, NO_TIME, _MAX_TIME, instrument.symbol)
        columns = (found.column("trade_id"), found.column("trade_ref"))
        return {each for column in columns for each in column.to_pylist() if each is not None}

    def bars(self, wanted: Sequence[SeriesWanted], before: Cause) -> dict[SeriesWanted, BarColumns]:
        """Return the bars of each series, in their latest revision among rows with a cause before the given one.

        Reads days from the newest back, in steps that double, until every series has what it wants.
        """
        if not wanted:
            return {}
        from tickhouse.indicators.stored_series import SeriesSearch

        search = SeriesSearch(wanted)
        for days in self._day_steps(search.earliest, search.latest):
            first, last = days[0] * _DAY_US, min(search.latest, (days[-1] + 1) * _DAY_US - 1)
            search.take(self._bars_between(search, before, first, last), first)
            if search.complete:
                break
        return search.by_series()

    def both(self, name: str) -> tuple[LakeTables, list[_Piece]]:
        """Return the lake, and rows of a table that it does not have yet: together all of them, some perhaps in both."""
        with self._lock:
            return self._lake, list(self._pending[name])

    def _day_steps(self, earliest: int, latest: int) -> Iterator[list[int]]:
        """Yield the days with bars in [earliest, latest], newest first, in growing groups; each group rises."""
        lake, pending = self.both("gold.bars")
        days = {(file.day - _EPOCH).days for file in lake.data_files("gold.bars")}
        for first, last in (piece.bounds for piece in pending):
            days.update(range(first // _DAY_US, last // _DAY_US + 1))
        left = sorted(day for day in days if earliest // _DAY_US <= day <= latest // _DAY_US)
        size = 2
        while left:
            yield left[-size:]
            del left[-size:]
            size *= 2

    def _bars_between(self, search: SeriesSearch, before: Cause, first: int, last: int) -> pa.Table:
        start = pc.field("start")
        chosen = (start >= pa.scalar(first, TIME)) & (start <= pa.scalar(last, TIME)) & (pc.field("origin") == "trades")
        chosen &= pc.field("interval").isin(search.intervals)
        symbols = search.symbols
        if len(symbols) <= _FEW_SYMBOLS:
            chosen &= pc.field("symbol").isin(symbols)
        return self._read("gold.bars", chosen, before, first, last, symbols[0] if len(symbols) == 1 else None, search.columns)

    def _of(self, instrument: Instrument) -> Any:
        return (pc.field("symbol") == instrument.symbol) & (pc.field("venue") == instrument.venue)

    def _read(
        self,
        name: str,
        asked: Any,
        before: Cause,
        first: int,
        last: int,
        symbol: str | None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return stored rows and those on their way, both before a cause, whose time lies in [first, last]."""
        offset = pc.field("offset")
        earlier = (offset < before.offset) | ((offset == before.offset) & (pc.field("row") < before.row))
        lake, pending = self.both(name)
        asked = asked & earlier & (pc.field("partition") == self._partition)
        return _together(lake, name, asked, {self._partition: pending}, first, last, symbol, columns)


class LakeHistories:
    """The histories of all partitions over one lake, which is opened once a commit for all of them.

    Args:
        path: The lake's folder.
        partitions: How many.
        more: Tables to keep beside those that a pipeline reads back, for those who ask `rows` for them.
    """

    def __init__(self, path: Path, partitions: int, more: Sequence[str] = ()) -> None:
        self._path = path
        self._tail = LakeTail(path, (*_READ_BACK, *more), range(partitions))
        self.of = [LakeHistory(LakeTables(path), partition, more) for partition in range(partitions)]
        """By partition."""

    def rows(
        self,
        name: str,
        asked: Any,
        before: Offsets | None,
        *,
        since: Offsets | None = None,
        first: int = NO_TIME,
        symbol: str | None = None,
    ) -> pa.Table:
        """Return rows of a table, stored or on their way, in no particular order; from any thread.

        Args:
            name: `silver.trades`, `gold.bars`, or one of `more`.
            asked: Which rows, e.g. `pc.field("symbol") == "BTC-USDT"`.
            before: Only rows caused before these offsets; None = all.
            since: Only rows caused from these offsets on; None = all.
            first: Only files are read that may have a time (that of the table's date) from it on; `asked` says the rest.
            symbol: Only files are read that may hold it.
        """
        pending = {partition: history.both(name)[1] for partition, history in enumerate(self.of)}
        lake, _ = self.of[0].both(name)  # asked last, as the first one told of commits: it has all that the others let go
        return _together(lake, name, asked & caused(since, before), pending, first, _MAX_TIME, symbol, None)

    def committed(self) -> None:
        """Learn what the lake has now; the tables are opened only when they are asked."""
        if self._tail.look():
            newest = LakeTables(self._path)
            for history in self.of:
                history.take_up(newest, self._tail)


def caused(since: Offsets | None, before: Offsets | None) -> Any:
    """Return the condition that a row was caused from some offsets on and before others; None = whenever."""
    either = since or before
    if either is None:
        return pc.scalar(True)
    offset, found = pc.field("offset"), pc.scalar(False)
    for partition in range(len(either)):
        one = pc.field("partition") == partition
        if since is not None:
            one &= offset >= since[partition]
        if before is not None:
            one &= offset < before[partition]
        found |= one
    return found


def _together(
    lake: LakeTables,
    name: str,
    asked: Any,
    pending: Mapping[int, Sequence[_Piece]],
    first: int,
    last: int,
    symbol: str | None,
    columns: Sequence[str] | None,
) -> pa.Table:
    """Return rows that the lake has and, by partition, those that it does not have yet, whose time lies in [first, last]."""
    files = [file for file in lake.data_files(name) if _concerns(file, TABLES[name].date_from, first, last, symbol)]
    found = lake.table(name, filters=asked, files=files, columns=columns)
    schema = found.schema
    parts = [found]
    for partition, pieces in pending.items():
        stored = lake.position(name, partition).offset
        for piece in pieces:
            if piece.offset >= stored and piece.bounds[0] <= last and piece.bounds[1] >= first:
                rows = piece.rows.filter(asked & (pc.field("offset") >= stored))
                parts.append(rows.select(schema.names).cast(schema))
    return pa.concat_tables(parts)


def _concerns(file: DataFile, time: str, first: int, last: int, symbol: str | None) -> bool:
    """Say whether a file may hold rows of a symbol (None = any) with a time in [first, last]."""
    if not first // _DAY_US <= (file.day - _EPOCH).days <= last // _DAY_US:
        return False
    if time in file.smallest:
        low, high = (pa.scalar(found[time], TIME).cast(pa.int64()).as_py() for found in (file.smallest, file.largest))
        if low > last or high < first:
            return False
    if symbol is None or "symbol" not in file.smallest:
        return True
    return bool(file.smallest["symbol"] <= symbol <= file.largest["symbol"])
