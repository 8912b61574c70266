"""The hub, pumped by hand: snapshots, deltas, open bars in their newest state, slow subscribers, followers begun again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.scripted import MINUTE, SECOND, T0, Script, feed
from tickhouse.errors import ConfigError
from tickhouse.history import LakeHistories
from tickhouse.model import I32, Instrument
from tickhouse.pipeline import Pipeline
from tickhouse.rules import Rules
from tickhouse.serving import open_bars
from tickhouse.serving.hub import Hub
from tickhouse.serving.ring import Wanted
from tickhouse.serving.subscription import Message, Subscription
from tickhouse.tables import TABLES

ETH = feed("ETH-USDT")
RULES = Rules(indicators=("sma(2)",))
KEPT = ("gold.indicators", "gold.anomalies", "bronze.events", "gold.gaps")


class Player:
    """A pipeline whose batches a hub is told of, one `play` at a time."""

    def __init__(self, path: Path, script: Script) -> None:
        self.woken = 0
        self.hub = Hub(self._wake)
        self.script = script
        self.ready: list[str] = []
        self._path = path
        self.restart()

    def restart(self, *, is_same_house: bool = True) -> None:
        """Begin anew from the journal's beginning."""
        self.at = 0
        self.histories = LakeHistories(self._path, 1, KEPT)
        self.history = self.histories.of[0]
        self.pipeline = Pipeline(0, RULES, self.history)
        self.looks = 0
        self.asked: list[tuple[list[int] | None, tuple[str, ...] | None]] = []
        self.hub.begin((0,), self.histories, self._look, [self.pipeline.feeds.instruments], is_same_house=is_same_house)

    def _wake(self) -> None:
        self.woken += 1

    def _look(self, instruments: I32 | None, intervals: Collection[str] | None) -> pa.Table:
        self.looks += 1
        self.asked.append(
            (None if instruments is None else instruments.tolist(), None if intervals is None else tuple(intervals))
        )
        return self.pipeline.open_bars(instruments, intervals)

    def play(self, until: int | None = None) -> None:
        """Feed the script on, publish, pump."""
        end = len(self.script.records) if until is None else until
        batch = self.script.batch(self.pipeline.feeds, self.at, end)
        outputs = self.pipeline.feed(batch)
        self.history.add({k: v for k, v in outputs.tables.items() if k not in ("silver.trades", "gold.bars")})
        of = np.array(self.pipeline.feeds.instrument_of, np.int32)
        self.hub.publish(batch, outputs, np.unique(of[batch.trades.feed]))
        self.at = end
        self.hub.pump()

    def subscribe(self, wanted: Wanted) -> Subscription:
        """Subscribe, noting when it is made ready."""
        return self.hub.subscribe(wanted, lambda: self.ready.append(wanted.channel), as_records=True)


