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

__all__ = ["AVRO_SCHEMA", "AvroForm", "AvroReader", "Registry"]

_HEAD = struct.Struct(">bI")
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
        self._feeds: dict[Feed, dict[str, Any]] = {}

    def trade(self, feed: Feed, numbers: Numbers) -> bytes:
        """Return the message of one trade."""
        fields = self._feeds.get(feed)
        if fields is None:
            fields = self._feeds[feed] = msgspec.structs.asdict(feed)
        return self._encode({**fields, **msgspec.structs.asdict(numbers)})

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

    def message(self, payload: bytes) -> Message:
        """Return the message in `payload`.

        Raises:
            DataError: `malformed`: cut short, or no Avro; `schema`: a schema that does not resolve to ours.
            NotConnectedError: the registry cannot be reached.
        """
        if len(payload) < _HEAD.size:
            raise MalformedError("shorter than the head of an Avro message")
        _, number = _HEAD.unpack_from(payload)
        written = self._schemas.get(number)
        if written is None:
            if len(self._schemas) > _MAX_SCHEMA:
                self._schemas.clear()
            written = self._schemas[number] = self._registry.schema(number)
        data = io.BytesIO(payload)
        data.seek(_HEAD.size)
        try:
            fields = schemaless_reader(data, written, None if written == _PARSED else _PARSED)
        except Exception as error:
            raise DataError("schema", f"Avro of schema {number}: {error}") from error
        if data.read(1):
            raise MalformedError("bytes after the Avro record")
        try:
            return msgspec.convert(fields, Message)
        except msgspec.ValidationError as error:
            raise DataError("schema", str(error)) from error
