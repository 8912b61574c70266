"""Following a house that another process writes: live, never in its way, whatever becomes of it."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.standard_work import write

from tests.api.live import FEEDS, LiveHouse, Served, eventually
from tests.scripted import MINUTE
from tickhouse.errors import ConfigError
from tickhouse.house import House, open_house
from tickhouse.serving.hub import Hub
from tickhouse.settings import ServeSettings

SERVE = ServeSettings(port=0)


def fill(house: LiveHouse, minutes: float = 2) -> None:
    house.play(random.Random(1), minutes=minutes, a_minute=60)


def test_the_python_door_yields_open_final_and_stored_bars(tmp_path: Path) -> None:
    with LiveHouse(tmp_path / "house") as house:
        fill(house)
        house.beat()
        house.trade(FEEDS[0], 70.0)
        house.flush()
        first = house.clock - house.clock % MINUTE

        async def hear() -> list[dict[str, Any]]:
            heard = []
            stream = open_house(tmp_path / "house").stream("binance:btcusdt", "1m", since=0, indicators=True)
            async for row in stream:
                heard.append(row)
                if row["start"] == first and row["final"]:
                    await stream.aclose()
                    return heard
                if not row["final"] and row["start"] == first and row["close"] != 77.0:
                    house.trade(FEEDS[0], 77.0)
                    house.flush()
                elif not row["final"] and row["close"] == 77.0:
                    for _ in range(4 * 71):
                        house.beat()
                    house.flush()
            raise AssertionError

        rows = asyncio.run(asyncio.wait_for(hear(), 60))
    final = [(row["start"], row["revision"]) for row in rows if row["final"]]
    assert len(final) == len(set(final)) == len(House(tmp_path / "house").bars("BTC-USDT", "1m", revisions=True))
    assert rows[-1]["close"] == 77.0
    assert "sma_20" in rows[-1]
    assert any(not row["final"] and row["close"] == 77.0 for row in rows)


def test_a_house_that_is_not_there_yet_is_waited_for_and_then_followed(tmp_path: Path) -> None:
    with Served(tmp_path / "house", SERVE) as server:
        health = server.get("/v1/health").json
        assert health["status"] == "waiting"
        refused = server.get("/v1/bars?symbol=BTC-USDT")
        assert refused.status == 503
        assert "no house" in refused.json["detail"]
        assert not (tmp_path / "house").exists()
        with LiveHouse(tmp_path / "house") as house:
            fill(house, 0.5)
            server.until_reached(house.journal.next_offset())
            assert server.get("/v1/health").json["status"] == "ok"
        assert eventually(lambda: server.get("/v1/health").json["status"] == "stopped")


def test_a_follower_starts_from_the_newest_snapshot_where_the_journal_was_pruned(tmp_path: Path) -> None:
    with LiveHouse(tmp_path / "house") as house:
        fill(house)
        offset = house.journal.next_offset()
    with LiveHouse(tmp_path / "house") as house:
        assert house.journal.prune(offset, 0) > 100
        house.beat()
        house.numbers[FEEDS[0]] = 10_000  # ids go on above those of the first run
        house.trade(FEEDS[0], 42.0)
        house.flush()
        with Served(tmp_path / "house", SERVE) as server:
            server.until_reached(house.journal.next_offset())
            bars = server.rows("/v1/bars?symbol=BTC-USDT&open=1&limit=1")
            assert bars[-1]["close"] == 42.0


def test_another_house_in_its_place_is_followed_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "house"
    with LiveHouse(path) as house:
        fill(house)
    with Served(path, SERVE) as server:
        eventually(lambda: server.app.state.context.hub.position[0] > 100)
        generation = server.app.state.context.hub.generation
        shutil.rmtree(path)
        eventually(lambda: server.get("/v1/health").json["status"] == "waiting")
        with LiveHouse(path) as other:
            other.beat()
            other.trade(FEEDS[1], 5.5)
            other.flush()
            eventually(lambda: server.app.state.context.hub.generation > generation)
            server.until_reached(other.journal.next_offset())
            assert server.app.state.context.follower.counts.accepted == 1


def test_following_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "house"
    with LiveHouse(path) as house:
        fill(house)

    def seen() -> dict[str, tuple[int, int]]:
        files = [file for file in path.rglob("*") if file.is_file() and not file.name.endswith(("-wal", "-shm"))]
        return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}

    before = seen()
    with Served(path, SERVE) as server:
        server.until_reached(100)
        server.rows("/v1/bars?symbol=BTC-USDT")
        server.get("/metrics")
    assert seen() == before


def replay(command: list[str]) -> None:
    """Run it; where it fails, say what it said."""
    done = subprocess.run(command, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_replay_is_followed_no_further_than_its_tables_have_come(tmp_path: Path) -> None:
    file, more = tmp_path / "first.ndjson", tmp_path / "second.ndjson"
    write(file, 30_000, 5, 3)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:20_000]))
    more.write_text("".join(lines[20_000:]))
    command = [sys.executable, "-m", "tickhouse", "replay", str(file), "--house", str(tmp_path / "house"), "--json"]
    replay(command)
    with Served(tmp_path / "house", SERVE) as server:
        server.until_reached(20_000)
        health = server.get("/v1/health").json
        assert health["status"] == "stopped"
        command[4] = str(more)
        replay(command)
        server.until_reached(30_000)
        house = House(tmp_path / "house")
        assert server.app.state.context.follower.counts.accepted == house.queries.row_counts()["silver.trades"]
        symbol = server.rows("/v1/symbols")[0]["symbol"]
        assert server.rows(f"/v1/bars?symbol={symbol}&open=1")[-1]["final"] is False


def test_a_slow_subscriber_gets_what_it_missed_as_a_snapshot(tmp_path: Path) -> None:
    with LiveHouse(tmp_path / "house") as house:
        fill(house, 0.2)
        server = Served(tmp_path / "house", SERVE)
        with server:
            server.until_reached(house.journal.next_offset())
            hub: Hub = server.app.state.context.hub
            for ring in hub.rings.values():
                ring._most_rows = 50
            began = house.numbers[FEEDS[0]]

            async def hear() -> list[dict[str, Any]]:
                import json

                import websockets

                url = server.url.replace("http", "ws") + "/v1/stream"
                async with websockets.connect(url, max_size=None, max_queue=1) as socket:
                    ask = {"op": "subscribe", "id": "x", "channel": "trades", "symbol": "BTC-USDT", "since": 0}
                    await socket.send(json.dumps(ask))
                    messages = [json.loads(await socket.recv())]
                    for _ in range(200):  # far more than the ring holds and the connection's buffers take
                        house.beat()
                        for _ in range(100):
                            house.trade(FEEDS[0])
                        house.flush()
                    server.until_reached(house.journal.next_offset())
                    while sum(len(message["rows"]) for message in messages) < 20_000 + began:
                        messages.append(json.loads(await asyncio.wait_for(socket.recv(), 20)))
                    return messages

            messages = asyncio.run(hear())
    numbers = [row["trade_id"] for message in messages for row in message["rows"]]
    assert sorted(numbers) == sorted(set(numbers)), "a row came twice"
    assert len(numbers) == 20_000 + began
    assert [message["type"] for message in messages].count("snapshot") > 1


def test_a_stream_that_means_nothing_is_refused_at_once(tmp_path: Path) -> None:
    with LiveHouse(tmp_path / "house") as house:
        fill(house, 0.1)
    with pytest.raises(ConfigError, match="no channel 'gossip'"):
        open_house(tmp_path / "house").stream("BTC-USDT", channel="gossip")
