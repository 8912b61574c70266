from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickhouse.kernel.exact import LIMBS, add_notional, add_volume, clear_sums, merge_sums, round_notional, round_volume

VOLUME, NOTIONAL = (add_volume, round_volume), (add_notional, round_notional)


def bits(value):
    return int(np.float64(value).view(np.int64))


def total(terms, which, limbs=None, row=0):
    limbs = np.zeros((2, LIMBS), np.int64) if limbs is None else limbs
    for term in terms:
        which[0](limbs, row, bits(term))
    return which[1](limbs, row)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(1e-18, 1e15), min_size=1, max_size=30))
def test_volume_is_the_exact_sum_rounded_once(sizes):
    assert total(sizes, VOLUME) == math.fsum(sizes)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(1e-30, 1e27), min_size=1, max_size=30))
def test_notional_is_the_exact_sum_rounded_once(values):
    assert total(values, NOTIONAL) == math.fsum(values)


@pytest.mark.parametrize("which", [VOLUME, NOTIONAL], ids=["volume", "notional"])
@pytest.mark.parametrize(
    "terms",
    [
        [1.0, 2.0**-53],  # a tie, down to even
        [1.0 + 2.0**-52, 2.0**-53],  # a tie, up to even
        [1.0, 2.0**-53, 2.0**-59],  # just above a tie
        [2.0**49, 2.0**-4, 2.0**-59],  # just above a tie, three limbs apart
        [2.0**49, 2.0**-4],
        [2.0**53 - 1, 0.5],  # rounds up into the next power of two
        [2.0**k for k in range(-59, 50)],
        [1e15, 1e-18],
        [1e15] * 1000,
        [0.1] * 10,
        [4294967295.0, 1.0],
        [1.0],
    ],
)
def test_ties_and_carries_round_to_nearest_even(which, terms):
    assert total(terms, which) == float(sum(map(Fraction, terms), Fraction(0))) == math.fsum(terms)


def test_any_order_and_any_split_gives_the_same_sum():
    rng = np.random.default_rng(3)
    sizes = 10.0 ** rng.uniform(-18, 15, 500)
    expected = math.fsum(sizes)
    for _ in range(5):
        rng.shuffle(sizes)
        limbs = np.zeros((2, LIMBS), np.int64)
        total(sizes[:200], VOLUME, limbs, 0)
        total(sizes[200:], VOLUME, limbs, 1)
        merge_sums(limbs, 0, 1)
        assert round_volume(limbs, 0) == expected
        assert round_volume(limbs, 0) == expected


def test_nothing_added_is_zero():
    limbs = np.ones((1, LIMBS), np.int64)
    clear_sums(limbs, 0)
    assert round_volume(limbs, 0) == 0.0
    assert round_notional(limbs, 0) == 0.0


def test_two_billion_terms_do_not_overflow():
    limbs = np.zeros((1, LIMBS), np.int64)
    largest = math.nextafter(1e15, 0)
    add_volume(limbs, 0, bits(largest))
    limbs *= 2**31 - 1
    assert round_volume(limbs, 0) == float(Fraction(largest) * (2**31 - 1))
