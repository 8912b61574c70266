"""Builds the `Trades` columns of a batch from records, and turns them back.

Journals and readers of recorded files fill a `TradesBuilder` trade by trade (or whole columns at a time); the pipeline cuts,
joins and, for what it rejects, writes single trades out again as canonical JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickhouse.model import I32, Beats, Feeds, Side, Trade, Trades

__all__ = [
    "EMPTY_BEATS",
    "NUMBERS_SCHEMA",
    "NUMBER_TYPES",
    "TEXT_SCHEMA",
    "TradesBuilder",
    "arrow_numbers",
    "concat_trades",
    "empty_trades",
    "numpy_column",
    "take_trades",
    "text_id_key",
    "trade_json",
]

_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1
_DTYPES: dict[str, type[np.generic]] = {
    "feed": np.int32,
    "ts": np.int64,
    "received_at": np.int64,
    "price": np.float64,
    "size": np.float64,
    "trade_id": np.int64,
    "trade_id_hi": np.int64,
    "side": np.int8,
    "kind": np.int8,
    "backfilled": np.int8,
    "offset": np.int64,
    "row": np.int32,
}
NUMBER_TYPES = {name: dtype for name, dtype in _DTYPES.items() if name not in ("offset", "row")}
"""Of the numbers of `Trades`, all but their places in the journal: what a message holds of each trade."""
NUMBERS_SCHEMA = pa.schema([pa.field(name, pa.from_numpy_dtype(dtype), nullable=False) for name, dtype in NUMBER_TYPES.items()])
TEXT_SCHEMA = pa.schema([pa.field("trade_ref", pa.string()), pa.field("conditions", pa.string())])
"""Of `Trades.text`."""
_SIDE_CODES: dict[Side | None, int] = {None: 0, "buy": 1, "sell": 2}
_SIDES: tuple[Side | None, ...] = (None, "buy", "sell")

EMPTY_BEATS = Beats(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int32))


def text_id_key(text: str) -> tuple[int, int]:
    """Return the 128-bit key of a trade id that is no number, as (low, high) int64 halves.

    The key is the BLAKE2b-128 digest of the UTF-8 text, read as one unsigned big-endian number. Its high half is never 0: that
    marks a numeric id.
    """
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    high = int.from_bytes(digest[:8], "big", signed=True)
    return int.from_bytes(digest[8:], "big", signed=True), high or 1


class TradesBuilder:
    """Collects trades in journal order and builds their columns."""

    def __init__(self) -> None:
        self._done: list[Trades] = []
        self._rows: list[tuple[Any, ...]] = []
        self._refs: list[str | None] = []
        self._conditions: list[str | None] = []
        self._has_text = False
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, trade: Trade, feed_code: int, received_at: int, offset: int, row: int) -> None:
        """Add one trade; `feed_code` is that of `trade.feed` in the partition's `Feeds`."""
        low, high, ref = _id_key(trade.trade_id)
        self._rows.append(
            (
                feed_code,
                trade.ts,
                received_at,
                trade.price,
                trade.size,
                low,
                high,
                _SIDE_CODES[trade.side],
                1 if trade.kind == "polled" else 0,
                1 if trade.backfilled else 0,
                offset,
                row,
            )
        )
        self._refs.append(ref)
        self._conditions.append(trade.conditions)
        self._has_text = self._has_text or ref is not None or trade.conditions is not None
        self._length += 1

    def extend(self, trades: Trades) -> None:
        """Add whole columns; their feed codes, offsets and rows are taken as they are."""
        if len(trades):
            self._close_rows()
            self._done.append(trades)
            self._length += len(trades)

    def build(self) -> Trades:
        """Return the columns of everything added so far."""
        self._close_rows()
        if len(self._done) != 1:
            self._done = [concat_trades(self._done)]
        return self._done[0]

    def _close_rows(self) -> None:
        if not self._rows:
            return
        columns = dict(zip(_DTYPES, zip(*self._rows, strict=True), strict=True))
        arrays: dict[str, Any] = {name: _array(columns[name], dtype) for name, dtype in _DTYPES.items()}
        text = None
        if self._has_text:
            text = pa.record_batch([pa.array(self._refs, pa.string()), pa.array(self._conditions, pa.string())], TEXT_SCHEMA)
        self._done.append(Trades(**arrays, text=text))
        self._rows, self._refs, self._conditions, self._has_text = [], [], [], False


