"""`journal.db`, which every kind of journal keeps in its house: opening it, and what SQLite's errors mean to those who run one.

Whoever needs it opens it for itself; SQLite keeps them apart.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

from tickhouse.errors import FatalError, LogCorruptError, TransientError

__all__ = [
    "BUSY_MS",
    "JOURNAL_FILE",
    "Sync",
    "connect",
    "connect_read_only",
    "corrupt",
    "journal_file",
    "transaction",
    "translated",
    "write_back",
]

JOURNAL_FILE = "journal.db"
"""The journal's name in the folder of its house."""

Sync = Literal["normal", "full"]
"""`normal` survives a killed process, `full` also a power cut."""

BUSY_MS = 30_000
"""How long a connection waits for another one's transaction."""


def journal_file(path: Path) -> Path:
    """Return the journal's file of a house's folder; a path that ends in `.db` is the file itself."""
    return path if path.suffix == ".db" else path / JOURNAL_FILE


def connect(file: Path, sync: Sync) -> sqlite3.Connection:
    """Open a connection in WAL mode, without checkpoints of its own and without implicit transactions."""
    connection = sqlite3.connect(file, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute(f"PRAGMA synchronous = {'FULL' if sync == 'full' else 'NORMAL'}")
        connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    except sqlite3.Error as error:
        connection.close()
        raise _meaning(file, error) from error
    return connection


def connect_read_only(file: Path) -> sqlite3.Connection:
    """Open a connection that cannot change the journal, also in a folder that cannot be written.

    There, without the write-ahead log of a running writer, the file is taken as it is: nobody can change it meanwhile.
    """
    is_closed = not file.with_name(file.name + "-wal").exists() and not os.access(file.parent, os.W_OK)
    uri = f"{file.absolute().as_uri()}?{'immutable=1' if is_closed else 'mode=ro'}"
    try:
        return sqlite3.connect(uri, uri=True, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise _meaning(file, error) from error


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Commit what happens inside, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # A full disk has SQLite roll back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translated(file: Path) -> Iterator[None]:
    """Raise SQLite's errors as ours.

    Raises:
        LogCorruptError: the file is damaged.
        TransientError: another process holds it.
        FatalError: anything else: a full disk, no permission.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _meaning(file, error) from error


def write_back(file: Path) -> None:
    """Have the disk keep what was written to the file, without holding anyone up.

    Raises:
        FatalError: the disk refuses.
    """
    try:
        os.fdatasync(_descriptor(file))
    except OSError as error:
        raise FatalError(f"the disk does not keep {file} ({error.strerror}); see to it and start again") from error


@cache
def _descriptor(file: Path) -> int:
    # Never closed: a process that closes any descriptor of a file loses its locks on it, SQLite's too
    # (https://www.sqlite.org/howtocorrupt.html, 2.2).
    return os.open(file, os.O_RDONLY)


def corrupt(file: Path, detail: str) -> LogCorruptError:
    """Return the error that says how to repair the journal."""
    repaired = file.with_name("repaired.db")
    return LogCorruptError(
        f"the journal {file} is damaged: {detail}; keep a copy, then repair it with "
        f"`sqlite3 {file} .recover | sqlite3 {repaired}` and put {repaired.name} in its place"
    )


def _meaning(file: Path, error: sqlite3.Error) -> Exception:
    # The low byte is the primary code; a wrong use of the module (a closed file) has none.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return corrupt(file, str(error))
    if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
        # A limit on the size of files shows as an I/O error, not as a full disk.
        return FatalError(
            f"no room left on the disk of {file}, or it fails ({error}): free some, start again; what was flushed is not lost"
        )
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return TransientError(f"another process has kept {file} locked for {BUSY_MS // 1000} s")
    if code == sqlite3.SQLITE_CONSTRAINT:
        return FatalError(f"another process appends to {file}: stop it, a house has one writer")
    return FatalError(f"cannot use the journal {file}: {error}; check its folder, permissions and disk")
