"""The rules read naively, in plain Python: every trade is kept, every answer is worked out afresh from all of them."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def window(rules, venue, level, ts):
    step = rules.interval_us[level]
    zone = dict(rules.timezones).get(venue)
    if rules.intervals[level] != "1d" or zone is None:
        return ts // step * step, ts // step * step + step
    date = (
        (EPOCH + timedelta(microseconds=ts))
        .astimezone(ZoneInfo(zone))
        .replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    )
    tomorrow = (date.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=ZoneInfo(zone))
    micro = timedelta(microseconds=1)
    return (date.astimezone(UTC) - EPOCH) // micro, (tomorrow.astimezone(UTC) - EPOCH) // micro


def exact(terms):
    return float(sum(map(Fraction, terms), Fraction(0)))


class Naive:
    def __init__(self, rules, feeds):
        self.rules, self.feeds, self.clock = rules, feeds, None
        self.accepted = defaultdict(list)
        self.space, self.epoch = {}, defaultdict(int)
        self.ids = defaultdict(dict)
        self.first_seen = {}
        self.pending, self.tracked = [], []
        self.due = defaultdict(set)
        self.prices = defaultdict(list)
        self.anchored = {}
        self.bars, self.gaps, self.verdicts = [], [], []

    def interval_of(self, instrument, number):
        ids = self.ids[instrument]
        if number not in ids:
            return None
        low = high = number
        while low - 1 in ids:
            low -= 1
        while high + 1 in ids:
            high += 1
        return [ids[k] for k in range(low, high + 1)]

    def verdict(self, trade):
        feed = self.feeds.feeds[trade["feed"]]
        if not feed.symbol:
            return 2
        if not (math.isfinite(trade["price"]) and 1e-12 <= trade["price"] <= 1e12):
            return 3
        if not (math.isfinite(trade["size"]) and (trade["size"] == 0 or 1e-18 <= trade["size"] <= 1e15)):
            return 4
        if (
            not datetime(1990, 1, 1, tzinfo=UTC)
            <= EPOCH + timedelta(microseconds=trade["ts"])
            < datetime(2100, 1, 1, tzinfo=UTC)
        ):
            return 5
        if self.clock is None or trade["ts"] > self.clock + 5_000_000:
            return 6
        instrument = self.feeds.instrument_of[trade["feed"]]
        if self.space.setdefault(instrument, (feed.id_space, feed.identity)) != (feed.id_space, feed.identity):
            return 7
        number = trade["id"]
        if feed.identity == "contiguous":
            times = self.interval_of(instrument, number)
            if times:
                return 8 if trade["ts"] < min(times) - 60_000_000 or trade["ts"] > max(times) + 60_000_000 else 1
            ids = self.ids[instrument]
            if ids and number > max(ids) + 1 and not trade["backfilled"]:
                self.pending.append(
                    (self.clock + self.rules.lateness_us, instrument, self.epoch[instrument], max(ids) + 1, number - 1)
                )
            ids[number] = trade["ts"]
            for gap in list(self.tracked):
                if gap[0] == instrument and gap[2] <= number <= gap[3] and all(k in ids for k in range(gap[2], gap[3] + 1)):
                    self.tracked.remove(gap)
                    self.gaps.append((*gap, 1, self.clock, trade["offset"]))
        elif feed.identity == "unique":
            key = (instrument, self.epoch[instrument], number)
            if key in self.first_seen and self.clock - self.first_seen[key] <= 600_000_000:
                return 1
            self.first_seen[key] = self.clock
        return 0

    def trade(self, trade):
        verdict = self.verdict(trade)
        late = flagged = 0
        score = math.nan
        if verdict == 0 and not trade["kind"]:
            instrument = self.feeds.instrument_of[trade["feed"]]
            feed = self.feeds.feeds[trade["feed"]]
            order = (trade["offset"], trade["row"]) if feed.identity == "none" else (0, trade["id"])
            self.accepted[instrument].append(
                {**trade, "clock": self.clock, "order": (trade["ts"], *order), "ids": feed.identity != "none"}
            )
            for level in range(len(self.rules.intervals)):
                start, end = window(self.rules, feed.venue, level, trade["ts"])
                final = end + self.rules.lateness_us
                if self.clock >= final:
                    late |= level == 0
                    step, lateness = 10_000_000, self.rules.lateness_us
                    final = (self.clock - lateness) // step * step + step + lateness
                self.due[final].add((level, instrument, start, end))
            if not trade["backfilled"]:
                score, flagged = self.scored(instrument, trade["price"])
        self.verdicts.append((verdict, late, flagged, None if math.isnan(score) else score))

    def scored(self, instrument, price):
        count = int(self.rules.detector[7:].split(",")[0])
        factor = float(self.rules.detector[:-1].split(",")[1])
        known = self.prices[instrument]
        score, flagged = math.nan, 0
        if len(known) >= count:
            a, s, q = self.anchored[instrument]
            mean, variance = a + s / count, (q - s * s / count) / (count - 1)
            if variance > 0:
                deviation = math.sqrt(variance)
                score = (price - mean) / deviation
                flagged = int(abs(price - mean) > 3 * deviation) if factor == 3 else int(abs(price - mean) > factor * deviation)
        known.append(price)
        if len(known) % count == 0:
            s = q = 0.0
            for p in known[-count:]:
                s += p - price
                q += (p - price) * (p - price)
            self.anchored[instrument] = (price, s, q)
        elif len(known) > count:
            a, s, q = self.anchored[instrument]
            d, e = price - a, known[-count - 1] - a
            s += d
            q += d * d
            s -= e
            q -= e * e
            self.anchored[instrument] = (a, s, q)
        return score, flagged

    def beat(self, clock, offset):
        self.clock = clock
        while True:
            instants = [t for t in self.due if t <= clock] + [gap[0] for gap in self.pending if gap[0] <= clock]
            if not instants:
                return
            instant = min(instants)
            for level, instrument, start, end in sorted(self.due.pop(instant, ())):
                self.issue(level, instrument, start, end, instant, offset)
            for gap in [gap for gap in self.pending if gap[0] == instant]:
                self.pending.remove(gap)
                self.open(gap, offset)

    def issue(self, level, instrument, start, end, instant, offset):
        trades = sorted((t for t in self.accepted[instrument] if start <= t["ts"] < end), key=lambda t: t["order"])
        late = sum(t["clock"] >= end + self.rules.lateness_us for t in trades)
        prices = [t["price"] for t in trades]
        ids = trades[0]["ids"] and trades[-1]["ids"]
        self.bars.append((
            instrument, level, start, end, late, prices[0], max(prices), min(prices), prices[-1],
            exact(t["size"] for t in trades), exact(t["price"] * t["size"] for t in trades), len(trades),
            trades[0]["id"] if ids else 0, trades[-1]["id"] if ids else 0, int(ids), instant, offset,
        ))  # fmt: skip

    def open(self, gap, offset):
        due, instrument, epoch, first, last = gap
        ids = self.ids[instrument]
        if epoch != self.epoch[instrument]:
            return
        missing = [k for k in range(first, last + 1) if k not in ids]
        while missing:
            count = 1
            while count < len(missing) and missing[count] == missing[0] + count:
                count += 1
            hole = (instrument, epoch, missing[0], missing[count - 1])
            self.tracked.append(hole)
            self.gaps.append((*hole, 0, due, offset))
            missing = missing[count:]

    def new_ids(self, instrument, offset):
        for gap in [gap for gap in self.tracked if gap[0] == instrument]:
            self.tracked.remove(gap)
            self.gaps.append((*gap, 2, self.clock, offset))
        self.ids[instrument] = {}
        self.space.pop(instrument, None)
        self.epoch[instrument] += 1

    def refilled(self, instrument, first, last, offset):
        for gap in [gap for gap in self.tracked if gap[0] == instrument and first <= gap[2] and gap[3] <= last]:
            self.tracked.remove(gap)
            self.gaps.append((*gap, 2, self.clock, offset))
