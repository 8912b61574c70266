"""Messages in three forms: the same records whatever the spelling, the documented schema, no surprise from odd bytes."""

from __future__ import annotations

import io
import json
import random

import msgspec
import numpy as np
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from fastavro import parse_schema, schemaless_writer, validate

from tests.kafka_topics import T0, feed, trade
from tests.services.registry import Registry as RegistryServer
from tickhouse.columns import TradesBuilder
from tickhouse.journal.kafka import decode, messages
from tickhouse.journal.kafka.avro import AVRO_SCHEMA, AvroForm, AvroReader, Registry
from tickhouse.journal.kafka.decode import Decoder
from tickhouse.journal.kafka.forms import ArrowForm, Form, JsonForm, numbers_of
from tickhouse.journal.kafka.messages import Message, Numbers, event_message, partition_of, rejected_message, rules_message
from tickhouse.journal.kafka.received import received
from tickhouse.model import NO_TIME, Batch, Event, Feeds, Rejected, Trades
from tickhouse.rules import Rules

TRADES = [
    trade(1),
    trade(2, side="buy", conditions="1,8"),
    trade(3, feed("AAPL", venue="IEX", identity="none", id_space=""), trade_id=None, side="sell", size=0.0, kind="polled"),
    trade(4, feed("ETH-EUR", venue="KRAKEN", identity="unique"), trade_id="TX-é", price=1e-9, backfilled=True),
    trade(5, feed("ETH-EUR", venue="KRAKEN", identity="unique"), trade_id=1 << 70, price=123456.789012345, ts=T0 + 7),
]


def columns(feeds: Feeds) -> Trades:
    """Return the trades as ingest has them."""
    builder = TradesBuilder()
    for i, one in enumerate(TRADES):
        builder.add(one, feeds.code(one.feed), T0 + i if i % 2 else NO_TIME, 0, 0)
    return builder.build()


def decoded(payloads: list[bytes | None], avro: AvroReader | None = None) -> tuple[Batch, Feeds]:
    """Read payloads as messages 0, 1, 2, ... of a partition."""
    feeds = Feeds()
    decoder = Decoder(0, feeds, avro, NO_TIME, makes_beats=False)
    return decoder.batch(received(range(len(payloads)), payloads), len(payloads)), feeds


def rows(trades: Trades, feeds: Feeds) -> list[object]:
    """Return trades as values."""
    return [(one, msgspec.structs.asdict(numbers)) for one, numbers in numbers_of(trades, feeds)]


@pytest.mark.parametrize("form", [JsonForm(), ArrowForm()], ids=["json", "arrow"])
def test_trades_come_back_as_they_were(form):
    feeds = Feeds()
    given = columns(feeds)
    payloads = [form.batch(given, feeds)] if form.batches else [form.trade(*pair) for pair in numbers_of(given, feeds)]
    batch, found = decoded(payloads)
    assert not batch.rejected
    assert rows(batch.trades, found) == rows(given, feeds)
    assert found.feeds == feeds.feeds
    for name in ("trade_id", "trade_id_hi"):
        assert np.array_equal(getattr(batch.trades, name), getattr(given, name))


def test_avro_says_what_json_says(registry: RegistryServer):
    client = Registry(registry.url)
    form, feeds = AvroForm(client, "forms"), Feeds()
    given = columns(feeds)
    event = Event("refilled", "s", "BINANCE", "BTC-USDT", {"first": 1, "last": 2})
    others = [
        Message(type="heartbeat", clock=T0),
        event_message(event),
        rules_message(Rules()),
        Message(type="ignored", count=3),
    ]
    payloads = [form.trade(*pair) for pair in numbers_of(given, feeds)] + [form.message(other) for other in others]
    batch, found = decoded(payloads, AvroReader(client))
    client.close()
    assert not batch.rejected
    assert rows(batch.trades, found) == rows(given, feeds)
    assert batch.beats.clock.tolist() == [T0]
    assert (batch.events[0].event, batch.events[0].detail) == ("refilled", {"first": 1, "last": 2})
    assert batch.ignored == 3


