from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.kernel.naive import Naive
from tests.kernel.stream import FEEDS, T0, Fed, batch, beat, columns, naively, numbered, random_records, trade
from tickhouse.errors import ConfigError, SchemaMismatchError
from tickhouse.kernel.kernel import Kernel
from tickhouse.model import NO_TIME, Feed, Feeds
from tickhouse.rules import Rules

SMALL = Rules(detector="zscore(8,2.5)")
RULES = [
    SMALL,
    Rules(intervals=("1s", "5s", "1m", "1h", "1d"), indicator_intervals=(), detector="zscore(8,3)", lateness_us=2_500_000),
    Rules(intervals=("1m",), lateness_us=0, detector="zscore(3,2)"),
    Rules(intervals=("1d",), indicator_intervals=("1d",), detector="zscore(5,1)"),
    Rules(intervals=("1h", "1d"), indicator_intervals=(), timezones=()),
]


@pytest.mark.parametrize("rules", RULES, ids=["default", "seconds", "no lateness", "days", "no zones"])
@pytest.mark.parametrize("seed", range(4))
def test_kernel_gives_what_the_rules_say_read_naively(rules, seed):
    records = random_records(seed, 700)
    naive, fed = naively(Naive(rules, Feeds(FEEDS)), records), Fed(rules).feed(records)
    assert fed.verdicts == naive.verdicts
    assert [gap[:-1] for gap in fed.gaps] == naive.gaps
    asked = {(i, level, start, at): (end, offset) for i, level, start, end, at, offset, _ in fed.remakes}
    assert len(asked) == len(fed.remakes)
    remade = [bar for bar in naive.bars if asked.get((*bar[:3], bar[15])) == (bar[3], bar[16])]
    assert len(remade) == len(fed.remakes)
    assert sorted([bar[:-1] for bar in fed.bars] + remade) == sorted(naive.bars)


def test_random_streams_reach_every_verdict_and_output():
    fed = [Fed(SMALL).feed(random_records(seed, 700)) for seed in range(4)]
    assert {verdict[0] for one in fed for verdict in one.verdicts} == set(range(9))
    assert {gap[4] for one in fed for gap in one.gaps} == {0, 1, 2}
    assert any(one.remakes for one in fed)
    assert any(bar[4] > 1 for one in fed for bar in one.bars)


@pytest.mark.parametrize("seed", range(4))
def test_cut_and_restored_anywhere_gives_the_same(seed):
    records = random_records(seed + 10, 600)
    whole = Fed(SMALL).feed(records)
    cut = Fed(SMALL)
    rng = np.random.default_rng(seed)
    borders = sorted({0, len(records), *rng.integers(0, len(records), 40).tolist()})
    for begin, end in pairwise(borders):
        cut.feed(records[begin:end])
        if rng.random() < 0.5:
            cut.turn_over()
    assert cut.given == whole.given
    assert cut.kernel.snapshot() == whole.kernel.snapshot()


def test_one_record_at_a_time_gives_the_same():
    records = random_records(99, 300)
    single = Fed(SMALL)
    for record in records:
        single.feed([record])
    assert single.given == Fed(SMALL).feed(records).given


def test_uncompiled_gives_the_same():
    program = (
        "import hashlib; from tests.kernel.stream import *; from tickhouse.rules import Rules;"
        "fed = Fed(Rules(detector='zscore(8,2.5)')).feed(random_records(5, 250));"
        "print(hashlib.sha256(repr(fed.given).encode() + fed.kernel.snapshot()).hexdigest())"
    )
    here = Path(__file__).parents[2]
    answers = {
        subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=here,
            env=os.environ | {"NUMBA_DISABLE_JIT": disabled},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for disabled in ("0", "1")
    }
    assert len(answers) == 1


def test_verdicts_are_those_of_the_first_rule_that_applies():
    bad = trade(5, -1, price=-1.0, size=-1.0)
    records = [
        trade(0, T0, 1),  # no clock yet
        beat(T0),
        bad,
        {**bad, "feed": 0},
        trade(0, -1, size=-1.0),
        trade(0, -1),
        trade(0, T0 + 5_000_001, 1),
        trade(0, T0 + 5_000_000, 1),
    ]
    fed = Fed(Rules()).feed(numbered(records))
    assert [verdict[0] for verdict in fed.verdicts] == [6, 2, 3, 4, 5, 6, 0]


def test_trade_of_another_id_space_is_rejected_until_new_ids():
    records = [
        beat(T0),
        trade(1, T0, 5),
        trade(2, T0, 6),
        {"event": "new_ids", "instrument": 1},
        trade(2, T0, 5),
        trade(1, T0, 7),
    ]
    fed = Fed(Rules()).feed(numbered(records))
    assert [verdict[0] for verdict in fed.verdicts] == [0, 7, 0, 7]
    assert fed.kernel.feed(*batch(numbered([trade(2, T0, 6)]))).epoch.tolist() == [1]


