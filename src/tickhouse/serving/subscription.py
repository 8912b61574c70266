"""One subscriber's place in the hub: what it is sent first, what it is sent then, and what happens when it is slow.

`begin` takes the place, `finish` reads what is stored before it (a snapshot), `take` gives what came after (a delta). All but
`finish` belong to the hub's pumping thread; `finish` reads files and may run in any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tickhouse.errors import ConfigError
from tickhouse.model import Offsets
from tickhouse.serving.ring import Wanted, furthest, has_reached, with_indicators
from tickhouse.serving.rows import Record, joined, records, shown_columns
from tickhouse.tables import TABLES, TIME

if TYPE_CHECKING:
    from tickhouse.serving.hub import Hub

__all__ = ["Message", "Past", "Place", "Subscription"]

_NEWEST_ROWS = {"trades": 100, "anomalies": 100, "events": 100}
"""In a snapshot of a subscriber that did not ask for what is stored."""
_DELTA_ROWS = 5_000
_STITCHED_ROWS = 500_000


class Past(Protocol):
    """How stored rows are read: `history.LakeHistories` is one."""

    def rows(
        self,
        name: str,
        asked: Any,
        before: Offsets | None,
        *,
        since: Offsets | None = None,
        first: int = ...,
        symbol: str | None = None,
    ) -> pa.Table:
        """Return rows of a table, stored or on their way, caused from `since` on and before `before`."""
        ...


@dataclass(frozen=True, slots=True)
class Message:
    """What a subscriber is sent."""

    kind: Literal["snapshot", "delta"]
    seq: Offsets
    """Everything caused before has been sent."""
    records: Sequence[Record]
    """Empty where `encoded` is used."""
    encoded: bytes
    """Rows as JSON, commas between, no brackets."""
    received_at: int | None = None
    """When the newest trade behind it was received, UTC microseconds."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a snapshot ends and deltas begin."""

    position: Offsets
    past: Past | None
    newest: list[Record]
    """Rows that the hub itself has."""
    open_bars: list[Record]
    missed_from: Offsets | None
    """Rows caused from here on were missed; None = a first snapshot."""


