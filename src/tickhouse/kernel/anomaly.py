"""The trade detector `zscore(N,K)`: a price against the N scored before it (rule R11).

Called by the kernel's loop for every accepted live trade of an instrument, in journal order. The order of the operations is
that of the rule: another order would give other last bits.
"""

from __future__ import annotations

import math
import re

from tickhouse.errors import ConfigError
from tickhouse.kernel.compiling import Array, Record, compiled

__all__ = ["parse_detector", "remember", "score"]

_ZSCORE = re.compile(r"zscore\((\d{1,6}),(\d+(?:\.\d+)?)\)")


def parse_detector(text: str) -> tuple[int, float]:
    """Return the window N and the threshold K (in sample deviations) of `zscore(N,K)`.

    Raises:
        ConfigError: `text` names no detector that we have.
    """
    match = _ZSCORE.fullmatch(text.replace(" ", ""))
    if match is None or int(match[1]) < 2 or float(match[2]) <= 0:
        raise ConfigError(
            f"detector {text!r} is not known; write zscore(N,K) with N 2 or more and K above 0, e.g. zscore(100,3)"
        )
    return int(match[1]), float(match[2])


@compiled
def score(row: Record, price: float, window: int, threshold: float) -> tuple[float, float, int]:
    """Return (price - mean) / deviation, the mean, and 1 where the price is flagged.

    NaN, NaN, 0 before `window` prices are remembered, or where they do not deviate.
    """
    if row["scored"] < window:
        return math.nan, math.nan, 0
    mean = row["anchor"] + row["sum"] / window
    variance = (row["squares"] - row["sum"] * row["sum"] / window) / (window - 1)
    if not variance > 0.0:
        return math.nan, math.nan, 0
    deviation = math.sqrt(variance)
    return (price - mean) / deviation, mean, 1 if abs(price - mean) > threshold * deviation else 0


@compiled
def remember(row: Record, ring: Array, instrument: int, price: float, window: int) -> None:
    """Put a scored price into the sample."""
    place = row["ring_at"]
    oldest = ring[instrument, place]
    ring[instrument, place] = price
    row["scored"] += 1
    if place == window - 1:
        row["ring_at"] = 0
        total = 0.0
        squares = 0.0
        for k in range(window):
            change = ring[instrument, k] - price
            total += change
            squares += change * change
        row["anchor"] = price
        row["sum"] = total
        row["squares"] = squares
        return
    row["ring_at"] = place + 1
    if row["scored"] > window:
        change = price - row["anchor"]
        gone = oldest - row["anchor"]
        row["sum"] = row["sum"] + change - gone
        row["squares"] = row["squares"] + change * change - gone * gone
