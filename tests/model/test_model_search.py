"""A random search for two runs of one journal that differ: none by the rules as written, soon one without any of them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.house_model import SINKS, Beat, Draw, Frame, Journal, Tick, Weakness, run

TRIES = 600
LONG, PARTS = 200_000, 10
"""Of the campaign: so many tries, in parts that run side by side."""


def _journal(rng: random.Random, length: int = 40) -> Journal:
    """Trades of three symbols with delays, refills, re-deliveries, future stamps, and a clock that sometimes jumps."""
    journal: Journal = []
    sent: list[Tick] = []
    clock = rng.randrange(4)
    for _ in range(length):
        if rng.random() < 0.4:
            journal.append(Beat(clock))
            clock += 1 if rng.random() < 0.8 else rng.randrange(1, 12)
            continue
        symbol, refill = rng.randrange(3), rng.random() < 0.2
        ticks: list[Tick] = []
        for _ in range(rng.randrange(1, 4)):
            if sent and rng.random() < 0.1:
                ticks.append(rng.choice(sent))
                continue
            delay = rng.randrange(10, 22) if refill else rng.choice((0, 0, 1, 2, rng.randrange(8), -rng.randrange(4)))
            ts, received_at = max(0, clock - delay), clock + rng.randrange(3)
            ticks.append(Tick(symbol, ts, len(sent) + len(ticks), 10 + rng.randrange(8), 1 + rng.randrange(3), received_at))
            symbol = symbol if refill else rng.randrange(3)
        sent += ticks
        journal.append(Frame(tuple(ticks)))
    return [*journal, Beat(clock), Beat(clock + 9)]


def _differs(journal: Journal, one: Draw, other: Draw, partitions: int, weakness: Weakness | None) -> bool:
    return run(journal, 1, one, weakness) != run(journal, partitions, other, weakness)


def _search(seed: int, tries: int, weakness: Weakness | None) -> int | None:
    """Return after how many tries two runs of one journal differed; None when none did."""
    for found in range(tries):
        rng = random.Random(seed + found)
        if _differs(_journal(rng), rng.randrange, rng.randrange, rng.choice((1, 2, 3)), weakness):
            return found
    return None


def test_model_finds_no_difference_with_the_rules_as_written():
    assert _search(0, TRIES, None) is None


@pytest.mark.parametrize("weakness", Weakness, ids=lambda weakness: weakness.name.lower())
def test_model_finds_the_difference_when_a_rule_is_weakened(weakness: Weakness):
    assert _search(0, TRIES, weakness) is not None


_ticks = st.builds(
    Tick, st.integers(0, 2), st.integers(0, 30), st.integers(0, 12), st.integers(10, 17), st.integers(1, 3), st.integers(0, 30)
)
_frames = st.lists(_ticks, min_size=1, max_size=3).map(lambda ticks: Frame(tuple(ticks)))


@st.composite
def _journals(draw: st.DrawFn) -> Journal:
    clock, journal = 0, []
    for record in draw(st.lists(st.one_of(_frames, st.integers(1, 9)), max_size=25)):
        if isinstance(record, int):
            clock += record
        journal.append(Beat(clock) if isinstance(record, int) else record)
    return journal


@given(_journals(), st.randoms(use_true_random=False), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_any_journal_gives_the_same_rows_however_it_is_run(journal: Journal, rng: random.Random, partitions: int):
    assert not _differs(journal, rng.randrange, rng.randrange, partitions, None)


def _shuffled_between_beats(journal: Journal, rng: random.Random) -> Journal:
    shuffled: Journal = []
    held: list[Tick] = []
    for record in [*journal, Beat(1 << 30)]:
        if isinstance(record, Frame):
            held += record.ticks
            continue
        rng.shuffle(held)
        shuffled += [Frame((tick,)) for tick in held]
        shuffled.append(record)
        held = []
    return shuffled


def test_order_between_two_heartbeats_changes_no_bar_and_no_indicator():
    for seed in range(200):
        rng = random.Random(seed)
        journal = [*_journal(rng), Beat(1 << 30)]
        as_it_came = run(journal, 1, rng.randrange)
        shuffled = run(_shuffled_between_beats(journal[:-1], rng), 1, rng.randrange)
        for table in ("bars", "indicators"):
            assert as_it_came["lake", table] == shuffled["lake", table], seed


def test_every_sink_holds_the_same_rows():
    for seed in range(100):
        rng = random.Random(seed)
        rows = run(_journal(rng), 2, rng.randrange)
        for (sink, table), counted in rows.items():
            assert counted == rows[SINKS[0], table], (seed, sink)
            assert table in {"bronze", "silver"} or set(counted.values()) <= {1}, (seed, table)


@pytest.mark.campaign
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("part", range(PARTS))
def test_long_search_finds_no_difference(part: int):
    tries = LONG // PARTS
    assert _search(1_000_000 + part * tries, tries, None) is None
