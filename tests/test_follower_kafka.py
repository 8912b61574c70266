"""Following a house whose journal is a topic: live over several partitions, exactly once whatever is started again."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.api.live import LiveHouse, Served, eventually
from tests.faults.processes import configured, process
from tests.kafka_topics import ends, fresh, group_offsets
from tests.scripted import T0
from tests.services.kafka import Broker
from tests.test_cli import tickhouse
from tickhouse.model import Feed, Trade
from tickhouse.settings import Engine, HouseRules, JournalSettings, KafkaSettings, ServeSettings, Settings

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

SERVE = ServeSettings(port=0)
FEEDS = [Feed("s", "BINANCE", f"S{i:02d}-USDT", "trade", "contiguous", f"S{i:02d}USDT") for i in range(12)]
RULES = HouseRules(lateness="250ms", intervals=("1s", "5s"), indicators=("sma(3)",), indicator_intervals=("1s",))
PARTITIONS = 4
MANY_S = 120.0


def settings_of(kafka: KafkaSettings) -> Settings:
    """Return the settings of a house on a topic that commits and takes snapshots all the time."""
    engine = Engine(commit_every="50ms", snapshot_every="500ms")
    return Settings(journal=JournalSettings(kind="kafka"), kafka=kafka, rules=RULES, engine=engine)


class Market:
    """Writes trades of many symbols into the topic of a house, some of them late."""

    def __init__(self, house: LiveHouse) -> None:
        self._house = house
        self._rng = random.Random(3)
        self._numbers = dict.fromkeys(FEEDS, 0)

    def play(self, seconds: int) -> None:
        """Add so many seconds."""
        house, rng = self._house, self._rng
        for _ in range(4 * seconds):
            house.beat()
            trades = []
            for _ in range(40):
                of = rng.choice(FEEDS)
                self._numbers[of] += 1
                late = rng.randrange(3_000_000) if rng.random() < 0.05 else 0
                trades.append(Trade(of, house.clock - late, round(rng.uniform(99, 101), 2), 1.0, self._numbers[of]))
            house.appender.trades(trades, house.clock)
        house.flush()

    def settle(self) -> None:
        """Let every bar become final, and every late trade its revision."""
        for _ in range(4 * 12):
            self._house.beat()
        self._house.flush()


def written(house: LiveHouse) -> int:
    """Return how many messages the topic has."""
    topic = house.journal.topic
    return sum(topic.ends(partition).high for partition in range(topic.partitions))


class Client:
    """A subscriber of all bars that goes on, on any server, after what it has seen."""

    def __init__(self) -> None:
        self.seq: Any = None
        self.rows: list[dict[str, Any]] = []

    def listen(self, server: Served, end: Callable[[], int], meanwhile: Callable[[], None]) -> None:
        """Subscribe, do something meanwhile, and take what comes until nothing comes after the server has reached the end."""
        asyncio.run(self._listen(server, end, meanwhile))

    async def _listen(self, server: Served, end: Callable[[], int], meanwhile: Callable[[], None]) -> None:
        url, follower = server.url.replace("http", "ws") + "/v1/stream", server.app.state.context.follower
        ask = {"op": "subscribe", "id": "x", "channel": "bars"}
        ask |= {"since": T0 - 10_000_000} if self.seq is None else {"after": self.seq}
        until = time.monotonic() + MANY_S
        async with websockets.connect(url, max_size=None, open_timeout=MANY_S) as socket:
            await socket.send(json.dumps(ask))
            self._take(await asyncio.wait_for(socket.recv(), MANY_S))
            doing = asyncio.create_task(asyncio.to_thread(meanwhile))
            while True:
                was_done = doing.done() and follower.state.position >= end()
                try:
                    self._take(await asyncio.wait_for(socket.recv(), 0.5))
                except TimeoutError:
                    if was_done:
                        break
                assert time.monotonic() < until, f"the server does not come to {end()}: {follower.state}"
            await doing

    def _take(self, frame: str | bytes) -> None:
        message = json.loads(frame)
        assert message["type"] in ("snapshot", "delta"), message
        self.seq = message["seq"]
        self.rows += message["rows"]

    def bars(self) -> Counter[tuple[Any, ...]]:
        """Return how often each final bar came."""
        names = ("venue", "symbol", "interval", "start", "revision", "close", "volume")
        return Counter(tuple(row[name] for name in names) for row in self.rows if row["final"])


def stored(house: LiveHouse) -> Counter[tuple[Any, ...]]:
    """Return the bars in the house's lake."""
    found = house.house.queries.sql(
        'SELECT venue, symbol, "interval", epoch_us(start) AS start, revision, close, volume FROM gold.bars'
    )
    return Counter(found.rows())


def test_every_final_bar_comes_once_though_server_and_broker_are_started_again(tmp_path: Path) -> None:
    with Broker(tmp_path / "kafka") as broker:
        kafka = fresh(broker, partitions=PARTITIONS)
        client = Client()
        with LiveHouse(tmp_path / "house", settings=settings_of(kafka)) as house:
            market = Market(house)

            def through(meanwhile: Callable[[], None]) -> None:
                with Served(house.path, SERVE, kafka) as server:
                    client.listen(server, lambda: written(house), meanwhile)

            def broken() -> None:
                market.play(4)
                broker.kill()
                broker.start()
                market.play(4)

            market.play(4)
            through(lambda: market.play(4))
            market.play(4)  # nobody listens
            through(broken)
            through(market.settle)
            assert len(client.seq) == PARTITIONS
        expected = stored(house)
    assert max(expected.values()) == 1
    assert len(expected) > 20 * len(FEEDS)
    assert any(row[4] for row in expected), "no late trade made a revision"
    assert client.bars() == expected


