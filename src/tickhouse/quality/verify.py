"""`tickhouse verify`: recomputes what is stored from what was received, and compares it byte for byte.

Reads a store up to the smallest of its tables' positions, derives silver and gold from bronze by a second reading of the rules
(`reading.py`), and compares tables as multisets without the cause columns. Also checks the balance: what was received is
accepted, duplicate or rejected, once. The composition root hands in the store; nothing here knows which one it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickhouse.model import NO_TIME, Position
from tickhouse.quality.digest import DigestBuilder, row_hashes
from tickhouse.quality.reading import DERIVED, Known, OtherVerdict, read_partition
from tickhouse.rules import Rules
from tickhouse.tables import TABLES, TIME, Table

__all__ = ["Balance", "Difference", "Report", "Store", "verify"]

Hashes = tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]
_SortKey = tuple[tuple[bool, Any], ...]

_DAY_US = 86_400_000_000
_END_OF_TIME = (1 << 63) - 1
_BRONZE = ("bronze.trades", "bronze.rejected", "bronze.events")
_ROW_KEYS = {
    "silver.trades": ("venue", "symbol", "clock", "ts", "trade_id", "trade_ref"),
    "gold.anomalies": ("venue", "symbol", "clock", "ts", "detector"),
}
"""What names a row in a difference where the key is the cause, which is not compared."""


class Store(Protocol):
    """The stored tables of a house, as `verify` reads them."""

    def rules(self) -> Rules:
        """Return the rules that the house was made with."""
        ...

    def partitions(self) -> int:
        """Return the number of partitions."""
        ...

    def position(self, partition: int) -> Position:
        """Return the smallest position over the tables, with its clock."""
        ...

    def read(self, table: str, partition: int, below: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of one partition whose `offset` is below `below`; all columns where none are named."""
        ...


class Difference(msgspec.Struct, frozen=True):
    """The first thing in which a table is not what the rules say, and how much else."""

    table: str
    partition: int
    rows: int
    """How many rows differ, on either side."""
    what: str
    key: dict[str, Any] = {}
    stored: dict[str, Any] | None = None
    recomputed: dict[str, Any] | None = None


class Balance(msgspec.Struct):
    """What was received, and what became of it."""

    received: int = 0
    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    silver: int = 0
    """Rows of silver.trades: the accepted trades that are not polled prices."""
    repeated_causes: int = 0
    ok: bool = True


@dataclass(slots=True)
class Report:
    """What `verify` found."""

    digests: dict[str, str] = field(default_factory=dict)
    """Of the stored rows, by table."""
    recomputed: dict[str, str] = field(default_factory=dict)
    """Of the rows that the rules give, by derived table."""
    rows: dict[str, int] = field(default_factory=dict)
    """Stored rows by table."""
    differences: list[Difference] = field(default_factory=list)
    balance: Balance = field(default_factory=Balance)

    @property
    def ok(self) -> bool:
        """Say whether everything stored is proven."""
        return self.balance.ok and not self.differences

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        content: dict[str, Any] = msgspec.to_builtins(
            {
                "ok": self.ok,
                "digests": self.digests,
                "rows": self.rows,
                "differences": self.differences,
                "balance": self.balance,
            }
        )
        return content


def verify(store: Store, *, day: date | None = None, progress: Callable[[int], None] | None = None) -> Report:
    """Recompute silver and gold from bronze, and compare.

    Args:
        store: The tables of a house; read only.
        day: Prove only the rows that appeared on this UTC date (by `available_at`, else by `clock`), going on from the stored
            rows of the days before: their verdicts, gaps and bars are taken as they stand.
        progress: Called with the number of trades done so far, now and then.

    Raises:
        ConfigError: the rules name an indicator or detector that is not known.
        LogCorruptError: a bronze row cannot be read as what it should be.
    """
    work = _Work(store, _Span.of(day), progress)
    for partition in range(store.partitions()):
        work.prove(partition)
    return work.finish()


