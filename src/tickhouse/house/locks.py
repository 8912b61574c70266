"""Lock files: at most one process holds one, its id stands in it, and a killed process holds none.

The operating system keeps them (`flock`), so nothing has to be cleaned up after a crash.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tickhouse.errors import ConfigError, HouseLockedError

__all__ = ["held", "is_held"]

_LOOK_S = 0.05


@contextmanager
def held(file: Path, told: str, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file, made with its folder where it is new.

    Args:
        file: Where it is.
        told: What is raised where another process has it; `{holder}` stands for the id of that one.
        wait_s: How long to wait for the other one to end.

    Raises:
        HouseLockedError: another process has it.
        ConfigError: the folder cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.open("a+")
    except OSError as error:
        raise ConfigError(f"cannot write the house {file.parent}: {error.strerror}") from error
    with lock:
        until = time.monotonic() + wait_s
        while not _locked(lock):
            if time.monotonic() >= until:
                lock.seek(0)
                raise HouseLockedError(told.replace("{holder}", lock.read().strip() or "unknown"))
            time.sleep(_LOOK_S)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def is_held(file: Path) -> bool:
    """Say whether the process that last held a lock is there; asking for the lock itself could make a writer fail."""
    try:
        holder = int(file.read_text().strip() or 0)
        if holder:
            os.kill(holder, 0)
    except PermissionError:
        return True  # another user's
    except (OSError, ValueError):
        return False
    return holder > 0


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True
