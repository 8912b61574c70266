"""Tokens of those who may ask the API beyond loopback: made by `tickhouse token add`, kept as hashes in the house.

A token is 256 random bits, so one round of SHA-256 keeps it: there is nothing to guess. It is shown once, when it is made.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import time
from pathlib import Path
from typing import NamedTuple

from tickhouse.errors import ConfigError

__all__ = ["Token", "Tokens"]

_FILE = "tokens.json"
_PREFIX = "th_"
_MOST_CHARACTERS = 100
_LOOK_S = 1.0


class Token(NamedTuple):
    """What is known of a token; never the token itself."""

    name: str
    made_at: int
    """UTC seconds."""


class Tokens:
    """The tokens of one house; from any thread.

    Args:
        house: Its folder.
    """

    def __init__(self, house: Path) -> None:
        self._file = house / _FILE
        self._lock = threading.Lock()
        self._looked_at = 0.0
        self._stamp: tuple[int, int] | None = None
        self._names: dict[str, str] = {}

    def add(self, name: str) -> str:
        """Make a token and return it: this is the only time that it can be seen.

        Raises:
            ConfigError: the name is taken or empty, or the house cannot be written.
        """
        name = name.strip()
        if not name or len(name) > _MOST_CHARACTERS or not name.isprintable():
            raise ConfigError(f"a token needs a name of 1 to {_MOST_CHARACTERS} printable characters: who or what will use it")
        kept = self._read()
        if name in kept:
            raise ConfigError(f"there is a token named {name!r} already; `tickhouse token remove` it first, or choose another")
        token = _PREFIX + secrets.token_urlsafe(32)
        self._write({**kept, name: {"sha256": _digest(token), "made_at": int(time.time())}})
        return token

    def remove(self, name: str) -> None:
        """Forget a token; whoever uses it is refused within a second.

        Raises:
            ConfigError: there is none of that name.
        """
        kept = self._read()
        if name not in kept:
            raise ConfigError(f"there is no token named {name!r}; there are: {', '.join(sorted(kept)) or 'none'}")
        del kept[name]
        self._write(kept)

    def all(self) -> list[Token]:
        """Return the tokens, by name."""
        return [Token(name, int(about["made_at"])) for name, about in sorted(self._read().items())]

    def name_of(self, token: str) -> str | None:
        """Return whose token this is; None where it is nobody's."""
        with self._lock:
            self._refresh()
            # Looked up by its digest: how long that takes tells nothing of any token.
            return self._names.get(_digest(token))

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < _LOOK_S and self._looked_at:
            return
        self._looked_at = now
        try:
            stat = self._file.stat()
            stamp = stat.st_mtime_ns, stat.st_ino
        except OSError:
            stamp = None
        if stamp != self._stamp:
            self._stamp = stamp
            self._names = {str(about["sha256"]): name for name, about in self._read().items()}

    def _read(self) -> dict[str, dict[str, str | int]]:
        try:
            found: dict[str, dict[str, str | int]] = json.loads(self._file.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self._file} cannot be read ({error}); remove it and make the tokens anew") from error
        return found

    def _write(self, kept: dict[str, dict[str, str | int]]) -> None:
        draft = self._file.with_name(_FILE + ".new")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                json.dump(kept, file, indent=1)
            draft.replace(self._file)
        except OSError as error:
            raise ConfigError(f"cannot write {self._file}: {error.strerror}; is there a house?") from error


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
