"""Exact sums of positive floats, rounded once (rule R8).

A sum is a row of base-2^32 digits ("limbs") in int64: adding a float adds its 53 bits to three neighbouring limbs, merging adds
limb by limb, and nothing is carried before the sum is rounded. So the order of the terms cannot be seen in the result. Called
for every trade by `bars`.

A row holds two sums: volume (terms 0 or 1e-18..1e15) and notional (terms 0 or 1e-30..1e27), each of up to 2^31 terms.
"""

from __future__ import annotations

import math

from tickhouse.kernel.compiling import Array, compiled

__all__ = ["LIMBS", "add_notional", "add_volume", "clear_sums", "merge_sums", "round_notional", "round_volume"]

_VOLUME, _VOLUME_LIMBS, _VOLUME_SCALE = 0, 7, 128
_NOTIONAL, _NOTIONAL_LIMBS, _NOTIONAL_SCALE = 7, 9, 160
"""First limb, number of limbs, and the power of two that the lowest bit of the first limb is worth (negated)."""

LIMBS = _VOLUME_LIMBS + _NOTIONAL_LIMBS
"""Limbs of a row."""

_LOW32 = (1 << 32) - 1
_FRACTION = (1 << 52) - 1
_HIDDEN = 1 << 52
_BIAS = 1075
_KEPT = 63
_DROPPED = 10
_HALF = 1 << (_DROPPED - 1)


@compiled
def _add(limbs: Array, row: int, first: int, scale: int, bits: int) -> None:
    place = (bits >> 52) - _BIAS + scale
    limb = first + (place >> 5)
    shift = place & 31
    mantissa = (bits & _FRACTION) | _HIDDEN
    low = (mantissa & _LOW32) << shift
    high = (low >> 32) + ((mantissa >> 32) << shift)
    limbs[row, limb] += low & _LOW32
    limbs[row, limb + 1] += high & _LOW32
    limbs[row, limb + 2] += high >> 32


@compiled
def add_volume(limbs: Array, row: int, bits: int) -> None:
    """Add the positive float with these IEEE 754 bits to the row's volume."""
    _add(limbs, row, _VOLUME, _VOLUME_SCALE, bits)


@compiled
def add_notional(limbs: Array, row: int, bits: int) -> None:
    """Add the positive float with these IEEE 754 bits to the row's notional."""
    _add(limbs, row, _NOTIONAL, _NOTIONAL_SCALE, bits)


@compiled
def merge_sums(limbs: Array, into: int, row: int) -> None:
    """Add both sums of `row` to those of `into`."""
    for k in range(LIMBS):
        limbs[into, k] += limbs[row, k]


@compiled
def clear_sums(limbs: Array, row: int) -> None:
    """Make both sums of the row zero."""
    for k in range(LIMBS):
        limbs[row, k] = 0


@compiled
def _carry(limbs: Array, row: int, first: int, count: int) -> int:
    """Bring every limb below 2^32; return the highest that is not zero, -1 where all are."""
    carry = 0
    top = -1
    for k in range(count):
        total = limbs[row, first + k] + carry
        limbs[row, first + k] = total & _LOW32
        carry = total >> 32
        if total & _LOW32:
            top = k
    return top


@compiled
def _round(limbs: Array, row: int, first: int, count: int, scale: int) -> float:
    """Return the sum to nearest, ties to even: the 63 leading bits, the rest only as zero or not."""
    top = _carry(limbs, row, first, count)
    if top < 0:
        return 0.0
    digit = limbs[row, first + top]
    bits = 1
    while digit >> bits:
        bits += 1
    room = _KEPT - bits
    kept = digit << room
    rest = 0
    for k in range(top - 1, -1, -1):
        digit = limbs[row, first + k]
        if room >= 32:
            room -= 32
            kept |= digit << room
        elif room > 0:
            kept |= digit >> (32 - room)
            rest |= digit & ((1 << (32 - room)) - 1)
            room = 0
        else:
            rest |= digit
    dropped = kept & ((1 << _DROPPED) - 1)
    kept >>= _DROPPED
    if dropped > _HALF or (dropped == _HALF and (rest != 0 or kept & 1)):
        kept += 1
    return math.ldexp(float(kept), 32 * top + bits - _KEPT + _DROPPED - scale)


@compiled
def round_volume(limbs: Array, row: int) -> float:
    """Return the row's volume, rounded once."""
    return _round(limbs, row, _VOLUME, _VOLUME_LIMBS, _VOLUME_SCALE)


@compiled
def round_notional(limbs: Array, row: int) -> float:
    """Return the row's notional, rounded once."""
    return _round(limbs, row, _NOTIONAL, _NOTIONAL_LIMBS, _NOTIONAL_SCALE)
