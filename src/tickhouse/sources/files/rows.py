"""Turns one record of a flat file, a mapping of its columns, into a trade.

The one place that says what a flat record means; NDJSON, CSV and Parquet all come through here, the fast scanner excepted,
which must give the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tickhouse.errors import DataError
from tickhouse.lines import FileOptions
from tickhouse.model import NO_TIME, Feed, Feeds, Trade
from tickhouse.sources.files.columns import Columns
from tickhouse.sources.files.values import read_conditions, read_id, read_number, read_side, read_time
from tickhouse.symbols import CONTIGUOUS_VENUES, normalise

__all__ = ["FLAT_SOURCE", "FlatRows", "Row"]

FLAT_SOURCE = "replay"
"""Source name of trades that came from a flat file."""

_INT64 = 1 << 63
_MAKERS = {"m", "maker", "is_buyer_maker", "isbuyermaker", "maker_side"}


class Row(NamedTuple):
    """A record read."""

    trade: Trade
    feed_code: int
    received_at: int


class FlatRows:
    """Reads the records of one flat file.

    Args:
        columns: Which column is what.
        options: As in use (units known).
        feeds: The file's own, filled here.
    """

    def __init__(self, columns: Columns, options: FileOptions, feeds: Feeds) -> None:
        self._columns = columns
        self._options = options
        self._feeds = feeds
        self._by_symbol: dict[str, tuple[Feed, int]] = {}
        self._has_ids = columns.trade_id is not None and options.identity != "none"
        self.is_maker = columns.side is not None and columns.side.lower() in _MAKERS
        """The side column tells the maker's side."""
        self._ts_unit = options.ts_unit or "us"
        self._received_unit = options.received_unit or self._ts_unit

    def read(self, record: Mapping[str, Any]) -> Row:
        """Return the trade in `record`.

        Raises:
            DataError: it holds none; the reason is the one to reject it with.
        """
        columns = self._columns
        feed, code = self.feed_of(self._options.symbol if columns.symbol is None else _get(record, columns.symbol, "symbol"))
        price = read_number(_get(record, columns.price, "price"), "price")
        size = read_number(_get(record, columns.size, "size"), "size")
        ts = read_time(_get(record, columns.ts, "ts"), self._ts_unit)
        trade_id = self._id(record, feed)
        side = None if columns.side is None else read_side(record.get(columns.side), is_maker=self.is_maker)
        conditions = None if columns.conditions is None else read_conditions(record.get(columns.conditions))
        trade = Trade(feed, ts, price, size, trade_id, side, conditions)
        return Row(trade, code, self.received_at(record))

    def feed_of(self, spelled: Any) -> tuple[Feed, int]:
        """Return the feed of a symbol as the file spells it, and its code.

        Raises:
            DataError: `symbol`: empty; `type_symbol`: no text.
        """
        if not isinstance(spelled, str):
            raise DataError("type_symbol", f"{str(spelled)[:100]!r} is no text")
        known = self._by_symbol.get(spelled)
        if known is None:
            known = self._by_symbol[spelled] = self._new_feed(spelled)
        return known

    def received_at(self, record: Mapping[str, Any]) -> int:
        """Return when `record` was received; NO_TIME where it does not say."""
        if self._columns.received_at is None:
            return NO_TIME
        value = record.get(self._columns.received_at)
        if value is None or value == "":
            return NO_TIME
        try:
            return read_time(value, self._received_unit, "received_at")
        except DataError:
            return NO_TIME

    def _new_feed(self, spelled: str) -> tuple[Feed, int]:
        if not spelled.strip():
            raise DataError("symbol", "the symbol is empty")
        venue, symbol = normalise(spelled, self._options.venue)
        if not self._has_ids:
            feed = Feed(FLAT_SOURCE, venue, symbol, "", "none", spelled)
        else:
            identity = self._options.identity or ("contiguous" if venue in CONTIGUOUS_VENUES else "unique")
            feed = Feed(FLAT_SOURCE, venue, symbol, "trade", identity, spelled)
        return feed, self._feeds.code(feed)

    def _id(self, record: Mapping[str, Any], feed: Feed) -> int | str | None:
        if not self._has_ids or self._columns.trade_id is None:
            return None
        trade_id = read_id(_get(record, self._columns.trade_id, "trade_id"))
        if feed.identity == "contiguous" and not (isinstance(trade_id, int) and -_INT64 <= trade_id < _INT64):
            raise DataError("type_trade_id", f"{trade_id!r} is no number, as ids of {feed.venue} are")
        return trade_id


def _get(record: Mapping[str, Any], name: str, ours: str) -> Any:
    try:
        return record[name]
    except KeyError:
        raise DataError(f"missing_{ours}", f"no {name!r}") from None