@pytest.fixture
def player(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Player:
    monkeypatch.setattr(open_bars, "EVERY_S", 1e-9)
    return Player(tmp_path, Script().beat(T0).trade(T0, 100.0, 1.0, 1).trade(T0, 10.0, 1.0, 1, ETH))


def snapshot(subscription: Subscription) -> Message:
    return subscription.finish(subscription.begin())


def shown(message: Message | None, *names: str) -> list[tuple[Any, ...]]:
    return [] if message is None else [tuple(row[name] for name in names) for row in message.records]


def test_open_bars_are_read_once_a_while_each_instrument_at_moments_of_its_own() -> None:
    read: list[int] = []

    def look(instruments: I32 | None, _intervals: Collection[str] | None) -> pa.Table:
        read.extend([] if instruments is None else instruments.tolist())
        return TABLES["gold.bars"].schema.empty_table()

    known = open_bars.OpenBars()
    known.begin(look, [[Instrument("BINANCE", f"S{i}-USDT") for i in range(40)]])
    known.subscribe(Wanted("bars"))
    at_once, counts = [], Counter[int]()
    for ms in range(1_000):
        known.touch(np.arange(40, dtype=np.int32))
        read.clear()
        known.read_due(100.0003 + ms / 1_000)
        at_once.append(len(read))
        counts.update(read)
    assert set(counts) == set(range(40))
    assert all(abs(count - 1 / open_bars.EVERY_S) <= 1 for count in counts.values()), counts
    assert max(at_once[100:]) <= 8  # of 40 in ten groups


def test_a_snapshot_and_the_deltas_after_it_meet(player: Player) -> None:
    player.play()
    wanted = player.subscribe(Wanted("trades", "BTC-USDT", since=0))
    assert wanted.take() is None
    assert wanted.is_stale
    first = snapshot(wanted)
    assert (first.kind, first.seq, shown(first, "trade_id")) == ("snapshot", (3,), [(1,)])
    assert wanted.take() is None
    player.script.trade(T0, 101.0, 1.0, 2).trade(T0, 11.0, 1.0, 2, ETH).trade(T0, 102.0, 1.0, 3)
    player.play()
    delta = wanted.take()
    assert delta is not None
    assert (delta.kind, delta.seq, shown(delta, "trade_id")) == ("delta", (6,), [(2,), (3,)])
    assert delta.received_at == T0
    assert wanted.take() is None


def test_rows_published_while_a_snapshot_is_read_come_once(player: Player) -> None:
    player.play()
    wanted = player.subscribe(Wanted("trades", since=0))
    place = wanted.begin()
    player.script.trade(T0, 101.0, 1.0, 2)
    player.play()
    assert shown(wanted.finish(place), "symbol", "trade_id") == [("BTC-USDT", 1), ("ETH-USDT", 1)]
    assert shown(wanted.take(), "symbol", "trade_id") == [("BTC-USDT", 2)]


def test_an_open_bar_is_sent_in_its_newest_state_and_a_final_one_once(player: Player) -> None:
    player.play()
    wanted = player.subscribe(Wanted("bars", "BTC-USDT", interval="1m"))
    assert shown(snapshot(wanted), "close", "final", "revision") == [(100.0, False, None)]
    for price in (101.0, 102.0, 103.0):
        player.script.trade(T0 + 1, price, 1.0, int(price))
        player.play()
    assert shown(wanted.take(), "close", "final") == [(103.0, False)]
    player.script.beat(T0 + MINUTE + 10 * SECOND)
    player.play()
    assert shown(wanted.take(), "close", "final", "revision") == [(103.0, True, 0)]
    player.script.trade(T0 + 2, 99.0, 1.0, 200).beat(T0 + MINUTE + 20 * SECOND)
    player.play()
    assert shown(wanted.take(), "close", "final", "revision") == [(99.0, True, 1)]


def test_only_those_are_made_ready_whom_it_concerns(player: Player) -> None:
    player.play()
    mine = player.subscribe(Wanted("trades", "ETH-USDT"))
    player.subscribe(Wanted("anomalies"))
    snapshot(mine)
    player.script.trade(T0, 101.0, 1.0, 2)
    player.play()
    assert player.ready == []
    player.script.trade(T0, 11.0, 1.0, 2, ETH)
    player.play()
    assert player.ready == ["trades"]
    player.hub.unsubscribe(mine)
    assert player.hub.subscribers == 1


def test_open_bars_are_not_read_while_nobody_asks(player: Player) -> None:
    player.play()
    assert player.looks == 0
    player.subscribe(Wanted("bars", "BTC-USDT"))
    assert player.looks == 1


def test_open_bars_that_nobody_wants_are_not_read(player: Player) -> None:
    player.play()
    minute = player.subscribe(Wanted("bars", "BTC-USDT", interval="1m"))
    assert player.asked == [([0], ("1m",))]
    player.script.trade(T0, 11.0, 1.0, 2, ETH)
    player.play()
    assert len(player.asked) == 1
    player.script.trade(T0, 101.0, 1.0, 2).trade(T0, 12.0, 1.0, 3, ETH)
    player.play()
    assert player.asked[1:] == [([0], ("1m",))]
    assert shown(snapshot(minute), "interval", "close") == [("1m", 101.0)]
    player.hub.unsubscribe(minute)
    player.script.trade(T0, 102.0, 1.0, 3)
    player.play()
    assert len(player.asked) == 2


def test_a_snapshot_has_open_bars_that_traded_while_nobody_wanted_them(player: Player) -> None:
    player.play()
    player.subscribe(Wanted("bars", "BTC-USDT", interval="1m"))
    player.script.trade(T0, 101.0, 1.0, 2).trade(T0, 11.0, 1.0, 2, ETH)
    player.play()
    assert shown(snapshot(player.subscribe(Wanted("bars", "ETH-USDT", interval="1m"))), "close") == [(11.0,)]
    five = snapshot(player.subscribe(Wanted("bars", "BTC-USDT", interval="5m")))
    assert shown(five, "interval", "close") == [("5m", 101.0)]
    everything = snapshot(player.subscribe(Wanted("bars")))
    assert {(row["symbol"], row["interval"]) for row in everything.records} >= {("BTC-USDT", "1m"), ("ETH-USDT", "1h")}
    player.script.trade(T0, 102.0, 1.0, 3)
    player.play()
    hour = snapshot(player.subscribe(Wanted("bars", "BTC-USDT", interval="1h")))
    assert shown(hour, "close") == [(102.0,)]


def test_indicators_stand_beside_their_bar_and_alone_where_only_they_changed(player: Player) -> None:
    for number, price in ((2, 110.0), (3, 120.0)):
        ts = T0 + (number - 1) * MINUTE
        player.script.beat(ts).trade(ts, price, 1.0, number)
    player.script.beat(T0 + 3 * MINUTE + 10 * SECOND)
    player.play()
    wanted = player.subscribe(Wanted("bars", "BTC-USDT", interval="1m", indicators=True, since=0))
    rows = [(row["start"], row.get("sma_2")) for row in snapshot(wanted).records if row["final"]]
    assert rows == [(T0, None), (T0 + MINUTE, 105.0), (T0 + 2 * MINUTE, 115.0)]
    player.script.trade(T0 + 1, 90.0, 1.0, 50).beat(T0 + 3 * MINUTE + 20 * SECOND)
    player.play()
    again = wanted.take()
    assert again is not None
    changed = {row["start"]: (row.get("open"), row.get("sma_2")) for row in again.records if row["final"]}
    assert changed == {T0: (100.0, None), T0 + MINUTE: (None, 100.0), T0 + 2 * MINUTE: (None, 115.0)}


def test_who_missed_more_than_the_hub_keeps_gets_exactly_that(player: Player) -> None:
    player.hub.rings["trades"]._most_rows = 2
    player.play()
    stitched, plain = player.subscribe(Wanted("trades", "BTC-USDT", since=0)), player.subscribe(Wanted("trades", "BTC-USDT"))
    snapshot(stitched)
    snapshot(plain)
    for number in range(2, 8):
        player.script.trade(T0, 100.0, 1.0, number)
        player.play()
    for each in (stitched, plain):
        assert each.take() is None
        assert each.is_stale
    missed = snapshot(stitched)
    assert (missed.kind, shown(missed, "trade_id")) == ("snapshot", [(number,) for number in range(2, 8)])
    assert shown(snapshot(plain), "trade_id") == [(6,), (7,)], "the newest that the hub has"


def test_a_follower_that_starts_again_repeats_nothing(player: Player) -> None:
    player.play()
    wanted = player.subscribe(Wanted("trades", since=0))
    snapshot(wanted)
    player.restart()
    player.script.trade(T0, 101.0, 1.0, 2)
    player.play()
    assert shown(wanted.take(), "symbol", "trade_id") == [("BTC-USDT", 2)]


def test_another_house_begins_with_a_snapshot(player: Player) -> None:
    player.play()
    wanted = player.subscribe(Wanted("trades", since=0))
    snapshot(wanted)
    player.restart(is_same_house=False)
    player.play()
    assert wanted.take() is None
    assert shown(snapshot(wanted), "symbol") == [("BTC-USDT",), ("ETH-USDT",)]


def test_a_client_goes_on_after_the_seq_it_has_seen(player: Player) -> None:
    player.play()
    seen = snapshot(player.subscribe(Wanted("trades", since=0))).seq
    player.script.trade(T0, 101.0, 1.0, 2)
    player.play()
    assert shown(snapshot(player.subscribe(Wanted("trades", after=seen))), "trade_id") == [(2,)]


def test_the_pump_is_woken_once_for_all_that_waits(player: Player) -> None:
    player.hub.pump()
    woken = player.woken
    for _ in range(3):
        batch = player.script.batch(player.pipeline.feeds, player.at, len(player.script.records))
        player.hub.publish(batch, player.pipeline.feed(batch), np.empty(0, np.int32))
        player.at = len(player.script.records)
    assert player.woken == woken + 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"channel": "gossip"},
        {"channel": "trades", "interval": "1m"},
        {"channel": "feeds", "since": 0},
        {"channel": "bars", "after": (-1,)},
    ],
)
def test_what_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Wanted(**wrong)
