"""What indicators ask for and give: series of bars to read back, and rows of `gold.indicators`.

`indicators.py` makes the rows, `history.py` answers what is asked, `outputs.py` spells the rows as a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tickhouse.model import F64, I8, I32, I64, Cause, Instrument

__all__ = ["BarColumns", "BarHistory", "IndicatorRows", "SeriesWanted"]


@dataclass(frozen=True, slots=True)
class SeriesWanted:
    """Bars to read back: those with start in [start_from, end_start), and of these the last `count`."""

    instrument: Instrument
    interval: str
    """E.g. `1m`."""
    end_start: int
    """Exclusive upper bound of `start`, UTC microseconds."""
    count: int | None
    """None = all."""
    start_from: int | None
    """Inclusive lower bound of `start`; None = from the first bar on."""


@dataclass(frozen=True, slots=True)
class BarColumns:
    """Bars of one series, each in its latest revision, by rising start."""

    start: I64
    open: F64
    high: F64
    low: F64
    close: F64
    volume: F64


class BarHistory(Protocol):
    """The part of History that indicators are seeded from (rule R15)."""

    def bars(self, wanted: Sequence[SeriesWanted], before: Cause) -> Mapping[SeriesWanted, BarColumns]:
        """Return the bars of each wanted series, in their latest revision among rows with a cause before the given one.

        Called from the pipeline's thread, once for all series first touched by a feed, and once for each day that has left
        memory and is revised. May block. A series without bars may be left out.
        """
        ...


@dataclass(frozen=True, slots=True)
class IndicatorRows:
    """Rows of `gold.indicators`: by rising available_at, then level, instrument, start, indicator, output."""

    instrument: I32
    level: I8
    """Index into `Rules.intervals`."""
    start: I64
    indicator: I32
    """Index into `indicator_names`."""
    output: I32
    """Index into `output_names`."""
    value: F64
    """NaN = null: not ready."""
    available_at: I64
    offset: I64
    """Cause: the heartbeat that reached the instant."""
    row: I32
    indicator_names: tuple[str, ...]
    output_names: tuple[str, ...]
