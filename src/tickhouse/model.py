"""The records that move through the house, and their columns in memory.

Sources make `Trade` records; ingest and the journals turn them into `Trades` columns inside a `Batch`, the one thing a
pipeline is fed with. What is stored, and how it is spelled in every store, is `tables.py`.

All times are UTC microseconds since the epoch (int64); prices are quote units per base unit, sizes base units (float64).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = [
    "HEARTBEAT_US",
    "MAX_MESSAGE_ROWS",
    "MAX_PAYLOAD_BYTES",
    "NO_TIME",
    "Batch",
    "Beats",
    "Cause",
    "Event",
    "Feed",
    "Feeds",
    "Identity",
    "Instrument",
    "Offsets",
    "Position",
    "Rejected",
    "Side",
    "Trade",
    "Trades",
]

HEARTBEAT_US = 250_000
"""A heartbeat marks every quarter second (rule R3)."""

MAX_MESSAGE_ROWS = 16_384
"""A message never has more rows than this, and is never split."""

MAX_PAYLOAD_BYTES = 1 << 20
"""A rejected payload is kept up to this many bytes; beyond it, with its length and sha256."""

NO_TIME = int(np.iinfo(np.int64).min)
"""In a time column: there is none (null in every table)."""

Identity = Literal["contiguous", "unique", "none"]
"""What a provider's trade ids promise (rule R1)."""

Side = Literal["buy", "sell"]
"""The aggressor's side."""

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int8]
F64 = npt.NDArray[np.float64]


class Cause(NamedTuple):
    """The journal record that made a row appear; ordered within a partition."""

    partition: int
    offset: int
    """Number of the message in its partition; in a recording, of the line."""
    row: int
    """Number of the trade inside the message; -1 for a recording's own heartbeat, -2 for its rules."""


class Position(NamedTuple):
    """How far a table, a snapshot or a reader has come in one partition; always between two messages."""

    offset: int = 0
    """The next message to be read: every message below it is done."""
    clock: int = NO_TIME
    """The last heartbeat below `offset`."""


Offsets = tuple[int, ...]
"""An offset in each partition: where a house was cut in two, before and after."""


class Instrument(msgspec.Struct, frozen=True, order=True):
    """What is traded where: the unit of identity, order and bars."""

    venue: str
    symbol: str
    """Canonical: `AAPL`, `BTC-USDT`."""


class Feed(msgspec.Struct, frozen=True):
    """Who delivers an instrument, in which id space, and how the provider spells it."""

    source: str
    venue: str
    symbol: str
    """Canonical: `AAPL`, `BTC-USDT`."""
    id_space: str
    """Names what the ids count, e.g. `trade`, `agg`; empty where there are none."""
    identity: Identity
    provider_symbol: str
    """The provider's own spelling, e.g. `BTCUSDT`."""

    @property
    def instrument(self) -> Instrument:
        """The (venue, symbol) that this feed delivers."""
        return Instrument(self.venue, self.symbol)


class Feeds:
    """The feeds seen in one partition, interned: a feed's place in the list is its code, and never changes.

    A pipeline owns one and keeps it in its snapshot; whoever reads a journal for it interns into the same one.
    """

    def __init__(self, feeds: list[Feed] | None = None) -> None:
        self.feeds: list[Feed] = []
        self.instruments: list[Instrument] = []
        self.instrument_of: list[int] = []
        """Instrument code of each feed code."""
        self._codes: dict[Feed, int] = {}
        self._instrument_codes: dict[Instrument, int] = {}
        for feed in feeds or ():
            self.code(feed)

    def code(self, feed: Feed) -> int:
        """Return the code of `feed`, giving it the next free one at first sight."""
        code = self._codes.get(feed)
        if code is None:
            code = self._codes[feed] = len(self.feeds)
            self.feeds.append(feed)
            self.instrument_of.append(self.instrument_code(feed.instrument))
        return code

    def find(self, feed: Feed) -> int:
        """Return the code of `feed`, -1 where it was not seen yet."""
        return self._codes.get(feed, -1)

    def instrument_code(self, instrument: Instrument) -> int:
        """Return the code of `instrument`, giving it the next free one at first sight."""
        code = self._instrument_codes.get(instrument)
        if code is None:
            code = self._instrument_codes[instrument] = len(self.instruments)
            self.instruments.append(instrument)
        return code

    def __len__(self) -> int:
        return len(self.feeds)