class Subscription:
    """Made by `Hub.subscribe`.

    Args:
        hub: Where it stands.
        wanted: What it asks for.
        as_records: Give rows as records, not as JSON.
    """

    def __init__(self, hub: Hub, wanted: Wanted, *, as_records: bool) -> None:
        self.wanted = wanted
        self.is_stale = True
        """It needs a snapshot before anything else."""
        self._hub = hub
        self._as_records = as_records
        self._sent: Offsets | None = None
        """Everything caused before was sent; None = nothing was."""
        self._generation = hub.generation
        self._version = 0
        """Of the open bars or figures sent last."""

    def begin(self) -> Place:
        """Take a place: the snapshot that `finish` makes of it and the deltas after it meet without a gap or a double."""
        hub, wanted = self._hub, self.wanted
        sent = self._sent if self._generation == hub.generation else None
        # Where the house is followed anew, what was sent before may be ahead of that.
        position = hub.position if sent is None else furthest(hub.position, sent)
        newest: list[Record] = []
        ring = hub.rings.get(wanted.channel)
        if not wanted.is_stitched and ring is not None and wanted.channel in _NEWEST_ROWS:
            newest = ring.newest(wanted, _NEWEST_ROWS[wanted.channel])
        if wanted.channel == "feeds":
            newest = hub.feed_records(wanted)
        missed_from = sent if wanted.is_stitched else None
        opened = hub.open_bars.records(wanted, 0) if wanted.channel == "bars" else []
        self._sent, self._version, self._generation = position, hub.open_bars.version, hub.generation
        self.is_stale = False
        return Place(position, hub.past, newest, opened, missed_from)

    def finish(self, place: Place) -> Message:
        """Return the snapshot for a place; may read files, from any thread.

        Raises:
            ConfigError: more rows are asked for than a snapshot may have.
        """
        wanted = self.wanted
        found: Sequence[Record] = place.newest
        if wanted.is_stitched and place.past is not None:
            stored = self._stored(wanted.table, place)
            if len(stored) > _STITCHED_ROWS:
                raise ConfigError(
                    f"{len(stored):,} rows since then are more than one subscription may ask for ({_STITCHED_ROWS:,}); "
                    "ask for older ones by GET, page by page, and subscribe from a later instant"
                )
            if not self._as_records and wanted.channel != "bars":
                return Message("snapshot", place.position, (), _encoded(stored, wanted))
            found = records(stored, shown_columns(wanted.table))
        if wanted.channel == "bars":
            found = self._bars(list(found), place)
        if self._as_records:
            return Message("snapshot", place.position, found, b"")
        return Message("snapshot", place.position, (), joined(found))

    def _bars(self, found: list[Record], place: Place) -> list[Record]:
        for row in found:
            row["final"] = True
        if self.wanted.indicators and self.wanted.is_stitched and place.past is not None:
            values = self._stored("gold.indicators", place).sort_by("available_at")
            found = with_indicators(found, values)
        return [*found, *place.open_bars]

    def _stored(self, name: str, place: Place) -> pa.Table:
        wanted, time = self.wanted, TABLES[name].date_from
        asked = pc.scalar(True)
        for column, value in (("symbol", wanted.symbol), ("venue", wanted.venue), ("interval", wanted.interval)):
            if value is not None:
                asked &= pc.field(column) == value
        after = place.missed_from or wanted.after
        more: dict[str, int] = {}
        if after is None and wanted.since is not None:
            more["first"] = wanted.since
            asked &= pc.field(time) >= pa.scalar(wanted.since, TIME)
        if after is not None and len(after) != len(place.position):
            raise ConfigError(f"after: {list(after)} is no `seq` of this house; give one that came with a message of it")
        if name == "gold.bars":
            asked &= pc.field("origin") == "trades"
        assert place.past is not None
        found = place.past.rows(name, asked, place.position, since=after, symbol=wanted.symbol, **more)
        order = ["venue", "symbol", "interval", "start", "available_at"] if "interval" in found.column_names else [time]
        return found.sort_by([(column, "ascending") for column in [*order, "offset", "row"]])

    def take(self) -> Message | None:
        """Return what came since the last call; None where nothing did, or where a snapshot is needed first."""
        hub, wanted = self._hub, self.wanted
        if self.is_stale or self._generation != hub.generation:
            self.is_stale = True
            return None
        if wanted.channel == "feeds":
            return self._take_feeds()
        assert self._sent is not None
        pieces = hub.rings[wanted.channel].since(self._sent)
        if pieces is None:
            self.is_stale = True
            return None
        texts, rows, received_at = [], [], None
        reached, count = hub.position, 0
        for piece in pieces:
            if self._as_records:
                rows += piece.records(wanted)
            else:
                texts.append(piece.encoded(wanted))
            received_at = piece.received_at or received_at
            count += len(piece.table)
            if count >= _DELTA_ROWS:
                reached = piece.end
                break
        self._sent = furthest(self._sent, reached)
        if reached == hub.position and wanted.channel == "bars":
            had = len(rows) + len(texts)
            if self._as_records:
                rows += hub.open_bars.records(wanted, self._version)
            else:
                texts += hub.open_bars.encoded(wanted, self._version)
            if len(rows) + len(texts) > had:
                received_at = hub.open_received_at
            self._version = hub.open_bars.version
        return self._message(texts, rows, received_at)

    @property
    def has_more(self) -> bool:
        """Whether `take` left something for the next call."""
        if self.is_stale or self._sent is None or self.wanted.channel == "feeds":
            return False
        return not has_reached(self._sent, self._hub.position)

    def _take_feeds(self) -> Message | None:
        hub = self._hub
        if self._version == hub.feeds_version:
            return None
        self._version = hub.feeds_version
        rows = hub.feed_records(self.wanted)
        return self._message([] if self._as_records else [joined(rows)], rows if self._as_records else [], None)

    def _message(self, texts: list[bytes], rows: list[Record], received_at: int | None) -> Message | None:
        encoded = b",".join(text for text in texts if text)
        if not encoded and not rows:
            return None
        assert self._sent is not None
        return Message("delta", self._sent, rows, encoded, received_at)


def _encoded(stored: pa.Table, wanted: Wanted) -> bytes:
    columns = shown_columns(wanted.table)
    if len(stored) < _DELTA_ROWS:
        return joined(records(stored, columns))
    frame = pl.from_arrow(stored.select(columns))
    assert isinstance(frame, pl.DataFrame)
    from tickhouse.serving.rows import with_plain_times

    return with_plain_times(frame).write_json().encode()[1:-1]