def test_avro_of_a_trade_is_what_fastavro_writes(registry: RegistryServer):
    client, feeds, schema = Registry(registry.url), Feeds(), parse_schema(json.loads(json.dumps(AVRO_SCHEMA)))
    form = AvroForm(client, "bytes")
    client.close()
    far = Numbers(-(1 << 63), -0.0, 1e300, (1 << 63) - 1, -5, "sell", "é" * 70, "polled", backfilled=True)
    for one, numbers in [*numbers_of(columns(feeds), feeds), (feed("é" * 100), far)]:
        out = io.BytesIO()
        schemaless_writer(out, schema, {"type": "trade", **msgspec.structs.asdict(one), **msgspec.structs.asdict(numbers)})
        assert form.trade(one, numbers)[5:] == out.getvalue()


def test_the_registered_schema_is_the_documented_record(registry: RegistryServer):
    names = [field["name"] for field in AVRO_SCHEMA["fields"]]
    assert names == list(Message.__struct_fields__)
    assert validate({**dict.fromkeys(names), "type": "trade", "kind": "trade", "backfilled": False}, parse_schema(AVRO_SCHEMA))
    with SchemaRegistryClient({"url": registry.url}) as client:
        client.set_compatibility("documented-value", level="BACKWARD")
        client.register_schema("documented-value", Schema(json.dumps(AVRO_SCHEMA), "AVRO"))
        wider = {**AVRO_SCHEMA, "fields": [*AVRO_SCHEMA["fields"], {"name": "venue_time", "type": "long", "default": 0}]}
        texts = [{**one, "type": ["null", "string"]} if one["name"] == "price" else one for one in AVRO_SCHEMA["fields"]]
        other = {**AVRO_SCHEMA, "fields": texts}
        assert client.test_compatibility("documented-value", Schema(json.dumps(wider), "AVRO"))
        assert not client.test_compatibility("documented-value", Schema(json.dumps(other), "AVRO"))


def test_records_that_are_no_trades_come_back():
    form = JsonForm()
    rejected = Rejected("binance", T0, "malformed", bytes(range(256)))
    event = Event("new_ids", "s", "BINANCE", "BTC-USDT", {"why": "restart"})
    messages = [rejected_message(rejected), event_message(event), Message(type="heartbeat", clock=T0), rules_message(Rules())]
    batch, _ = decoded([form.message(message) for message in messages])
    assert batch.rejected == [msgspec.structs.replace(rejected, length=256)]
    assert batch.events[0] == msgspec.structs.replace(event, offset=1)
    assert batch.events[1].detail == msgspec.to_builtins(Rules())
    assert (batch.beats.clock.tolist(), batch.beats.offset.tolist()) == ([T0], [2])


def test_what_others_write_needs_four_fields_only():
    written = [
        {"symbol": "BINANCE:BTCUSDT", "price": 1, "size": 2.5, "ts": T0, "trade_id": 7},
        {"symbol": "AAPL", "price": 3.5, "size": 1, "ts": T0},
        {"symbol": "xbt/usd", "venue": "kraken", "price": 3.5, "size": 1, "ts": T0, "trade_id": "a", "source": "mine"},
        {"symbol": "MSFT", "venue": "IEX", "price": 3.5, "size": 1, "ts": T0, "trade_id": "a", "more": [1]},
    ]
    batch, feeds = decoded([json.dumps(one).encode() for one in written])
    assert [(one.source, one.venue, one.symbol, one.identity) for one in feeds.feeds] == [
        ("kafka", "BINANCE", "BTC-USDT", "contiguous"),
        ("kafka", "AGGREGATE", "AAPL", "none"),
        ("kafka", "IEX", "MSFT", "unique"),
    ]
    assert [one.reason for one in batch.rejected] == ["type_trade_id"]
    assert batch.trades.received_at.tolist() == [NO_TIME] * 3


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (None, "tombstone"),
        (b"", "malformed"),
        (b"hello", "malformed"),
        (b'{"symbol": "A", "price": 1', "malformed"),
        (b'{"symbol": "A\xff", "price": 1, "size": 1, "ts": 1}', "malformed"),
        (b'["A", 1]', "schema"),
        (b'{"type": "quote", "bid": 1}', "schema"),
        (b'{"symbol": "A", "price": "1", "size": 1, "ts": 1}', "schema"),
        (b'{"symbol": "A", "size": 1, "ts": 1}', "missing_price"),
        (b'{"price": 1, "size": 1, "ts": 1}', "missing_symbol"),
        (b'{"symbol": "/", "price": 1, "size": 1, "ts": 1}', "symbol"),
        (b'{"type": "heartbeat", "clock": 123}', "schema"),
        (b'{"type": "heartbeat"}', "schema"),
        (b'{"type": "rejected", "payload": "?"}', "missing_reason"),
        (b'{"type": "rejected", "reason": "x", "payload": "?"}', "malformed"),
        (b'{"type": "event"}', "missing_event"),
        (b'{"type": "event", "event": "refilled", "venue": "V", "symbol": "S", "detail": "{}"}', "schema"),
        (b'{"type": "rules", "detail": "[]"}', "schema"),
        (b"\x00\x00\x00\x00\x07abc", "schema"),
        (b"\xff\xff\xff\xff", "malformed"),
        (b"\xff" * 40, "malformed"),
    ],
)
def test_what_cannot_be_read_is_kept_with_its_reason(payload, reason):
    batch, _ = decoded([JsonForm().message(Message(type="heartbeat", clock=T0)), payload])
    (rejected,) = batch.rejected
    assert (rejected.reason, rejected.payload, rejected.offset) == (reason, payload or b"", 1)
    assert len(batch.trades) == 0


