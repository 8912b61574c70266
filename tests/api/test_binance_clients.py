"""Programs written for Binance read from the house unchanged: the real ccxt and python-binance, pointed at it."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.api.live import FEEDS, LiveHouse, Served, eventually
from tickhouse.house import House
from tickhouse.rules import Rules
from tickhouse.settings import ServeSettings


@pytest.fixture
def exchange(served: Served) -> Iterator[Any]:
    """A ccxt exchange whose addresses are the house's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ccxt

        found = ccxt.binance({"options": {"fetchMarkets": {"types": ["spot"]}, "fetchCurrencies": False}})
        found.urls["api"] = dict.fromkeys(found.urls["api"], f"{served.url}/api/v3")
        yield found
        found.close() if hasattr(found, "close") else None


def test_ccxt_reads_bars_and_trades(exchange: Any, stored: Path) -> None:
    markets = exchange.load_markets()
    assert {"BTC/USDT", "ETH/USDT"} <= set(markets)
    bars = exchange.fetch_ohlcv("BTC/USDT", "5m", limit=10)
    expected = House(stored).bars("BTC-USDT", "5m", venue="BINANCE").tail(9)
    columns = ("open", "high", "low", "close", "volume")
    assert [row[1:] for row in bars[:9]] == [list(row) for row in expected.select(columns).iter_rows()]
    assert [row[0] * 1000 for row in bars[:9]] == expected["start"].dt.epoch("us").to_list()
    since = bars[0][0]
    assert exchange.fetch_ohlcv("BTC/USDT", "5m", since=since, limit=3) == bars[:3]
    trades = exchange.fetch_trades("ETH/USDT", limit=20)
    last = House(stored).trades("ETH-USDT", limit=20)
    assert [float(trade["price"]) for trade in trades] == last["price"].to_list()
    assert [trade["side"] for trade in trades] == last["side"].to_list()
    ticker = exchange.fetch_ticker("BTC/USDT")
    day = House(stored).sql("SELECT max(price) AS h, sum(size) AS v FROM silver.trades WHERE symbol = 'BTC-USDT'").row(0)
    assert ticker["high"] == day[0]
    assert ticker["baseVolume"] == pytest.approx(day[1], rel=1e-12)
    assert exchange.fetch_time() > 1_600_000_000_000


def test_ccxt_gets_binances_errors(exchange: Any) -> None:
    import ccxt

    exchange.load_markets()
    with pytest.raises(ccxt.BadSymbol):
        exchange.public_get_klines({"symbol": "NOPE", "interval": "1m"})
    with pytest.raises(ccxt.BadRequest, match="Invalid interval"):
        exchange.public_get_klines({"symbol": "BTCUSDT", "interval": "7m"})


