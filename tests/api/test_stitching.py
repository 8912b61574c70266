"""History and live meet: whoever joins when, under load and while the lake commits, gets every row exactly once."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.api.live import LiveHouse, Served, eventually
from tests.scripted import T0
from tickhouse.model import Feed, Trade
from tickhouse.rules import Rules
from tickhouse.settings import ServeSettings

pytestmark = pytest.mark.slow

RULES = Rules(lateness_us=250_000, intervals=("1s", "5s"), indicators=("sma(3)",), indicator_intervals=("1s",))
FEEDS = [Feed("binance", "BINANCE", f"S{i:02d}-USDT", "trade", "contiguous", f"S{i:02d}USDT") for i in range(10)]
RATE = 10_000
SECONDS = 12
SUBSCRIBERS = 20


class Writer(threading.Thread):
    """Writes 10,000 trades a second, one in fifty late by up to three seconds."""

    def __init__(self, house: LiveHouse) -> None:
        super().__init__(daemon=True)
        self._house = house
        self.took_s = 0.0
        self.trades = 0

    def run(self) -> None:
        rng, house, began = random.Random(5), self._house, time.monotonic()
        number = dict.fromkeys(FEEDS, 0)
        for tick in range(SECONDS * 4):
            house.beat()
            for _ in range(RATE // 4 // 100):
                batch = []
                for _ in range(100):
                    of = rng.choice(FEEDS)
                    number[of] += 1
                    late = rng.randrange(3_000_000) if rng.random() < 0.02 else 0
                    batch.append(Trade(of, house.clock - late, round(rng.uniform(99, 101), 2), 1.0, number[of]))
                house.appender.trades(batch, house.clock)
                self.trades += len(batch)
                house.flush()
            ahead = began + (tick + 1) / 4 - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
        self.took_s = time.monotonic() - began
        for _ in range(4 * 12):  # let every bar become final and every late trade its revision
            house.beat()
        house.flush()


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["venue"], row["symbol"], row["interval"], row["start"], row["revision"]


async def subscriber(url: str, ask: dict[str, Any], delay_s: float, until: Any) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Join after a while; return all rows got until the server has told of everything, and what came how often."""
    await asyncio.sleep(delay_s)
    rows, kinds = [], Counter[str]()
    async with websockets.connect(url, max_size=None) as socket:
        await socket.send(json.dumps({"op": "subscribe", "id": "x", **ask}))
        while True:
            try:
                message = json.loads(await asyncio.wait_for(socket.recv(), 0.5))
            except TimeoutError:
                if until():
                    return rows, kinds
                continue
            assert message["type"] in ("snapshot", "delta"), message
            kinds[message["type"]] += 1
            rows += message["rows"]


def test_twenty_subscribers_each_see_every_final_bar_exactly_once(tmp_path: Path) -> None:
    with LiveHouse(tmp_path / "house", RULES) as house:
        writer = Writer(house)
        with Served(tmp_path / "house", ServeSettings(port=0)) as server:
            follower = server.app.state.context.follower
            rng = random.Random(11)
            url = server.url.replace("http", "ws") + "/v1/stream"
            all_bars = {"channel": "bars", "since": T0 - 10_000_000}
            asks = [all_bars if i % 2 else {**all_bars, "indicators": True} for i in range(SUBSCRIBERS)]

            def done() -> bool:
                return not writer.is_alive() and follower.state.position >= house.journal.next_offset()

            async def everyone() -> list[Any]:
                joined = [subscriber(url, ask, rng.uniform(0, SECONDS), done) for ask in asks]
                async with websockets.connect(url, max_queue=1) as never_reads:
                    await never_reads.send(json.dumps({"op": "subscribe", "id": "all", "channel": "trades"}))
                    got = await asyncio.gather(*joined)
                    assert never_reads.state is websockets.State.OPEN
                    return got

            writer.start()
            got = asyncio.run(everyone())
    stored = house.house.queries.sql(
        "SELECT venue, symbol, \"interval\", epoch_us(start) AS start, revision FROM gold.bars WHERE origin = 'trades'"
    )
    expected = Counter(stored.rows())
    assert max(expected.values()) == 1
    assert len(expected) > SECONDS * len(FEEDS)
    assert any(revision > 0 for *_, revision in expected)
    for rows, kinds in got:
        found = Counter(key(row) for row in rows if row["final"] and "open" in row)
        assert found == expected
        assert kinds["snapshot"] >= 1  # more where a client was slow: of what it missed
    assert sum(kinds["delta"] for _, kinds in got) > SUBSCRIBERS


def test_twenty_subscribers_each_see_every_trade_exactly_once(tmp_path: Path) -> None:
    with LiveHouse(tmp_path / "house", RULES) as house:
        writer = Writer(house)
        with Served(tmp_path / "house", ServeSettings(port=0)) as server:
            follower = server.app.state.context.follower
            url = server.url.replace("http", "ws") + "/v1/stream"
            rng = random.Random(3)

            def done() -> bool:
                return not writer.is_alive() and follower.state.position >= house.journal.next_offset()

            async def everyone() -> list[Any]:
                asks = [{"channel": "trades", "since": T0 - 10_000_000, "symbol": of.symbol} for of in FEEDS for _ in range(2)]
                eventually(lambda: follower.state.position > 100)
                return await asyncio.gather(*(subscriber(url, ask, rng.uniform(0, SECONDS), done) for ask in asks))

            writer.start()
            got = asyncio.run(everyone())
    for at, (rows, _) in enumerate(got):
        numbers = sorted(row["trade_id"] for row in rows)
        assert numbers == list(range(1, len(numbers) + 1)), f"subscriber {at}"
    assert sum(len(rows) for rows, _ in got) == 2 * writer.trades
