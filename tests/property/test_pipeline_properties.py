"""However a journal is cut, restored, shuffled or re-delivered: what the rules say comes out, and nothing else."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scripted import MINUTE, SECOND, T0, Script, feed, run
from tickhouse.quality.reading import DERIVED, read_partition
from tickhouse.rules import Rules
from tickhouse.tables import CAUSE, TABLES

QUARTER = SECOND // 4
FEEDS = [feed(), feed("ETH-USDT", identity="unique"), feed("AAPL", "IEX", "none"), feed("SOL-USDT")]
RULES = Rules(indicators=("sma(3)", "ema(3)", "bbands(3,2)", "volatility(3)", "rsi(3)"), detector="zscore(5,2)")
DAY_END = T0 + 12 * 60 * MINUTE
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def market(seed: int, *, steps: int = 150, disorder: bool = True, start: int = DAY_END - 7 * MINUTE) -> Script:
    """A random market over midnight: duplicates, late trades, holes, jumps of the clock, bad values, new ids."""
    dice = random.Random(seed)
    script, clock = Script(), start
    next_id = {one.symbol: 100 for one in FEEDS}
    sent: list[tuple[int, float, float, int | None, Any]] = []
    script.beat(clock)
    for _ in range(steps):
        if dice.random() < 0.35:
            clock += QUARTER * (dice.randint(1, 8) if dice.random() < 0.9 else dice.randint(40, 900))
            script.beat(clock)
            continue
        one = dice.choice(FEEDS)
        late = dice.choice([0, 0, 0, 5, 20, 90, 400]) if disorder else 0
        ts = clock - late * SECOND + dice.randint(-SECOND, SECOND)
        trade_id = next_id[one.symbol] if one.identity != "none" else None
        next_id[one.symbol] += dice.choice([1, 1, 1, 1, 2, 5]) if disorder else 1
        trade = (ts, round(100 + dice.gauss(0, 1), 2), round(dice.expovariate(1), 3), trade_id, one)
        fate = dice.random() if disorder else 1.0
        if fate < 0.05 and sent:
            trade = dice.choice(sent)
        elif fate < 0.08:
            trade = (ts, dice.choice([0.0, -1.0, 1e300]), 1.0, trade_id, one)
        elif fate < 0.10:
            script.rejected("malformed", bytes([dice.randrange(256) for _ in range(5)]))
        elif fate < 0.11:
            script.event("new_ids", source="test", venue=one.venue, symbol=one.symbol)
        elif fate < 0.12:
            script.event("refilled", source="test", venue=one.venue, symbol=one.symbol, detail={"first": 0, "last": 10_000})
        script.trade(trade[0], trade[1], trade[2], trade[3], trade[4], backfilled=fate > 0.97 and disorder)
        sent.append(trade)
    for _ in range(3):
        clock += 40 * SECOND
        script.beat(clock)
    return script


def result(script: Script, **how: Any) -> dict[str, pl.DataFrame]:
    """Run a script in a house of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return run(script, Path(folder), RULES, **how)


def assert_same(
    left: dict[str, pl.DataFrame], right: dict[str, pl.DataFrame], names: list[str], columns: list[str] | None = None
) -> None:
    """Compare tables as multisets of rows."""
    for name in names:
        shown = columns or TABLES[name].schema.names
        one, other = (side[name].select(shown).sort(shown, nulls_last=True) for side in (left, right))
        only_one, only_other = (a.join(b, on=shown, how="anti", nulls_equal=True) for a, b in ((one, other), (other, one)))
        assert one.equals(other), f"{name}:\n{only_one}\n--\n{only_other}"


@FEW
@given(seed=st.integers(0, 10**9), data=st.data())
def test_cut_and_restored_anywhere_gives_the_same_rows(seed: int, data: st.DataObject) -> None:
    script = market(seed)
    places = st.lists(st.integers(1, len(script.records) - 1), max_size=12)
    cuts, restores, live = data.draw(places), data.draw(places), data.draw(st.booleans())
    assert_same(result(script), result(script, cuts=cuts, restore_at=restores, live=live), list(TABLES))


@FEW
@given(seed=st.integers(0, 10**9))
def test_the_plain_reading_of_the_rules_gives_the_same_rows(seed: int) -> None:
    script = market(seed)
    tables = result(script, cuts=range(0, len(script.records), 17))
    clock = max(record for kind, record in script.records if kind == "beat")
    trades, rejected, events = (
        tables[name].to_arrow().cast(TABLES[name].schema) for name in ("bronze.trades", "bronze.rejected", "bronze.events")
    )
    reading = read_partition(trades, rejected, events, RULES, clock)
    assert not reading.other_verdicts
    read = {name: pl.from_arrow(reading.tables[name]) for name in DERIVED}
    for name in DERIVED:
        assert_same(tables, read, [name], [column for column in TABLES[name].schema.names if column not in CAUSE])


@FEW
@given(seed=st.integers(0, 10**9))
def test_an_exact_redelivery_changes_neither_silver_nor_gold(seed: int) -> None:
    script = market(seed, disorder=False)
    dice = random.Random(seed + 1)
    again = Script()
    for kind, record in script.records:
        again.records.append((kind, record))
        if kind == "trade" and record.feed.identity != "none" and dice.random() < 0.2:
            again.records.append((kind, record))
    names = ["silver.trades", "gold.bars", "gold.indicators", "gold.anomalies", "gold.gaps"]
    for name in names:
        values = [column for column in TABLES[name].schema.names if column not in CAUSE]
        assert_same(result(script), result(again), [name], values)


@FEW
@given(seed=st.integers(0, 10**9))
def test_any_order_between_two_heartbeats_gives_the_same_bars(seed: int) -> None:
    script = market(seed, disorder=False, start=T0)
    dice = random.Random(seed + 2)
    shuffled, run_of = Script(), []
    for kind, record in [*script.records, ("beat", None)]:
        if kind == "trade" and record.feed.identity != "none":
            run_of.append((kind, record))
            continue
        dice.shuffle(run_of)
        shuffled.records += run_of
        run_of = []
        if record is not None:
            shuffled.records.append((kind, record))
    values = [column for column in TABLES["gold.bars"].schema.names if column not in CAUSE]
    assert_same(result(script), result(shuffled), ["gold.bars"], values)


@FEW
@given(seed=st.integers(0, 10**9))
def test_bars_add_up(seed: int) -> None:
    tables = result(market(seed))
    bars = tables["gold.bars"]
    assert bars.filter(
        (pl.col("low") > pl.min_horizontal("open", "close")) | (pl.col("high") < pl.max_horizontal("open", "close"))
    ).is_empty()
    latest = bars.filter(pl.col("interval") == "1m").sort("revision").group_by("venue", "symbol", "start").last()
    issued = latest.select("venue", "symbol", "start")
    trades = (
        tables["silver.trades"].with_columns(start=pl.col("ts").dt.truncate("1m")).join(issued, on=["venue", "symbol", "start"])
    )
    assert latest["trades"].sum() <= trades.height
    received = sum(1 for kind, _ in market(seed).records if kind in ("trade", "rejected"))
    assert tables["bronze.trades"].height + tables["bronze.rejected"].height == received
