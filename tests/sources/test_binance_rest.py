"""The pull side of Binance against a real server, and its recorded answers."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from aiohttp import web

from tests.sources.exchange_server import ExchangeServer
from tickhouse.clock import ManualClock, SystemClock
from tickhouse.errors import ConfigError, MalformedError, NotConnectedError, RateLimitedError
from tickhouse.sources.binance import Binance, BinanceSettings

START = 1_770_000_000_000_000


def source(url, clock=None, **settings):
    return Binance(BinanceSettings(rest_url=url, **{"symbols": ("BTC-USDT", "ETH-USDT"), **settings}), clock or SystemClock())


async def filled(exchange, count=20):
    await exchange.traded(count)
    exchange.trading = False


class Recorded:
    """A server that answers every request of an endpoint with the same recorded bytes."""

    def __init__(self, answers):
        self.answers = answers
        self.queries = []

    async def __aenter__(self):
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    async def _answer(self, request):
        self.queries.append((request.path, dict(request.query), request.headers.get("X-MBX-APIKEY")))
        return web.Response(body=self.answers[request.path.rpartition("/")[2]])


def test_past_trades_are_the_streamed_ones_marked_as_backfilled():
    async def scenario():
        async with ExchangeServer() as exchange:
            await filled(exchange)
            async with source(exchange.rest_url).rest() as rest:
                trades = await rest.trades("BTC-USDT", 1005, 10)
            assert [trade.trade_id for trade in trades] == list(range(1005, 1015))
            assert all(trade.backfilled for trade in trades)
            sent = exchange.history["BTCUSDT"][5]
            assert (trades[0].ts, trades[0].price, trades[0].size) == (sent["T"] * 1000, float(sent["p"]), 0.5)
            assert trades[0].side == ("sell" if sent["m"] else "buy")
            assert (trades[0].feed.symbol, trades[0].feed.id_space) == ("BTC-USDT", "trade")

    asyncio.run(scenario())


def test_recorded_answers_are_read(shared):
    folder = shared / "fixtures" / "binance"
    answers = {
        "historicalTrades": (folder / "rest_trades.json").read_bytes(),
        "aggTrades": (folder / "rest_agg_trades.json").read_bytes(),
        "klines": (folder / "rest_klines.json").read_bytes(),
    }

    async def scenario():
        async with Recorded(answers) as exchange:
            async with source(exchange.url, api_key="key").rest() as rest:
                trades = await rest.trades("BTC-USDT", 1111468873, 10)
                aggregated = await rest.agg_trades("BTC-USDT", start=1634944096633000, end=1634944097000000)
                bars = await rest.klines("BTC-USDT", "1m", 1634943780000000, 1634944380000000)
            assert [trade.trade_id for trade in trades] == list(range(1111468873, 1111468883))
            assert (trades[0].price, trades[0].size, trades[0].side) == (60650.0, 0.02924, "sell")
            assert (aggregated[0].trade_id, aggregated[0].feed.id_space) == (966492862, "agg")
            assert len(bars) == 10
            assert (bars[0].start, bars[0].end, bars[0].open, bars[0].trades) == (
                1634943780000000,
                1634943840000000,
                60685.22,
                617,
            )
            assert all(before.end == after.start for before, after in pairwise(bars))
            assert exchange.queries == [
                ("/api/v3/historicalTrades", {"symbol": "BTCUSDT", "fromId": "1111468873", "limit": "10"}, "key"),
                (
                    "/api/v3/aggTrades",
                    {"symbol": "BTCUSDT", "limit": "1000", "startTime": "1634944096633", "endTime": "1634944096999"},
                    "key",
                ),
                (
                    "/api/v3/klines",
                    {
                        "symbol": "BTCUSDT",
                        "interval": "1m",
                        "limit": "1000",
                        "startTime": "1634943780000",
                        "endTime": "1634944379999",
                    },
                    "key",
                ),
            ]

    asyncio.run(scenario())


def test_an_answer_of_another_form_is_malformed():
    async def scenario():
        answers = {
            "historicalTrades": b'[{"id":1}]',
            "klines": b"<html>",
            "aggTrades": b'[{"a":1,"p":"x","q":"1","T":1,"m":true}]',
        }
        async with Recorded(answers) as exchange, source(exchange.url).rest() as rest:
            with pytest.raises(MalformedError):
                await rest.trades("BTC-USDT", 1)
            with pytest.raises(MalformedError):
                await rest.klines("BTC-USDT", "1m", 0, 1)
            with pytest.raises(MalformedError):
                await rest.agg_trades("BTC-USDT", 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("market", ["spot", "usdm"])
def test_check_says_that_every_symbol_is_listed(market):
    async def scenario():
        async with ExchangeServer() as exchange:
            said = await source(exchange.rest_url, market=market).check()
            assert "lists all 2 symbols" in said
            assert exchange.requests == ["ping", "exchangeInfo"]

    asyncio.run(scenario())


@pytest.mark.parametrize("market", ["spot", "usdm"])
def test_check_refuses_a_symbol_that_is_not_listed(market):
    async def scenario():
        async with ExchangeServer() as exchange:
            with pytest.raises(ConfigError, match="symbols setting"):
                await source(exchange.rest_url, market=market, symbols=("BTC-USDT", "NONE-USDT")).check()

    asyncio.run(scenario())


def test_an_unreachable_venue_is_not_connected():
    async def scenario():
        async with ExchangeServer() as exchange:
            url = exchange.rest_url
            exchange.refuse = (503, {})
            with pytest.raises(NotConnectedError, match="503"):
                await source(url).check()
        with pytest.raises(NotConnectedError, match="cannot reach"):
            await source(url).check()

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [418, 429])
def test_a_pause_that_binance_asks_for_is_kept_without_asking_again(status):
    async def scenario():
        clock = ManualClock(START)
        async with ExchangeServer() as exchange, source(exchange.rest_url, clock).rest() as rest:
            exchange.refuse = (status, {"Retry-After": "7"})
            with pytest.raises(RateLimitedError) as refused:
                await rest.ping()
            assert refused.value.retry_after_s == 7
            exchange.refuse = None
            clock.advance(5_000_000)
            with pytest.raises(RateLimitedError) as refused:
                await rest.ping()
            assert refused.value.retry_after_s == 2
            assert exchange.requests == ["ping"]
            clock.advance(2_000_000)
            await rest.ping()
            assert exchange.requests == ["ping", "ping"]

    asyncio.run(scenario())


def test_the_weight_of_a_minute_is_never_exceeded():
    async def scenario():
        clock = ManualClock(START)
        async with ExchangeServer() as exchange, source(exchange.rest_url, clock).rest() as rest:
            for _ in range(240):
                await rest.trades("BTC-USDT", 1000, 1)
            with pytest.raises(RateLimitedError) as refused:
                await rest.trades("BTC-USDT", 1000, 1)
            wait = refused.value.retry_after_s
            assert 0 < wait <= 60
            assert len(exchange.requests) == 240
            clock.advance(round(wait * 1e6))
            await rest.trades("BTC-USDT", 1000, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("status", "error"), [(403, RateLimitedError), (451, ConfigError), (400, ConfigError), (500, NotConnectedError)]
)
def test_every_refusal_says_what_to_do_next(status, error):
    async def scenario():
        async with ExchangeServer() as exchange, source(exchange.rest_url).rest() as rest:
            exchange.refuse = (status, {})
            with pytest.raises(error, match=str(status)):
                await rest.trades("BTC-USDT", 1)

    asyncio.run(scenario())


def test_a_client_outside_its_context_says_so():
    with pytest.raises(NotConnectedError, match="async with"):
        asyncio.run(source("http://127.0.0.1:1").rest().ping())