def test_torn_and_flipped_messages_never_raise(registry: RegistryServer):
    rng, feeds, client = random.Random(5), Feeds(), Registry(registry.url)
    given = columns(feeds)
    whole = [ArrowForm().batch(given, feeds)]
    for form in (JsonForm(), AvroForm(client, "fuzz")):
        whole += [form.trade(*pair) for pair in numbers_of(given, feeds)]
        whole += [form.message(event_message(Event("x", detail={"a": 1}))), form.message(rules_message(Rules()))]
    damaged: list[bytes | None] = []
    for _ in range(400):
        text = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 3)):
            text[rng.randrange(len(text))] = rng.randrange(256)
        damaged.append(bytes(text[: rng.randint(0, len(text))] if rng.random() < 0.5 else text))
    batch, _ = decoded(damaged, AvroReader(client))
    client.close()
    assert len(batch.rejected) > 100
    assert {one.offset for one in batch.rejected}.isdisjoint(batch.trades.offset.tolist())


def test_codes_depend_on_what_was_read_not_on_the_cuts():
    form, feeds = JsonForm(), Feeds()
    payloads = [form.trade(one, numbers) for one, numbers in numbers_of(columns(feeds), feeds)] * 3
    whole = decoded(payloads)[1].feeds
    for cut in range(1, len(payloads)):
        cut_feeds = Feeds()
        decoder = Decoder(0, cut_feeds, None, NO_TIME, makes_beats=False)
        decoder.batch(received(range(cut), payloads[:cut]), cut)
        decoder.batch(received(range(cut, len(payloads)), payloads[cut:]), len(payloads))
        assert cut_feeds.feeds == whole


def scanned_as_single(payloads: list[bytes | None], avro: AvroReader | None, monkeypatch: pytest.MonkeyPatch) -> Batch:
    """Read messages at once and one by one, which must be the same; return what was read."""
    scanned, found = decoded(payloads, avro)
    with monkeypatch.context() as patch:
        patch.setattr(decode, "_FEW", 1 << 30)
        single, expected = decoded(payloads, avro)
    assert found.feeds == expected.feeds
    assert repr(rows(scanned.trades, found)) == repr(rows(single.trades, expected))  # a price that was flipped may be no number
    for name in ("offset", "row", "feed", "price", "size", "trade_id", "trade_id_hi", "received_at"):
        assert np.array_equal(
            getattr(scanned.trades, name), getattr(single.trades, name), equal_nan=name in {"price", "size"}
        ), name
    for name in ("clock", "at", "offset", "row"):
        assert np.array_equal(getattr(scanned.beats, name), getattr(single.beats, name)), name
    assert (scanned.events, scanned.rejected, scanned.ignored) == (single.events, single.rejected, single.ignored)
    return scanned


