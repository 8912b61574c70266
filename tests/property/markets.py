"""Random markets for the property tests: a journal that meets every rule, made from one number.

`rules_of` and `market` draw from the same seed, so that a failure is told by a single number. `compare` holds two runs against
each other; `read` gives what the plain reading of the rules (`quality.reading`) makes of a run's own bronze.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tests.scripted import SECOND, Script, feed
from tickhouse.model import NO_TIME, Feed, Identity
from tickhouse.quality.reading import DERIVED, Known, Reading, read_partition
from tickhouse.rules import Rules
from tickhouse.tables import CAUSE, TABLES

__all__ = ["FEEDS", "QUARTER", "RULES", "assert_read", "assert_same", "last_clock", "market", "read", "rules_of", "values_of"]

QUARTER = SECOND // 4
HOUR = 3600 * SECOND
DAY = 24 * HOUR
_INT64_MAX = 2**63 - 1

RULES = (
    Rules(indicators=("sma(3)", "ema(3)", "bbands(3,2)", "volatility(3)", "rsi(3)"), detector="zscore(5,2)"),
    Rules(
        lateness_us=0,
        intervals=("1s", "1m"),
        indicators=("sma(3)", "rsi(2)", "macd(2,4,3)", "atr(3)", "stddev(3)"),
        indicator_intervals=("1s", "1m"),
        detector="zscore(3,1)",
        timezones=(),
    ),
    Rules(
        lateness_us=QUARTER,
        intervals=("1m", "3m", "15m"),
        indicators=("macd(2,3,2)", "atr(2)", "volatility(2)"),
        indicator_intervals=("1m", "3m", "15m"),
        detector="zscore(2,1)",
    ),
    Rules(
        lateness_us=HOUR,
        intervals=("5m", "1h", "1d"),
        indicators=("stddev(2)", "bbands(2,1.5)", "ema(2)"),
        indicator_intervals=("5m", "1h", "1d"),
        detector="zscore(4,1.5)",
        timezones=(("IEX", "America/New_York"), ("BINANCE", "Asia/Kathmandu"), ("KRAKEN", "Australia/Lord_Howe")),
    ),
    Rules(
        lateness_us=10_250_000,
        intervals=("15m", "30m", "1d"),
        indicators=("sma(2)", "rsi(3)"),
        indicator_intervals=("15m", "1d"),
        detector="zscore(7,2)",
        timezones=(("IEX", "America/Sao_Paulo"), ("BINANCE", "Europe/London"), ("KRAKEN", "Asia/Beirut")),
    ),
    Rules(
        lateness_us=2_500_000, intervals=("1d",), indicators=("sma(2)",), indicator_intervals=("1d",), detector="zscore(3,1)"
    ),
    Rules(lateness_us=20_000_000, intervals=("1s", "5s", "1m", "1h"), indicators=(), indicator_intervals=(), timezones=()),
)
"""From usual to odd: no lateness, lateness beyond an interval, days of 23 and 25 hours, one level only."""

_STARTS = (
    1_768_521_600 - 420,  # seven minutes before a UTC midnight
    1_772_953_200 - 7_200,  # New York springs forward on 2026-03-08
    1_792_908_000 - 90_000,  # London falls back on 2026-10-25
    1_775_314_800 - 80_000,  # Lord Howe falls back by half an hour on 2026-04-05
    1_541_300_400 - 3_600,  # São Paulo sprang forward at midnight of 2018-11-04
    1_774_735_200 - 1_800,  # Beirut springs forward at midnight of 2026-03-29
)

_VENUES = {"BTC-USDT": "BINANCE", "ETH-USDT": "BINANCE", "AAPL": "IEX", "SOL-USDT": "KRAKEN", "XRP-USDT": "KRAKEN"}


def _feeds() -> dict[str, list[Feed]]:
    """Each instrument's feeds: the usual one, a second source of it, and others that come to bear only after `new_ids`."""
    usual: dict[str, Identity] = dict(zip(_VENUES, ("contiguous", "unique", "none", "contiguous", "unique"), strict=True))
    identities: tuple[Identity, ...] = ("contiguous", "unique", "none")
    feeds = {}
    for symbol, identity in usual.items():
        venue = _VENUES[symbol]
        others = [other for other in identities if other != identity]
        feeds[symbol] = [
            feed(symbol, venue, identity),
            feed(symbol, venue, identity, source="second"),
            feed(symbol, venue, identity, space="agg"),
            *(feed(symbol, venue, other, space="other") for other in others),
        ]
    return feeds


