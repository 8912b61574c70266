"""What a message on a Kafka topic says, in whatever form it is spelled: one flat record, told apart by its `type`.

docs/kafka.md documents it for other programs. The forms (`forms.py`) spell it as JSON, Avro or Arrow; the appender makes
messages, the reader takes them apart.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Literal

import msgspec

from tickhouse.errors import ConfigError, DataError, MalformedError
from tickhouse.journal.codec import bounded
from tickhouse.model import NO_TIME, Event, Feed, Identity, Rejected, Side, Trade
from tickhouse.rules import Rules
from tickhouse.symbols import CONTIGUOUS_VENUES, normalise

__all__ = [
    "FOREIGN_SOURCE",
    "FeedReader",
    "Message",
    "MessageType",
    "Numbers",
    "event_message",
    "event_of",
    "partition_of",
    "rejected_message",
    "rejected_of",
    "rules_message",
    "rules_of",
    "trade_of",
]

FOREIGN_SOURCE = "kafka"
"""Source of trades and rejected bytes that another program wrote without naming one."""

MessageType = Literal["trade", "heartbeat", "event", "rejected", "rules", "ignored"]

_MAX_FEEDS = 1 << 18


class Message(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One message; which fields it has depends on its type. Times are UTC microseconds."""

    type: MessageType = "trade"
    source: str | None = None
    """Who delivered it."""
    venue: str | None = None
    symbol: str | None = None
    id_space: str | None = None
    identity: Identity | None = None
    provider_symbol: str | None = None
    """The provider's spelling; where it stands, `symbol` is canonical and taken as it is."""
    ts: int | None = None
    received_at: int | None = None
    price: float | None = None
    size: float | None = None
    trade_id: int | str | None = None
    side: Side | None = None
    conditions: str | None = None
    kind: Literal["trade", "polled"] = "trade"
    backfilled: bool = False
    clock: int | None = None
    """Of a heartbeat: the instant it marks."""
    event: str | None = None
    detail: str | None = None
    """Of an event: JSON; of rules: all of them as JSON."""
    reason: str | None = None
    payload: str | None = None
    """Of a rejected message: its bytes, base64."""
    length: int | None = None
    sha256: str | None = None
    count: int | None = None
    """Of `ignored`: how many documented messages were not taken."""


class Numbers(msgspec.Struct, omit_defaults=True):
    """The part of a trade's message that differs from trade to trade; the rest is its feed's."""

    ts: int
    price: float
    size: float
    received_at: int | None = None
    trade_id: int | str | None = None
    side: Side | None = None
    conditions: str | None = None
    kind: Literal["trade", "polled"] = "trade"
    backfilled: bool = False


