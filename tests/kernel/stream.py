"""Random streams of records for the kernel, and how to feed them: to it, cut anywhere, and to the naive reading."""

from __future__ import annotations

import numpy as np

from tickhouse.kernel.kernel import Kernel
from tickhouse.model import Beats, Feed, Feeds, Trades

T0 = 1_768_516_200_000_000
FEEDS = [
    Feed("b", "BINANCE", "BTC-USDT", "trade", "contiguous", "BTCUSDT"),
    Feed("b", "BINANCE", "ETH-USDT", "trade", "contiguous", "ETHUSDT"),
    Feed("b", "BINANCE", "ETH-USDT", "agg", "contiguous", "ETHUSDT"),
    Feed("p", "IEX", "AAPL", "print", "unique", "AAPL"),
    Feed("f", "AGGREGATE", "AAPL", "", "none", "AAPL"),
    Feed("f", "AGGREGATE", "", "", "none", "?"),
]
FIELDS = {
    "feed": np.int32, "ts": np.int64, "price": np.float64, "size": np.float64, "id": np.int64, "kind": np.int8,
    "backfilled": np.int8, "offset": np.int64, "row": np.int32,
}  # fmt: skip


def trade(feed, ts, number=0, price=100.0, size=1.0, **more):
    return {
        "feed": feed,
        "ts": ts,
        "price": price,
        "size": size,
        "id": number,
        "kind": 0,
        "backfilled": 0,
        "offset": 0,
        "row": 0,
        **more,
    }


def beat(clock):
    return {"clock": clock}


def numbered(records):
    """Give every record its place in the journal."""
    return [{**record, "offset": offset} for offset, record in enumerate(records)]


def columns(trades):
    made = {name: np.array([t[name] for t in trades], dtype) for name, dtype in FIELDS.items()}
    none8, none64 = np.zeros(len(trades), np.int8), np.zeros(len(trades), np.int64)
    high = np.array([t.get("high", 0) for t in trades], np.int64)
    return Trades(
        feed=made["feed"], ts=made["ts"], received_at=none64, price=made["price"], size=made["size"], trade_id=made["id"],
        trade_id_hi=high, side=none8, kind=made["kind"], backfilled=made["backfilled"], offset=made["offset"], row=made["row"],
    )  # fmt: skip


def batch(records):
    trades = [r for r in records if "ts" in r]
    beats, at, seen = [], [], 0
    for record in records:
        if "ts" in record:
            seen += 1
        else:
            beats.append(record)
            at.append(seen)
    return columns(trades), Beats(
        np.array([b["clock"] for b in beats], np.int64),
        np.array(at, np.int64),
        np.array([b["offset"] for b in beats], np.int64),
        np.zeros(len(beats), np.int32),
    )


def rows(part):
    return list(zip(*(getattr(part, name).tolist() for name in part.__dataclass_fields__), strict=True))


class Fed:
    """A kernel and all that it has given."""

    def __init__(self, rules, feeds=None):
        self.rules = rules
        self.feeds = feeds or Feeds(FEEDS)
        self.kernel = Kernel(rules, self.feeds)
        self.bars, self.gaps, self.remakes, self.verdicts = [], [], [], []

    def feed(self, records):
        """Feed records that have their offsets, cut at events."""
        piece = []
        for record in [*records, None]:
            if record is not None and "event" not in record:
                piece.append(record)
                continue
            if piece:
                self._take(self.kernel.feed(*batch(piece)))
            piece = []
            if record is not None and record["event"] == "new_ids":
                self.gaps += rows(self.kernel.new_ids(record["instrument"], record["offset"], 0))
            elif record is not None:
                closed = self.kernel.refilled(record["instrument"], record["first"], record["last"], record["offset"], 0)
                self.gaps += rows(closed)
        return self

    def _take(self, step):
        self.bars += rows(step.bars)
        self.gaps += rows(step.gaps)
        self.remakes += rows(step.remakes)
        scores = [None if np.isnan(x) else float(x) for x in step.score]
        self.verdicts += list(zip(step.verdict.tolist(), step.late.tolist(), step.anomaly.tolist(), scores, strict=True))

    def turn_over(self):
        """Go on with a kernel made from the snapshot."""
        stored = self.kernel.snapshot()
        self.kernel = Kernel(self.rules, self.feeds)
        self.kernel.restore(stored)
        assert self.kernel.snapshot() == stored

    @property
    def given(self):
        return self.bars, self.gaps, self.remakes, self.verdicts


def naively(naive, records):
    for record in records:
        if "ts" in record:
            naive.trade(record)
        elif "clock" in record:
            naive.beat(record["clock"], record["offset"])
        elif record["event"] == "new_ids":
            naive.new_ids(record["instrument"], record["offset"])
        else:
            naive.refilled(record["instrument"], record["first"], record["last"], record["offset"])
    return naive


def random_records(seed, count, pace=400_000):
    """Return trades of all kinds of identity and fault, heartbeats that sometimes jump far, and events."""
    rng = np.random.default_rng(seed)
    now, clock = T0 + int(rng.integers(0, 10**12)), None
    next_id = dict.fromkeys(range(len(FEEDS)), 1000)
    records = []
    for _ in range(count):
        now += int(rng.exponential(pace)) if rng.random() > 0.005 else int(rng.integers(0, 10**10))
        if clock is None or now // 250_000 * 250_000 > clock:
            clock = now // 250_000 * 250_000
            records.append(beat(clock))
        code = int(rng.choice([0, 0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4, 5], 1)[0])
        ts = now - int(
            rng.choice(
                [0, 2_000_000, 90_000_000, 4_000_000_000, 90_000_000_000, -4_000_000], p=[0.8, 0.08, 0.06, 0.03, 0.02, 0.01]
            )
        )
        next_id[code] += int(rng.choice([1, 2, 5], p=[0.85, 0.1, 0.05]))
        number = next_id[code] if rng.random() < 0.8 else int(rng.integers(max(1000, next_id[code] - 30), next_id[code] + 1))
        price = float(np.round(100 * np.exp(rng.normal(0, 0.01)), int(rng.integers(0, 4))))
        made = trade(code, ts, number if code < 4 else 0, price, float(rng.choice([0.0, 0.1, 1.7, 1e-9, 1e9])))
        made["backfilled"], made["kind"] = int(rng.random() < 0.05), int(rng.random() < 0.02)
        fault = rng.random()
        if fault < 0.01:
            made |= {"price": float(rng.choice([0.0, -1.0, np.nan, np.inf, 1e13]))}
        elif fault < 0.02:
            made |= {"size": float(rng.choice([-1.0, np.nan, np.inf, 1e-19, 1e16]))}
        elif fault < 0.03:
            made |= {"ts": int(rng.choice([0, 631_151_999_999_999, 4_102_444_800_000_000, now + 6_000_000]))}
        records.append(made)
        if rng.random() < 0.004:
            records.append({"event": "new_ids", "instrument": int(rng.integers(0, 4))})
        if rng.random() < 0.01:
            records.append({"event": "refilled", "instrument": 0, "first": next_id[0] - 40, "last": next_id[0] - 5})
    records += [beat(clock + 250_000 * k) for k in (1, 50, 10_000, 400_000, 900_000)]
    return numbered(records)
