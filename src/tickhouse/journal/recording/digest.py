"""What tells one recorded file from another, whatever its name and time: the SHA-256 of its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Event
from typing import overload

__all__ = ["sha256"]

_PIECE_BYTES = 1 << 23
"""Large: whoever comes back for the interpreter more often waits for other threads each time."""


@overload
def sha256(path: Path) -> str: ...
@overload
def sha256(path: Path, stop: Event) -> str | None: ...
def sha256(path: Path, stop: Event | None = None) -> str | None:
    """Return the digest of a file in hexadecimal; None where `stop` was set before its end."""
    digest, piece = hashlib.sha256(), memoryview(bytearray(_PIECE_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            if stop is not None and stop.is_set():
                return None
            digest.update(piece[:count])
    return digest.hexdigest()
