"""Recorded files as a journal: a replay into a new house needs no second copy of them.

The files of a house form one list that only grows at its end; a line's number over all of them is its offset. Nothing but the
list, the rules and the checkpoints is stored here, in `journal.db`; the lines are read from the files each time, through the
`OpenFile` that the house gives.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Event, Lock

import msgspec

from tickhouse.errors import ConfigError, FatalError, SchemaMismatchError, TickhouseError
from tickhouse.journal.recording.digest import sha256
from tickhouse.journal.recording.reader import FileEntry, RecordingReader, check_order
from tickhouse.journal.sqlite_file import connect_read_only, journal_file, translated
from tickhouse.lines import FileOptions, LineFile, OpenFile
from tickhouse.model import NO_TIME, Feeds, Position
from tickhouse.rules import Rules

__all__ = ["FileEntry", "Recording"]

_KIND = "recording"
_NOT_KNOWN = "?"
"""What stands for the digest of a file that has not been read through yet begins with it."""
_SCHEMA = """
create table if not exists meta (key text primary key, value text not null) without rowid;
create table if not exists files (
    id integer primary key, path text not null, sha256 text not null unique, bytes integer not null, mtime_ns integer not null,
    options blob not null, lines integer, running integer, last integer);
create table if not exists checkpoints (partition integer primary key, offset integer not null, clock integer not null,
    snapshot blob not null);
