"""How a message is spelled on a topic: `json` (read by anyone), `avro` (with a schema registry), `arrow` (batches).

A reader needs no setting to tell them apart: JSON begins with `{`, Confluent's Avro framing with a zero byte, an Arrow stream
with 0xFF. In the arrow form only trades are Arrow; everything else is JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickhouse.columns import NUMBERS_SCHEMA, TEXT_SCHEMA, arrow_numbers, numpy_column
from tickhouse.errors import DataError, MalformedError
from tickhouse.journal.kafka.messages import Message, Numbers
from tickhouse.model import MAX_MESSAGE_ROWS, NO_TIME, Feed, Feeds, Side, Trades

__all__ = ["ARROW_ROWS", "ArrowForm", "Form", "FormName", "JsonForm", "decode_arrow", "decode_json", "numbers_of"]

FormName = Literal["json", "avro", "arrow"]

ARROW_ROWS = 4_096
"""Rows of one Arrow message at most: well below the megabyte that brokers take by default."""

_SIDES: tuple[Side | None, ...] = (None, "buy", "sell")
_NUMBERS = [(field.name, field.type) for field in NUMBERS_SCHEMA]
_FIELDS = list(NUMBERS_SCHEMA)


class Form(Protocol):
    """Spells messages."""

    batches: bool
    """Trades go as batches (`batch`), not one by one (`trade`)."""

    def trade(self, feed: Feed, numbers: Numbers) -> bytes:
        """Return the message of one trade."""
        ...

    def batch(self, trades: Trades, feeds: Feeds) -> bytes:
        """Return the message of up to ARROW_ROWS trades of one partition."""
        ...

    def message(self, message: Message) -> bytes:
        """Return any other message."""
        ...


class JsonForm:
    """One JSON object a message."""

    batches = False

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()
        self._heads: dict[Feed, bytes] = {}

    def trade(self, feed: Feed, numbers: Numbers) -> bytes:
        """Return the message of one trade: its feed's fields, then its own."""
        head = self._heads.get(feed)
        if head is None:
            head = self._heads[feed] = _head(feed)
        return head + self._encoder.encode(numbers)[1:]

    def batch(self, trades: Trades, feeds: Feeds) -> bytes:
        """Return nothing: trades go one by one."""
        raise NotImplementedError

    def message(self, message: Message) -> bytes:
        """Return any other message."""
        return self._encoder.encode(message)


class ArrowForm(JsonForm):
    """One Arrow stream of one batch a message; the feeds stand in its schema's metadata, as JSON, by code."""

    batches = True

    def batch(self, trades: Trades, feeds: Feeds) -> bytes:
        """Return the message of a batch."""
        used, codes = np.unique(trades.feed, return_inverse=True)
        named = [feeds.feeds[code] for code in used.tolist()]
        columns, fields = arrow_numbers(trades, codes.astype(np.int32)), _FIELDS
        if trades.text is not None:
            columns += trades.text.columns
            fields = [*fields, *TEXT_SCHEMA]
        schema = pa.schema(fields, metadata={b"feeds": msgspec.json.encode(named)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as stream:
            stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        return bytes(sink.getvalue())


def decode_json(payload: bytes) -> Message:
    """Return the message that JSON text holds.

    Raises:
        DataError: `malformed`: no JSON; `schema`: JSON of another shape.
    """
    try:
        return _DECODER.decode(payload)
    except msgspec.ValidationError as error:
        raise DataError("schema", str(error)) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedError(str(error)) from error


def decode_arrow(payload: bytes) -> tuple[dict[str, npt.NDArray[Any]], pa.RecordBatch | None, list[Feed]]:
    """Return the columns of an Arrow message, its texts (where there are some), and the feeds that its codes name.

    Raises:
        DataError: `malformed`: no Arrow stream of one batch; `schema`: other columns, or values that mean nothing.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(payload)) as stream:
            batch, *more = list(stream)
        feeds = _FEEDS.decode((batch.schema.metadata or {}).get(b"feeds", b"[]"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MalformedError(f"no Arrow stream of one batch: {error}") from error
    if more or not 0 < batch.num_rows <= MAX_MESSAGE_ROWS:
        raise DataError("schema", f"one batch of 1 to {MAX_MESSAGE_ROWS} rows, please")
    arrays = {name: _column(batch, name, kind) for name, kind in _NUMBERS}
    bounds = {"feed": len(feeds) - 1, "side": 2, "kind": 1, "backfilled": 1}
    for name, most in bounds.items():
        if arrays[name].min() < 0 or arrays[name].max() > most:
            raise DataError("schema", f"{name!r} must be from 0 to {most}")
    text = None
    if all(name in batch.schema.names for name in TEXT_SCHEMA.names):
        try:
            text = batch.select(TEXT_SCHEMA.names).cast(TEXT_SCHEMA)
        except pa.ArrowException as error:
            raise DataError("schema", f"texts: {error}") from error
    return arrays, text, feeds


def numbers_of(trades: Trades, feeds: Feeds, indices: npt.NDArray[Any] | slice = slice(None)) -> list[tuple[Feed, Numbers]]:
    """Return trades, given as columns, one by one."""
    names = ("feed", "ts", "received_at", "price", "size", "trade_id", "side", "kind", "backfilled")
    lists: list[list[Any]] = [getattr(trades, name)[indices].tolist() for name in names]
    refs: Sequence[str | None]
    conditions: Sequence[str | None]
    refs = conditions = [None] * len(lists[0])
    if trades.text is not None:
        text = trades.text.take(pa.array(np.arange(len(trades))[indices]))
        refs, conditions = text.column("trade_ref").to_pylist(), text.column("conditions").to_pylist()
    rows = zip(*lists, refs, conditions, strict=True)
    known, made = feeds.feeds, []
    for code, ts, received_at, price, size, trade_id, side, kind, backfilled, ref, condition in rows:
        feed = known[code]
        named = ref if ref is not None else trade_id if feed.identity != "none" else None
        received = None if received_at == NO_TIME else received_at
        polled: Literal["trade", "polled"] = "polled" if kind else "trade"
        numbers = Numbers(ts, price, size, received, named, _SIDES[side], condition, polled, bool(backfilled))
        made.append((feed, numbers))
    return made


_DECODER = msgspec.json.Decoder(Message)
_FEEDS = msgspec.json.Decoder(list[Feed])


def _head(feed: Feed) -> bytes:
    fields = msgspec.structs.asdict(feed)
    return msgspec.json.encode({"type": "trade", **fields})[:-1] + b","


def _column(batch: pa.RecordBatch, name: str, kind: pa.DataType) -> npt.NDArray[Any]:
    at = batch.schema.get_field_index(name)
    if at < 0 or batch.schema.field(at).type != kind or batch.column(at).null_count:
        raise DataError("schema", f"column {name!r} must be {kind} without nulls")
    return numpy_column(name, batch.column(at))
