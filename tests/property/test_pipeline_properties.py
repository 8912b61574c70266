"""However a journal is cut, restored, divided, shuffled or re-delivered: what the rules say comes out, and nothing else."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.property.markets import FEEDS, QUARTER, assert_read, assert_same, last_clock, market, rules_of, values_of
from tests.scripted import SECOND, Script, run
from tickhouse.model import Trade
from tickhouse.quality.reading import DERIVED
from tickhouse.rules import Rules
from tickhouse.tables import TABLES

SEEDS = st.integers(0, 10**9)
_HOW: Any = {"deadline": None, "suppress_health_check": list(HealthCheck)}
FEW = settings(max_examples=25, **_HOW)
FEWER = settings(max_examples=6, **_HOW)
MANY = settings(max_examples=1_000, **_HOW)


def result(script: Script, rules: Rules, **how: Any) -> dict[str, pl.DataFrame]:
    """Run a script in a house of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return run(script, Path(folder), rules, **how)


def cut_and_restored(seed: int) -> None:
    dice, rules = random.Random(seed), rules_of(seed)
    script = market(seed)
    cuts, restores = ([dice.randrange(1, len(script.records)) for _ in range(dice.randint(0, 14))] for _ in range(2))
    pieces = result(script, rules, cuts=cuts, restore_at=restores, live=dice.random() < 0.5)
    assert_same(result(script, rules), pieces, list(TABLES))


def stored_anywhere(seed: int) -> None:
    """History answers the same from the lake, from what is on its way, and after a restart that has nothing else."""
    dice, rules = random.Random(seed), rules_of(seed)
    script = market(seed)
    commits = [dice.randrange(1, len(script.records)) for _ in range(2)]
    cuts = [dice.randrange(1, len(script.records)) for _ in range(4)]
    pieces = result(script, rules, cuts=cuts, commit_at=commits, restore_at=commits[: dice.randint(0, 2)])
    assert_same(result(script, rules), pieces, list(TABLES))


def read_plainly(seed: int) -> None:
    script, rules = market(seed, wide=seed % 31 == 0), rules_of(seed)
    tables = result(script, rules, cuts=range(0, len(script.records), 17))
    assert_read(tables, rules, last_clock(script))
    clocks = [int(record) for kind, record in script.records if kind == "beat"]
    dice = random.Random(seed)
    for since in dice.choices(clocks, k=3):
        assert_read(tables, rules, last_clock(script), since + dice.choice((0, 1, QUARTER)))


def redelivered(seed: int) -> None:
    dice, rules = random.Random(seed), rules_of(seed)
    script = market(seed, disorder=False)
    again = Script()
    for kind, record in script.records:
        again.records.append((kind, record))
        if kind == "trade" and record.feed.identity != "none" and dice.random() < 0.3:
            again.records.append((kind, record))
    once, twice = result(script, rules), result(again, rules)
    assert twice["bronze.trades"].height == once["bronze.trades"].height + len(again.records) - len(script.records)
    for name in DERIVED:
        assert_same(once, twice, [name], values_of(name))


def divided(seed: int) -> None:
    """Each half of the symbols in a partition of its own, with the same heartbeats."""
    dice, rules = random.Random(seed), rules_of(seed)
    script = market(seed)
    here = {symbol for symbol in FEEDS if dice.random() < 0.5}
    halves = [
        Script(
            [(kind, record) for kind, record in script.records if kind == "beat" or (_symbol(kind, record) in here) == inside]
        )
        for inside in (True, False)
    ]
    whole = result(script, rules)
    parts = [result(half, rules, live=dice.random() < 0.5) for half in halves]
    for name in TABLES:
        together = {name: pl.concat([part[name] for part in parts])}
        assert_same(whole, together, [name], values_of(name))


def delayed(seed: int) -> None:
    """Trades held back as long as none of them is late for any bar: what is final in the end is the same."""
    dice, rules = random.Random(seed), rules_of(seed)
    script = market(seed, rules=rules, disorder=False, on_time=True)
    held = Script()
    waiting: list[tuple[str, Any]] = []
    for kind, record in script.records:
        if kind == "trade" and dice.random() < 0.5:
            waiting.append((kind, record))
            continue
        if kind == "beat":
            go = [item for item in waiting if _due(item[1], rules) <= record or dice.random() < 0.3]
            waiting = [item for item in waiting if item not in go]
            held.records += go
        held.records.append((kind, record))
    assert not waiting
    bars, later = result(script, rules)["gold.bars"], result(held, rules)["gold.bars"]
    assert bars["revision"].max() in (0, None)
    unordered = _without_order_of_equals({"gold.bars": bars}, script)
    assert_same(
        unordered, _without_order_of_equals({"gold.bars": later}, script), ["gold.bars"], unordered["gold.bars"].columns
    )