def ours_and_others(form: Form, rng: random.Random) -> tuple[list[bytes], list[bytes | None]]:
    """Return messages of trades as the appender writes them, and other ones."""
    feeds = Feeds()
    ours = [form.trade(one, numbers) for one, numbers in numbers_of(columns(feeds), feeds)]
    ours += [
        form.trade(feed(f"S{i}-USD"), Numbers(T0 + i, rng.random() * 10**e, 1.0, [None, T0 + 5][i % 2], i, "sell"))
        for i in range(40)
        for e in (-9, 2)
    ]
    other: list[bytes | None] = [form.message(Message(type="heartbeat", clock=T0 + i * 250_000)) for i in range(20)]
    other += [form.message(Message(type="ignored", count=2)), b"", None, b"nonsense", ours[0][:-1], ours[0] + b" ", ours[0] * 2]
    other += [form.message(event_message(Event("new_ids", "s", "BINANCE", "BTC-USDT"))), ours[0] + b"\n", b"\n" + ours[0]]
    return ours, other


def test_scanned_json_is_that_read_one_by_one(monkeypatch: pytest.MonkeyPatch):
    rng = random.Random(9)
    ours, other = ours_and_others(JsonForm(), rng)
    other += [b'{"symbol": "A", "price": 1, "size": 1, "ts": 1}', b'{"a":{"x":1,"ts":5,"price":1,"size":2}']
    other += [ours[0].replace(b'"trade"', b'"quote"'), ours[0].replace(b"100.5", b"1e400")]
    payloads = [rng.choice(ours) if rng.random() < 0.8 else rng.choice(other) for _ in range(3_000)]
    batch = scanned_as_single(payloads, None, monkeypatch)
    assert len(batch.trades) > 2_000
    assert len(batch.rejected) > 100


def test_scanned_avro_is_that_read_one_by_one(registry: RegistryServer, monkeypatch: pytest.MonkeyPatch):
    rng, client = random.Random(10), Registry(registry.url)
    ours, other = ours_and_others(AvroForm(client, "scanned"), rng)
    far = Numbers(-(1 << 63), 1.0, 1.0, (1 << 63) - 1, -5)
    ours += [AvroForm(client, "scanned").trade(feed(), far), AvroForm(client, "scanned").trade(feed(identity="none"), far)]
    other += [JsonForm().trade(feed("JSON-USD"), Numbers(T0, 1.0, 1.0)), ours[0][:1] + b"\xff" * 4 + ours[0][5:]]
    for _ in range(2_000):  # torn and flipped
        text = bytearray(rng.choice(ours))
        text[rng.randrange(1, len(text))] = rng.randrange(256)
        other.append(bytes(text if rng.random() < 0.5 else text[: rng.randrange(len(text))]))
    payloads = [ours[0], *(rng.choice(ours) if rng.random() < 0.5 else rng.choice(other) for _ in range(4_000))]
    batch = scanned_as_single(payloads, AvroReader(client), monkeypatch)
    client.close()
    assert len(batch.trades) > 2_000
    assert len(batch.rejected) > 100


def test_made_heartbeats_follow_the_records_times():
    form, feeds = JsonForm(), Feeds()
    payload = form.trade(*numbers_of(columns(feeds), feeds)[0])
    decoder = Decoder(0, Feeds(), None, NO_TIME, makes_beats=None)
    times = [T0, T0 + 249_000, T0 + 250_000, T0 - 5_000_000, T0 + 1_000_000, 0]
    batch = decoder.batch(received(range(6), [payload] * 6, times), 6)
    assert batch.beats.clock.tolist() == [T0, T0 + 250_000, T0 + 1_000_000]
    assert batch.beats.at.tolist() == batch.beats.offset.tolist() == [0, 2, 4]
    assert batch.beats.row.tolist() == [-1, -1, -1]


def test_partitions_are_those_of_javas_partitioner():
    # Utils.murmur2 of Apache Kafka, as its own test states it.
    known = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    }
    for data, expected in known.items():
        assert messages._murmur2(data) == expected % (1 << 32)
    assert partition_of("BINANCE", "BTC-USDT", 1) == 0
    assert {partition_of("V", f"S{i}", 4) for i in range(50)} == {0, 1, 2, 3}
