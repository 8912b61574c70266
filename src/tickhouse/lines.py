"""What a recorded file is to the recording journal: blocks of lines, each line already read into trades.

`sources/files/` reads files into these; `journal/recording` numbers their lines, makes the heartbeats and cuts batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from tickhouse.model import I64, Event, Feeds, Identity, Rejected, Trades

__all__ = [
    "EARLIEST_US",
    "LATEST_US",
    "FileFormat",
    "FileOptions",
    "LineBlock",
    "LineFile",
    "OpenFile",
    "TsUnit",
    "is_reliable_time",
]

EARLIEST_US = 631_152_000_000_000
"""1990-01-01: an earlier time is none (rule R12)."""
LATEST_US = 4_102_444_800_000_000
"""2100-01-01: from here on a time is none (rule R12)."""

FileFormat = Literal["frames", "ndjson", "csv", "parquet"]
TsUnit = Literal["s", "ms", "us", "ns", "iso"]


class FileOptions(msgspec.Struct, frozen=True):
    """How a recorded file is to be read; what is None is found out from its first lines."""

    format: FileFormat | None = None
    columns: dict[str, str] = {}
    """Our name -> the file's, for `symbol price size ts trade_id received_at side conditions`."""
    ts_unit: TsUnit | None = None
    """Unit of `ts`; `iso` = ISO-8601 text."""
    received_unit: TsUnit | None = None
    venue: str | None = None
    """For symbols that do not name theirs."""
    symbol: str | None = None
    """For a file without a symbol column."""
    identity: Identity | None = None
    """What the ids promise; None = contiguous on venues known for it, unique elsewhere, none without ids."""
    source: str | None = None
    """In recorded frames: who sent them."""


@dataclass(frozen=True, slots=True)
class LineBlock:
    """Consecutive lines of a file, read. All offsets are line numbers within the file."""

    end: int
    """The line after the last of this block; blocks follow each other without a hole."""
    trades: Trades
    """In line order; feed codes are those of the file's own `feeds`."""
    time_line: I64
    """Lines that tell a time, in order."""
    time: I64
    """Receive time of each (lacking that, `ts` of its trade), microseconds; only values from 1990 to 2100."""
    rejected: list[Rejected] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    ignored_line: list[int] = field(default_factory=list)
    """A line number for each documented message that is not taken."""
    beats: list[tuple[int, int]] = field(default_factory=list)
    """(line, instant) of the heartbeats that were recorded."""


class LineFile(Protocol):
    """One recorded file, opened: its first lines were read, and what they say is in `options`."""

    options: FileOptions
    """As in use: nothing that the format needs is None any more."""
    feeds: Feeds
    """The file's own; filled while blocks are read."""
    has_beats: bool
    """The file brings its own heartbeats, none are made."""

    def head_times(self) -> I64:
        """Return the times of the file's first lines that tell one."""
        ...

    def blocks(self) -> Iterator[LineBlock]:
        """Read the file from its beginning."""
        ...

    @property
    def bytes_read(self) -> int:
        """Bytes of the file consumed by `blocks`, as they lie on disk."""
        ...


class OpenFile(Protocol):
    """Opens a recorded file; the house gives the journal one that knows the installed sources."""

    def __call__(self, path: Path, options: FileOptions) -> LineFile:
        """Open `path` and find out what `options` leaves open.

        Raises:
            ConfigError: the file cannot be read in this way; the text says which option helps.
        """
        ...


def is_reliable_time(times: I64) -> npt.NDArray[np.bool_]:
    """Say of each time whether it may move a clock at all (1990 to 2100)."""
    return (times >= EARLIEST_US) & (times < LATEST_US)
