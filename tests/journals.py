"""Reading a journal of any kind to its end."""

from __future__ import annotations

from tickhouse.journal.base import Reader
from tickhouse.model import Batch

__all__ = ["drained"]


def drained(reader: Reader) -> list[Batch]:
    """Read until nothing more is there, and close."""
    batches = []
    try:
        while True:
            batch = reader.read(0.0 if reader.drained else 0.5)
            if batch is not None:
                batches.append(batch)
            elif reader.exhausted or reader.at_end():
                return batches
    finally:
        reader.close()