@dataclass(frozen=True, slots=True)
class _Span:
    """The clocks whose rows are asked for: [since, until)."""

    since: int = NO_TIME
    until: int = _END_OF_TIME

    @classmethod
    def of(cls, day: date | None) -> _Span:
        if day is None:
            return cls()
        since = (day - date(1970, 1, 1)).days * _DAY_US
        return cls(since, since + _DAY_US)

    def within(self, table: pa.Table) -> pa.Table:
        """Return the rows that appeared in the span; rows without a clock belong to no day."""
        return table if self.since == NO_TIME else self._between(table, self.since, self.until)

    def up_to_its_end(self, table: pa.Table) -> pa.Table:
        """Return the rows that appeared in the span or before it."""
        return table if self.since == NO_TIME else self._between(table, NO_TIME, self.until, without=True)

    def before(self, table: pa.Table) -> pa.Table:
        """Return the rows that appeared before the span."""
        return self._between(table, NO_TIME, self.since)

    @staticmethod
    def _between(table: pa.Table, since: int, until: int, *, without: bool = False) -> pa.Table:
        clock = table.column("available_at" if "available_at" in table.column_names else "clock").cast(TIME).cast(pa.int64())
        return table.filter(pc.fill_null(pc.and_(pc.greater_equal(clock, since), pc.less(clock, until)), without))


class _Work:
    """One verification: what is read, what has been found so far."""

    def __init__(self, store: Store, span: _Span, progress: Callable[[int], None] | None) -> None:
        self._store, self._span, self._progress = store, span, progress
        self._rules = store.rules()
        self._report = Report()
        self._stored = {name: DigestBuilder(spec) for name, spec in TABLES.items()}
        self._recomputed = {name: DigestBuilder(TABLES[name]) for name in DERIVED}
        self._done = 0

    def prove(self, partition: int) -> None:
        """Recompute one partition and compare it."""
        report, span = self._report, self._span
        position = self._store.position(partition)
        read = (span.up_to_its_end(self._store.read(name, partition, position.offset)) for name in _BRONZE)
        trades, rejected, events = read
        bars, gaps = (self._store.read(name, partition, position.offset) for name in ("gold.bars", "gold.gaps"))
        clock = min(position.clock, span.until - 1)
        known = None if span.since == NO_TIME else Known(span.before(bars), span.before(gaps))
        reading = read_partition(trades, rejected, events, self._rules, clock, self._advance, span.since, known)
        _check_verdicts(partition, reading.other_verdicts, report)
        _check_clocks(partition, trades, clock, report)
        trades, rejected, events = (span.within(table) for table in (trades, rejected, events))
        for name, table in zip(_BRONZE, (trades, rejected, events), strict=True):
            self._stored[name].update(table)
        made_bars = _count(partition, trades, rejected, report)
        del trades, rejected, events
        for name in DERIVED:
            table = {"gold.bars": bars, "gold.gaps": gaps}.get(name)
            if table is None:
                table = self._store.read(name, partition, position.offset)
            stored = _Side(span.within(table), name)
            recomputed = _Side(reading.tables.pop(name), name)
            self._stored[name].add(*stored.hashes)
            self._recomputed[name].add(*recomputed.hashes)
            report.differences.extend(_compare(partition, TABLES[name], stored, recomputed))
            if name == "silver.trades":
                report.balance.silver += len(stored.rows)
                report.balance.ok = report.balance.ok and len(stored.rows) == made_bars

    def finish(self) -> Report:
        """Return what was found."""
        report = self._report
        report.digests = {name: builder.hexdigest() for name, builder in self._stored.items()}
        report.recomputed = {name: builder.hexdigest() for name, builder in self._recomputed.items()}
        report.rows = {name: builder.rows for name, builder in self._stored.items()}
        return report

    def _advance(self, trades: int) -> None:
        self._done += trades
        if self._progress is not None:
            self._progress(self._done)


class _Side:
    """The stored or the recomputed rows of a table, with their hashes."""

    def __init__(self, rows: pa.Table, name: str) -> None:
        self.rows = rows
        self.hashes = row_hashes(rows, TABLES[name])

    def least(self, places: npt.NDArray[np.int64], key: Sequence[str]) -> tuple[_SortKey, dict[str, Any]] | None:
        """Return the row with the smallest key among `places`, if there are any."""
        if not len(places):
            return None
        order = [(name, "ascending") for name in key]
        row: dict[str, Any] = self.rows.take(pa.array(places)).sort_by(order).slice(0, 1).to_pylist()[0]
        return tuple((row[name] is None, row[name]) for name in key), row


