"""From the kernel's columns to the tables of the house: spelling only, no rule is decided here.

The pipeline calls these after each step of the kernel. Strings become dictionary-coded columns, numbers are handed over without
a copy, so that a row costs a few nanoseconds here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickhouse.indicators.series import IndicatorRows
from tickhouse.kernel.base import ACCEPTED, DUPLICATE, Bars, Gaps, StepOutputs
from tickhouse.model import F64, I32, I64, NO_TIME, Event, Feed, Feeds, Rejected, Trades
from tickhouse.rules import Rules
from tickhouse.tables import TABLES, TIME

__all__ = [
    "FeedColumns",
    "anomalies",
    "bars",
    "bronze_trades",
    "events",
    "gaps",
    "indicators",
    "rejected",
    "silver_trades",
    "tables_rows",
]

_GAP_STATES = pa.array(["open", "healed", "lost"])
_SIDES = pa.array(["buy", "sell"])
_KINDS = pa.array(["trade", "polled"])
_VERDICTS = pa.array(["accepted", "duplicate"])
_ORIGINS = pa.array(["trades"])

Mask = npt.NDArray[np.bool_]
Index = I64 | None
"""Which trades a table takes; None = all of them, so that nothing has to be copied."""


class FeedColumns:
    """Turns feed and instrument codes into dictionary-coded text columns; grows with the partition's `Feeds`."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = feeds
        self._known = (-1, -1)
        self._texts: dict[str, tuple[I32, pa.Array]] = {}
        self._without_ids = np.zeros(0, np.bool_)
        self._instrument = np.zeros(0, np.int32)
        self._place: npt.NDArray[Any] = np.zeros(0, np.uint16)
        """Of each feed's symbol among all symbols."""

    def _refresh(self) -> None:
        feeds = self._feeds
        known = (len(feeds.feeds), len(feeds.instruments))
        if known == self._known:
            return
        self._known = known

        def coded(texts: list[str]) -> tuple[I32, pa.Array]:
            values = {text: code for code, text in enumerate(dict.fromkeys(texts))}
            return np.array([values[text] for text in texts], np.int32), pa.array(list(values), pa.string())

        by_feed: dict[str, Callable[[Feed], str]] = {
            "source": lambda feed: feed.source,
            "feed.venue": lambda feed: feed.venue,
            "feed.symbol": lambda feed: feed.symbol,
            "id_space": lambda feed: feed.id_space,
            "identity": lambda feed: feed.identity,
            "provider_symbol": lambda feed: feed.provider_symbol,
        }
        self._texts = {name: coded([spell(feed) for feed in feeds.feeds]) for name, spell in by_feed.items()}
        self._texts["venue"] = coded([instrument.venue for instrument in feeds.instruments])
        self._texts["symbol"] = coded([instrument.symbol for instrument in feeds.instruments])
        self._without_ids = np.array([feed.identity == "none" for feed in feeds.feeds], np.bool_)
        places = {symbol: place for place, symbol in enumerate(sorted({feed.symbol for feed in feeds.feeds}))}
        # numpy sorts 16-bit integers by radix: several times faster than wider ones.
        self._place = np.array([places[feed.symbol] for feed in feeds.feeds], np.uint16 if len(places) <= 65_536 else np.int32)
        self._instrument = np.array(feeds.instrument_of, np.int32)

    def text(self, name: str, codes: npt.NDArray[Any]) -> pa.Array:
        """Return text column `name` for feed codes (`source`, `feed.venue`, ...) or instrument codes (`venue`, `symbol`)."""
        self._refresh()
        of_code, values = self._texts[name]
        found = of_code.take(codes) if len(values) > 1 else np.zeros(len(codes), np.int32)
        return pa.DictionaryArray.from_arrays(pa.array(found), values, safe=False)  # looking at every index costs as much again

    def instrument(self, feed: I32) -> I32:
        """Return the instrument code of each feed code."""
        self._refresh()
        return self._instrument[feed]

    def by_symbol(self, feed: I32) -> I64:
        """Return the order in which trades of these feeds are sorted by symbol, otherwise as they are."""
        self._refresh()
        return np.argsort(self._place[feed], kind="stable")

    def no_number(self, feed: I32, trade_id_hi: I64) -> Mask | None:
        """Return where `trade_id` is null: no id, or one that is text; None where it never is."""
        self._refresh()
        mask = trade_id_hi != 0
        if self._without_ids.any():
            mask |= self._without_ids[feed]
        return mask if mask.any() else None


