"""The `avro` form: the fields of the `json` form as one Avro record, its schema in a schema registry.

A message is framed as Confluent's clients do: a zero byte, the schema's number in the registry, the record. A reader takes any
writer's schema that Avro can resolve to ours.
"""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import msgspec
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.schema import SchemaParseException

from tickhouse.errors import ConfigError, DataError, MalformedError, NotConnectedError
from tickhouse.journal.kafka.messages import Message, Numbers
from tickhouse.model import Feed, Feeds, Trades

__all__ = ["AVRO_SCHEMA", "AvroForm", "AvroReader", "Registry", "decode_head"]

_HEAD = struct.Struct(">bI")
_PRICE_AND_SIZE = struct.Struct("<bdbd")
_MAX_SCHEMA = 1 << 16


def _optional(name: str, kind: Any, doc: str) -> dict[str, Any]:
    return {"name": name, "type": ["null", kind], "default": None, "doc": doc}


_TIME = {"type": "long", "logicalType": "timestamp-micros"}
AVRO_SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Message",
    "namespace": "tickhouse",
    "doc": "One message of a Tickhouse journal; `type` says which fields it has.",
    "fields": [
        {"name": "type", "type": "string", "default": "trade", "doc": "trade, heartbeat, event, rejected, rules, ignored"},
        _optional("source", "string", "who delivered it"),
        _optional("venue", "string", "where it traded"),
        _optional("symbol", "string", "canonical: AAPL, BTC-USDT"),
        _optional("id_space", "string", "what the ids count"),
        _optional("identity", "string", "contiguous, unique or none"),
        _optional("provider_symbol", "string", "the provider's spelling"),
        _optional("ts", _TIME, "when it happened at the venue"),
        _optional("received_at", _TIME, "when it was received"),
        _optional("price", "double", "quote per base"),
        _optional("size", "double", "base units"),
        {"name": "trade_id", "type": ["null", "long", "string"], "default": None, "doc": "the venue's id"},
        _optional("side", "string", "the aggressor: buy or sell"),
        _optional("conditions", "string", "sale conditions in the provider's code"),
        {"name": "kind", "type": "string", "default": "trade", "doc": "trade or polled"},
        {"name": "backfilled", "type": "boolean", "default": False, "doc": "came with a refill"},
        _optional("clock", _TIME, "of a heartbeat: the instant it marks"),
        _optional("event", "string", "what happened to a feed"),
        _optional("detail", "string", "of an event or rules, as JSON"),
        _optional("reason", "string", "why a message was rejected"),
        _optional("payload", "string", "the rejected bytes, base64"),
        _optional("length", "long", "of all rejected bytes"),
        _optional("sha256", "string", "of all rejected bytes, where only the first are kept"),
        _optional("count", "long", "of `ignored`: how many"),
    ],
}
"""What the registry holds under `<topic>-value`."""


def _bare(schema: Any) -> Any:
    """Return a schema without logical types: times stay whole numbers, in both directions."""
    if isinstance(schema, list):
        return [_bare(each) for each in schema]
    if isinstance(schema, dict):
        return {key: _bare(value) for key, value in schema.items() if key != "logicalType"}
    return schema


_PARSED = parse_schema(_bare(AVRO_SCHEMA))


