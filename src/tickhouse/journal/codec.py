"""How the records of a journal are spelled as messages: Arrow for trades, JSON for events, msgpack for rejected payloads.

The SQLite journal's appender encodes with it, its reader decodes; nothing else knows these bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickhouse.columns import NUMBERS_SCHEMA, TEXT_SCHEMA, arrow_numbers, numpy_column
from tickhouse.model import I32, MAX_PAYLOAD_BYTES, Event, Rejected, Trades

__all__ = [
    "Kind",
    "bounded",
    "decode_event",
    "decode_rejected",
    "decode_trades",
    "encode_event",
    "encode_rejected",
    "encode_trades",
]

_ALL_SCHEMA = pa.schema([*NUMBERS_SCHEMA, *TEXT_SCHEMA])


class Kind(IntEnum):
    """What a message holds."""

    HEARTBEAT = 0
    TRADES = 1
    TRADES_TEXT = 2
    """Trades of which some have a textual id or conditions."""
    REJECTED = 3
    EVENT = 4
    IGNORED = 5
    """Nothing but a count of ignored payloads."""


def encode_trades(trades: Trades, feed: I32) -> tuple[Kind, memoryview]:
    """Return the message of `trades`; `feed` stands for their feed column, in the journal's own codes."""
    arrays = arrow_numbers(trades, feed)
    if trades.text is None:
        return Kind.TRADES, memoryview(pa.RecordBatch.from_arrays(arrays, schema=NUMBERS_SCHEMA).serialize())
    arrays += [trades.text.column(name) for name in TEXT_SCHEMA.names]
    return Kind.TRADES_TEXT, memoryview(pa.RecordBatch.from_arrays(arrays, schema=_ALL_SCHEMA).serialize())


def decode_trades(messages: Sequence[tuple[int, Kind, bytes]]) -> Trades:
    """Return the trades of one or more messages (offset, kind, payload), one after the other, in the journal's feed codes."""
    has_text = any(kind is Kind.TRADES_TEXT for _, kind, _ in messages)
    batches = [_read(kind, payload, has_text=has_text) for _, kind, payload in messages]
    joined = pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
    arrays: dict[str, npt.NDArray[Any]] = {name: numpy_column(name, joined.column(name)) for name in NUMBERS_SCHEMA.names}
    counts = np.array([batch.num_rows for batch in batches], np.int64)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    text = joined.select(TEXT_SCHEMA.names) if has_text else None
    return Trades(
        **arrays,
        offset=np.repeat(np.array([offset for offset, _, _ in messages], np.int64), counts),
        row=(np.arange(len(starts), dtype=np.int64) - starts).astype(np.int32),
        text=text,
    )


def encode_event(event: Event) -> bytes:
    """Return the message of an event, readable by people."""
    return msgspec.json.encode(event, order="sorted")


def decode_event(payload: bytes, offset: int, at: int) -> Event:
    """Return the event of a message, with `at` trades of the batch before it."""
    event = _EVENTS.decode(payload)
    return msgspec.structs.replace(event, offset=offset, row=0, at=at)


def encode_rejected(rejected: Rejected) -> bytes:
    """Return the message of a rejected payload."""
    return msgspec.msgpack.encode(bounded(rejected))


def decode_rejected(payload: bytes, offset: int) -> Rejected:
    """Return the rejected payload of a message."""
    return msgspec.structs.replace(_REJECTED.decode(payload), offset=offset, row=0)


def bounded(rejected: Rejected, most: int = MAX_PAYLOAD_BYTES) -> Rejected:
    """Return `rejected` with its length, and with no more than `most` bytes of payload (then with the sha256 of all)."""
    length = len(rejected.payload)
    if length <= most:
        return rejected if rejected.length else msgspec.structs.replace(rejected, length=length)
    digest = hashlib.sha256(rejected.payload).hexdigest()
    return msgspec.structs.replace(
        rejected,
        payload=rejected.payload[:most],
        length=rejected.length or length,
        sha256=rejected.sha256 or digest,
    )


_EVENTS = msgspec.json.Decoder(Event)
_REJECTED = msgspec.msgpack.Decoder(Rejected)


def _read(kind: Kind, payload: bytes, *, has_text: bool) -> pa.RecordBatch:
    batch = pa.ipc.read_record_batch(pa.py_buffer(payload), _ALL_SCHEMA if kind is Kind.TRADES_TEXT else NUMBERS_SCHEMA)
    if has_text and kind is Kind.TRADES:
        nulls = pa.nulls(batch.num_rows, pa.string())
        batch = pa.RecordBatch.from_arrays([*batch.columns, nulls, nulls], schema=_ALL_SCHEMA)
    return batch