def shuffled(seed: int) -> None:
    """Any order between two heartbeats, of trades with ids (equal times without ids stay as they came)."""
    dice, rules = random.Random(seed), rules_of(seed)
    script = market(seed, disorder=False)
    mixed = Script()
    for is_trade, group in groupby(script.records, key=lambda record: record[0] == "trade"):
        records = list(group)
        if is_trade:
            dice.shuffle(records)
        mixed.records += records
    one, other = (_without_order_of_equals(result(each, rules), script) for each in (script, mixed))
    assert_same(one, other, ["gold.bars"], one["gold.bars"].columns)


def adding_up(seed: int) -> None:
    script, rules = market(seed), rules_of(seed)
    tables = result(script, rules)
    bars = tables["gold.bars"]
    assert bars.filter((pl.col("low") > pl.col("open")) | (pl.col("close") > pl.col("high"))).is_empty()
    assert bars.filter((pl.col("low") > pl.col("close")) | (pl.col("open") > pl.col("high"))).is_empty()
    received = sum(1 for kind, _ in script.records if kind in ("trade", "rejected"))
    assert tables["bronze.trades"].height + tables["bronze.rejected"].height == received
    accepted = tables["bronze.trades"].filter((pl.col("verdict") == "accepted") & (pl.col("kind") == "trade"))
    assert tables["silver.trades"].height == accepted.height
    keys = TABLES["gold.bars"].key
    assert bars.select(keys).is_duplicated().sum() == 0
    key = [name for name in keys if name != "revision"]
    late = tables["silver.trades"]["late"].sum()
    finest = bars.filter(pl.col("interval") == rules.intervals[0]).group_by(key).agg(pl.col("revision").max())
    assert finest["revision"].sum() <= late


def _symbol(kind: str, record: Any) -> str | None:
    """Of a trade, or of an event; None for what concerns no instrument."""
    named: str | None = record.feed.symbol if kind == "trade" else getattr(record, "symbol", None)
    return named


def _due(trade: Trade, rules: Rules) -> int:
    """The first heartbeat at which a trade would be late for its finest bar (local days end on its borders, too)."""
    finest = rules.interval_us[0]
    if finest == 86_400 * SECOND:
        return 0
    return trade.ts // finest * finest + finest + rules.lateness_us


def _without_order_of_equals(tables: dict[str, pl.DataFrame], script: Script) -> dict[str, pl.DataFrame]:
    """Leave out open and close of instruments without ids where two of their trades have the same ts."""
    seen: set[tuple[str, int]] = set()
    doubtful: set[str] = set()
    for kind, record in script.records:
        if kind == "trade" and record.feed.identity == "none":
            if (record.feed.symbol, record.ts) in seen:
                doubtful.add(record.feed.symbol)
            seen.add((record.feed.symbol, record.ts))
    blank = pl.col("symbol").is_in(sorted(doubtful))
    columns = [pl.when(blank).then(None).otherwise(pl.col(name)).alias(name) for name in ("open", "close")]
    return {"gold.bars": tables["gold.bars"].select(values_of("gold.bars")).with_columns(columns)}


def _short(check: Callable[[int], None], how: settings = FEW) -> Callable[..., None]:
    return how(given(seed=SEEDS)(check))


test_cut_and_restored_anywhere_gives_the_same_rows = _short(cut_and_restored)
test_stored_or_on_their_way_rows_are_read_back_the_same = _short(stored_anywhere, FEWER)
test_the_plain_reading_of_the_rules_gives_the_same_rows = _short(read_plainly)
test_an_exact_redelivery_changes_neither_silver_nor_gold = _short(redelivered)
test_symbols_divided_over_two_partitions_give_the_same_rows = _short(divided)
test_a_delay_after_which_nothing_is_late_gives_the_same_final_bars = _short(delayed)
test_any_order_between_two_heartbeats_gives_the_same_bars = _short(shuffled)
test_rows_add_up = _short(adding_up)

CHECKS = [cut_and_restored, stored_anywhere, read_plainly, redelivered, divided, delayed, shuffled, adding_up]


@pytest.mark.campaign
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("check", CHECKS, ids=[check.__name__ for check in CHECKS])
def test_a_thousand_markets_give_what_the_rules_say(check: Callable[[int], None]) -> None:
    MANY(given(seed=SEEDS)(check))()