def test_rejected_trade_fixes_no_id_space():
    fed = Fed(Rules()).feed(numbered([beat(T0), trade(1, T0, 5, price=-1.0), trade(2, T0, 6), trade(1, T0, 7)]))
    assert [verdict[0] for verdict in fed.verdicts] == [3, 0, 7]


def test_textual_id_in_a_contiguous_space_is_rejected():
    fed = Fed(Rules()).feed(numbered([beat(T0), trade(0, T0, 5, high=9), trade(0, T0, 5)]))
    assert [verdict[0] for verdict in fed.verdicts] == [7, 0]


def test_textual_ids_order_as_unsigned_digests_and_give_no_numeric_ids():
    records = [beat(T0), trade(3, T0, 1, 10.0, high=-1), trade(3, T0, 1, 20.0, high=1), trade(3, T0, -1, 30.0, high=1)]
    fed = Fed(Rules()).feed(numbered([*records, beat(T0 + 3_600_000_000)]))
    bar = fed.bars[0]
    assert (bar[5], bar[8], bar[12:15]) == (20.0, 10.0, (0, 0, 0))


def test_known_duplicates_concern_the_next_feed_alone():
    kernel = Kernel(Rules(), Feeds(FEEDS))
    kernel.feed(*batch(numbered([beat(T0)])))
    first, beats = batch([trade(3, T0, 1, backfilled=1), trade(3, T0, 2, backfilled=1)])
    kernel.known_duplicates(first, np.array([1]))
    assert kernel.feed(first, beats).verdict.tolist() == [0, 1]
    assert kernel.feed(*batch([trade(3, T0, 2)])).verdict.tolist() == [0]
    with pytest.raises(ValueError, match="below 2"):
        kernel.known_duplicates(first, np.array([2]))


def test_feeds_seen_later_join_in():
    feeds = Feeds(FEEDS[:1])
    fed = Fed(Rules(), feeds).feed(numbered([beat(T0), trade(0, T0, 1)]))
    for feed in FEEDS[1:]:
        feeds.code(feed)
    fed.feed(numbered([trade(3, T0, 1), trade(4, T0), trade(0, T0, 2)]))
    assert [verdict[0] for verdict in fed.verdicts] == [0, 0, 0, 0]


def test_read_only_columns_are_taken():
    trades, beats = batch(numbered([beat(T0), trade(0, T0, 1)]))
    trades.ts.flags.writeable = False
    assert Kernel(Rules(), Feeds(FEEDS)).feed(trades, beats).verdict.tolist() == [0]


def test_clock_is_the_last_heartbeat():
    kernel = Kernel(Rules(), Feeds(FEEDS))
    assert kernel.clock == NO_TIME
    kernel.feed(*batch(numbered([beat(T0), beat(T0 + 250_000)])))
    assert kernel.clock == T0 + 250_000


def test_snapshot_of_other_rules_or_no_snapshot_is_refused():
    kernel = Kernel(Rules(), Feeds(FEEDS))
    with pytest.raises(SchemaMismatchError, match="rules"):
        kernel.restore(Kernel(SMALL, Feeds(FEEDS)).snapshot())
    with pytest.raises(SchemaMismatchError, match="cannot be read"):
        kernel.restore(b"\x01")


def test_unknown_detector_and_zone_are_named():
    with pytest.raises(ConfigError, match="isolation"):
        Kernel(Rules(detector="isolation(3)"), Feeds())
    with pytest.raises(ConfigError, match="Mars"):
        Kernel(Rules(timezones=(("IEX", "Mars/Base"),)), Feeds())
    with pytest.raises(ConfigError, match="15m"):
        Kernel(Rules(intervals=("1h", "1d"), indicator_intervals=(), timezones=(("NSE", "Asia/Kolkata"),)), Feeds())


def test_empty_batch_changes_nothing():
    kernel = Kernel(Rules(), Feeds(FEEDS))
    before = kernel.snapshot()
    assert len(kernel.feed(columns([]), batch([])[1]).verdict) == 0
    assert kernel.snapshot() == before


def test_more_bars_at_once_than_there_is_room_for_are_all_issued():
    feeds = Feeds([Feed("b", "BINANCE", f"C{k}-USDT", "trade", "contiguous", f"C{k}USDT") for k in range(700)])
    records = [beat(T0), *(trade(k, T0, 1, price=1.0 + k) for k in range(700)), beat(T0 + 172_800_000_000)]
    fed = Fed(Rules(), feeds).feed(numbered(records))
    assert sorted((bar[0], bar[1], bar[5]) for bar in fed.bars) == [
        (k, level, 1.0 + k) for k in range(700) for level in range(5)
    ]
    assert [bar[15] for bar in fed.bars] == sorted(bar[15] for bar in fed.bars)


def test_late_trade_in_a_jump_of_the_clock_is_issued_once():
    records = [beat(T0), trade(0, T0, 1), beat(T0 + 600_000_000), trade(0, T0, 2), trade(0, T0, 3), beat(T0 + 900_000_000)]
    fed = Fed(Rules(intervals=("1m",))).feed(numbered(records))
    assert [(bar[4], bar[11]) for bar in fed.bars] == [(0, 1), (2, 3)]
