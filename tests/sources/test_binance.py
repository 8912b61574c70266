"""Binance's frames: recorded ones exactly, strange ones counted, no bytes that raise."""

from __future__ import annotations

import gzip
import io
import json

import msgspec
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from tickhouse.model import MAX_PAYLOAD_BYTES
from tickhouse.sources.base import IGNORED
from tickhouse.sources.binance import Binance, BinanceSettings

TRADE = {
    "e": "trade",
    "E": 1672515782136,
    "s": "BNBBTC",
    "t": 12345,
    "p": "0.001",
    "q": "100",
    "T": 1672515782136,
    "m": True,
    "M": True,
}
AGG = {
    "e": "aggTrade",
    "E": 1672515782136,
    "s": "BNBBTC",
    "a": 777,
    "p": "0.001",
    "q": "100",
    "f": 100,
    "l": 105,
    "T": 1672515782136,
}
AGG |= {"m": False, "M": True}


def raw(message):
    return json.dumps(message, separators=(",", ":")).encode()


def combined(message, stream="bnbbtc@trade"):
    return raw({"stream": stream, "data": message})


def only(parsed):
    assert len(parsed.trades) == 1, parsed
    assert not parsed.rejected
    return parsed.trades[0]


def reason(parsed):
    assert not parsed.trades
    assert parsed.ignored == 0
    assert len(parsed.rejected) == 1
    return parsed.rejected[0].reason


def spot_lines(shared):
    for day in ("20240808", "20240809"):
        with gzip.open(shared / "fixtures" / "binance" / f"ws_spot_btcusdt_{day}.gz", "rb") as lines:
            yield from (line.split(b" ", 1)[1].rstrip(b"\n") for line in lines)


def captured(shared, name):
    with (shared / "fixtures" / "ws_captures" / name).open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file)
        for line in io.TextIOWrapper(reader, "utf-8"):
            record = json.loads(line)
            if record["t"] == "recv":
                yield record["data"].encode()


def test_a_recorded_spot_day_gives_every_trade_once_and_rejects_nothing(shared):
    source = Binance()
    trades, ignored = [], 0
    for payload in spot_lines(shared):
        parsed = source.parse(payload, 0)
        assert not parsed.rejected
        trades += parsed.trades
        ignored += parsed.ignored
    assert len(trades) == 19_904
    assert ignored == 99_574 - 19_904
    assert [trade.trade_id for trade in trades] == list(range(trades[0].trade_id, trades[0].trade_id + 19_904))
    assert {trade.feed.venue for trade in trades} == {"BINANCE"}
    first = trades[0]
    assert (first.ts, first.price, first.size, first.trade_id, first.side) == (
        1723161255342000,
        61837.63,
        0.02,
        3735683259,
        "sell",
    )
    assert (first.feed.symbol, first.feed.id_space, first.feed.identity) == ("BTC-USDT", "trade", "contiguous")


def test_every_recorded_price_and_size_is_the_nearest_double(shared):
    source = Binance()
    for payload in spot_lines(shared):
        for trade in source.parse(payload, 0).trades:
            data = json.loads(payload)["data"]
            assert (trade.price, trade.size) == (float(data["p"]), float(data["q"]))


def test_recorded_futures_frames_are_aggregated_trades_of_their_own_venue(shared):
    source = Binance(BinanceSettings(market="usdm"))
    trades, ignored = [], 0
    for payload in captured(shared, "binance_futures.jsonl.zst"):
        parsed = source.parse(payload, 0)
        assert not parsed.rejected
        trades += parsed.trades
        ignored += parsed.ignored
    assert (len(trades), ignored) == (91, 764 + 613 + 67)
    assert {trade.feed.venue for trade in trades} == {"BINANCE-USDM"}
    assert {trade.feed.symbol for trade in trades} <= {"SUSHI-USDT", "AKRO-USDT", "KEEP-USDT", "CTK-USDT"}
    assert {trade.feed.id_space for trade in trades} == {"agg"}
    for symbol in {trade.feed.symbol for trade in trades}:
        ids = [trade.trade_id for trade in trades if trade.feed.symbol == symbol]
        assert ids == list(range(ids[0], ids[0] + len(ids)))


def test_a_recorded_capture_of_aggregated_spot_trades_is_read(shared):
    parsed = [Binance().parse(payload, 0) for payload in captured(shared, "binance.jsonl.zst")]
    assert sum(len(each.trades) for each in parsed) == 2
    assert sum(each.ignored for each in parsed) == len(parsed) - 2


@pytest.mark.parametrize("frame", [raw, combined])
def test_a_trade_has_the_documented_meaning(frame):
    trade = only(Binance().parse(frame(TRADE), 5))
    assert (trade.feed.symbol, trade.trade_id, trade.price, trade.size) == ("BNB-BTC", 12345, 0.001, 100.0)
    assert trade.ts == 1672515782136000
    assert trade.side == "sell", "the buyer was the maker, so the seller was the aggressor"