"""


class Recording:
    """The journal of a house of recordings; one partition.

    Use `create_or_open`.
    """

    partitions = 1

    def __init__(self, database: sqlite3.Connection, path: Path, open_file: OpenFile, *, read_only: bool) -> None:
        self._database = database
        self._path = path
        self._open_file = open_file
        self._read_only = read_only
        self._lock = Lock()
        self._closing = Event()
        self._identifier = ThreadPoolExecutor(1, "tickhouse-digests")
        self._identified: dict[int, Future[None]] = {}
        """The files whose digests are made while they are read, by id."""

    @classmethod
    def create_or_open(cls, path: Path, rules: Rules | None, open_file: OpenFile, *, read_only: bool = False) -> Recording:
        """Open the journal of the house in folder `path`, or begin one.

        Args:
            path: The house's folder, or the journal's file in it (`*.db`).
            rules: Those of a new house; an old one must have the same. None = whatever the house was made with.
            open_file: Opens recorded files.
            read_only: Change nothing; for those who follow a house that another process writes.

        Raises:
            ConfigError: the house has a live journal, or there is none to read.
            SchemaMismatchError: the house was made with other rules.
            LogCorruptError: the file is damaged.
            FatalError: the disk is full or refuses.
        """
        file = journal_file(path)
        if read_only and not file.is_file():
            raise ConfigError(f"there is no journal at {file}; begin one with `tickhouse replay FILES --house {path}`")
        if read_only:
            database = connect_read_only(file)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            with translated(file):
                database = sqlite3.connect(file, timeout=30, isolation_level=None, check_same_thread=False)
        journal = cls(database, file, open_file, read_only=read_only)
        try:
            with translated(file):
                journal._begin(rules)
        except BaseException:
            database.close()
            raise
        return journal

    def rules(self) -> Rules | None:
        """Return the rules the house was made with; None in a new journal."""
        value = self._meta("rules")
        return None if value is None else Rules.from_json(value.encode())

    def files(self) -> list[FileEntry]:
        """Return the files in the order of their lines."""
        with self._lock, translated(self._path):
            rows = self._database.execute(
                "select id, path, sha256, bytes, mtime_ns, options, lines, running, last from files order by id"
            ).fetchall()
        return [_entry(*row) for row in rows]

    def name(self) -> str:
        """Return what tells this list of files from another: a digest of the first file, the same wherever the list is made.

        Raises:
            FatalError: that file went or changed before it was read through.
        """
        first = next(iter(self.files()), None)
        if first is None:
            return ""
        if first.sha256 is None and _is_untouched(first):
            self._note(first, sha256(first.path))
        digest = self.files()[0].sha256
        if digest is None:
            raise FatalError(f"{first.path} went or changed before it was read through; put it back, or use a new house")
        return digest[:12]

    def add_files(self, paths: Iterable[Path], options: FileOptions | None = None) -> list[Path]:
        """Put files at the end of the list; return those that it has already, which are not added again.

        All or none are added. What was not read to its end before is read on from where it was interrupted.

        Raises:
            ConfigError: a file cannot be read in this way, or is older than the house's clock.
        """
        known = self.files()
        new: list[FileEntry] = []
        skipped: list[Path] = []
        clock, digest = self._end_clock(), cache(sha256)
        for path in paths:
            opened = self._open_file(path, options or FileOptions())
            stat = path.stat()
            entry = FileEntry(0, path.absolute(), None, stat.st_size, stat.st_mtime_ns, opened.options, None, NO_TIME, NO_TIME)
            same = next((other for other in (*known, *new) if _is_same(other, entry, digest)), None)
            if same is not None:
                skipped.append(path)
                self._moved(same, path)
                continue
            if not new and clock is not None:
                check_order(opened, path, clock)
            new.append(entry)
        with self._lock, translated(self._path), self._database:
            self._database.execute("begin immediate")
            self._database.executemany(
                "insert into files (path, sha256, bytes, mtime_ns, options) values (?, ?, ?, ?, ?)", map(_row, new)
            )
        return skipped

    def reader(self, partition: int, start: int, feeds: Feeds) -> RecordingReader:
        """Return a reader from line `start` on, interning into `feeds`."""
        if partition != 0:
            raise ConfigError(f"a recording has partition 0 only, not {partition}")
        rules = self.rules()
        if rules is None:
            raise FatalError(f"{self._path} holds no rules; open it with the rules of a new house first")
        for entry in [] if self._read_only else self.files():
            if entry.sha256 is None and entry.id not in self._identified:
                self._identified[entry.id] = self._identifier.submit(self._identify, entry)
        return RecordingReader(self, rules, start, feeds)

    def open(self, entry: FileEntry) -> LineFile:
        """Open a file of the list for reading.

        Raises:
            FatalError: it is gone, or not the same any more.
        """
        if not entry.path.is_file():
            raise FatalError(
                f"{entry.path} is missing, and this house still needs it; put it back, "
                "or name its new place with `tickhouse replay NEWPATH`"
            )
        digest = next(now.sha256 for now in self.files() if now.id == entry.id)  # it may be known by now
        if not _is_untouched(entry) and (digest is None or sha256(entry.path) != digest):
            was = "" if digest is None else f" (sha256 {digest[:12]}...)"
            raise FatalError(
                f"{entry.path} has changed since it was added{was}, and this house still needs it "
                "as it was; restore it, or replay the files into a new house"
            )
        return self._open_file(entry.path, entry.options)

    def finish(self, entry: FileEntry, lines: int, running: int, last: int) -> None:
        """Note that a file was read to its end: how many lines it has, and the clock there."""
        if self._read_only or entry.lines is not None:
            return
        if entry.id in self._identified:
            self._identified[entry.id].result()  # made meanwhile: it is faster than reading
        with self._lock, translated(self._path):
            self._database.execute(
                "update files set lines = ?, running = ?, last = ? where id = ?",
                (lines, _or_null(running), _or_null(last), entry.id),
            )

    def refuse_from(self, entry: FileEntry) -> None:
        """Take a file that may not follow the others, and all after it, off the list."""
        if not self._read_only:
            with self._lock, translated(self._path):
                self._database.execute("delete from files where id >= ?", (entry.id,))

    def beginning(self, partition: int) -> Position:  # noqa: ARG002  (one partition)
        """Return the first line."""
        return Position()

    def checkpoint(self, partition: int) -> tuple[Position, bytes] | None:
        """Return the newest stored snapshot and where it was taken."""
        with self._lock, translated(self._path):
            row = self._database.execute(
                "select offset, clock, snapshot from checkpoints where partition = ?", (partition,)
            ).fetchone()
        return None if row is None else (Position(row[0], row[1]), bytes(row[2]))

    def store_checkpoint(self, partition: int, position: Position, snapshot: bytes) -> None:
        """Keep a snapshot, durably, in place of the one before."""
        with self._lock, translated(self._path):
            self._database.execute(
                "insert or replace into checkpoints values (?, ?, ?, ?)", (partition, position.offset, position.clock, snapshot)
            )

    def last_clock(self) -> int:
        """Return the last heartbeat of the files read to their end, or of the checkpoint; NO_TIME where there is none."""
        clocks = [entry.last for entry in self.files() if entry.lines is not None]
        stored = self.checkpoint(0)
        return max([*clocks, NO_TIME if stored is None else stored[0].clock])

    def close(self) -> None:
        """Release the file."""
        self._closing.set()
        self._identifier.shutdown(cancel_futures=True)
        with self._lock, translated(self._path):
            self._database.close()

    def _begin(self, rules: Rules | None) -> None:
        tables = {name for (name,) in self._database.execute("select name from sqlite_master where type = 'table'")}
        if tables and ("meta" not in tables or self._meta("kind") != _KIND):
            raise ConfigError(f"{self._path.parent} is a house with a live journal: recordings need a new house (--house DIR)")
        if not tables:
            if rules is None or self._read_only:
                raise ConfigError(f"{self._path} is empty; begin the house with `tickhouse replay FILES`")
            self._database.execute("pragma journal_mode = wal")
            self._database.execute("pragma synchronous = full")
            self._database.executescript("begin immediate;" + _SCHEMA + "commit;")
            with self._database:
                self._database.execute("begin immediate")
                self._database.execute("insert into meta values ('kind', ?), ('rules', ?)", (_KIND, rules.to_json().decode()))
            return
        stored = self.rules()
        if rules is not None and stored is not None and rules != stored:
            raise SchemaMismatchError(
                f"{self._path.parent} was made with other rules: {_difference(stored, rules)}; use a new house"
            )

    def _meta(self, key: str) -> str | None:
        with self._lock, translated(self._path):
            row = self._database.execute("select value from meta where key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def _end_clock(self) -> int | None:
        entries = self.files()
        return entries[-1].last if entries and entries[-1].lines is not None else None

    def _identify(self, entry: FileEntry) -> None:
        with suppress(OSError, TickhouseError):  # whoever reads the file meets it, too
            if _is_untouched(entry):
                self._note(entry, sha256(entry.path, self._closing))

    def _note(self, entry: FileEntry, digest: str | None) -> None:
        if digest is not None and _is_untouched(entry):
            with self._lock, translated(self._path):
                self._database.execute("update files set sha256 = ? where id = ?", (digest, entry.id))

    def _moved(self, entry: FileEntry, path: Path) -> None:
        if not entry.path.is_file():
            with self._lock, translated(self._path):
                self._database.execute("update files set path = ? where id = ?", (str(path.absolute()), entry.id))


def _entry(
    number: int,
    path: str,
    digest: str,
    size: int,
    mtime_ns: int,
    options: bytes,
    lines: int | None,
    running: int | None,
    last: int | None,
) -> FileEntry:
    used = msgspec.json.decode(options, type=FileOptions)
    known = None if digest.startswith(_NOT_KNOWN) else digest
    return FileEntry(number, Path(path), known, size, mtime_ns, used, lines, _time(running), _time(last))


def _row(entry: FileEntry) -> tuple[str, str, int, int, bytes]:
    path = str(entry.path)
    placeholder = f"{_NOT_KNOWN}{entry.mtime_ns} {entry.bytes} {path}"
    return path, placeholder, entry.bytes, entry.mtime_ns, msgspec.json.encode(entry.options, order="sorted")


def _is_untouched(entry: FileEntry) -> bool:
    """Say whether a file is there and has the size and the time it was added with."""
    try:
        stat = entry.path.stat()
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) == (entry.bytes, entry.mtime_ns)


def _is_same(known: FileEntry, new: FileEntry, digest: Callable[[Path], str]) -> bool:
    """Say whether two files hold the same; those of one size are read for it.

    Raises:
        ConfigError: it cannot be told, because the known one went before it was read through.
    """
    if known.bytes != new.bytes:
        return False
    if known.sha256 is not None:
        return known.sha256 == digest(new.path)
    if _is_untouched(known):
        return digest(known.path) == digest(new.path)
    if known.mtime_ns == new.mtime_ns and known.path.name == new.path.name:  # moved
        return True
    raise ConfigError(
        f"{new.path} may be {known.path}, which this house still needs and which is missing or has changed; "
        "put that back, or replay the files into a new house"
    )


def _difference(stored: Rules, given: Rules) -> str:
    old, new = msgspec.structs.asdict(stored), msgspec.structs.asdict(given)
    return ", ".join(f"{name} {old[name]!r} there, {new[name]!r} now" for name in old if old[name] != new[name])


def _time(value: int | None) -> int:
    return NO_TIME if value is None else value


def _or_null(value: int) -> int | None:
    return None if value == NO_TIME else value