class FeedReader:
    """Gives the feed that a message's fields name; remembers those seen."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Feed] = {}

    def feed(self, message: Message) -> Feed:
        """Return the feed of a trade's message.

        Raises:
            OutOfRangeError: it names no symbol.
        """
        has_id = message.trade_id is not None
        key = (
            *(message.source, message.venue, message.symbol, message.id_space, message.identity, message.provider_symbol),
            has_id,
        )
        feed = self._known.get(key)
        if feed is None:
            if len(self._known) > _MAX_FEEDS:
                self._known.clear()
            feed = self._known[key] = _feed(message, has_id=has_id)
        return feed


def _feed(message: Message, *, has_id: bool) -> Feed:
    spelled, source = message.symbol or "", message.source or FOREIGN_SOURCE
    if message.provider_symbol is not None and message.venue is not None and message.identity is not None:
        space = message.id_space or ""
        return Feed(source, message.venue, spelled, space, message.identity, message.provider_symbol)
    venue, symbol = normalise(spelled, message.venue)
    identity = message.identity
    if identity is None:
        identity = "none" if not has_id else "contiguous" if venue in CONTIGUOUS_VENUES else "unique"
    space = message.id_space if message.id_space is not None else "" if identity == "none" else "trade"
    return Feed(source, venue, symbol, space, identity, message.provider_symbol or spelled)


def trade_of(message: Message, feeds: FeedReader) -> tuple[Trade, int]:
    """Return the trade in a message, and when it was received (NO_TIME where it does not say).

    Raises:
        DataError: a field is missing, or the id is of the wrong kind.
    """
    if message.price is None or message.size is None or message.ts is None or not message.symbol:
        missing = next(
            name for name in ("symbol", "price", "size", "ts") if not getattr(message, name) and _is_absent(message, name)
        )
        raise DataError(f"missing_{missing}", f"a trade needs {missing!r}")
    feed = feeds.feed(message)
    if feed.identity == "contiguous" and isinstance(message.trade_id, str):
        raise DataError("type_trade_id", f"{message.trade_id!r} is no number, as ids of {feed.venue} are")
    trade_id = None if feed.identity == "none" else message.trade_id
    trade = Trade(
        feed,
        message.ts,
        message.price,
        message.size,
        trade_id,
        message.side,
        message.conditions,
        message.kind,
        message.backfilled,
    )
    return trade, NO_TIME if message.received_at is None else message.received_at


def event_message(event: Event) -> Message:
    """Return the message of a feed event."""
    return Message(
        type="event",
        event=event.event,
        source=event.source,
        venue=event.venue,
        symbol=event.symbol,
        detail=msgspec.json.encode(event.detail, order="sorted").decode() if event.detail else None,
    )


def event_of(message: Message, offset: int, at: int) -> Event:
    """Return the event in a message, with `at` trades of the batch before it.

    Raises:
        DataError: it has no name, or its detail is no JSON object.
    """
    if not message.event:
        raise DataError("missing_event", "an event needs its name in 'event'")
    try:
        detail = msgspec.json.decode(message.detail, type=dict[str, Any]) if message.detail else {}
    except msgspec.MsgspecError as error:
        raise DataError("schema", f"detail: {error}") from error
    if message.event == "refilled" and not all(isinstance(detail.get(key), int) for key in ("first", "last")):
        raise DataError("schema", "a refilled event needs whole numbers 'first' and 'last' in its detail")
    return Event(message.event, message.source, message.venue, message.symbol, detail, offset, 0, at)


def rejected_message(rejected: Rejected) -> Message:
    """Return the message of a rejected payload."""
    kept = bounded(rejected)
    return Message(
        type="rejected",
        source=kept.source,
        received_at=None if kept.received_at == NO_TIME else kept.received_at,
        reason=kept.reason,
        payload=base64.b64encode(kept.payload).decode(),
        length=kept.length,
        sha256=kept.sha256,
    )


def rejected_of(message: Message, offset: int) -> Rejected:
    """Return the rejected payload in a message.

    Raises:
        DataError: it has no reason, or its payload is no base64.
    """
    if not message.reason:
        raise DataError("missing_reason", "a rejected message needs its 'reason'")
    try:
        payload = base64.b64decode(message.payload or "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"payload: {error}") from error
    return Rejected(
        source=message.source or FOREIGN_SOURCE,
        received_at=NO_TIME if message.received_at is None else message.received_at,
        reason=message.reason,
        payload=payload,
        offset=offset,
        length=message.length if message.length is not None else len(payload),
        sha256=message.sha256,
    )


def rules_message(rules: Rules) -> Message:
    """Return the message that begins every partition: the rules in force."""
    return Message(type="rules", detail=rules.to_json().decode())


def rules_of(message: Message) -> Rules:
    """Return the rules in a message.

    Raises:
        DataError: they cannot be read.
    """
    try:
        return Rules.from_json((message.detail or "").encode())
    except (msgspec.MsgspecError, ConfigError) as error:
        raise DataError("schema", f"rules: {error}") from error


def partition_of(venue: str, symbol: str, partitions: int) -> int:
    """Return the partition of an instrument: that of the key `venue:symbol` for Kafka's own (JVM) producers.

    MurmurHash2 of the key, made positive, modulo the number of partitions; librdkafka calls it `murmur2_random`.
    """
    data = f"{venue}:{symbol}".encode()
    return (_murmur2(data) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    """32-bit MurmurHash2 with Kafka's seed (Appleby 2008)."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def _is_absent(message: Message, name: str) -> bool:
    value = getattr(message, name)
    return value is None or value == ""
