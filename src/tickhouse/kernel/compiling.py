"""How the kernel's loops are compiled, and what they are made of that numpy does not have.

Every loop is a plain function under one of `compiled`, `inner` and `cached`; uncompiled (NUMBA_DISABLE_JIT=1) it gives the same
bits.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from llvmlite import ir
from numba import config, njit, types
from numba.extending import intrinsic

__all__ = ["LINE", "SOURCES", "Array", "Record", "cached", "compiled", "fetch", "inner", "mixed"]

LINE = 64
"""Bytes that a processor fetches at once."""

SOURCES = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
"""A checksum of all the kernel's files."""

Array = Any
"""A numpy array, as the compiled loops take it."""
Record = Any
"""One row of a structured array; writing to it writes to the array."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a loop: no fast-math, so that it gives the same bits as the uncompiled function.

    Nothing is allocated in a loop, so the counting of references is left out: it would cost five times the work itself.
    """
    return njit(nogil=True, _nrt=False, no_cfunc_wrapper=True)(function)  # type: ignore[no-any-return]


def inner(function: _Function) -> _Function:
    """Compile what only other loops call: without the entry from Python, half of the time to compile is saved."""
    return njit(nogil=True, _nrt=False, no_cfunc_wrapper=True, no_cpython_wrapper=True)(function)  # type: ignore[no-any-return]


def cached(function: _Function) -> _Function:
    """Compile a loop that is entered from Python, with its machine code cached on disk.

    The cache notices a change of the file that the function stands in, no other: a loop that calls into other files closes over
    `SOURCES` (see `step`).
    """
    return njit(nogil=True, cache=True, _nrt=False, no_cfunc_wrapper=True)(function)  # type: ignore[no-any-return]


def _fetch(_typing: Any, address: Any) -> Any:  # noqa: ARG001 - its type is declared

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        prefetch = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte] + [flag] * 3)
        )
        is_write, locality, is_data = ir.Constant(flag, 1), ir.Constant(flag, 3), ir.Constant(flag, 1)
        builder.call(prefetch, [builder.inttoptr(args[0], byte), is_write, locality, is_data])
        return context.get_dummy_value()

    return types.none(types.int64), generate


def _not_fetched(_address: int) -> None:
    """Do what `fetch` does to the result, uncompiled: nothing."""


fetch: Callable[[int], None] = _not_fetched if config.DISABLE_JIT else intrinsic(_fetch)
"""Ask for the cache line at an address that will be needed soon: with many instruments, waiting for memory is what costs."""


@compiled
def mixed(a: int, b: int, c: int, d: int) -> int:
    """Return a hash of four int64; products wrap around."""
    bits = a * 0x369DEA0F31A53F85 + b * 0x1B873593CC9E2D51 + c * 0x1F123BB5159A55E5 + d * 0x2545F4914F6CDD1D
    bits ^= (bits >> 32) & 0xFFFFFFFF
    bits *= 0x1F123BB5159A55E5
    return bits ^ ((bits >> 29) & 0x7FFFFFFFF)
