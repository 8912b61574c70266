"""A venue on the loopback interface that speaks Binance's documented protocol: streams, pings, REST, and its ways to fail.

Trades are made every few milliseconds with consecutive ids and kept, so a test can say exactly what a client should have seen.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from aiohttp import WSMsgType, web


class ExchangeServer:
    """Use as an async context manager; everything public may be changed while it runs."""

    def __init__(self, symbols=("BTCUSDT", "ETHUSDT"), every_s=0.005, ping_every_s=0.1):
        self.symbols = tuple(symbols)
        self.every_s = every_s
        self.ping_every_s = ping_every_s
        self.trading = True
        self.pinging = True
        self.refuse: tuple[int, Mapping[str, str]] | None = None
        """Status and headers with which everything is refused."""
        self.history: dict[str, list[dict]] = {symbol: [] for symbol in self.symbols}
        self.sockets: dict[web.WebSocketResponse, set[str]] = {}
        self.opened = 0
        self.refused = 0
        self.pongs: list[bytes] = []
        self.received: list[dict] = []
        self.requests: list[str] = []
        self.first_id = 1000
        self._awaited = 0, asyncio.Event()

    async def __aenter__(self):
        app = web.Application()
        app.router.add_get("/stream", self._stream)
        app.router.add_get("/api/v3/{endpoint}", self._rest)
        app.router.add_get("/fapi/v1/{endpoint}", self._rest)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.ws_url, self.rest_url = f"ws://127.0.0.1:{port}", f"http://127.0.0.1:{port}"
        self._tasks = [asyncio.create_task(self._trade()), asyncio.create_task(self._ping())]
        return self

    async def __aexit__(self, *_):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.kill()
        await self._runner.cleanup()

    def kill(self):
        """Cut every connection without a farewell."""
        for socket in list(self.sockets):
            socket._req.transport.abort()

    async def close_all(self, code=1008):
        """Close every connection politely, as Binance does after 24 hours."""
        await asyncio.gather(*(socket.close(code=code, message=b"Pong timeout") for socket in list(self.sockets)))

    async def announce_shutdown(self):
        await self._send_all('{"e":"serverShutdown","E":1770123456789}')

    async def traded(self, count):
        """Wait until every symbol has so many trades."""
        self._awaited = count, asyncio.Event()
        await self._awaited[1].wait()

    async def _send_all(self, text):
        for socket in list(self.sockets):
            if not socket.closed:
                await socket.send_str(text)

    async def _stream(self, request):
        if self.refuse:
            self.refused += 1
            return web.Response(status=self.refuse[0], headers=self.refuse[1])
        socket = web.WebSocketResponse(autoping=False, timeout=0.1)
        await socket.prepare(request)
        self.opened += 1
        self.sockets[socket] = set(filter(None, request.query.get("streams", "").split("/")))
        try:
            async for message in socket:
                if message.type is WSMsgType.PONG:
                    self.pongs.append(bytes(message.data))
                elif message.type is WSMsgType.TEXT:
                    asked = json.loads(message.data)
                    self.received.append(asked)
                    self.sockets[socket].update(asked["params"])
                    await socket.send_str(json.dumps({"result": None, "id": asked["id"]}))
        finally:
            del self.sockets[socket]
        return socket

    async def _trade(self):
        made = 0
        while True:
            await asyncio.sleep(self.every_s)
            if not self.trading:
                continue
            for symbol in self.symbols:
                trade = {"e": "trade", "E": 1770000000000 + made, "s": symbol, "t": self.first_id + len(self.history[symbol])}
                trade |= {"p": f"{100 + made % 7}.25", "q": "0.50", "T": 1770000000000 + made, "m": made % 2 == 0, "M": True}
                self.history[symbol].append(trade)
                name = f"{symbol.lower()}@trade"
                frame = json.dumps({"stream": name, "data": trade}, separators=(",", ":"))
                for socket, names in list(self.sockets.items()):
                    if name in names and not socket.closed:
                        try:
                            await socket.send_str(frame)
                        except ConnectionError:
                            continue
            made += 1
            if made >= self._awaited[0]:
                self._awaited[1].set()

    async def _ping(self):
        count = 0
        while True:
            await asyncio.sleep(self.ping_every_s)
            for socket in list(self.sockets):
                if self.pinging and not socket.closed:
                    count += 1
                    try:
                        await socket.ping(str(count).encode())
                    except ConnectionError:
                        continue

    async def _rest(self, request):
        endpoint, query = request.match_info["endpoint"], request.query
        self.requests.append(endpoint)
        if self.refuse:
            body = {"code": -1003, "msg": "Too much request weight used."} if self.refuse[0] in {418, 429} else {}
            return web.json_response(body, status=self.refuse[0], headers=self.refuse[1])
        headers = {"X-MBX-USED-WEIGHT-1M": str(len(self.requests))}
        if endpoint == "ping":
            return web.json_response({}, headers=headers)
        if endpoint == "exchangeInfo":
            asked = json.loads(query["symbols"]) if "symbols" in query else list(self.symbols)
            if any(symbol not in self.symbols for symbol in asked):
                return web.json_response({"code": -1121, "msg": "Invalid symbol."}, status=400)
            return web.json_response({"symbols": [{"symbol": symbol} for symbol in self.symbols]}, headers=headers)
        if query["symbol"] not in self.symbols:
            return web.json_response({"code": -1121, "msg": "Invalid symbol."}, status=400)
        return web.json_response(getattr(self, f"_{endpoint}")(query), headers=headers)

    def _historicalTrades(self, query):  # Binance's own name
        known = self.history[query["symbol"]]
        chosen = [trade for trade in known if trade["t"] >= int(query["fromId"])][: int(query["limit"])]
        return [
            {
                "id": t["t"],
                "price": t["p"],
                "qty": t["q"],
                "quoteQty": "1",
                "time": t["T"],
                "isBuyerMaker": t["m"],
                "isBestMatch": True,
            }
            for t in chosen
        ]