def _numbers(values: npt.NDArray[Any], mask: Mask | None = None) -> pa.Array:
    """Hand numbers over without a copy, null where `mask` says so."""
    if mask is None:
        return pa.array(values)
    if mask.all():
        return pa.nulls(len(values), pa.from_numpy_dtype(values.dtype))
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(values.dtype), len(values), [_bits(~mask), pa.py_buffer(np.ascontiguousarray(values))]
    )


def _bits(flags: npt.NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


def _flags(values: npt.NDArray[np.int8]) -> pa.Array:
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, _bits(values)])


def _time(values: I64, mask: Mask | None = None) -> pa.Array:
    return _numbers(values, mask).view(TIME)


def _maybe_time(values: I64) -> pa.Array:
    mask = values == NO_TIME
    return _time(values, mask if mask.any() else None)


def _coded(codes: npt.NDArray[Any], values: pa.Array, mask: Mask | None = None) -> pa.Array:
    return pa.DictionaryArray.from_arrays(_numbers(codes, mask), values, safe=False)


def _chosen(keep: Mask, order: Index) -> Index:
    if keep.all():
        return order
    return np.flatnonzero(keep) if order is None else order[keep[order]]


def _taken(column: npt.NDArray[Any], index: Index) -> npt.NDArray[Any]:
    return column if index is None else column.take(index)


def _text(trades: Trades, name: str, index: Index) -> pa.Array:
    if trades.text is None:
        return pa.nulls(len(trades) if index is None else len(index), pa.string())
    column = trades.text.column(name)
    return column if index is None else column.take(pa.array(index))


def _cause(partition: int, offset: I64, row: I32) -> dict[str, pa.Array]:
    return {"partition": pa.array(np.full(len(offset), partition, np.int32)), "offset": pa.array(offset), "row": pa.array(row)}


def _side(side: npt.NDArray[np.int8]) -> pa.Array:
    unknown = side == 0
    return _coded(np.maximum(side - 1, 0).astype(np.int8), _SIDES, unknown if unknown.any() else None)


def _table(name: str, columns: dict[str, pa.Array]) -> pa.Table:
    names = TABLES[name].schema.names
    return pa.table([columns[column] for column in names], names=names)


def bronze_trades(partition: int, trades: Trades, step: StepOutputs, names: FeedColumns, order: Index = None) -> pa.Table:
    """Return the accepted and duplicate trades, as received; in another order than theirs, if one is given."""
    index = _chosen(step.verdict <= DUPLICATE, order)
    feed, hi = _taken(trades.feed, index), _taken(trades.trade_id_hi, index)
    return _table(
        "bronze.trades",
        {
            "source": names.text("source", feed),
            "venue": names.text("feed.venue", feed),
            "symbol": names.text("feed.symbol", feed),
            "provider_symbol": names.text("provider_symbol", feed),
            "id_space": names.text("id_space", feed),
            "identity": names.text("identity", feed),
            "epoch": _numbers(_taken(step.epoch, index)),
            "trade_id": _numbers(_taken(trades.trade_id, index), names.no_number(feed, hi)),
            "trade_ref": _text(trades, "trade_ref", index),
            "ts": _time(_taken(trades.ts, index)),
            "received_at": _maybe_time(_taken(trades.received_at, index)),
            "clock": _time(_taken(step.clock, index)),
            "price": _numbers(_taken(trades.price, index)),
            "size": _numbers(_taken(trades.size, index)),
            "side": _side(_taken(trades.side, index)),
            "conditions": _text(trades, "conditions", index),
            "kind": _coded(_taken(trades.kind, index), _KINDS),
            "backfilled": _flags(_taken(trades.backfilled, index)),
            "verdict": _coded(_taken(step.verdict, index), _VERDICTS),
            **_cause(partition, _taken(trades.offset, index), _taken(trades.row, index)),
        },
    )


