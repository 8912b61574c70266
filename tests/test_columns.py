"""Columns of trades: built, joined, cut, and written out again, they hold what the records held."""

from __future__ import annotations

import json

import msgspec
import numpy as np

from tickhouse.columns import EMPTY_BEATS, TradesBuilder, concat_trades, empty_trades, take_trades, text_id_key, trade_json
from tickhouse.model import NO_TIME, Feed, Feeds, Trade

NUMBERED = Feed("binance", "BINANCE", "BTC-USDT", "trade", "contiguous", "BTCUSDT")
NAMED = Feed("other", "IEX", "AAPL", "trade", "unique", "AAPL")
BARE = Feed("finnhub", "SIP", "AAPL", "", "none", "AAPL")
TRADES = [
    Trade(NUMBERED, 1, 2.5, 3.0, 10, "buy"),
    Trade(NAMED, 2, 2.5, 3.0, "t-1", "sell", "1,8"),
    Trade(BARE, 3, 0.1, 0.0, kind="polled"),
    Trade(NUMBERED, 4, 1e-7, 1e9, 11, backfilled=True),
    Trade(NAMED, 5, 2.5, 3.0, str(1 << 70)),
]


def build(trades):
    feeds, builder = Feeds(), TradesBuilder()
    for i, trade in enumerate(trades):
        builder.add(trade, feeds.code(trade.feed), NO_TIME if i else 7, i // 2, i % 2)
    return builder.build(), feeds


def test_trades_come_back_as_they_were():
    columns, feeds = build(TRADES)
    assert [msgspec.json.decode(trade_json(columns, i, feeds), type=Trade) for i in range(len(columns))] == TRADES
    assert columns.offset.tolist() == [0, 0, 1, 1, 2]
    assert columns.row.tolist() == [0, 1, 0, 1, 0]
    assert columns.received_at.tolist() == [7, *[NO_TIME] * 4]


def test_json_of_a_trade_has_sorted_keys():
    columns, feeds = build(TRADES)
    fields = json.loads(trade_json(columns, 0, feeds))
    assert list(fields) == sorted(fields)
    assert list(fields["feed"]) == sorted(fields["feed"])


def test_joining_and_cutting_keep_every_column_and_text():
    first, feeds = build(TRADES)
    numbered = take_trades(first, np.array([0, 3]))
    assert numbered.text is None
    joined = concat_trades([numbered, empty_trades(), first])
    assert [trade_json(joined, i, feeds) for i in range(2, 7)] == [trade_json(first, i, feeds) for i in range(5)]
    for cut in (slice(2, 7), np.arange(2, 7), np.arange(7) >= 2):
        part = take_trades(joined, cut)
        assert [trade_json(part, i, feeds) for i in range(5)] == [trade_json(first, i, feeds) for i in range(5)]
    assert len(take_trades(joined, slice(0, 0))) == 0


def test_builder_takes_whole_columns_between_single_trades():
    columns, feeds = build(TRADES)
    builder = TradesBuilder()
    builder.add(TRADES[0], 0, NO_TIME, 0, 0)
    builder.extend(columns)
    builder.add(TRADES[3], 0, NO_TIME, 9, 0)
    assert len(builder) == 7
    built = builder.build()
    assert built.ts.tolist() == [1, 1, 2, 3, 4, 5, 4]
    assert builder.build() is built
    assert trade_json(built, 2, feeds) == trade_json(columns, 1, feeds)


def test_number_beyond_64_bits_has_the_key_of_its_text():
    columns, _ = build([Trade(NAMED, 1, 1.0, 1.0, 1 << 70), Trade(NAMED, 1, 1.0, 1.0, str(1 << 70))])
    assert columns.trade_id[0] == columns.trade_id[1]
    assert columns.trade_id_hi[0] == columns.trade_id_hi[1] != 0


def test_key_of_a_text_is_its_blake2b_digest_and_never_looks_like_a_number():
    digest = bytes.fromhex("fc085297efde295b6719452e77c7443a")
    assert text_id_key("t-1") == (int.from_bytes(digest[8:], "big"), int.from_bytes(digest[:8], "big", signed=True))
    keys = {text_id_key(str(i)) for i in range(5_000)}
    assert len(keys) == 5_000
    assert all(high != 0 for _, high in keys)


def test_time_beyond_64_bits_becomes_one_that_the_kernel_rejects():
    columns, _ = build([Trade(BARE, 1 << 80, 1.0, 1.0), Trade(BARE, 5, 1.0, 1.0)])
    assert columns.ts.tolist() == [(1 << 63) - 1, 5]


def test_nothing_has_the_contracts_types():
    assert (len(empty_trades()), len(EMPTY_BEATS)) == (0, 0)
    assert empty_trades().feed.dtype == np.int32
    assert concat_trades([]).ts.dtype == np.int64
