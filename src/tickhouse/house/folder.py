"""The folder of a house: what stands in it, what can be known of the house without opening its parts, and who holds it.

Those who write a house hold it here first, by a lock file each: one process makes the tables, one receives into the journal.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from tickhouse.errors import ConfigError, SchemaMismatchError
from tickhouse.house.locks import held, is_held
from tickhouse.journal.sqlite_file import JOURNAL_FILE, connect_read_only, translated
from tickhouse.rules import Rules

__all__ = ["HouseFolder", "JournalKind"]

JournalKind = Literal["sqlite", "recording", "kafka"]

_VERSION = 1
_TABLES_LOCK, _JOURNAL_LOCK, _CLAIM_LOCK = "lock", "ingest.lock", "claim.lock"
_OTHERWISE = "stop that one, or use another --house (reading is always possible)"
_DYING_S = 5.0
"""How long a killed run's receiving process may take to end: it still flushes what it had received."""


class HouseFolder:
    """Where a house lies; there need not be one yet.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lake_path = path / "lake"
        self.journal_path = path / JOURNAL_FILE
        self._about = path / "house.json"

    @property
    def kind(self) -> JournalKind | None:
        """Which kind of journal the house has; None where there is no house yet.

        Raises:
            SchemaMismatchError: the house was written by a newer version, or `house.json` is damaged.
        """
        if not self._about.exists():
            return None
        try:
            about = json.loads(self._about.read_text("utf-8"))
            version, kind = int(about["version"]), about["journal"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SchemaMismatchError(
                f"{self._about} is damaged ({error}); restore it, it holds only version and kind of journal"
            ) from error
        if version > _VERSION:
            raise SchemaMismatchError(
                f"{self.path} was written by a newer Tickhouse (format {version}, this one knows {_VERSION}); upgrade Tickhouse"
            )
        if kind not in get_args(JournalKind):
            raise SchemaMismatchError(f"{self._about} names an unknown journal {kind!r}")
        return kind  # type: ignore[no-any-return]  # checked just above; JSON has no types

    def must_exist(self) -> None:
        """Check that there is a house to read.

        Raises:
            ConfigError: there is none; the text says how to make one.
        """
        if self.kind is None:
            raise ConfigError(
                f"no house at {self.path}; make one with `tickhouse run` or `tickhouse replay FILES` (--house DIR)"
            )

    def identity(self) -> str:
        """Return the id that no other house has, given at the first call; hold the house for writing."""
        about = json.loads(self._about.read_text("utf-8"))
        if "id" not in about:
            about["id"] = uuid.uuid4().hex
            _put(self._about, about)
        return str(about["id"])

    # Both kinds of journal file keep these alike: they are read without opening the journal.

    def stored_rules(self) -> Rules | None:
        """Return the rules the house was made with; None where there is no house yet.

        Raises:
            LogCorruptError: the journal's file is damaged.
        """
        row = self._peek("SELECT value FROM meta WHERE key = 'rules'")
        return Rules.from_json(row[0] if isinstance(row[0], bytes) else row[0].encode()) if row else None

    def partitions(self) -> int:
        """Return the number of partitions of the house's journal; it never changes."""
        row = self._peek("SELECT value FROM meta WHERE key = 'partitions'") if self.kind == "kafka" else None
        return int(row[0]) if row else 1

    def snapshot_offset(self, partition: int = 0) -> int:
        """Return where a partition's newest stored snapshot was taken: every table had reached it; 0 where there is none."""
        one = f" WHERE partition = {partition:d}" if self.kind != "sqlite" else ""
        row = self._peek(f"SELECT max(offset) FROM checkpoints{one}")
        return int(row[0] or 0) if row else 0

    def journal_identity(self) -> tuple[int, int] | None:
        """Return what tells the journal's file from one put in its place later; None where there is none."""
        try:
            stat = self.journal_path.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    def _peek(self, query: str) -> tuple[Any, ...] | None:
        """Return a query's first row; None from no journal, and from one without tables: a kill at its first instant."""
        if self.kind is None or not self.journal_path.exists():
            return None
        with translated(self.journal_path), closing(connect_read_only(self.journal_path)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                return None
            row: tuple[Any, ...] | None = connection.execute(query).fetchone()
            return row

    # Holding it for writing.

    def is_written(self) -> bool:
        """Say whether a process that receives into the house, or makes its tables, can be seen from here."""
        return any(is_held(self.path / name) for name in (_JOURNAL_LOCK, _TABLES_LOCK))

    @contextmanager
    def writing(self, kind: JournalKind) -> Iterator[None]:
        """Hold the house's tables for writing, making the house where it is new.

        Raises:
            HouseLockedError: another process writes them.
            ConfigError: the house has the other kind of journal.
        """
        with held(self.path / _TABLES_LOCK, f"{self.path} is being written by process {{holder}}; {_OTHERWISE}"):
            self._claim(kind)
            yield

    @contextmanager
    def appending(self, kind: JournalKind) -> Iterator[None]:
        """Hold the house's journal for appending, making the house where it is new.

        Raises:
            HouseLockedError: another process appends to it.
            ConfigError: the house has the other kind of journal.
        """
        told = f"process {{holder}} receives into {self.path}; {_OTHERWISE}"
        with held(self.path / _JOURNAL_LOCK, told, wait_s=_DYING_S):
            self._claim(kind)
            yield

    def _claim(self, kind: JournalKind) -> None:
        """Make the house, or see that it is of this kind and whole."""
        told = f"{self.path} is being made by process {{holder}}; try again"
        with held(self.path / _CLAIM_LOCK, told, wait_s=_DYING_S):
            have = self.kind
            if have is None:
                self._make(kind)
            elif have != kind:
                raise ConfigError(f"{self.path} has a {have} journal: {_INSTEAD[have]}")
            elif self.stored_rules() is None and any(self.lake_path.glob("*/*/_delta_log")):
                raise SchemaMismatchError(
                    f"{self.path} has tables, but its journal.db is missing or empty; restore that file, or use a new --house"
                )

    def _make(self, kind: JournalKind) -> None:
        if self.journal_path.exists():
            raise SchemaMismatchError(f"{self.path} has a journal but no house.json; restore that file, or use a new --house")
        _put(self._about, {"version": _VERSION, "journal": kind})


_INSTEAD: dict[JournalKind, str] = {
    "recording": "`tickhouse replay FILES` adds recordings to it; for a live house use another --house",
    "kafka": "its topic is that of [kafka]; leave --journal out, or use another --house",
    "sqlite": "it is a live house; for recordings use another --house, or `tickhouse replay --to sqlite` "
    "to send them through its journal",
}


def _put(file: Path, about: dict[str, Any]) -> None:
    """Write `house.json`, whole or not at all."""
    draft = file.with_name(f"{file.name}.new")
    draft.write_text(json.dumps(about) + "\n", "utf-8")
    draft.replace(file)
