"""How the records of a journal are spelled as messages: packed rows for trades, JSON for events, msgpack for rejected payloads.

Live, a message has a few dozen trades, and there are hundreds of them a second: a row is 55 bytes, and many messages are
read as one (docs/decisions/0015-trades-as-packed-rows.md). The SQLite journal's appender encodes with it, its reader decodes;
nothing else knows these bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from tickhouse.columns import NUMBER_TYPES, TEXT_SCHEMA
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

_ROW = np.dtype([(name, np.dtype(kind).newbyteorder("<")) for name, kind in NUMBER_TYPES.items()])


class Kind(IntEnum):
    """What a message holds."""

    HEARTBEAT = 0
    TRADES = 1
    TRADES_TEXT = 2
    """Trades of which some have a textual id or conditions: an Arrow batch of these two columns follows the rows."""
    REJECTED = 3
    EVENT = 4
    IGNORED = 5
    """Nothing but a count of ignored payloads."""


def encode_trades(trades: Trades, feed: I32) -> tuple[Kind, bytes]:
    """Return the message of `trades`; `feed` stands for their feed column, in the journal's own codes."""
    rows = np.empty(len(trades), _ROW)
    for name in NUMBER_TYPES:
        rows[name] = feed if name == "feed" else getattr(trades, name)
    if trades.text is None:
        return Kind.TRADES, rows.tobytes()
    return Kind.TRADES_TEXT, rows.tobytes() + memoryview(trades.text.serialize())


def decode_trades(messages: Sequence[tuple[int, Kind, int, bytes]]) -> Trades:
    """Return the trades of one or more messages, one after the other, in the journal's feed codes.

    Args:
        messages: (offset, kind, trades, payload).

    Raises:
        ValueError: a payload is longer or shorter than it should be.
        pyarrow.ArrowException, OSError: the text of one is damaged.
    """
    for _, kind, count, payload in messages:
        if len(payload) < count * _ROW.itemsize or (kind is Kind.TRADES and len(payload) > count * _ROW.itemsize):
            raise ValueError(f"{len(payload)} bytes for {count} trades of {_ROW.itemsize}")
    rows = np.frombuffer(b"".join(payload[: count * _ROW.itemsize] for _, _, count, payload in messages), _ROW)
    counts = np.array([count for _, _, count, _ in messages], np.int64)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    arrays: dict[str, Any] = {name: rows[name].astype(kind) for name, kind in NUMBER_TYPES.items()}
    return Trades(
        **arrays,
        offset=np.repeat(np.array([offset for offset, _, _, _ in messages], np.int64), counts),
        row=(np.arange(len(starts), dtype=np.int64) - starts).astype(np.int32),
        text=_text(messages) if any(kind is Kind.TRADES_TEXT for _, kind, _, _ in messages) else None,
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


def _text(messages: Sequence[tuple[int, Kind, int, bytes]]) -> pa.RecordBatch:
    """Return the text of messages that have some, with nulls for those that have none."""
    batches = []
    for _, kind, count, payload in messages:
        if kind is Kind.TRADES_TEXT:
            batch = pa.ipc.read_record_batch(pa.py_buffer(payload[count * _ROW.itemsize :]), TEXT_SCHEMA)
        else:
            nulls = pa.nulls(count, pa.string())
            batch = pa.record_batch([nulls, nulls], TEXT_SCHEMA)
        if batch.num_rows != count:
            raise ValueError(f"text of {batch.num_rows} trades for {count}")
        batches.append(batch)
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