def silver_trades(partition: int, trades: Trades, step: StepOutputs, names: FeedColumns, order: Index = None) -> pa.Table:
    """Return the accepted trades that make bars, with what the rules say of each; in another order, if one is given."""
    index = _chosen((step.verdict == ACCEPTED) & (trades.kind == 0), order)
    feed, hi = _taken(trades.feed, index), _taken(trades.trade_id_hi, index)
    price, size, score = _taken(trades.price, index), _taken(trades.size, index), _taken(step.score, index)
    unscored = np.isnan(score)
    return _table(
        "silver.trades",
        {
            "venue": names.text("feed.venue", feed),
            "symbol": names.text("feed.symbol", feed),
            "trade_id": _numbers(_taken(trades.trade_id, index), names.no_number(feed, hi)),
            "trade_ref": _text(trades, "trade_ref", index),
            "ts": _time(_taken(trades.ts, index)),
            "clock": _time(_taken(step.clock, index)),
            "price": _numbers(price),
            "size": _numbers(size),
            "value": _numbers(price * size),
            "side": _side(_taken(trades.side, index)),
            "late": _flags(_taken(step.late, index)),
            "anomaly": _flags(_taken(step.anomaly, index)),
            "score": _numbers(score, unscored if unscored.any() else None),
            **_cause(partition, _taken(trades.offset, index), _taken(trades.row, index)),
        },
    )


def anomalies(
    partition: int, trades: Trades, step: StepOutputs, names: FeedColumns, rules: Rules, threshold: float
) -> pa.Table:
    """Return the flagged trades with what they were compared with."""
    index = np.flatnonzero(step.anomaly)
    feed = trades.feed[index]
    return _table(
        "gold.anomalies",
        {
            "venue": names.text("feed.venue", feed),
            "symbol": names.text("feed.symbol", feed),
            "ts": _time(trades.ts[index]),
            "clock": _time(step.clock[index]),
            "detector": _coded(np.zeros(len(index), np.int8), pa.array([rules.detector], pa.string())),
            "value": pa.array(trades.price[index]),
            "score": pa.array(step.score[index]),
            "baseline": pa.array(step.baseline[index]),
            "threshold": pa.array(np.full(len(index), threshold)),
            **_cause(partition, trades.offset[index], trades.row[index]),
        },
    )


def bars(partition: int, issued: Bars, names: FeedColumns, intervals: Sequence[str]) -> pa.Table:
    """Return bars and revisions."""
    without_ids = issued.has_ids == 0
    ids_mask = without_ids if without_ids.any() else None
    empty = issued.volume == 0.0
    vwap: F64 = issued.notional / np.where(empty, 1.0, issued.volume)
    return _table(
        "gold.bars",
        {
            "venue": names.text("venue", issued.instrument),
            "symbol": names.text("symbol", issued.instrument),
            "interval": _coded(issued.level, pa.array(list(intervals), pa.string())),
            "start": _time(issued.start),
            "end": _time(issued.end),
            "origin": _coded(np.zeros(len(issued.start), np.int8), _ORIGINS),
            "revision": pa.array(issued.revision),
            "open": pa.array(issued.open),
            "high": pa.array(issued.high),
            "low": pa.array(issued.low),
            "close": pa.array(issued.close),
            "volume": pa.array(issued.volume),
            "notional": pa.array(issued.notional),
            "vwap": _numbers(vwap, empty if empty.any() else None),
            "trades": pa.array(issued.trades),
            "first_trade_id": _numbers(issued.first_trade_id, ids_mask),
            "last_trade_id": _numbers(issued.last_trade_id, ids_mask),
            "available_at": _time(issued.available_at),
            **_cause(partition, issued.offset, issued.row),
        },
    )


