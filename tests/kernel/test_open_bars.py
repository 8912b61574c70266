"""Open bars: a read-out at any moment holds what the bars would hold if they were issued now, and changes nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.scripted import BTC, MINUTE, SECOND, T0, Script, feed
from tickhouse.history import LakeHistory
from tickhouse.model import Feed
from tickhouse.pipeline import Pipeline
from tickhouse.rules import Rules
from tickhouse.sinks.lake import LakeTables

ZONED = feed("AAPL", "IEX", "none")
NAMES = ("1m", "5m", "15m", "1h", "1d")


def market(seed: int, minutes: int) -> Script:
    """Two instruments, trades out of order by up to 30 s, so that some are late."""
    rng, script = random.Random(seed), Script()
    number = {BTC: 0, ZONED: 0}
    for tick in range(minutes * 240):
        clock = T0 + tick * 250_000
        script.beat(clock)
        for of in (BTC, ZONED):
            if rng.random() < 0.2:
                number[of] += 1
                ts = clock - int(rng.expovariate(1 / (4 * SECOND)))
                script.trade(ts, round(rng.uniform(90, 110), 2), round(rng.uniform(0.1, 3), 3), _id(of, number[of]), of)
    return script


def _id(of: Feed, number: int) -> int | None:
    return number if of.identity == "contiguous" else None


def naive(silver: list[dict], rules: Rules, clock: int) -> dict:
    """Make the open bars from accepted trades: every window that ends after clock - lateness."""
    made: dict = {}
    zone = -5 * 3600 * SECOND  # New York in January
    for row in silver:
        for name, length in zip(rules.intervals, rules.interval_us, strict=True):
            shift = zone if row["venue"] == "IEX" and name == "1d" else 0
            start = (row["ts"] + shift) // length * length - shift
            if start + length > clock - rules.lateness_us:
                made.setdefault((row["venue"], name, start), []).append(row)
    return {
        key: (
            rows[0]["price"], max(r["price"] for r in rows), min(r["price"] for r in rows), rows[-1]["price"], len(rows),
            pytest.approx(sum(r["size"] for r in rows), rel=1e-12),
        )
        for key, rows in ((key, sorted(rows, key=lambda r: (r["ts"], r["offset"]))) for key, rows in made.items())
    }  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_open_bars_hold_every_accepted_trade_of_their_window(tmp_path, seed: int) -> None:
    rules = Rules(intervals=NAMES)
    script = market(seed, 20)
    pipeline = Pipeline(0, rules, LakeHistory(LakeTables(tmp_path), 0))
    silver: list[dict] = []
    compared = 0
    rng = random.Random(seed)
    at = 0
    while at < len(script.records):
        end = min(len(script.records), at + rng.randint(1, 400))
        outputs = pipeline.feed(script.batch(pipeline.feeds, at, end))
        at = end
        if "silver.trades" in outputs.tables:
            table = outputs.tables["silver.trades"]
            ts = table.column("ts").cast("int64").to_pylist()
            silver += [{**row, "ts": t} for row, t in zip(table.to_pylist(), ts, strict=True)]
        before = pipeline.snapshot()
        found = pipeline.open_bars()
        assert pipeline.snapshot() == before
        rows = {
            (row["venue"], row["interval"], start): (
                row["open"], row["high"], row["low"], row["close"], row["trades"], row["volume"],
            )
            for row, start in zip(found.to_pylist(), found.column("start").cast("int64").to_pylist(), strict=True)
        }  # fmt: skip
        expected = naive(silver, rules, pipeline.clock)
        assert rows == expected
        compared += len(rows)
    assert compared > 200


def test_only_what_is_asked_for_is_read(tmp_path) -> None:
    pipeline = Pipeline(0, Rules(), LakeHistory(LakeTables(tmp_path), 0))
    assert len(pipeline.open_bars()) == 0
    script = Script().beat(T0).trade(T0, 100.0, 1.0, 1).trade(T0, 50.0, 1.0, None, ZONED)
    pipeline.feed(script.batch(pipeline.feeds, 0, 3))
    found = pipeline.open_bars(np.array([1], np.int32), ["1m", "1h"])
    assert found.select(["symbol", "interval", "close"]).to_pylist() == [
        {"symbol": "AAPL", "interval": "1m", "close": 50.0},
        {"symbol": "AAPL", "interval": "1h", "close": 50.0},
    ]
    assert len(pipeline.open_bars(np.array([7], np.int32))) == 0


def test_a_final_bar_is_open_no_more(tmp_path) -> None:
    pipeline = Pipeline(0, Rules(), LakeHistory(LakeTables(tmp_path), 0))
    script = Script().beat(T0).trade(T0, 100.0, 1.0, 1).beat(T0 + MINUTE + 10 * SECOND)
    pipeline.feed(script.batch(pipeline.feeds, 0, 2))
    assert pipeline.open_bars(None, ["1m"]).column("start").cast("int64").to_pylist() == [T0]
    pipeline.feed(script.batch(pipeline.feeds, 2, 3))
    assert len(pipeline.open_bars(None, ["1m"])) == 0
    assert pipeline.open_bars(None, ["5m"]).column("trades").to_pylist() == [1]