def _compare(partition: int, spec: Table, stored: _Side, recomputed: _Side) -> Iterable[Difference]:
    only_stored, only_recomputed, count = _unmatched(stored.hashes, recomputed.hashes)
    if not count:
        return
    key = _ROW_KEYS.get(spec.name, spec.key)
    sides = [stored.least(only_stored, key), recomputed.least(only_recomputed, key)]
    first = min(side[0] for side in sides if side is not None)
    shown = [side[1] if side is not None and side[0] == first else None for side in sides]
    named = {name: value for name, (_, value) in zip(key, first, strict=True)}
    if shown[0] is None:
        what = "a row is missing"
    else:
        what = "a row is stored that the rules do not give" if shown[1] is None else "a row has other values"
    yield Difference(spec.name, partition, count, what, named, *shown)


def _unmatched(stored: Hashes, recomputed: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Return a place for each kind of row that one side has more of, and how many rows that are."""
    low, high = (np.concatenate([left, right]) for left, right in zip(stored, recomputed, strict=True))
    if not len(low):
        return np.empty(0, np.int64), np.empty(0, np.int64), 0
    order = np.lexsort((low, high))
    low, high = low[order], high[order]
    begins = np.flatnonzero(np.concatenate([[True], (low[1:] != low[:-1]) | (high[1:] != high[:-1])]))
    is_stored = order < len(stored[0])
    surplus = np.add.reduceat(np.where(is_stored, 1, -1), begins)
    # A stable sort keeps the stored rows of a kind before the recomputed ones.
    lasts = np.concatenate([begins[1:], [len(order)]]) - 1
    only_stored = order[begins[surplus > 0]]
    only_recomputed = order[lasts[surplus < 0]] - len(stored[0])
    return only_stored, only_recomputed, int(np.abs(surplus).sum())


def _check_verdicts(partition: int, others: Sequence[OtherVerdict], report: Report) -> None:
    for name, were_rejected in (("bronze.trades", False), ("bronze.rejected", True)):
        found = [other for other in others if other.was_rejected == were_rejected]
        if found:
            first = min(found, key=lambda other: (other.offset, other.row))
            key = {"partition": partition, "offset": first.offset, "row": first.row}
            verdicts = {"verdict": first.stored}, {"verdict": first.recomputed}
            report.differences.append(Difference(name, partition, len(found), "a trade has another verdict", key, *verdicts))


def _check_clocks(partition: int, trades: pa.Table, clock: int, report: Report) -> None:
    """The clock of a partition never falls (rule R3)."""
    offset, row, clocks = (_integers(trades, name) for name in ("offset", "row", "clock"))
    order = np.lexsort((row, offset))
    in_order = clocks[order]
    fallen = np.flatnonzero(in_order > np.append(in_order[1:], clock))
    if len(fallen):
        place = order[fallen[0]]
        key = {"partition": partition, "offset": int(offset[place]), "row": int(row[place])}
        what = "a trade's clock is above that of a later one, or of the position"
        report.differences.append(Difference("bronze.trades", partition, len(fallen), what, key))


def _count(partition: int, trades: pa.Table, rejected: pa.Table, report: Report) -> int:
    """Add a partition to the balance; return how many rows silver must have."""
    balance = report.balance
    verdicts, kinds = (_texts(trades, name) for name in ("verdict", "kind"))
    accepted = pc.equal(verdicts, "accepted")
    accepted_count = int(pc.sum(accepted).as_py() or 0)
    duplicate_count = int(pc.sum(pc.equal(verdicts, "duplicate")).as_py() or 0)
    balance.received += len(trades) + len(rejected)
    balance.accepted += accepted_count
    balance.duplicate += duplicate_count
    balance.rejected += len(rejected)
    repeated = _repeated_causes(trades, rejected)
    if repeated:
        balance.repeated_causes += repeated
        what = "a cause stands twice in bronze.trades and bronze.rejected"
        report.differences.append(Difference("bronze.trades", partition, repeated, what))
    balance.ok = balance.ok and not repeated and accepted_count + duplicate_count == len(trades)
    return int(pc.sum(pc.and_(accepted, pc.equal(kinds, "trade"))).as_py() or 0)


def _repeated_causes(*tables: pa.Table) -> int:
    offset, row = (np.concatenate([_integers(table, name) for table in tables]) for name in ("offset", "row"))
    order = np.lexsort((row, offset))
    offset, row = offset[order], row[order]
    return int(((offset[1:] == offset[:-1]) & (row[1:] == row[:-1])).sum())


def _integers(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    column = table.column(name)
    values: npt.NDArray[Any] = column.cast(pa.int64()).to_numpy()
    return values.astype(np.int64)


def _texts(table: pa.Table, name: str) -> pa.ChunkedArray:
    return table.column(name).cast(pa.string())