class Trade(msgspec.Struct, frozen=True):
    """One trade as a source reads it from a payload."""

    feed: Feed
    ts: int
    """When it happened at the venue, UTC microseconds."""
    price: float
    size: float
    trade_id: int | str | None = None
    """The venue's id; None where the feed's identity is `none`."""
    side: Side | None = None
    conditions: str | None = None
    """Sale conditions in the provider's own code, e.g. `1,8`."""
    kind: Literal["trade", "polled"] = "trade"
    """`polled`: a price asked for now and then, size 0; it makes no bar (rule R12)."""
    backfilled: bool = False


@dataclass(frozen=True, slots=True)
class Trades:
    """Trades as columns, in journal order; every array has one entry a trade and is C-contiguous.

    `trade_id` and `trade_id_hi` are the two halves of a 128-bit id key: a numeric id is (id, 0); a textual one is the digest
    that `text_id_key` makes, and its text stands in `text`. Where there is no id both are 0.
    """

    feed: I32
    """Code in the partition's `Feeds`."""
    ts: I64
    received_at: I64
    """NO_TIME where unknown."""
    price: F64
    size: F64
    trade_id: I64
    trade_id_hi: I64
    side: I8
    """0 unknown, 1 buy, 2 sell (the aggressor)."""
    kind: I8
    """0 trade, 1 polled."""
    backfilled: I8
    """0 or 1."""
    offset: I64
    row: I32
    text: pa.RecordBatch | None = None
    """Columns `trade_ref` and `conditions` (string, nullable), only where some trade has one."""

    def __len__(self) -> int:
        return len(self.ts)


@dataclass(frozen=True, slots=True)
class Beats:
    """The heartbeats of a batch, in order."""

    clock: I64
    """The instant each one marks; a multiple of HEARTBEAT_US, never falling."""
    at: I64
    """How many trades of the batch stand before each one."""
    offset: I64
    row: I32

    def __len__(self) -> int:
        return len(self.clock)


class Rejected(msgspec.Struct, frozen=True):
    """A payload (or a trade, as canonical JSON) that became no accepted trade, kept with its reason."""

    source: str
    received_at: int
    """NO_TIME where unknown."""
    reason: str
    payload: bytes
    """At most MAX_PAYLOAD_BYTES of it."""
    offset: int = 0
    row: int = 0
    length: int = 0
    """Bytes as received."""
    sha256: str | None = None
    """Of all bytes, where `payload` holds only the first of them."""


class Event(msgspec.Struct, frozen=True):
    """Something that happened to a feed, or the rules coming into force."""

    event: str
    """`connected`, `disconnected`, `new_ids`, `refilled`, `rules`, `clock_jumped`, ..."""
    source: str | None = None
    venue: str | None = None
    symbol: str | None = None
    detail: dict[str, Any] = {}
    offset: int = 0
    row: int = 0
    at: int = 0
    """In a batch: how many of its trades stand before it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A piece of one partition of a journal, whole messages only: what a pipeline is fed with.

    Records are ordered by (offset, row) over all four kinds; `Beats.at` and `Event.at` say the same for the kernel's loop.
    """

    partition: int
    trades: Trades
    beats: Beats
    rejected: list[Rejected] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    ignored: int = 0
    """Documented messages that we do not take; outside the balance."""
    next_offset: int = 0
    """Every message below it is in this batch or an earlier one."""
