"""A connection that stays up, against a real server on the loopback interface."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from contextlib import aclosing

import pytest

from tests.sources.exchange_server import ExchangeServer
from tickhouse.clock import SystemClock
from tickhouse.errors import ConfigError
from tickhouse.model import Event
from tickhouse.sources.base import Frame
from tickhouse.sources.binance import Binance, BinanceSettings
from tickhouse.sources.transport import TransportSettings, WebSocketTransport

QUICK = {"overlap_s": 0.05, "first_back_off_s": 0.02, "close_timeout_s": 0.05, "open_timeout_s": 2.0}


class Seen:
    """What a client of the transport received."""

    def __init__(self):
        self.events: list[Event] = []
        self.ids: dict[str, list[int]] = {"BTC-USDT": [], "ETH-USDT": []}
        self._binance = Binance()

    def take(self, item):
        if isinstance(item, Event):
            self.events.append(item)
            return
        for trade in self._binance.parse(item.payload, item.received_at).trades:
            self.ids[trade.feed.symbol].append(trade.trade_id)

    @property
    def names(self):
        return [event.event for event in self.events]


def transport(exchange, streams="btcusdt@trade/ethusdt@trade", **settings):
    url = f"{exchange.ws_url}/stream?streams={streams}"
    asks = lambda payload: b'"serverShutdown"' in payload  # noqa: E731
    opening = settings.pop("opening", ())
    return WebSocketTransport(
        "binance", url, SystemClock(), TransportSettings(**{**QUICK, **settings}), opening=opening, asks_renewal=asks
    )


async def follow(line, seen, until, limit_s=10.0):
    async with asyncio.timeout(limit_s), aclosing(line.frames()) as frames:
        async for item in frames:
            seen.take(item)
            if until(seen):
                return


def run(scenario):
    asyncio.run(scenario)


def test_frames_follow_the_connected_event_as_bytes_with_their_receive_time():
    async def scenario():
        async with ExchangeServer() as exchange:
            got = []
            async with asyncio.timeout(120), aclosing(transport(exchange).frames()) as frames:
                async for item in frames:
                    got.append(item)
                    if len(got) == 4:
                        break
            assert isinstance(got[0], Event)
            assert got[0].event == "connected"
            assert got[0].detail["address"] == f"{exchange.ws_url}/stream"
            assert all(type(item) is Frame and type(item.payload) is bytes for item in got[1:])
            assert abs(got[1].received_at - SystemClock().wall()) < 60_000_000

    run(scenario())


def test_a_killed_connection_is_announced_and_opened_again():
    async def scenario():
        async with ExchangeServer() as exchange:
            seen = Seen()

            def kill_once(seen):
                if len(seen.ids["BTC-USDT"]) == 5 and exchange.opened == 1:
                    exchange.kill()
                return "connected" in seen.names[1:] and seen.ids["BTC-USDT"][-1] > seen.ids["BTC-USDT"][4] + 1

            await follow(transport(exchange), seen, kill_once)
            assert seen.names == ["connected", "disconnected", "connected"]
            assert seen.events[1].detail["reason"]
            assert exchange.opened == 2

    run(scenario())


def test_a_closing_provider_is_quoted():
    async def scenario():
        async with ExchangeServer() as exchange:
            seen = Seen()
            closing = []

            def close_once(seen):
                if seen.ids["BTC-USDT"] and not closing:
                    closing.append(asyncio.create_task(exchange.close_all(1008)))
                return seen.names.count("connected") == 2

            await follow(transport(exchange), seen, close_once)
            await asyncio.gather(*closing)
            assert "1008 Pong timeout" in seen.events[1].detail["reason"]

    run(scenario())


def test_renewal_leaves_no_hole():
    async def scenario():
        async with ExchangeServer(every_s=0.002) as exchange:
            seen = Seen()
            await follow(transport(exchange, renew_after_s=0.15), seen, lambda seen: seen.names.count("renewed") == 3)
            assert seen.names == ["connected", "renewed", "renewed", "renewed"]
            for ids in seen.ids.values():
                assert sorted(set(ids)) == list(range(min(ids), max(ids) + 1))
                assert len(ids) > len(set(ids)), "both connections delivered for a while"
            assert [event.detail["connection"] for event in seen.events] == [1, 2, 3, 4]

    run(scenario())


def test_a_server_about_to_shut_down_is_left_without_a_hole():
    async def scenario():
        async with ExchangeServer() as exchange:
            seen = Seen()
            asked = []

            def announce_once(seen):
                if seen.ids["BTC-USDT"] and not asked:
                    asked.append(asyncio.create_task(exchange.announce_shutdown()))
                return "renewed" in seen.names

            await follow(transport(exchange), seen, announce_once)
            await asyncio.gather(*asked)
            assert seen.events[-1].detail["reason"] == "the provider asked for it"
            ids = seen.ids["BTC-USDT"]
            assert sorted(set(ids)) == list(range(min(ids), max(ids) + 1))

    run(scenario())


def test_a_renewal_that_is_refused_is_tried_again_while_the_old_connection_goes_on():
    async def scenario():
        async with ExchangeServer() as exchange:
            seen = Seen()

            def refuse_twice(seen):
                if seen.names == ["connected"]:
                    exchange.refuse = (503, {}) if exchange.refused < 2 else None
                return "renewed" in seen.names

            await follow(transport(exchange, renew_after_s=0.1), seen, refuse_twice)
            assert seen.names == ["connected", "renewed"]
            assert exchange.refused == 2
            ids = seen.ids["BTC-USDT"]
            assert sorted(set(ids)) == list(range(min(ids), max(ids) + 1))

    run(scenario())


def test_a_connection_lost_while_its_renewal_is_refused_is_announced():
    async def scenario():
        async with ExchangeServer() as exchange:
            seen = Seen()

            def lose_it(seen):
                if seen.names == ["connected"]:
                    exchange.refuse = (503, {})
                if exchange.refused == 1:
                    exchange.kill()
                if "disconnected" in seen.names:
                    exchange.refuse = None
                return seen.names.count("connected") == 2

            await follow(transport(exchange, renew_after_s=0.1), seen, lose_it)
            assert seen.names == ["connected", "disconnected", "connected"]

    run(scenario())


def test_a_server_that_never_says_anything_again_is_given_up():
    async def scenario():
        silent = await asyncio.start_server(_shake_hands_and_freeze, "127.0.0.1", 0)
        url = f"ws://127.0.0.1:{silent.sockets[0].getsockname()[1]}/stream"
        seen = Seen()
        line = WebSocketTransport("binance", url, SystemClock(), TransportSettings(**QUICK, quiet_s=0.1))
        await follow(line, seen, lambda seen: seen.names.count("connected") == 2, limit_s=3)
        silent.close()
        assert seen.names == ["connected", "disconnected", "connected"]

    run(scenario())


async def _shake_hands_and_freeze(reader, writer):
    request = await reader.readuntil(b"\r\n\r\n")
    key = next(line.split(b": ")[1] for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
    writer.write(b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    await reader.read()
    writer.close()


def test_a_successor_in_a_quiet_market_takes_over_all_the_same():
    async def scenario():
        async with ExchangeServer() as exchange:
            exchange.trading = False
            seen = Seen()
            await follow(
                transport(exchange, renew_after_s=0.1, overlap_limit_s=0.1, quiet_s=5),
                seen,
                lambda seen: "renewed" in seen.names,
            )
            assert exchange.opened == 2

    run(scenario())


def test_a_socket_without_data_and_pings_is_dead():
    async def scenario():
        async with ExchangeServer() as exchange:
            exchange.trading = exchange.pinging = False
            seen = Seen()
            await follow(transport(exchange, quiet_s=0.2), seen, lambda seen: seen.names.count("connected") == 2)
            assert seen.names == ["connected", "disconnected", "connected"]
            assert seen.events[1].detail["reason"].startswith("dead")

    run(scenario())


def test_a_quiet_market_with_pings_is_alive_and_every_ping_is_answered():
    async def scenario():
        async with ExchangeServer(ping_every_s=0.05) as exchange:
            exchange.trading = False
            seen = Seen()
            with pytest.raises(TimeoutError):
                await follow(transport(exchange, quiet_s=0.2), seen, lambda seen: False, limit_s=0.7)
            assert seen.names == ["connected"]
            assert exchange.pongs[:5] == [b"1", b"2", b"3", b"4", b"5"]

    run(scenario())


def test_an_unreachable_provider_is_announced_once_and_tried_on_and_on():
    async def scenario():
        async with ExchangeServer() as exchange:
            exchange.refuse = (503, {})
            seen = Seen()

            async def heal():
                await asyncio.sleep(0.3)
                exchange.refuse = None

            healing = asyncio.create_task(heal())
            await follow(transport(exchange), seen, lambda seen: "connected" in seen.names)
            await healing
            assert seen.names == ["disconnected", "connected"]
            assert "503" in seen.events[0].detail["reason"]

    run(scenario())


def test_a_first_connection_refused_for_what_it_asks_is_an_error():
    async def scenario():
        async with ExchangeServer() as exchange:
            exchange.refuse = (404, {})
            with pytest.raises(ConfigError, match="404"):
                await follow(transport(exchange), Seen(), lambda seen: False)

    run(scenario())


def test_a_wrong_address_is_an_error():
    async def scenario():
        line = WebSocketTransport("binance", "no address", SystemClock())
        with pytest.raises(ConfigError, match="no WebSocket address"):
            await follow(line, Seen(), lambda seen: False)

    run(scenario())


def test_attempts_stay_below_the_providers_limit():
    async def scenario():
        async with ExchangeServer() as exchange:
            exchange.refuse = (503, {})
            limited = transport(exchange, first_back_off_s=0.001, longest_back_off_s=0.001, attempts=5, attempts_window_s=30)
            seen = Seen()
            with pytest.raises(TimeoutError):
                await follow(limited, seen, lambda seen: False, limit_s=0.5)
            assert exchange.refused == 5
            assert seen.names == ["disconnected"]

    run(scenario())


def test_subscriptions_are_sent_on_every_connection_and_spaced():
    async def scenario():
        async with ExchangeServer() as exchange:
            opening = [
                f'{{"method":"SUBSCRIBE","params":["{name}@trade"],"id":{n}}}' for n, name in enumerate(("btcusdt", "ethusdt"))
            ]
            seen = Seen()

            def kill_once(seen):
                if seen.ids["ETH-USDT"] and exchange.opened == 1:
                    exchange.kill()
                return seen.names.count("connected") == 2

            await follow(transport(exchange, streams="", opening=opening, messages_per_s=20), seen, kill_once)
            assert [asked["id"] for asked in exchange.received] == [0, 1, 0, 1]

    run(scenario())


def test_a_slow_reader_loses_nothing_and_keeps_the_connection():
    async def scenario():
        async with ExchangeServer(every_s=0.002) as exchange:
            seen = Seen()
            async with asyncio.timeout(120), aclosing(transport(exchange, pending_frames=8, quiet_s=0.2).frames()) as frames:
                async for item in frames:
                    seen.take(item)
                    if len(seen.ids["BTC-USDT"]) == 1:
                        await asyncio.sleep(0.5)
                    if len(seen.ids["BTC-USDT"]) > 100:
                        break
            assert seen.names == ["connected"]
            ids = seen.ids["BTC-USDT"]
            assert ids == list(range(ids[0], ids[0] + len(ids)))

    run(scenario())


def test_the_source_streams_its_configured_symbols():
    async def scenario():
        async with ExchangeServer() as exchange:
            source = Binance(BinanceSettings(symbols=("eth/usdt",), ws_url=exchange.ws_url), SystemClock())
            trades = []
            async with asyncio.timeout(120), aclosing(source.stream()) as frames:
                async for item in frames:
                    if isinstance(item, Frame):
                        trades += source.parse(item.payload, item.received_at).trades
                    if len(trades) == 3:
                        break
            assert {trade.feed.symbol for trade in trades} == {"ETH-USDT"}

    run(scenario())