class Registry:
    """The schema registry, as far as a journal needs it.

    Args:
        url: Confluent's API.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = SchemaRegistryClient({"url": url})

    def register(self, subject: str) -> int:
        """Return the number of our schema, registered under `subject`.

        Raises:
            ConfigError: the registry refuses it: what it has under that name is not compatible.
            NotConnectedError: it cannot be reached.
        """
        try:
            number: int = self._client.register_schema(subject, Schema(json.dumps(AVRO_SCHEMA), "AVRO"))
        except SchemaRegistryError as error:
            raise ConfigError(
                f"the schema registry {self._url} refuses the schema of {subject}: {error}; use another topic"
            ) from error
        except Exception as error:
            raise NotConnectedError(f"the schema registry {self._url} cannot be reached: {error}") from error
        return number

    def schema(self, number: int) -> Any:
        """Return a registered schema, parsed.

        Raises:
            DataError: there is none of that number, or it is none that can be read.
            NotConnectedError: it cannot be reached.
        """
        try:
            text = self._client.get_schema(number).schema_str
            return parse_schema(_bare(json.loads(text or "null")))
        except (SchemaRegistryError, SchemaParseException, ValueError) as error:
            raise DataError("schema", f"schema {number}: {error}") from error
        except Exception as error:
            raise NotConnectedError(f"the schema registry {self._url} cannot be reached: {error}") from error

    def close(self) -> None:
        """Close its connections."""
        self._client.close()


class AvroForm:
    """Spells messages as Avro.

    Args:
        registry: Where the schema is registered.
        topic: Names the subject, `<topic>-value`.
    """

    batches = False

    def __init__(self, registry: Registry, topic: str) -> None:
        self._head = _HEAD.pack(0, registry.register(f"{topic}-value"))
        self._heads: dict[Feed, bytes] = {}

    def trade(self, feed: Feed, numbers: Numbers) -> bytes:
        """Return the message of one trade: its feed's fields, which are made once, then its own, byte by byte.

        fastavro takes ten times as long to write the two dozen fields of which most are null.
        """
        head = self._heads.get(feed)
        if head is None:
            whole = self._encode({"type": "trade", **msgspec.structs.asdict(feed)})
            head = self._heads[feed] = whole[: -len(_NOTHING_MORE)]
        received, number, side, conditions = numbers.received_at, numbers.trade_id, numbers.side, numbers.conditions
        return b"".join((
            head,
            b"\x02", _long(numbers.ts),
            b"\x00" if received is None else b"\x02" + _long(received),
            _PRICE_AND_SIZE.pack(2, numbers.price, 2, numbers.size),
            b"\x00" if number is None else b"\x02" + _long(number) if isinstance(number, int) else b"\x04" + _text(number),
            b"\x00" if side is None else b"\x02" + _text(side),
            b"\x00" if conditions is None else b"\x02" + _text(conditions),
            _text(numbers.kind),
            b"\x01" if numbers.backfilled else b"\x00",
            _NULLS,
        ))  # fmt: skip

    def batch(self, trades: Trades, feeds: Feeds) -> bytes:
        """Return nothing: trades go one by one."""
        raise NotImplementedError

    def message(self, message: Message) -> bytes:
        """Return any other message."""
        return self._encode(msgspec.structs.asdict(message))

    def _encode(self, fields: dict[str, Any]) -> bytes:
        out = io.BytesIO(self._head)
        out.seek(len(self._head))
        schemaless_writer(out, _PARSED, fields)
        return out.getvalue()


class AvroReader:
    """Reads Avro messages of any schema that resolves to ours.

    Args:
        registry: Where their schemas are.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._schemas: dict[int, Any] = {}

    def is_own(self, number: int) -> bool:
        """Say whether a schema of the registry is the one that this Tickhouse writes.

        Raises:
            NotConnectedError: the registry cannot be reached.
        """
        try:
            return bool(self._schema(number) == _PARSED)
        except DataError:
            return False

    def message(self, payload: bytes) -> Message:
        """Return the message in `payload`.

        Raises:
            DataError: `malformed`: cut short, or no Avro; `schema`: a schema that does not resolve to ours.
            NotConnectedError: the registry cannot be reached.
        """
        if len(payload) < _HEAD.size:
            raise MalformedError("shorter than the head of an Avro message")
        _, number = _HEAD.unpack_from(payload)
        written = self._schema(number)
        data = io.BytesIO(payload)
        data.seek(_HEAD.size)
        return _read(data, written, f"schema {number}")

    def _schema(self, number: int) -> Any:
        written = self._schemas.get(number)
        if written is None:
            if len(self._schemas) > _MAX_SCHEMA:
                self._schemas.clear()
            written = self._schemas[number] = self._registry.schema(number)
        return written


def decode_head(head: bytes) -> Message:
    """Return the message of a trade whose record begins with `head`, all fields of its feed, and says nothing more.

    Raises:
        DataError: no record of ours begins like that.
    """
    return _read(io.BytesIO(head + _NOTHING_MORE), _PARSED, "our schema")


def _read(data: io.BytesIO, written: Any, named: str) -> Message:
    """Return the message that the rest of `data` is, written by a schema."""
    try:
        fields = schemaless_reader(data, written, None if written == _PARSED else _PARSED)
    except Exception as error:
        raise DataError("schema", f"Avro of {named}: {error}") from error
    if data.read(1):
        raise MalformedError("bytes after the Avro record")
    try:
        return msgspec.convert(fields, Message)
    except msgspec.ValidationError as error:
        raise DataError("schema", str(error)) from error


def _nothing_more() -> bytes:
    """Return the rest of a record of which only the feed's fields are known."""
    whole, names = io.BytesIO(), io.BytesIO()
    schemaless_writer(whole, _PARSED, msgspec.structs.asdict(Message()))
    first = [field["name"] for field in AVRO_SCHEMA["fields"]].index("ts")
    schemaless_writer(names, {**_PARSED, "fields": _PARSED["fields"][:first]}, msgspec.structs.asdict(Message()))
    return whole.getvalue()[len(names.getvalue()) :]


_NOTHING_MORE = _nothing_more()
_NULLS = bytes(len(AVRO_SCHEMA["fields"]) - [field["name"] for field in AVRO_SCHEMA["fields"]].index("backfilled") - 1)


def _long(value: int) -> bytes:
    """Return a whole number of 64 bits as Avro spells it: the sign last, seven bits a byte, the lowest first."""
    rest = value << 1 if value >= 0 else ~(value << 1)
    spelled = bytearray()
    while rest > 127:
        spelled.append(rest & 127 | 128)
        rest >>= 7
    spelled.append(rest)
    return bytes(spelled)


def _text(text: str) -> bytes:
    coded = text.encode()
    return _long(len(coded)) + coded