@pytest.mark.parametrize("frame", [raw, combined])
def test_an_aggregated_trade_has_the_documented_meaning(frame):
    trade = only(Binance().parse(frame(AGG), 5))
    assert (trade.trade_id, trade.feed.id_space, trade.side) == (777, "agg", "buy")


def test_microsecond_times_are_recognised_by_their_magnitude():
    assert only(Binance().parse(raw({**TRADE, "T": 1672515782136123}), 0)).ts == 1672515782136123


def test_the_order_of_keys_and_white_space_make_no_difference():
    expected = Binance().parse(combined(TRADE), 0)
    backwards = {"data": dict(reversed(TRADE.items())), "stream": "bnbbtc@trade"}
    assert Binance().parse(raw(backwards), 0) == expected
    assert Binance().parse(json.dumps(backwards, indent=2).encode(), 0) == expected


IGNORED_MESSAGES = [
    {"e": "depthUpdate", "E": 1, "s": "BNBBTC", "U": 157, "u": 160, "b": [["0.0024", "10"]], "a": []},
    {"u": 400900217, "s": "BNBUSDT", "b": "25.3", "B": "31.2", "a": "25.4", "A": "40.6"},
    {"e": "bookTicker", "u": 1, "s": "BNBUSDT", "b": "1", "B": "1", "a": "1", "A": "1", "T": 1, "E": 1},
    {"e": "kline", "E": 1, "s": "BNBBTC", "k": {"t": 1, "T": 2}},
    {"e": "24hrTicker", "E": 1, "s": "BNBBTC", "p": "0.0015"},
    {"e": "24hrMiniTicker", "E": 1, "s": "BNBBTC"},
    {"e": "1hTicker", "E": 1, "s": "BNBBTC"},
    {"e": "avgPrice", "E": 1, "s": "BNBBTC", "i": "5m", "w": "1", "T": 1},
    {"e": "markPriceUpdate", "E": 1, "s": "BTCUSDT", "p": "1", "T": 1},
    {"e": "forceOrder", "E": 1, "o": {"s": "BTCUSDT"}},
    {"e": "continuous_kline", "E": 1, "ps": "BTCUSDT"},
    {"e": "serverShutdown", "E": 1770123456789},
    {"lastUpdateId": 160, "bids": [["0.0024", "10"]], "asks": []},
    {"result": None, "id": 1},
    {"code": 2, "msg": "Invalid request", "id": 3},
    {"error": {"code": 2, "msg": "Invalid request"}, "id": 3},
    [{"e": "24hrTicker", "E": 1, "s": "A"}, {"e": "24hrTicker", "E": 1, "s": "B"}],
]


@pytest.mark.parametrize("message", IGNORED_MESSAGES, ids=lambda message: str(message)[:30])
@pytest.mark.parametrize("frame", [raw, combined])
def test_documented_messages_that_are_not_taken_are_counted_as_ignored(frame, message):
    assert Binance().parse(frame(message), 0) == IGNORED


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", "malformed"),
        (b"not JSON", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"3", "malformed"),
        (b'"trade"', "malformed"),
        (raw(TRADE)[:-5], "malformed"),
        (combined(None), "malformed"),
        (b"[" * 5000, "malformed"),
        (b'{"stream":"x","data":' + b"[" * 5000, "malformed"),
        (b"{}", "undocumented"),
        (b"[]", "undocumented"),
        (raw({"e": "surprise"}), "undocumented"),
        (raw({"e": ["trade"]}), "undocumented"),
        (raw({"e": None, "u": 1, "s": "A", "b": "1", "B": "1", "a": "1", "A": "1"}), "undocumented"),
        (raw([{"e": "trade"}]), "undocumented"),
        (raw([{"e": {}}]), "undocumented"),
    ],
)
def test_what_is_no_documented_message_is_rejected_with_its_bytes(payload, expected):
    parsed = Binance().parse(payload, 42)
    assert reason(parsed) == expected
    kept = parsed.rejected[0]
    assert (kept.payload, kept.length, kept.received_at, kept.source, kept.sha256) == (
        payload,
        len(payload),
        42,
        "binance",
        None,
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"s": None}, "type_symbol"),
        ({"s": ""}, "symbol"),
        ({"s": "OTHER:BTCUSDT"}, "symbol"),
        ({"s": "BTC\x00USDT"}, "symbol"),
        ({"t": "abc"}, "type_id"),
        ({"t": -1}, "type_id"),
        ({"t": 2**63}, "type_id"),
        ({"t": 1.5}, "type_id"),
        ({"p": 1.5}, "type_price"),
        ({"p": "nan"}, "type_price"),
        ({"p": "Infinity"}, "type_price"),
        ({"p": "1_000"}, "type_price"),
        ({"p": "abc"}, "type_price"),
        ({"p": ""}, "type_price"),
        ({"p": "9" * 400}, "price"),
        ({"q": 2}, "type_size"),
        ({"q": True}, "type_size"),
        ({"T": None}, "type_ts"),
        ({"T": 10**30}, "type_ts"),
        ({"m": "perhaps"}, "type_side"),
    ],
)
@pytest.mark.parametrize("frame", [raw, combined])
def test_a_trade_with_a_wrong_field_is_rejected_and_the_reason_names_it(frame, change, expected):
    assert reason(Binance().parse(frame({**TRADE, **change}), 0)) == expected


