"""Moving averages and deviations over columns of bars, in TA-Lib's own bits (rule R10); `series.py` calls them.

An average is TA-Lib's recurrence, operation by operation; a deviation is computed afresh for each window, in two passes.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tickhouse.kernel.compiling import Array, inner

__all__ = ["EMA", "EMA_FUSED", "SMA", "average", "called", "deviation", "log_address"]

SMA, EMA, EMA_FUSED = 0, 1, 2
"""Averages that `Plan.average` names; fused: TA-Lib was built to round `(x - e) * k + e` once."""
_DEVIATION = 0


@intrinsic  # type: ignore[untyped-decorator]
def called(_typing: Any, address: Any, x: Any) -> Any:  # noqa: ARG001 - their types are declared
    """Return what the C function at `address` gives: as a call that the compiler cannot replace by another logarithm."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        function = ir.FunctionType(ir.DoubleType(), [ir.DoubleType()])
        return builder.call(builder.inttoptr(args[0], function.as_pointer()), [args[1]])

    return types.float64(types.int64, types.float64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _fused(_typing: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001 - their types are declared
    """Return a * b + c, rounded once."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float64(types.float64, types.float64, types.float64), generate


def log_address() -> int:
    """Return where the C library's logarithm is."""
    address = ctypes.cast(ctypes.CDLL(None).log, ctypes.c_void_p).value
    assert address is not None
    return address


@inner
def average(kind: int, period: int, values: Array, of: int, lo: int, begin: int, end: int, state: float) -> tuple[float, float]:
    """Take in the bars [begin, end) of a series whose first is `lo`; return (value at the last, state after it)."""
    value = np.nan
    factor = 2.0 / (period + 1)
    for slot in range(begin, end):
        x = values[of, slot]
        count = slot - lo + 1
        value = np.nan
        if kind == SMA:
            state += x
            if count >= period:
                value = state / period
                state -= values[of, slot - period + 1]
        elif count <= period:
            state += x
            if count == period:
                state /= period
                value = state
        else:
            state = _fused(x - state, factor, state) if kind == EMA_FUSED else (x - state) * factor + state
            value = state
    return value, state


@inner
def deviation(kind: int, period: int, values: Array, close: int, returns: Array, slot: int, before: int) -> float:
    """Return the two-pass deviation of the window that ends at `slot`, with `before` bars of its series before it."""
    if before < (period - 1 if kind == _DEVIATION else period):
        return np.nan
    first = slot - period + 1
    total = 0.0
    squares = 0.0
    if kind == _DEVIATION:
        for k in range(first, slot + 1):
            total += values[close, k]
        mean = total / period
        for k in range(first, slot + 1):
            difference = values[close, k] - mean
            squares += difference * difference
        return math.sqrt(squares / period)
    for k in range(first, slot + 1):
        total += returns[k]
    mean = total / period
    for k in range(first, slot + 1):
        difference = returns[k] - mean
        squares += difference * difference
    return math.sqrt(squares / (period - 1))
