"""The tables of the embedded journal: made with a new house, looked at when one is opened."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from tickhouse.errors import ConfigError, SchemaMismatchError
from tickhouse.journal.codec import Kind, encode_event
from tickhouse.journal.sqlite_file import connect, transaction, translated
from tickhouse.model import NO_TIME, Event, Feed
from tickhouse.rules import Rules

__all__ = ["Message", "create_or_check", "load_feeds", "stored_rules"]

Message = tuple[int, int, int, int, int, Any]
"""A row of `messages`: offset, kind, rows, ignored, clock, payload."""

_KIND = "sqlite"
_VERSION = 2
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
_FEEDS = msgspec.json.Decoder(Feed)
_KEEPS = "a house keeps its rules: use a new house"


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
            f"{file} has version {meta.get('version')}, this Tickhouse writes {_VERSION}: "
            "go on with the Tickhouse that made it, or begin a new house"
        )
    return Rules.from_json(meta["rules"].encode())


def load_feeds(connection: sqlite3.Connection, above: int) -> list[Feed]:
    """Return the journal's feeds from code `above` on."""
    rows = connection.execute("SELECT feed FROM feeds WHERE code >= ? ORDER BY code", (above,))
    return [_FEEDS.decode(row[0]) for row in rows]


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