def test_following_changes_nothing_of_house_and_topic(broker: Broker, tmp_path: Path) -> None:
    kafka = fresh(broker, partitions=PARTITIONS)
    with LiveHouse(tmp_path / "house", settings=settings_of(kafka)) as house:
        Market(house).play(4)
        eventually(lambda: all(house.journal.checkpoint(partition) for partition in range(PARTITIONS)), MANY_S)
    with LiveHouse(tmp_path / "house", settings=settings_of(kafka), with_engine=False) as house:

        def seen() -> dict[str, tuple[int, int]]:
            files = [file for file in house.path.rglob("*") if file.is_file() and not file.name.endswith(("-wal", "-shm"))]
            return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}

        before, groups, end = seen(), group_offsets(kafka), written(house)
        with Served(house.path, SERVE, kafka) as server:
            eventually(lambda: server.app.state.context.follower.state.position >= end, MANY_S)
            health = server.get("/v1/health").json
            assert health["accepted"] == house.house.queries.row_counts()["silver.trades"]
            assert {row["symbol"] for row in server.rows("/v1/feeds")} == {of.symbol for of in FEEDS}
            opened = [row for row in server.rows("/v1/bars?symbol=S00-USDT&interval=5s&open=1") if not row["final"]]
            assert len(opened) <= 2
        assert (seen(), group_offsets(kafka), written(house)) == (before, groups, end)


def test_a_seq_of_another_number_of_partitions_is_refused(broker: Broker, tmp_path: Path) -> None:
    kafka = fresh(broker, partitions=2)
    with LiveHouse(tmp_path / "house", settings=settings_of(kafka)) as house:
        Market(house).play(1)
        with Served(house.path, SERVE, kafka) as server:
            eventually(lambda: server.app.state.context.follower.state.position >= written(house), MANY_S)

            async def ask(after: Any) -> dict[str, Any]:
                async with websockets.connect(server.url.replace("http", "ws") + "/v1/stream") as socket:
                    await socket.send(json.dumps({"op": "subscribe", "id": "x", "channel": "bars", "after": after}))
                    answer: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), MANY_S))
                    return answer

            for after in (7, [1, 2, 3], []):
                answer = asyncio.run(ask(after))
                assert answer["type"] == "error"
                assert "no `seq`" in answer["detail"]
            assert asyncio.run(ask([0, 0]))["type"] == "snapshot"


def test_a_broker_that_is_away_is_told_and_come_back_to(tmp_path: Path) -> None:
    with Broker(tmp_path / "kafka") as broker:
        kafka = fresh(broker, partitions=PARTITIONS)
        with LiveHouse(tmp_path / "house", settings=settings_of(kafka)) as house:
            Market(house).play(1)
        end = 0
        broker.kill()
        with Served(house.path, SERVE, kafka) as server:
            health = eventually(lambda: (told := server.get("/v1/health").json)["status"] == "failed" and told, MANY_S)
            assert f"Kafka at {kafka.servers} cannot be reached" in health["detail"]
            broker.start()
            with LiveHouse(tmp_path / "house", settings=settings_of(kafka)) as house:
                end = written(house)
            eventually(lambda: server.app.state.context.follower.state.position >= end, MANY_S)


@contextmanager
def serving(*words: str | Path) -> Iterator[tuple[subprocess.Popen[str], Callable[[], Any]]]:
    """Run a command that serves; give it and a function that asks for its health."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tickhouse", *map(str, words), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stderr is not None
        url = next(line for line in child.stderr if "API on" in line).split()[2]

        def health() -> Any:
            with urllib.request.urlopen(f"{url}/v1/health", timeout=MANY_S) as answer:
                return json.load(answer)

        yield child, health
        with pytest.raises(OSError, match="refused"):
            health()
    finally:
        child.kill()
        child.communicate()


def test_work_serves_what_it_makes_and_takes_the_api_with_it(broker: Broker, tmp_path: Path) -> None:
    options = configured(tmp_path, fresh(broker, partitions=PARTITIONS))
    elsewhere = ["--house", tmp_path / "elsewhere", "--config", tmp_path / "t.toml"]
    with (
        process("ingest", "--source", "synthetic", *elsewhere, end=signal.SIGINT) as ingest,
        serving("work", *options) as (work, health),
    ):
        told = eventually(lambda: (found := health())["accepted"] >= 100 and found["status"] == "ok" and found, MANY_S)
        work.terminate()
        out, _ = work.communicate(timeout=MANY_S)
        assert work.returncode == 0
    assert ingest.returncode == 0
    assert json.loads(out)["accepted"] >= told["accepted"]


def test_run_through_a_topic_serves_and_leaves_a_house_that_is_proven(broker: Broker, tmp_path: Path) -> None:
    settings = fresh(broker)
    options = configured(tmp_path, settings)
    with serving("run", "--source", "synthetic", "--journal", "kafka", "--no-dashboard", *options) as (run, health):
        told = eventually(lambda: (found := health())["accepted"] >= 500 and found["status"] == "ok" and found, MANY_S)
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate(timeout=MANY_S)
        assert run.returncode == 0
    balance = json.loads(out)
    assert balance["accepted"] >= told["accepted"]
    assert balance["position"] == ends(settings)
    report = json.loads(tickhouse("verify", "--house", tmp_path / "house", "--json"))
    assert report["ok"], report
    assert report["balance"]["accepted"] == balance["accepted"]