FEEDS = _feeds()


def rules_of(seed: int) -> Rules:
    """Return the rules that go with a seed."""
    return RULES[seed % len(RULES)]


@dataclass
class _Ids:
    """The ids of one instrument as its venue counts them."""

    next_id: int
    stride: int = 1
    missing: list[int] = field(default_factory=list)

    def take(self, dice: random.Random) -> int:
        step = self.stride if self.stride > 1 else dice.choice([1, 1, 1, 1, 1, 2, 4])
        taken = self.next_id
        self.missing += range(taken + 1, min(taken + step, taken + 5))
        self.next_id += step
        return taken


class _Market:
    def __init__(self, seed: int, rules: Rules, *, disorder: bool, on_time: bool, wide: bool) -> None:
        self.dice = random.Random(seed)
        self.rules, self.disorder, self.on_time = rules, disorder, on_time
        self.script = Script()
        self.clock = self.dice.choice(_STARTS) * SECOND
        self.unit = max(QUARTER, rules.interval_us[0] // 240 // QUARTER * QUARTER)
        self.extreme = self.dice.random() < 0.2
        starts = [100, 1, -(2**63) + 2, _INT64_MAX - 150, 2**40]
        self.ids = {symbol: _Ids(self.dice.choice(starts) if disorder else 100) for symbol in FEEDS}
        if wide:
            self.ids["SOL-USDT"] = _Ids(1000, stride=2)
        self.sent: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.main = dict.fromkeys(FEEDS, 0)
        self.border = self.clock

    def beat(self) -> None:
        dice, step = self.dice, self.unit * self.dice.randint(1, 8)
        luck = dice.random()
        if luck < 0.08:
            step = self.unit * dice.randint(40, 900)
        elif luck < 0.09 and self.disorder:
            step = dice.choice([HOUR, 3 * HOUR, DAY, 3 * DAY])
        elif luck < 0.25:  # exactly what is due next, or one quarter second before it
            interval = dice.choice(self.rules.interval_us)
            due = (self.clock // interval + 1) * interval + self.rules.lateness_us % interval - dice.choice([0, QUARTER])
            step = max((due - self.clock) // QUARTER * QUARTER, QUARTER)
        self.clock += step
        self.script.beat(self.clock)

    def ts(self) -> int:
        dice, finest = self.dice, self.rules.interval_us[0]
        if self.on_time:
            final = (self.clock - self.rules.lateness_us) // finest * finest + finest
            return max(self.clock - dice.randint(0, self.rules.lateness_us), final - finest)
        if dice.random() < 0.2:  # on a border, or next to it
            interval = dice.choice(self.rules.interval_us)
            return self.clock // interval * interval - interval * dice.choice([0, 0, 1, 2]) + dice.choice([-1, 0, 0, 1])
        late = dice.choice([0, 0, 0, 5, 20, 90, 400, 5_000]) if self.disorder else 0
        late = dice.choice([DAY, 40 * DAY]) // SECOND if self.disorder and dice.random() < 0.02 else late
        if dice.random() < 0.15 and self.sent:
            return int(dice.choice(self.sent[-9:])[0][0])
        return self.clock - late * (self.unit * 4) // 1 + dice.choice([0, dice.randint(-SECOND, SECOND), 5 * SECOND])

    def amount(self) -> tuple[float, float]:
        dice = self.dice
        if self.extreme:
            price = dice.choice([1e-12, 1e12, 10 ** dice.uniform(-11.9, 11.9), 0.1])
            return price, dice.choice([1e-18, 1e15, 0.0, 10 ** dice.uniform(-17.9, 14.9), 0.1])
        return round(100 + dice.gauss(0, 1), 2), dice.choice([0.0, 0.1, round(dice.expovariate(1), 3) + 0.001])

    def trade(self) -> None:
        dice = self.dice
        symbol = dice.choice(list(FEEDS))
        which = self.main[symbol]
        if which == 0 and dice.random() < 0.3:
            which = 1
        if self.disorder and dice.random() < 0.02:
            which = dice.randrange(len(FEEDS[symbol]))
        of = FEEDS[symbol][which]
        trade_id: int | str | None = None
        backfilled = self.disorder and dice.random() < 0.05
        if of.identity != "none":
            ids = self.ids[symbol]
            trade_id = ids.take(dice)
            if ids.missing and dice.random() < 0.08 and self.disorder:
                trade_id, backfilled = ids.missing.pop(dice.randrange(len(ids.missing))), dice.random() < 0.7
            if symbol == "XRP-USDT" and of.identity == "unique" and dice.random() < 0.6:
                trade_id = f"t-{trade_id}"
        price, size = self.amount()
        more: dict[str, Any] = {"of": of, "backfilled": backfilled}
        more |= {"side": dice.choice(["buy", "sell", None]), "conditions": dice.choice([None, None, "1,8"])}
        trade: tuple[Any, ...] = (self.ts(), price, size, trade_id)
        fate = dice.random() if self.disorder else 1.0
        if fate < 0.08 and self.sent:
            trade, more = dice.choice(self.sent)
            more = more | {"backfilled": dice.random() < 0.4}
        elif fate < 0.10:
            more["kind"], trade = "polled", (trade[0], price, 0.0, trade_id)
        elif fate < 0.13:
            bad = [(0.0, 1.0), (-1.0, 1.0), (1e300, 1.0), (float("nan"), 1.0), (1.0, -1.0), (1.0, 1e-19), (1.0, float("inf"))]
            trade = (trade[0], *dice.choice(bad), trade_id)
        elif fate < 0.14:
            trade = (dice.choice([0, -1, self.clock + 5 * SECOND + 1, 2**62]), price, size, trade_id)
        self.script.trade(*trade, **more)
        self.sent.append((trade, more))

    def event(self) -> None:
        dice = self.dice
        symbol = dice.choice(list(FEEDS))
        named = {"source": "test", "venue": _VENUES[symbol], "symbol": symbol}
        luck = dice.random()
        if luck < 0.3:
            self.script.event("new_ids", **named)
            self.main[symbol] = dice.randrange(len(FEEDS[symbol]))
            if dice.random() < 0.5:
                self.ids[symbol] = _Ids(dice.choice([1, 100, 2**33]))
        elif luck < 0.8:
            near = self.ids[symbol].next_id
            first = dice.choice([near - 200, near - dice.randint(1, 30)])
            self.script.event("refilled", **named, detail={"first": first, "last": first + dice.choice([3, 10, 500])})
        elif luck < 0.9:
            self.script.event("connected", source="test")
        else:
            self.script.rejected("malformed", bytes(dice.randrange(256) for _ in range(5)))


def market(
    seed: int, steps: int = 150, rules: Rules | None = None, *, disorder: bool = True, on_time: bool = False, wide: bool = False
) -> Script:
    """Return a random market: duplicates, late trades, holes, jumps of the clock, bad values, several sources, new ids.

    Args:
        seed: Of everything random.
        steps: Records, about.
        rules: Borders and due instants are those of these; those of the seed where None.
        disorder: Without it, every trade is new, valid and about on time.
        on_time: No trade is late for any bar.
        wide: One instrument has more than a thousand holes.
    """
    made = _Market(seed, rules or rules_of(seed), disorder=disorder, on_time=on_time, wide=wide)
    if disorder and made.dice.random() < 0.2:
        made.trade()  # before the first heartbeat
    made.script.beat(made.clock)
    for _ in range(steps):
        luck = made.dice.random()
        if luck < 0.3:
            made.beat()
        elif luck < 0.32 and disorder:
            made.event()
        else:
            made.trade()
    if wide:
        _widen(made)
    for step in (40 * SECOND, made.rules.interval_us[-1], made.rules.lateness_us + 60 * SECOND):
        made.clock += max(step // QUARTER * QUARTER, QUARTER)
        made.script.beat(made.clock)
    return made.script


def _widen(made: _Market) -> None:
    """Send a thousand holes and more, then fill some of them again, with heartbeats between."""
    ids, of = made.ids["SOL-USDT"], FEEDS["SOL-USDT"][0]
    first = ids.next_id
    made.script.event("new_ids", source="test", venue=of.venue, symbol=of.symbol)
    for k in range(1_020):
        made.script.trade(made.clock, 100.0, 1.0, ids.take(made.dice), of)
        if k % 97 == 0:
            made.beat()
    for k in range(80):
        number = first + made.dice.randrange(2_100)
        made.script.trade(made.clock, 100.0, 1.0, number, of, backfilled=made.dice.random() < 0.8)
        if k % 20 == 0:
            made.beat()


def last_clock(script: Script) -> int:
    """Return the last heartbeat."""
    return max(int(record) for kind, record in script.records if kind == "beat")


def read(tables: dict[str, pl.DataFrame], rules: Rules, clock: int, since: int = NO_TIME) -> Reading:
    """Return what the plain reading makes of the bronze of a run; from `since`, given the tables' rows from before it."""
    trades, rejected, events = (
        tables[name].to_arrow().cast(TABLES[name].schema) for name in ("bronze.trades", "bronze.rejected", "bronze.events")
    )
    bars, gaps = (
        tables[name].filter(_appeared(name) < since).to_arrow().cast(TABLES[name].schema) for name in ("gold.bars", "gold.gaps")
    )
    return read_partition(trades, rejected, events, rules, clock, None, since, None if since == NO_TIME else Known(bars, gaps))


def _appeared(name: str) -> pl.Expr:
    return pl.col("available_at" if "available_at" in TABLES[name].values else "clock").to_physical()


def values_of(name: str) -> list[str]:
    """Return the columns of a table without the cause."""
    return [column for column in TABLES[name].schema.names if column not in CAUSE]


def assert_read(tables: dict[str, pl.DataFrame], rules: Rules, clock: int, since: int = NO_TIME) -> None:
    """Check that the plain reading gives the same verdicts and rows as the run, those that appeared from `since` on."""
    reading = read(tables, rules, clock, since)
    assert not reading.other_verdicts
    derived = {name: pl.from_arrow(reading.tables[name]) for name in DERIVED}
    for name in DERIVED:
        assert_same({name: tables[name].filter(_appeared(name) >= since)}, derived, [name], values_of(name))


def assert_same(left: dict[str, Any], right: dict[str, Any], names: list[str], columns: list[str] | None = None) -> None:
    """Compare tables as multisets of rows, bit by bit."""
    for name in names:
        shown = columns or TABLES[name].schema.names
        one, other = (side[name].select(shown).sort(shown, nulls_last=True) for side in (left, right))
        if not one.equals(other):
            only_one, only_other = (a.join(b, on=shown, how="anti", nulls_equal=True) for a, b in ((one, other), (other, one)))
            raise AssertionError(f"{name}: {one.height} and {other.height} rows\n{only_one}\n--\n{only_other}")