@pytest.mark.parametrize(
    ("key", "meaning"), [("s", "symbol"), ("t", "id"), ("p", "price"), ("q", "size"), ("T", "ts"), ("m", "side")]
)
def test_a_trade_without_a_field_is_rejected_and_the_reason_names_it(key, meaning):
    assert reason(Binance().parse(raw({k: v for k, v in TRADE.items() if k != key}), 0)) == f"missing_{meaning}"


@pytest.mark.parametrize(
    ("change", "field", "value"), [({"p": "-1.5"}, "price", -1.5), ({"p": "0"}, "price", 0.0), ({"q": "0"}, "size", 0.0)]
)
def test_a_price_that_nobody_can_trade_at_is_left_to_the_rule_of_validity(change, field, value):
    assert getattr(only(Binance().parse(raw({**TRADE, **change}), 0)), field) == value


def test_a_huge_payload_is_kept_by_its_beginning_and_its_digest():
    payload = b"x" * (MAX_PAYLOAD_BYTES + 1)
    kept = Binance().parse(payload, 0).rejected[0]
    assert (len(kept.payload), kept.length) == (MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES + 1)
    assert kept.sha256 is not None


def test_symbols_in_other_scripts_are_symbols():
    assert only(Binance().parse(raw({**TRADE, "s": "币安人生USDT"}), 0)).feed.symbol == "币安人生-USDT"


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["trade", "aggTrade", "1.5", "kline"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*TRADE, "stream", "data", "a", "u", "id"]), inner, max_size=9)
    ),
    max_leaves=12,
)


def balances(payload):
    parsed = Binance().parse(payload, 0)
    assert len(parsed.trades) + len(parsed.rejected) + parsed.ignored == 1
    for trade in parsed.trades:
        assert msgspec.json.encode(trade)
        assert -(2**63) <= trade.ts < 2**63
    Binance().recognises(payload)


@given(st.binary(max_size=200))
@example(b'{"e":"trade","s":"\\ud800"}')
def test_any_bytes_become_one_counted_thing(payload):
    balances(payload)


@given(_JSON)
def test_any_json_becomes_one_counted_thing(value):
    balances(json.dumps(value).encode())


@given(st.sampled_from([raw(TRADE), combined(TRADE), combined(AGG)]), st.data())
def test_any_damage_to_a_trade_becomes_one_counted_thing(payload, data):
    at = data.draw(st.integers(0, len(payload) - 1))
    balances(payload[:at] + data.draw(st.binary(max_size=3)) + payload[at + data.draw(st.integers(0, 3)) :])


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("s", "t", "p", "q", "T", "m", "e"), _JSON)))
def test_any_strange_field_becomes_one_counted_thing(change):
    balances(json.dumps({**TRADE, **change}).encode())
    balances(json.dumps({"stream": "x", "data": {**TRADE, **change}}, separators=(",", ":")).encode())


def test_its_own_frames_are_recognised_and_no_others(shared):
    source = Binance()
    assert all(source.recognises(combined(message)) for message in (TRADE, AGG, IGNORED_MESSAGES[0], IGNORED_MESSAGES[1]))
    others = [
        b"",
        b"{}",
        b'{"type":"trade","data":[{"s":"AAPL","p":1,"t":1,"v":1}]}',
        b'{"s":"BINANCE:BTCUSDT","p":1.5,"t":1,"v":2,"id":3}',
    ]
    others += [*captured(shared, "coinbase.jsonl.zst")][:50] + [*captured(shared, "kraken.jsonl.zst")][:50]
    assert not any(source.recognises(payload) for payload in others)


def test_defaults_follow_the_market_and_symbols_are_canonical():
    spot, futures = BinanceSettings(symbols=("btcusdt", "BTC/USDT", "ethusdt")), BinanceSettings(market="usdm")
    assert spot.symbols == ("BTC-USDT", "ETH-USDT")
    assert spot.ws_url == "wss://stream.binance.com:9443"
    assert (futures.rest_url, futures.venue) == ("https://fapi.binance.com", "BINANCE-USDM")
    assert BinanceSettings(market="usdm", ws_url="ws://here/").ws_url == "ws://here"


@pytest.mark.parametrize("options", [{"symbols": ()}, {"symbols": ("",)}, {"market": "options"}, {"unknown": 1}])
def test_settings_that_cannot_work_are_refused(options):
    with pytest.raises(ValidationError):
        BinanceSettings(**options)
