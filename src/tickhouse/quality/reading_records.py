"""What was received, as the reading takes it: the records of one instrument in journal order.

Bronze holds every trade that came, accepted or not, with the clock it was judged at. This module turns those tables back into
plain records, one instrument at a time, so that the rules can be read over them (`reading.py`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickhouse.errors import LogCorruptError
from tickhouse.model import NO_TIME

__all__ = ["REASONS", "FeedEvent", "InstrumentRecords", "ReceivedTrade", "instruments", "plain_column", "received"]

REASONS = frozenset({"symbol", "price", "size", "ts", "future", "identity", "id_conflict"})
"""Why the pipeline rejects a trade; other reasons are those of sources, whose payloads are no trades."""

_TRADE_KEYS = {"feed", "ts", "price", "size", "trade_id", "side", "conditions", "kind", "backfilled"}
_TRADE_COLUMNS = {
    "offset": pa.int64(),
    "row": pa.int64(),
    "clock": pa.int64(),
    "source": pa.string(),
    "venue": pa.string(),
    "symbol": pa.string(),
    "id_space": pa.string(),
    "identity": pa.string(),
    "trade_id": pa.int64(),
    "trade_ref": pa.string(),
    "ts": pa.int64(),
    "price": pa.float64(),
    "size": pa.float64(),
    "side": pa.string(),
    "kind": pa.string(),
    "backfilled": pa.bool_(),
    "epoch": pa.int64(),
    "verdict": pa.string(),
}


@dataclass(slots=True)
class ReceivedTrade:
    """A trade as it came, with what bronze says of it, and what the reading finds."""

    offset: int
    row: int
    clock: int | None
    """None before the first heartbeat."""
    source: str
    venue: str
    symbol: str
    id_space: str
    identity: str
    trade_id: int | None
    trade_ref: str | None
    """The id where it is no number."""
    ts: int
    price: float
    size: float
    side: str | None
    kind: str
    backfilled: bool
    stored_epoch: int | None
    """None for a rejected trade."""
    stored_verdict: str
    """`accepted`, `duplicate`, or the reason of the rejection."""
    verdict: str = ""
    epoch: int = 0
    late: bool = False
    anomaly: bool = False
    score: float | None = None

    @property
    def makes_bars(self) -> bool:
        """Say whether the trade counts in silver, bars and samples (rule R12: a polled price does not)."""
        return self.verdict == "accepted" and self.kind == "trade"


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """A stored event that the rules speak of."""

    offset: int
    row: int
    clock: int | None
    event: str
    detail: dict[str, Any]


@dataclass(slots=True)
class InstrumentRecords:
    """Everything received of one (venue, symbol), in journal order."""

    venue: str
    symbol: str
    trades: list[ReceivedTrade] = field(default_factory=list)
    events: list[FeedEvent] = field(default_factory=list)
    before: pa.Table | None = None
    """Rows of `bronze.trades` from before the span that is read: columns of plain values, in journal order."""

    def in_order(self) -> list[ReceivedTrade | FeedEvent]:
        """Return trades and events by (offset, row)."""
        return sorted([*self.trades, *self.events], key=lambda record: (record.offset, record.row))


def instruments(trades: pa.Table, rejected: pa.Table, events: pa.Table, since: int = NO_TIME) -> Iterator[InstrumentRecords]:
    """Yield the records of each instrument of one partition, by (venue, symbol).

    Args:
        trades: Rows of `bronze.trades`.
        rejected: Rows of `bronze.rejected`; what a source rejected is passed over.
        events: Rows of `bronze.events`.
        since: Trades with a clock before it stay columns, in `before`.

    Raises:
        LogCorruptError: a row cannot be read as what it should be.
    """
    others: dict[tuple[str, str], InstrumentRecords] = {}

    def of(venue: str, symbol: str) -> InstrumentRecords:
        return others.setdefault((venue, symbol), InstrumentRecords(venue, symbol))

    for trade in _rejected_trades(rejected):
        of(trade.venue, trade.symbol).trades.append(trade)
    for row in _plain(events).to_pylist():
        if row["event"] in {"new_ids", "refilled"}:
            event = FeedEvent(row["offset"], row["row"], row["clock"], row["event"], _detail(row))
            of(row["venue"] or "", row["symbol"] or "").events.append(event)
    for piece in _by_instrument(trades):
        clock = pc.fill_null(piece.column("clock"), NO_TIME)
        within = received(piece.filter(pc.greater_equal(clock, since)))
        venue, symbol = (piece.column(name)[0].as_py() for name in ("venue", "symbol"))
        records = others.pop((venue, symbol), None) or InstrumentRecords(venue, symbol)
        records.trades = [*within, *records.trades]
        records.before = piece.filter(pc.less(clock, since))
        yield records
    yield from others.values()


def received(rows: pa.Table) -> list[ReceivedTrade]:
    """Return columns as records."""
    columns = [column.to_pylist() for column in rows.columns]
    return [ReceivedTrade(*values) for values in zip(*columns, strict=True)]


def _by_instrument(trades: pa.Table) -> Iterator[pa.Table]:
    if not len(trades):
        return
    arrays = [_plain(trades.select([name])).column(0).cast(kind) for name, kind in _TRADE_COLUMNS.items()]
    table = pa.table(arrays, names=list(_TRADE_COLUMNS))
    table = table.sort_by([("venue", "ascending"), ("symbol", "ascending"), ("offset", "ascending"), ("row", "ascending")])
    table = table.combine_chunks()
    changed = np.zeros(len(table), np.bool_)
    changed[0] = True
    for name in ("venue", "symbol"):
        codes = table.column(name).combine_chunks().dictionary_encode()
        indices = (codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes).indices.to_numpy()
        changed[1:] |= indices[1:] != indices[:-1]
    bounds = [*np.flatnonzero(changed).tolist(), len(table)]
    for begin, end in pairwise(bounds):
        yield table.slice(begin, end - begin)


def _rejected_trades(rejected: pa.Table) -> Iterator[ReceivedTrade]:
    for row in _plain(rejected).to_pylist():
        if row["reason"] not in REASONS or row["sha256"] is not None:
            continue
        try:
            trade = json.loads(row["payload"])
        except ValueError:
            continue  # a source refused it, and its payload is the provider's
        if isinstance(trade, dict) and trade.keys() == _TRADE_KEYS and isinstance(trade["feed"], dict):
            yield _trade(row, trade)


def _trade(row: dict[str, Any], trade: dict[str, Any]) -> ReceivedTrade:
    feed, trade_id = trade["feed"], trade["trade_id"]
    try:
        return ReceivedTrade(
            offset=row["offset"],
            row=row["row"],
            clock=row["clock"],
            source=feed["source"],
            venue=feed["venue"],
            symbol=feed["symbol"],
            id_space=feed["id_space"],
            identity=feed["identity"],
            trade_id=trade_id if isinstance(trade_id, int) else None,
            trade_ref=trade_id if isinstance(trade_id, str) else None,
            ts=trade["ts"],
            price=_number(trade["price"]),
            size=_number(trade["size"]),
            side=trade["side"],
            kind=trade["kind"],
            backfilled=trade["backfilled"],
            stored_epoch=None,
            stored_verdict=row["reason"],
        )
    except KeyError as error:
        where = f"partition {row['partition']}, offset {row['offset']}, row {row['row']}"
        raise LogCorruptError(f"bronze.rejected at {where} holds a trade without {error}; run `tickhouse doctor`") from error


def _number(value: float | None) -> float:
    """JSON has no NaN and no infinity: they are written as null."""
    return math.nan if value is None else float(value)


def _detail(row: dict[str, Any]) -> dict[str, Any]:
    try:
        detail: dict[str, Any] = json.loads(row["detail"])
    except ValueError as error:
        where = f"partition {row['partition']}, offset {row['offset']}"
        raise LogCorruptError(f"bronze.events at {where} has a detail that is no JSON; run `tickhouse doctor`") from error
    return detail


def _plain(table: pa.Table) -> pa.Table:
    """Return the columns with times as microseconds and texts undecoded from dictionaries."""
    return pa.table([plain_column(column) for column in table.columns], names=table.column_names)


def plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column with times as microseconds and texts out of their dictionary."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64())
    return column
