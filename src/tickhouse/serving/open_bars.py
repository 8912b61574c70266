"""The bars that are still open, in their newest state, for the series that somebody subscribes to.

The hub owns one. It is told which instruments traded and reads their open bars out of the pipeline at a steady pace, some after
the others; what nobody wants is not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import pyarrow as pa

from tickhouse.model import I32, Instrument
from tickhouse.serving.ring import Series, Wanted
from tickhouse.serving.rows import Record, joined, records, row_objects, shown_columns

__all__ = ["Look", "OpenBars", "as_open"]

EVERY_S = 0.05
"""The open bars of an instrument are read out once in this time, if it traded."""
_STEPS = 10
"""Read-outs in that time, each of other instruments."""
_AS_OPEN: Record = {"revision": None, "available_at": None, "final": False}

_Key = TypeVar("_Key")

Look = Callable[[I32 | None, Collection[str] | None], pa.Table]
"""Reads the open bars of some instruments and intervals (None = all), as rows of `gold.bars`; from any thread.

An instrument's code is that of its pipeline, times the partitions, plus its own.
"""


class _OpenBar(NamedTuple):
    version: int
    row: Any
    encoded: bytes

    @property
    def record(self) -> Record:
        found: Record = msgspec.structs.asdict(self.row)
        return found


class OpenBars:
    """What is known of open bars; of the subscribers' thread alone."""

    def __init__(self) -> None:
        self._look: Look | None = None
        self._instruments: Sequence[Sequence[Instrument]] = ()
        self._codes: dict[str, set[int]] = {}
        """The codes of each symbol, of the first `_named` instruments of each partition."""
        self._named: list[int] = []
        self._bars: dict[Series, dict[int, _OpenBar]] = {}
        self._series_of: dict[str, set[Series]] = {}
        """The series in `_bars` of each symbol."""
        self._symbols: Counter[str | None] = Counter()
        """How many subscribers want each symbol; None = all."""
        self._intervals: Counter[str | None] = Counter()
        self._pairs: Counter[tuple[str | None, str | None]] = Counter()
        self._covered: set[tuple[str | None, str | None]] = set()
        """Which of `_pairs` were read since the pipeline began: of these, only what is touched has to be read again."""
        self._touched: set[int] = set()
        self._not_before: dict[int, float] = {}
        """When the open bars of an instrument may be read again, monotonic seconds."""
        self._due_at = 0.0
        self.version = 0
        """Counts the read-outs."""

    def begin(self, look: Look, instruments: Sequence[Sequence[Instrument]]) -> None:
        """Forget everything: pipelines begin.

        Args:
            look: Reads them out.
            instruments: Those of each partition, by their code in its pipeline; they grow.
        """
        self._look, self._instruments, self._named = look, instruments, [0] * len(instruments)
        for known in (self._codes, self._bars, self._series_of, self._covered, self._touched, self._not_before):
            known.clear()

    def subscribe(self, wanted: Wanted) -> set[Series]:
        """Take note of a subscriber and make what is known for it complete; return the series that have changed."""
        pair = wanted.symbol, wanted.interval
        self._symbols[wanted.symbol] += 1
        self._intervals[wanted.interval] += 1
        self._pairs[pair] += 1
        if self._look is None:
            return set()
        codes = None if wanted.symbol is None else self._codes_of(wanted.symbol)
        if any(each in self._covered for each in (pair, (None, None), (None, pair[1]), (pair[0], None))):
            return self._read(self._touched if codes is None else self._touched & codes)
        self._covered.add(pair)
        return self._take(self._look(_array(codes), None if wanted.interval is None else (wanted.interval,)))

    def unsubscribe(self, wanted: Wanted) -> None:
        """Take note that a subscriber went."""
        pair = wanted.symbol, wanted.interval
        _drop(self._symbols, wanted.symbol)
        _drop(self._intervals, wanted.interval)
        _drop(self._pairs, pair)
        if pair not in self._pairs:
            self._covered.discard(pair)

    def touch(self, instruments: I32) -> None:
        """Take note that instruments traded."""
        codes = instruments.tolist() if self._symbols else []
        if None not in self._symbols:
            count = len(self._instruments)
            codes = [code for code in codes if self._instruments[code % count][code // count].symbol in self._symbols]
        self._touched.update(codes)

    def close(self, table: pa.Table) -> None:
        """Forget the bars that were issued."""
        for row in records(table, ["venue", "symbol", "interval", "start"]):
            bars = self._bars.get((row["venue"], row["symbol"], row["interval"]))
            if bars:
                bars.pop(row["start"], None)

    def read_due(self, now: float) -> set[Series]:
        """Read the open bars of those that traded and were not read for a while; return the series that have changed.

        Args:
            now: Monotonic seconds.
        """
        if now < self._due_at:
            return set()
        self._due_at = now + EVERY_S / _STEPS
        due = {code for code in self._touched if self._not_before.get(code, 0.0) <= now}
        for code in due:
            # Each instrument has its own moments, so that never all of them are sent at once; it waits for the next one,
            # or for the one after where that is too soon.
            wait_s = EVERY_S - (now - code % _STEPS * EVERY_S / _STEPS) % EVERY_S
            self._not_before[code] = now + (wait_s if wait_s > EVERY_S / 2 else wait_s + EVERY_S)
        return self._read(due)

    def due_at(self) -> float | None:
        """Return when to read again, monotonic seconds; None = when something is touched."""
        due = min((self._not_before.get(code, 0.0) for code in self._touched), default=None)
        return None if due is None else max(due, self._due_at)

    def records(self, wanted: Wanted, version: int) -> list[Record]:
        """Return the open bars that are wanted and have changed since a read-out."""
        return [bar.record for bar in self._newer(wanted, version)]

    def encoded(self, wanted: Wanted, version: int) -> list[bytes]:
        """Return them as JSON."""
        return [bar.encoded for bar in self._newer(wanted, version)]

    def all_now(self, wanted: Wanted) -> list[Record]:
        """Return the bars that are open now, whoever subscribes; from any thread."""
        look = self._look
        if look is None:
            return []
        intervals = None if wanted.interval is None else (wanted.interval,)
        found = [as_open(row) for row in records(look(None, intervals), shown_columns("gold.bars"))]
        return [row for row in found if wanted.takes((row["venue"], row["symbol"], row["interval"]))]

    def _newer(self, wanted: Wanted, version: int) -> Iterable[_OpenBar]:
        # Nearly everyone asks for a symbol: there are thousands of series, and a few of each symbol.
        among = self._bars if wanted.symbol is None else self._series_of.get(wanted.symbol, ())
        groups = [self._bars[series] for series in among if wanted.takes(series)]
        return [bar for bars in groups for bar in bars.values() if bar.version > version]

    def _codes_of(self, symbol: str) -> set[int]:
        for partition, instruments in enumerate(self._instruments):
            for own in range(self._named[partition], len(instruments)):
                code = own * len(self._instruments) + partition
                self._codes.setdefault(instruments[own].symbol, set()).add(code)
                self._named[partition] = own + 1
        return self._codes.get(symbol, set())

    def _read(self, codes: set[int]) -> set[Series]:
        if self._look is None or not codes:
            return set()
        found = self._look(_array(codes), None if None in self._intervals else [name for name in self._intervals if name])
        self._touched -= codes
        return self._take(found)

    def _take(self, table: pa.Table) -> set[Series]:
        self.version += 1
        changed: set[Series] = set()
        found: dict[Series, dict[int, Any]] = {}
        for row in row_objects(table, shown_columns("gold.bars"), _AS_OPEN):
            found.setdefault((row.venue, row.symbol, row.interval), {})[row.start] = row
        for series, rows in found.items():
            before, now = self._bars.get(series, {}), {}
            for start, row in rows.items():
                known = before.get(start)
                if known is not None and known.row.trades == row.trades:
                    now[start] = known
                    continue
                now[start] = _OpenBar(self.version, row, joined([row]))
                changed.add(series)
            self._bars[series] = now
            self._series_of.setdefault(series[1] or "", set()).add(series)
        return changed


def as_open(row: Record) -> Record:
    """Return a row of `gold.bars` as one of a bar that is not issued yet."""
    return {**row, **_AS_OPEN}


def _drop(counter: Counter[_Key], key: _Key) -> None:
    """Count one less; what is at 0 is no key any more."""
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _array(codes: set[int] | None) -> I32 | None:
    return None if codes is None else np.array(sorted(codes), np.int32)