def empty_trades() -> Trades:
    """Return columns without a trade."""
    arrays: dict[str, Any] = {name: np.empty(0, dtype) for name, dtype in _DTYPES.items()}
    return Trades(**arrays)


def arrow_numbers(trades: Trades, feed: I32) -> list[pa.Array]:
    """Return the columns of `NUMBERS_SCHEMA`; `feed` stands for the trades' own, in the codes of whoever reads them."""
    return [pa.array(feed if name == "feed" else getattr(trades, name)) for name in NUMBER_TYPES]


def numpy_column(name: str, column: pa.Array) -> npt.NDArray[Any]:
    """Return a column of `NUMBERS_SCHEMA`, without nulls, from a message, as memory of its own.

    Raises:
        ValueError: it is damaged: shorter than it says. `to_numpy` would read beyond its end.
    """
    dtype = np.dtype(_DTYPES[name])
    # A copy, because Arrow's memory is read-only: compiled loops would be compiled twice.
    return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * dtype.itemsize).copy()


def concat_trades(parts: Sequence[Trades]) -> Trades:
    """Return the trades of `parts` one after the other; their feed codes must be of the same `Feeds`."""
    filled = [part for part in parts if len(part)]
    if not filled:
        return empty_trades()
    if len(filled) == 1:
        return filled[0]
    arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in filled]) for name in _DTYPES}
    text = None
    if any(part.text is not None for part in filled):
        text = pa.Table.from_batches([_text_of(part) for part in filled]).combine_chunks().to_batches()[0]
    return Trades(**arrays, text=text)


def take_trades(trades: Trades, indices: npt.NDArray[Any] | slice) -> Trades:
    """Return the trades at `indices` (positions, a boolean mask or a slice), in that order."""
    arrays: dict[str, Any] = {name: np.ascontiguousarray(getattr(trades, name)[indices]) for name in _DTYPES}
    text = None
    if trades.text is not None:
        text = trades.text.take(pa.array(np.arange(len(trades))[indices]))
        if text.num_rows == 0 or all(column.null_count == text.num_rows for column in text.columns):
            text = None
    return Trades(**arrays, text=text)


def trade_json(trades: Trades, i: int, feeds: Feeds) -> bytes:
    """Return the canonical JSON (sorted keys) of the `Trade` record at `i`."""
    return msgspec.json.encode(_trade_at(trades, i, feeds), order="sorted")


def _trade_at(trades: Trades, i: int, feeds: Feeds) -> Trade:
    feed = feeds.feeds[int(trades.feed[i])]
    ref = conditions = None
    if trades.text is not None:
        ref = trades.text.column("trade_ref")[i].as_py()
        conditions = trades.text.column("conditions")[i].as_py()
    trade_id: int | str | None = ref
    if ref is None and feed.identity != "none":
        trade_id = int(trades.trade_id[i])
    kind: Literal["trade", "polled"] = "polled" if trades.kind[i] else "trade"
    return Trade(
        feed=feed,
        ts=int(trades.ts[i]),
        price=float(trades.price[i]),
        size=float(trades.size[i]),
        trade_id=trade_id,
        side=_SIDES[int(trades.side[i])],
        conditions=conditions,
        kind=kind,
        backfilled=bool(trades.backfilled[i]),
    )


def _id_key(trade_id: int | str | None) -> tuple[int, int, str | None]:
    if trade_id is None:
        return 0, 0, None
    if isinstance(trade_id, int):
        if _INT64_MIN <= trade_id <= _INT64_MAX:
            return trade_id, 0, None
        trade_id = str(trade_id)
    return *text_id_key(trade_id), trade_id


def _array(values: Sequence[Any], dtype: type[np.generic]) -> npt.NDArray[Any]:
    try:
        return np.array(values, dtype)
    except OverflowError:
        # A source let a time beyond int64 through: the largest time is rejected by the kernel just the same (rule R12).
        return np.array([min(max(value, -_INT64_MAX), _INT64_MAX) for value in values], dtype)


def _text_of(trades: Trades) -> pa.RecordBatch:
    if trades.text is not None:
        return trades.text
    nulls = pa.nulls(len(trades), pa.string())
    return pa.record_batch([nulls, nulls], TEXT_SCHEMA)
