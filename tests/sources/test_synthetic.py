"""The made-up market: deterministic, plausible, and as badly behaved as asked."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict
from contextlib import aclosing
from itertools import islice

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from tickhouse.clock import ManualClock, SystemClock
from tickhouse.errors import ConfigError
from tickhouse.model import Event
from tickhouse.sources.base import Frame
from tickhouse.sources.synthetic import Synthetic, SyntheticSettings

START = 1_770_000_000_000_000


def parsed(count, trades_per_frame=1, **settings):
    source = Synthetic(SyntheticSettings(**settings))
    trades, rejected = [], []
    for frame in source.frames(count, START, trades_per_frame):
        both = source.parse(frame.payload, frame.received_at)
        trades += both.trades
        rejected += both.rejected
        assert both.ignored == 0
    return trades, rejected


def by_symbol(trades):
    found = defaultdict(list)
    for trade in trades:
        found[trade.feed.symbol].append(trade)
    return found


def test_the_same_seed_makes_the_same_bytes_and_another_makes_others():
    def made(seed):
        return list(Synthetic(SyntheticSettings(seed=seed, duplicates=0.05, malformed=0.05, late=0.05, gaps=0.05)).frames(5000))

    assert made(1) == made(1)
    assert made(1) != made(2)


def test_the_trades_do_not_depend_on_how_many_a_frame_holds():
    one, _ = parsed(3000, 1, duplicates=0.02, late=0.02, gaps=0.02)
    many, _ = parsed(30, 100, duplicates=0.02, late=0.02, gaps=0.02)
    assert one == many


def test_a_well_behaved_market_has_consecutive_ids_and_rising_times():
    trades, rejected = parsed(200, 50)
    assert len(trades) == 10_000
    assert not rejected
    for each in by_symbol(trades).values():
        assert [trade.trade_id for trade in each] == list(range(1, len(each) + 1))
    assert [trade.ts for trade in trades] == sorted(trade.ts for trade in trades)
    assert trades[0].feed.venue == "SYNTHETIC"
    assert trades[0].feed.identity == "contiguous"
    assert trades[-1].ts - trades[0].ts == pytest.approx(9_999 * 5000, abs=1)


def test_prices_move_as_markets_do_and_stay_on_their_grid():
    trades, _ = parsed(600, 200, rate=200.0, symbols=1)
    prices = [trade.price for trade in trades]
    minute = [math.log(prices[at + 12_000] / prices[at]) for at in range(0, len(prices) - 12_000, 12_000)]
    assert all(0 < abs(change) < 0.02 for change in minute), "a minute moves some hundredths of a percent, never 2 %"
    assert all(price == round(price, 1) for price in prices)
    assert len(set(prices)) > 100


def test_activity_falls_with_the_rank_of_a_symbol():
    trades, _ = parsed(100, 200, symbols=100)
    counts = Counter(trade.feed.symbol for trade in trades)
    assert counts["BTC-USD"] / counts["ETH-USD"] == pytest.approx(2.0, rel=0.15)
    assert counts["BTC-USD"] == pytest.approx(20_000 / sum(1 / n for n in range(1, 101)), rel=0.1)


def test_sizes_are_positive_and_skewed():
    trades, _ = parsed(100, 100, symbols=1)
    sizes = sorted(trade.size for trade in trades)
    assert sizes[0] > 0
    assert sum(sizes) / len(sizes) > 1.5 * sizes[len(sizes) // 2]


def test_duplicates_are_exact_redeliveries():
    trades, _ = parsed(200, 50, duplicates=0.02)
    counts = Counter(trades)
    extra = sum(counts.values()) - len(counts)
    assert extra == len(trades) - 10_000
    assert extra == pytest.approx(200, rel=0.3)


def test_gaps_are_missing_ids():
    trades, _ = parsed(200, 50, gaps=0.02)
    holes = 0
    for each in by_symbol(trades).values():
        ids = [trade.trade_id for trade in each]
        assert ids == sorted(set(ids))
        holes += sum(after - before > 1 for before, after in zip([0, *ids], ids, strict=False))
        assert all(after - before <= 4 for before, after in zip([0, *ids], ids, strict=False))
    assert holes == pytest.approx(200, rel=0.3)


def test_late_trades_happened_before():
    trades, _ = parsed(200, 50, late=0.02, late_by_s=10.0)
    newest, late = 0, []
    for trade in trades:
        if trade.ts < newest:
            late.append(newest - trade.ts)
        newest = max(newest, trade.ts)
    assert len(late) == pytest.approx(200, rel=0.3)
    assert max(late) <= 10_000_000


def test_malformed_messages_are_rejected_with_varied_reasons_and_cost_no_trade():
    trades, rejected = parsed(300, 100, malformed=0.05)
    for each in by_symbol(trades).values():
        assert [trade.trade_id for trade in each] == list(range(1, len(each) + 1))
    reasons = {each.reason for each in rejected}
    assert reasons == {"malformed", "missing_price", "type_price", "type_ts", "symbol", "undocumented"}
    assert len(rejected) / len(trades) == pytest.approx(0.05, rel=0.15)
    assert all(each.payload and each.length == len(each.payload) for each in rejected)


@given(st.binary(max_size=60) | st.binary(max_size=30).map(lambda inner: b'{"type":"synthetic","trades":[' + inner + b"]}"))
@example(b'{"type":"synthetic","trades":[]}')
@example(b'{"type":"synthetic","trades":[1,{},null]}')
def test_any_bytes_are_counted_part_by_part(payload):
    both = Synthetic().parse(payload, 0)
    try:
        parts = len(msgspec.json.decode(payload)["trades"])
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, KeyError):
        parts = 1
    assert len(both.trades) + len(both.rejected) == parts


def test_a_frame_with_more_rows_than_a_message_may_have_is_refused():
    with pytest.raises(ConfigError, match="trades_per_frame"):
        next(Synthetic().frames(1, START, 10_000))
    part = next(Synthetic().frames(1)).payload[len(b'{"type":"synthetic","trades":[') : -2]
    payload = b'{"type":"synthetic","trades":[' + b",".join([part] * 16_385) + b"]}"
    assert [each.reason for each in Synthetic().parse(payload, 0).rejected] == ["oversized"]


def hand_moved(settings):
    """A source whose sleeps move its clock, so that no time passes."""
    clock = ManualClock(START)

    async def sleep(seconds):
        clock.advance(round(seconds * 1e6))

    return Synthetic(settings, clock, sleep), clock


async def first(source, count):
    items = []
    async with aclosing(source.stream()) as stream:
        async for item in stream:
            items.append(item)
            if len(items) == count:
                break
    return items


@pytest.mark.parametrize("rate", [2.0, 200.0, 20_000.0])
def test_the_stream_keeps_the_configured_rate(rate):
    source, clock = hand_moved(SyntheticSettings(rate=rate, symbols=3))
    items = asyncio.run(first(source, 104))
    trades = [trade for item in items if isinstance(item, Frame) for trade in source.parse(*item).trades]
    assert len(trades) == pytest.approx(rate * (clock.wall() - START) / 1e6, abs=max(1.0, rate / 100))
    assert all(trade.ts <= clock.wall() for trade in trades)
    for each in by_symbol(trades).values():
        assert [trade.trade_id for trade in each] == list(range(1, len(each) + 1))
        assert [trade.ts for trade in each] == sorted(trade.ts for trade in each)


def test_a_stream_says_first_that_its_ids_start_afresh():
    source, _ = hand_moved(SyntheticSettings(symbols=3))
    items = asyncio.run(first(source, 5))
    assert [item.event for item in items[:4]] == ["connected", "new_ids", "new_ids", "new_ids"]
    assert {(item.venue, item.symbol) for item in items[1:4]} == {("SYNTHETIC", s) for s in ("BTC-USD", "ETH-USD", "SOL-USD")}
    assert not isinstance(items[4], Event)


def test_a_slow_reader_gets_bounded_frames_and_every_trade():
    source, clock = hand_moved(SyntheticSettings(rate=20_000, symbols=1))

    async def scenario():
        trades = []
        async with aclosing(source.stream()) as stream:
            async for item in stream:
                if isinstance(item, Frame):
                    both = source.parse(*item)
                    assert len(both.trades) <= 1000
                    trades += both.trades
                    if len(trades) < 200:
                        clock.advance(500_000)
                if len(trades) > 12_000:
                    break
        return trades

    trades = asyncio.run(scenario())
    assert [trade.trade_id for trade in trades] == list(range(1, len(trades) + 1))


def test_twenty_thousand_trades_a_second_leave_most_of_a_processor_free():
    source = Synthetic(SyntheticSettings(rate=20_000), SystemClock())
    began = time.process_time()
    made = sum(len(source.parse(*frame).trades) for frame in islice(source.frames(200, START, 100), 200))
    assert made == 20_000
    assert time.process_time() - began < 0.7


def test_check_says_what_the_market_does():
    assert "12 made-up symbols" in asyncio.run(Synthetic().check())


@pytest.mark.parametrize("options", [{"symbols": 0}, {"rate": 0}, {"malformed": 0.9}, {"speed": 1}])
def test_settings_that_cannot_work_are_refused(options):
    with pytest.raises(ValidationError):
        SyntheticSettings(**options)
