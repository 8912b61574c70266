"""A house written in the test's process, at the test's pace, and a server for any house in a thread of it."""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import uvicorn

from tests.scripted import T0
from tickhouse.api.app import make_app
from tickhouse.api.server import configuration, listen
from tickhouse.house import House
from tickhouse.house.journals import open_appender, open_live, open_sqlite
from tickhouse.house.work import open_work
from tickhouse.model import Event, Feed, Rejected, Trade
from tickhouse.rules import Rules
from tickhouse.settings import Engine, KafkaSettings, ServeSettings, Settings

__all__ = ["FEEDS", "Answer", "LiveHouse", "Served", "eventually", "keys_of"]

FEEDS = (
    Feed("binance", "BINANCE", "BTC-USDT", "trade", "contiguous", "BTCUSDT"),
    Feed("binance", "BINANCE", "ETH-USDT", "trade", "contiguous", "ETHUSDT"),
    Feed("coinbase", "COINBASE", "BTC-USD", "trade", "contiguous", "BTC-USD"),
)
SETTINGS = Settings(engine=Engine(commit_every="50ms", snapshot_every="1s"))


def eventually(what: Any, within_s: float = 120.0) -> Any:
    """Return what a question answers, asked until it is true; a first run compiles the kernel meanwhile."""
    until = time.monotonic() + within_s
    while not (found := what()):
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.01)
    return found


class LiveHouse:
    """Journal, engine and lake of a new house; a context manager that commits on leaving.

    Args:
        path: Its folder.
        rules: Of the new house, where its journal is a file.
        settings: All of them; where its journal is a topic, the rules stand there.
        with_engine: Also make the tables, in a thread.
    """

    def __init__(
        self, path: Path, rules: Rules | None = None, settings: Settings = SETTINGS, *, with_engine: bool = True
    ) -> None:
        self.path = path
        self.house = House(path)
        self.clock = T0
        self.numbers = dict.fromkeys(FEEDS, 0)
        self.prices = {FEEDS[0]: 100.0, FEEDS[1]: 10.0, FEEDS[2]: 50.0}
        self._rules = rules or Rules()
        self._settings = settings
        self._with_engine = with_engine
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            kind = self._settings.journal.kind
            stack.enter_context(self.house.appending(kind))
            if kind == "sqlite":
                journal = open_sqlite(self.house, self._rules, self._settings)
            else:
                journal = open_live(self.house, self._settings)
            self.journal = journal
            stack.callback(journal.close)
            if self._with_engine:
                stack.enter_context(self.house.writing(kind))
                self.work = work = open_work(self.house, journal, journal.rules() or self._rules, self._settings)
                stack.callback(work.close)
                engine = threading.Thread(target=work.engine.run, args=(work.starts,), daemon=True)
                engine.start()
                stack.callback(engine.join)
                stack.callback(work.engine.finish, 30.0)
            self.appender = open_appender(self.house, journal)
            stack.callback(self.appender.close)
            self.clock = max(self.clock, journal.last_clock())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def beat(self, us: int = 250_000) -> None:
        """Let time pass."""
        self.clock += us
        self.appender.heartbeat(self.clock)

    def trade(self, of: Feed = FEEDS[0], price: float | None = None, size: float = 1.0, ts: int | None = None) -> Trade:
        """Add a trade, by default at the present, with the next id."""
        self.numbers[of] += 1
        at = self.clock if ts is None else ts
        side = "buy" if self.numbers[of] % 2 else "sell"
        trade = Trade(of, at, self.prices[of] if price is None else price, size, self.numbers[of], side)
        self.appender.trades([trade], at + 1_000)
        return trade

    def flush(self) -> None:
        """Make what was added visible."""
        self.appender.flush()

    def play(self, rng: random.Random, minutes: float, a_minute: int, flush_every: int = 200) -> None:
        """Add so many minutes of a random walk, with some outliers, refused payloads and holes in the ids."""
        self.appender.event(Event("connected", source="binance"))
        for tick in range(round(minutes * 240)):
            self.beat()
            for of in FEEDS:
                if rng.random() < a_minute / 240:
                    self.prices[of] = round(self.prices[of] * (1 + rng.gauss(0, 1e-4)), 6)
                    outlier = rng.random() < 0.002
                    self.trade(of, self.prices[of] * (1.05 if outlier else 1.0), round(rng.uniform(0.01, 3), 4))
                    self.numbers[of] += rng.random() < 0.001
            if rng.random() < 0.002:
                self.appender.rejected(Rejected("binance", self.clock, "malformed", b'{"no":"trade"}'))
            if tick % flush_every == 0:
                self.flush()
        self.flush()


class Answer(NamedTuple):
    """What a server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body read as JSON."""
        return json.loads(self.body)


class Served:
    """The API of a house in a thread of this process; a context manager.

    Args:
        house: Its folder; it need not exist.
        settings: Where to listen, and what to allow.
        kafka: Where the house's topic is.
    """

    def __init__(self, house: Path, settings: ServeSettings, kafka: KafkaSettings | None = None) -> None:
        self._listening = listen(settings.host, settings.port)
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.app = make_app(House(house, kafka), settings)
        self.server = uvicorn.Server(configuration(self.app))
        self._thread = threading.Thread(target=self.server.run, args=([self._listening],), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self.server.started)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.server.should_exit = True
        self._thread.join(120)
        self._listening.close()
        assert not self._thread.is_alive(), "the server does not stop"

    def until_reached(self, offset: int) -> None:
        """Wait until the server has come to a journal offset."""
        eventually(lambda: self.app.state.context.follower.state.position >= offset)

    def get(
        self, path: str, headers: dict[str, str] | None = None, body: bytes | None = None, method: str | None = None
    ) -> Answer:
        """Ask."""
        request = urllib.request.Request(self.url + path, data=body, headers=headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())

    def rows(self, path: str) -> list[dict[str, Any]]:
        """Ask for rows."""
        answer = self.get(path)
        assert answer.status == 200, answer.body
        rows: list[dict[str, Any]] = answer.json["rows"]
        return rows

    def post(self, path: str, value: Any, headers: dict[str, str] | None = None) -> Answer:
        """Send JSON."""
        return self.get(path, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())


def keys_of(rows: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return what tells bars apart."""
    return [(row["venue"], row["symbol"], row["interval"], row["start"], row["revision"]) for row in rows]
