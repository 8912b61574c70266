"""The journal's file: opening it, its tables, and what SQLite's errors mean to those who run a house.

The SQLite journal, its appender and its readers each open it for themselves; SQLite keeps them apart.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from tickhouse.errors import ConfigError, FatalError, LogCorruptError, SchemaMismatchError, TransientError
from tickhouse.journal.codec import Kind, encode_event
from tickhouse.model import NO_TIME, Event, Feed
from tickhouse.rules import Rules

__all__ = [
    "JOURNAL_FILE",
    "Sync",
    "connect",
    "connect_read_only",
    "corrupt",
    "create_or_check",
    "journal_file",
    "load_feeds",
    "stored_rules",
    "transaction",
    "translated",
]

JOURNAL_FILE = "journal.db"
"""The journal's name in the folder of its house."""

Sync = Literal["normal", "full"]
"""`normal` survives a killed process, `full` also a power cut."""

_KIND = "sqlite"
_VERSION = 1
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE feeds (code INTEGER PRIMARY KEY, feed TEXT NOT NULL);
CREATE TABLE messages (
    offset INTEGER PRIMARY KEY, kind INTEGER NOT NULL, rows INTEGER NOT NULL, ignored INTEGER NOT NULL,
    clock INTEGER NOT NULL, payload BLOB NOT NULL
);
CREATE TABLE checkpoints (offset INTEGER PRIMARY KEY, clock INTEGER NOT NULL, snapshot BLOB NOT NULL);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_COUNTERS = {"next_offset": 0, "last_clock": NO_TIME, "pruned_below": 0, "trades": 0, "rejected": 0, "ignored": 0}
_BUSY_S = 30.0


def journal_file(path: Path) -> Path:
    """Return the journal's file of a house's folder; a path that ends in `.db` is the file itself."""
    return path if path.suffix == ".db" else path / JOURNAL_FILE


def connect(file: Path, sync: Sync) -> sqlite3.Connection:
    """Open a connection in WAL mode, without checkpoints of its own and without implicit transactions."""
    connection = sqlite3.connect(file, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
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
        return sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
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


def corrupt(file: Path, detail: str) -> LogCorruptError:
    """Return the error that says how to repair the journal."""
    repaired = file.with_name("repaired.db")
    return LogCorruptError(
        f"the journal {file} is damaged: {detail}; keep a copy, then repair it with "
        f"`sqlite3 {file} .recover | sqlite3 {repaired}` and put {repaired.name} in its place"
    )


def create_or_check(file: Path, rules: Rules) -> None:
    """Make a new journal with `rules`, or see that the one at `file` was made with the same."""
    with translated(file), closing(connect(file, "normal")) as connection:
        if _is_empty(connection):
            _create(connection, rules)
        stored = stored_rules(connection, file)
    _check_same(stored, rules, file)


def stored_rules(connection: sqlite3.Connection, file: Path) -> Rules:
    """Return the rules a journal was made with.

    Raises:
        SchemaMismatchError: the file is no SQLite journal of this version.
    """
    try:
        meta = dict(connection.execute("SELECT key, value FROM meta"))
    except sqlite3.OperationalError as error:
        raise SchemaMismatchError(f"{file} is no Tickhouse journal ({error}): name another house") from error
    if meta.get("kind") != _KIND:
        raise SchemaMismatchError(f"{file} is a journal of kind {meta.get('kind')!r}, not {_KIND!r}: use a new house for this")
    if meta.get("version") != str(_VERSION):
        raise SchemaMismatchError(
            f"{file} has version {meta.get('version')}, this Tickhouse writes {_VERSION}: run `tickhouse migrate`"
        )
    return Rules.from_json(meta["rules"].encode())


def load_feeds(connection: sqlite3.Connection, above: int) -> list[Feed]:
    """Return the journal's feeds from code `above` on."""
    rows = connection.execute("SELECT feed FROM feeds WHERE code >= ? ORDER BY code", (above,))
    return [_FEEDS.decode(row[0]) for row in rows]


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
        return TransientError(f"another process has kept {file} locked for {_BUSY_S:.0f} s")
    if code == sqlite3.SQLITE_CONSTRAINT:
        return FatalError(f"another process appends to {file}: stop it, a house has one writer")
    return FatalError(f"cannot use the journal {file}: {error}; check its folder, permissions and disk")


def _is_empty(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT count(*) = 0 FROM sqlite_master").fetchone()[0])


def _create(connection: sqlite3.Connection, rules: Rules) -> None:
    """Make the tables and the first message, unless another process just did."""
    with transaction(connection):
        if _is_empty(connection):
            for statement in _TABLES.strip().split(";\n"):
                connection.execute(statement)
            meta = {"kind": _KIND, "version": str(_VERSION), "rules": rules.to_json().decode()}
            connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            event = Event(event="rules", detail=msgspec.to_builtins(rules))
            message = (0, int(Kind.EVENT), 0, 0, NO_TIME, encode_event(event))
            connection.execute("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", message)
            connection.executemany("INSERT INTO counters VALUES (?, ?)", {**_COUNTERS, "next_offset": 1}.items())


def _check_same(stored: Rules, asked: Rules, file: Path) -> None:
    for key in Rules.__struct_fields__:
        old, new = getattr(stored, key), getattr(asked, key)
        if old != new:
            raise ConfigError(f"the house of {file} was made with {key} = {old!r}, asked is {new!r}: {_KEEPS}")


_FEEDS = msgspec.json.Decoder(Feed)
_KEEPS = "a house keeps its rules: use a new house"
