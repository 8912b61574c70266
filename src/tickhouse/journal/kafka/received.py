"""Messages of a partition as they were fetched: one buffer that holds them all, and where each begins and ends.

The reader fills one and cuts it into batches, the decoder reads it; no object is made of a message that is a plain trade.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tickhouse.model import I64
from tickhouse.scanning import PADDING

__all__ = ["Received", "empty_received", "received"]


@dataclass(frozen=True, slots=True)
class Received:
    """Messages in order of their offsets; each is followed by a byte that belongs to none, a newline."""

    buffer: npt.NDArray[np.uint8]
    begins: I64
    ends: I64
    """Where each ends in the buffer; -1 = a tombstone, which has no value."""
    offsets: I64
    times: I64
    """Record times, UTC microseconds; 0 or less = none."""

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def sizes(self) -> I64:
        """Bytes of each; 0 for a tombstone."""
        sizes: I64 = np.maximum(self.ends - self.begins, 0)
        return sizes

    def value(self, number: int) -> bytes | None:
        """Return the payload of one; None of a tombstone."""
        begin, end = int(self.begins[number]), int(self.ends[number])
        return None if end < 0 else self.buffer[begin:end].tobytes()

    def select(self, which: Any) -> Received:
        """Return some of the messages, by a slice or a mask; the buffer is shared."""
        return Received(self.buffer, self.begins[which], self.ends[which], self.offsets[which], self.times[which])


def received(offsets: Sequence[int], values: Sequence[bytes | None], times: Sequence[int] = ()) -> Received:
    """Return messages that are at hand one by one."""
    joined = b"".join([(value or b"") + b"\n" for value in values]) + b"\n" * PADDING
    sizes = np.array([len(value or b"") for value in values], np.int64)
    begins = np.zeros(len(values), np.int64)
    np.cumsum(sizes[:-1] + 1, out=begins[1:])
    ends = begins + sizes
    ends[[number for number, value in enumerate(values) if value is None]] = -1
    stamps = np.array(times, np.int64) if len(times) else np.zeros(len(values), np.int64)
    return Received(np.frombuffer(bytearray(joined), np.uint8), begins, ends, np.array(offsets, np.int64), stamps)


def empty_received() -> Received:
    """Return no messages."""
    return received([], [])