def indicators(partition: int, made: IndicatorRows, names: FeedColumns, intervals: Sequence[str]) -> pa.Table:
    """Return indicator rows; a value that is not ready is null."""
    unready = np.isnan(made.value)
    return _table(
        "gold.indicators",
        {
            "venue": names.text("venue", made.instrument),
            "symbol": names.text("symbol", made.instrument),
            "interval": _coded(made.level, pa.array(list(intervals), pa.string())),
            "start": _time(made.start),
            "indicator": _coded(made.indicator, pa.array(made.indicator_names, pa.string())),
            "output": _coded(made.output, pa.array(made.output_names, pa.string())),
            "value": _numbers(made.value, unready if unready.any() else None),
            "available_at": _time(made.available_at),
            **_cause(partition, made.offset, made.row),
        },
    )


def gaps(partition: int, changed: Gaps, names: FeedColumns) -> pa.Table:
    """Return the changes of tracked gaps."""
    return _table(
        "gold.gaps",
        {
            "venue": names.text("venue", changed.instrument),
            "symbol": names.text("symbol", changed.instrument),
            "epoch": pa.array(changed.epoch),
            "first_missing_id": pa.array(changed.first),
            "last_missing_id": pa.array(changed.last),
            "state": _coded(changed.state, _GAP_STATES),
            "clock": _time(changed.clock),
            **_cause(partition, changed.offset, changed.row),
        },
    )


def rejected(
    partition: int,
    batch_rejected: Sequence[tuple[Rejected, int]],
    judged: Sequence[tuple[Rejected, int]],
) -> pa.Table:
    """Return rejected records (each with its clock), those of the journal and those the kernel judged."""
    rows = sorted([*batch_rejected, *judged], key=lambda pair: (pair[0].offset, pair[0].row))
    return pa.table(
        {
            "source": [record.source for record, _ in rows],
            "received_at": [_none(record.received_at) for record, _ in rows],
            "clock": [_none(clock) for _, clock in rows],
            "reason": [record.reason for record, _ in rows],
            "payload": [record.payload for record, _ in rows],
            "length": [record.length or len(record.payload) for record, _ in rows],
            "sha256": [record.sha256 for record, _ in rows],
            "partition": [partition] * len(rows),
            "offset": [record.offset for record, _ in rows],
            "row": [record.row for record, _ in rows],
        },
        schema=TABLES["bronze.rejected"].schema,
    )


def events(partition: int, seen: Sequence[tuple[Event, int]]) -> pa.Table:
    """Return feed events and rules (each with its clock)."""
    return pa.table(
        {
            "clock": [_none(clock) for _, clock in seen],
            "source": [event.source for event, _ in seen],
            "venue": [event.venue for event, _ in seen],
            "symbol": [event.symbol for event, _ in seen],
            "event": [event.event for event, _ in seen],
            "detail": [msgspec.json.encode(event.detail, order="sorted").decode() for event, _ in seen],
            "partition": [partition] * len(seen),
            "offset": [event.offset for event, _ in seen],
            "row": [event.row for event, _ in seen],
        },
        schema=TABLES["bronze.events"].schema,
    )


def tables_rows(pieces: Sequence[tuple[str, pa.Table]]) -> dict[str, pa.Table]:
    """Return one table a name from pieces in journal order; names without rows are left out."""
    by_name: dict[str, list[pa.Table]] = {}
    for name, piece in pieces:
        if len(piece):
            by_name.setdefault(name, []).append(piece)
    return {name: parts[0] if len(parts) == 1 else pa.concat_tables(parts) for name, parts in by_name.items()}


def _none(value: int) -> int | None:
    return None if value == NO_TIME else value