def test_python_binance_reads_bars_trades_and_tickers(served: Served, stored: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from binance.client import Client
        from binance.exceptions import BinanceAPIException

        client = Client(ping=False)
        client.API_URL = f"{served.url}/api"
        assert client.ping() == {}
        rows = client.get_klines(symbol="BTCUSDT", interval="1m", limit=4)
        bars = House(stored).bars("BTC-USDT", "1m", venue="BINANCE").tail(3)
        assert [float(row[4]) for row in rows[:3]] == bars["close"].to_list()
        assert [row[6] for row in rows[:3]] == [(end // 1000) - 1 for end in bars["end"].dt.epoch("us").to_list()]
        bought = House(stored).sql(
            "SELECT sum(size) FROM silver.trades WHERE symbol = 'BTC-USDT' AND side = 'buy' AND ts >= $a AND ts < $b",
            parameters={"a": bars["start"][0], "b": bars["end"][0]},
        )
        assert float(rows[0][9]) == pytest.approx(bought.item(), rel=1e-12)
        every = list(client.get_historical_klines_generator("BTCUSDT", "1m", "2026-01-15"))
        assert len(every) >= len(House(stored).bars("BTC-USDT", "1m", venue="BINANCE"))
        assert len({row[0] for row in every}) == len(every)
        assert [trade["id"] for trade in client.get_recent_trades(symbol="BTCUSDT", limit=3)] == House(stored).trades(
            "BTC-USDT", limit=3
        )["trade_id"].to_list()
        assert len(client.get_aggregate_trades(symbol="ETHUSDT", limit=7)) == 7
        prices = {row["symbol"]: float(row["price"]) for row in client.get_all_tickers()}
        assert set(prices) == {"BTCUSDT", "ETHUSDT", "BTCUSD"}
        assert client.get_ticker(symbol="BTCUSDT")["lastPrice"] == client.get_symbol_ticker(symbol="BTCUSDT")["price"]
        assert client.get_exchange_info()["symbols"][0]["status"] == "TRADING"
        with pytest.raises(BinanceAPIException) as refused:
            client.get_klines(symbol="NOPE", interval="1m")
        assert (refused.value.code, refused.value.message) == (-1121, "Invalid symbol.")
        client.close_connection()
        client.loop.close()  # it made one for itself, and leaves it open


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("klines?symbol=BTCUSDT", -1102), ("klines?interval=1m", -1102), ("klines?symbol=BTCUSDT&interval=9m", -1120),
        ("klines?symbol=BTCUSDT&interval=1m&limit=0", -1100), ("klines?symbol=BTCUSDT&interval=1m&limit=x", -1100),
        ("klines?symbol=BTCUSDT&interval=1m&startTime=-5", -1100), ("trades?symbol=%27%3B--", -1121),
        ("ticker/price?symbols=BTC", -1100), ("ticker/24hr?symbol=X", -1121), ("trades?symbol=" + "x" * 500, -1100),
    ],
)  # fmt: skip
def test_errors_are_binances(served: Served, path: str, code: int) -> None:
    answer = served.get(f"/api/v3/{path}")
    assert answer.status == 400
    assert answer.json["code"] == code
    assert answer.json["msg"]


def test_limits_are_binances(served: Served) -> None:
    path = "/api/v3/trades?symbol=BTCUSDT&limit="
    assert len(served.get(path + "5").json) == 5
    assert len(served.get(path).json) == 500
    assert len(served.get(path + "999999").json) == 1_000


SUBSCRIBE = {"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 7}
RULES = Rules(lateness_us=250_000, intervals=("1s", "1m"), indicators=(), indicator_intervals=())


async def listen(url: str, *frames: dict[str, Any], last: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Return what a stream says, up to the message that is the last wanted."""
    heard: list[dict[str, Any]] = []
    async with websockets.connect(url) as socket:
        for frame in frames:
            await socket.send(json.dumps(frame))
        while not heard or not last(heard[-1]):
            heard.append(json.loads(await asyncio.wait_for(socket.recv(), 30)))
    return heard


def _is_final(event: dict[str, Any]) -> bool:
    return bool(event["data"].get("k", {}).get("x"))


def test_streams_tell_of_trades_and_bars_as_they_happen(tmp_path: Path) -> None:
    with LiveHouse(tmp_path / "house", RULES) as house, Served(tmp_path / "house", ServeSettings(port=0)) as server:
        house.beat()
        house.trade(FEEDS[0], 99.0)
        house.flush()
        server.until_reached(house.journal.next_offset())
        url = server.url.replace("http", "ws")

        async def everyone() -> list[Any]:
            heard = asyncio.gather(
                listen(f"{url}/ws/btcusdt@trade", last=lambda event: event["t"] == 3),
                listen(f"{url}/stream?streams=btcusdt@kline_1s/btcusdt@aggTrade", last=_is_final),
                listen(
                    f"{url}/ws", {"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 7}, last=lambda event: "t" in event
                ),
            )
            await asyncio.to_thread(eventually, lambda: server.app.state.context.hub.subscribers == 4)
            await asyncio.sleep(0.3)
            house.trade(FEEDS[0], 100.5, 2.0)
            house.flush()
            await asyncio.sleep(0.6)
            for _ in range(8):
                house.beat()
            house.trade(FEEDS[0], 101.0)
            house.flush()
            return await heard

        trades, combined, asked = asyncio.run(everyone())
    first = trades[0]
    assert (first["e"], first["s"], first["p"], first["q"], first["t"], first["m"]) == (
        "trade", "BTCUSDT", "100.5", "2.0", 2, True,
    )  # fmt: skip
    assert asked[0] == {"result": None, "id": 7}
    assert asked[1]["t"] == 2
    bars = [each["data"]["k"] for each in combined if each["stream"] == "btcusdt@kline_1s"]
    assert bars[0]["x"] is False
    assert any(bar["x"] and bar["c"] == "100.5" and bar["n"] == 2 for bar in bars)
    assert {each["stream"] for each in combined} == {"btcusdt@kline_1s", "btcusdt@aggTrade"}


def test_python_binance_listens_to_a_stream(tmp_path: Path) -> None:
    with LiveHouse(tmp_path / "house", RULES) as house, Served(tmp_path / "house", ServeSettings(port=0)) as server:
        house.beat()
        house.trade(FEEDS[0], 99.0)
        house.flush()
        server.until_reached(house.journal.next_offset())

        async def hear() -> dict[str, Any]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from binance import AsyncClient, BinanceSocketManager

                client = AsyncClient()
                client.API_URL = f"{server.url}/api"
                manager = BinanceSocketManager(client)
                manager.STREAM_URL = server.url.replace("http", "ws") + "/"
                async with manager.kline_socket("BTCUSDT", interval="1s") as socket:
                    await asyncio.to_thread(eventually, lambda: server.app.state.context.hub.subscribers == 1)
                    house.trade(FEEDS[0], 100.5)
                    house.flush()
                    found: dict[str, Any] = await asyncio.wait_for(socket.recv(), 30)
                await client.close_connection()
                return found

        event = asyncio.run(hear())
    assert (event["e"], event["s"], event["k"]["i"]) == ("kline", "BTCUSDT", "1s")
