"""The lakehouse on disk: every table of the house as a Delta Lake table, partitioned by date.

`Lake` is the sink that the engine writes: rows are encoded into Parquet as they come, a commit makes them visible together with
the position they reach. `LakeTables` reads the same tables, each at one version until it is refreshed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import structlog
from deltalake import DeltaTable

from tickhouse.errors import ConfigError, FatalError, LogCorruptError
from tickhouse.model import Position
from tickhouse.processes import cores
from tickhouse.sinks.base import Outputs
from tickhouse.sinks.lake_compaction import Layout, close_day, merge_small
from tickhouse.sinks.lake_encode import EncodedRows, TableEncoder, known_tables
from tickhouse.sinks.lake_files import DataFile
from tickhouse.sinks.lake_log import TableLog, disk_error, listed_files, open_table, stored_position, table_path
from tickhouse.tables import TABLES, Table

__all__ = ["Lake", "LakeTables"]

_log = structlog.get_logger(__name__)

_VACUUM_EVERY = 20  # merges
_FEW_ROWS = 16_384
_RESTORE = "restore it from a backup, or make the house anew"


class Lake:
    """The sink that keeps every table; one process writes it, any number read it.

    Tables are written and committed side by side in two threads, few rows in the thread that calls; small files are merged in
    another thread of the lake's own.

    Args:
        path: The lake's folder; made where it is absent.
        merge_every: Commits of a table between merges of its small files; 0 = never.
        durable: Commits survive a power cut, at a few disk flushes each.
    """

    name = "lake"

    def __init__(self, path: Path, *, merge_every: int = 50, durable: bool = False) -> None:
        self._path = path
        self._merge_every = merge_every
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the lake's folder {path} cannot be made ({error.strerror}); name another --house") from error
        self._tables = {name: _TableSink(path, table, durable=durable) for name, table in TABLES.items()}
        self._threads = ThreadPoolExecutor(min(2, cores()), "tickhouse-lake")
        self._merges = 0
        self._merging: threading.Thread | None = None

    def positions(self, partition: int) -> dict[str, Position]:
        """Return how far each table is committed; Position() for one never committed."""
        return {name: sink.log.position(partition) for name, sink in self._tables.items()}

    def write(self, outputs: Outputs) -> None:
        """Encode rows; those that their table already has are skipped.

        Raises:
            ConfigError: a table that the house does not know.
            FatalError: the disk is full or refuses.
        """
        known_tables(outputs)

        def write(sink: _TableSink) -> None:
            sink.write(outputs.partition, outputs.position, outputs.tables.get(sink.table.name))

        sizes = {name: len(rows) for name, rows in outputs.tables.items()}
        if sum(sizes.values()) < _FEW_ROWS:
            for sink in self._tables.values():
                write(sink)
        else:
            self._each(write, sorted(self._tables.values(), key=lambda sink: -sizes.get(sink.table.name, 0)))

    def take(self, partition: int, encoded: Mapping[str, EncodedRows]) -> None:
        """Take rows that a `RangeEncoder` encoded elsewhere; files whose rows a table already has are removed.

        Raises:
            FatalError: they do not follow what a table has.
        """
        for name, rows in encoded.items():
            self._tables[name].take(partition, rows)

    def commit(self, *, everything: bool = False) -> None:
        """Make what was written visible, each table with its position in the same commit.

        Raises:
            TransientError: try again; the tables that were committed stay so.
            FatalError: the disk is full or refuses; nothing of the failed table is visible.
        """
        self._each(lambda sink: sink.commit(everything=everything), list(self._tables.values()))
        self._merge_when_due()

    def compact(self, day: date | str | None = None, layout: Layout = "date") -> dict[str, dict[str, int]]:
        """Close days: rewrite their files into large ones sorted by symbol and time. Rows and positions stay.

        Args:
            day: One UTC date (also as YYYY-MM-DD); None = every date of a table but its newest.
            layout: `date/symbol` gives every symbol a folder of its own.

        Returns:
            For each table, the number of its files `before` and `after`.

        Raises:
            ConfigError: `day` is no date, or the layout is unknown.
        """
        if layout not in ("date", "date/symbol"):
            raise ConfigError(f"layout {layout!r} is neither 'date' nor 'date/symbol'")
        wanted = _as_date(day)
        self._wait_for_merge()
        result = {}
        for name, sink in self._tables.items():
            before = sink.log.files()
            days = sorted({file.day for file in before})
            for each in days[:-1] if wanted is None else [wanted]:
                close_day(self._path, TABLES[name], each, layout)
            sink.log.refresh()
            sink.log.vacuum()
            result[name] = {"before": len(before), "after": len(sink.log.files())}
        return result

    def check(self) -> str:
        """Return a line that says the lake can be written.

        Raises:
            FatalError: it cannot; the text says why.
        """
        probe = self._path / ".check"
        try:
            probe.write_bytes(b"tickhouse")
            probe.unlink()
        except OSError as error:
            raise disk_error(error, "a file", self._path) from error
        made = sum(sink.log.exists for sink in self._tables.values())
        return f"lake {self._path}: {made} of {len(self._tables)} tables, writable"

    def close(self) -> None:
        """Drop what was not committed and wait for a merge under way."""
        self._wait_for_merge()
        self._threads.shutdown()
        for sink in self._tables.values():
            sink.abandon()

    def _each(self, work: Callable[[_TableSink], None], sinks: Sequence[_TableSink]) -> None:
        """Do the work for each table, two at a time, in this order; raise the first error once all have ended."""
        ended = [self._threads.submit(work, sink) for sink in sinks]
        wait(ended)
        for one in ended:
            one.result()

    def _merge_when_due(self) -> None:
        if not self._merge_every or (self._merging is not None and self._merging.is_alive()):
            return
        due = [sink for sink in self._tables.values() if sink.log.commits - sink.merged_at >= self._merge_every]
        if not due:
            return
        for sink in due:
            sink.merged_at = sink.log.commits
        self._merging = threading.Thread(target=self._merge, args=(due,), name="tickhouse-merge", daemon=True)
        self._merging.start()

    def _merge(self, due: Sequence[_TableSink]) -> None:
        # A merge that fails changes nothing and is tried again; what ails the disk stops the next write.
        for sink in due:
            try:
                merge_small(self._path, sink.table)
                self._merges += 1
                if self._merges % _VACUUM_EVERY == 0:
                    TableLog(self._path, sink.table).vacuum()
            except Exception as error:  # noqa: BLE001  (the boundary of the lake's own thread)
                _log.warning("lake_merge_failed", table=sink.table.name, error=str(error))

    def _wait_for_merge(self) -> None:
        if self._merging is not None:
            self._merging.join()
            self._merging = None


class _TableSink:
    """One table being written: what is encoded but not committed, and how far that reaches."""

    def __init__(self, lake: Path, table: Table, *, durable: bool) -> None:
        self.table = table
        self.log = TableLog(lake, table, durable=durable)
        self.merged_at = 0
        self._waiting = TableEncoder(table, self.log.root)

    def write(self, partition: int, position: Position, rows: pa.Table | None) -> None:
        self._waiting.write(partition, self.log.position(partition), position, rows)

    def take(self, partition: int, rows: EncodedRows) -> None:
        reached = self._waiting.positions.get(partition) or self.log.position(partition)
        if rows.position.offset <= reached.offset:  # made before, by a run that was killed after its commit
            for file in rows.files:
                (self.log.root / file.path).unlink(missing_ok=True)
            return
        if rows.since > reached.offset:
            raise LogCorruptError(
                f"{self.table.name} has partition {partition} up to record {reached.offset} only, but the next rows begin at "
                f"{rows.since}: the lake has lost rows, or is another one; {_RESTORE}"
            )
        if rows.since < reached.offset:
            raise FatalError(
                f"{self.table.name} has partition {partition} up to record {reached.offset}, but the next rows begin at "
                f"{rows.since}: another process writes this lake; stop it, a house has one writer"
            )
        self._waiting.add(partition, rows.position, rows.files)

    def commit(self, *, everything: bool) -> None:
        waiting = self._waiting
        waiting.must_be_whole()
        if waiting.positions and (everything or waiting.has_rows):
            waiting.finish()
            self.log.append(waiting.files, waiting.positions)
            waiting.clear()

    def abandon(self) -> None:
        self._waiting.abandon()


def _as_date(day: date | str | None) -> date | None:
    if not isinstance(day, str):
        return day
    try:
        return date.fromisoformat(day)
    except ValueError as error:
        raise ConfigError(f"{day!r} is no date; write it as YYYY-MM-DD") from error


class LakeTables:
    """Reads a lake, from any thread; every table stays at the version first seen until `refresh`, so that several reads agree.

    Args:
        path: The lake's folder; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opening = threading.RLock()
        self._handles: dict[str, DeltaTable | None] = {}
        self._files: dict[str, list[DataFile]] = {}

    def refresh(self, *names: str) -> None:
        """See the newest version of the tables named; of all where none is."""
        with self._opening:
            for name in names or tuple(TABLES):
                self._handles.pop(name, None)
                self._files.pop(name, None)

    def version(self, name: str) -> int:
        """Return the version of a table that is read; -1 where nothing was ever committed."""
        handle = self._handle(name)
        return -1 if handle is None else int(handle.version())

    def position(self, name: str, partition: int = 0) -> Position:
        """Return the position committed with the rows that are read."""
        return stored_position(self._handle(name), partition)

    def data_files(self, name: str) -> list[DataFile]:
        """Return the files of a table with what the log says of each; paths are relative to the table's folder."""
        with self._opening:
            if name not in self._files:
                self._files[name] = listed_files(self._handle(name))
            return self._files[name]

    def files(self, name: str) -> list[str]:
        """Return the full paths of a table's files."""
        root = table_path(self.path, _known(name))
        return [str(root / file.path) for file in self.data_files(name)]

    def check(self) -> str:
        """Return a line that says every file of every table is there, as large as the log says.

        Raises:
            LogCorruptError: one is not.
        """
        found = []
        for name in TABLES:
            root, files = table_path(self.path, TABLES[name]), self.data_files(name)
            for file in files:
                path = root / file.path
                size = path.stat().st_size if path.is_file() else None
                if size != file.size_bytes:
                    told = "missing" if size is None else f"{size} bytes long, not {file.size_bytes}"
                    raise LogCorruptError(f"{path} of {name} is {told}; {_RESTORE}")
            found.append(f"{name} {sum(file.rows for file in files):,}")
        return ", ".join(found)

    def schema(self, name: str) -> pa.Schema:
        """Return a table's columns as stored in files, without `date`."""
        return _known(name).schema

    def table(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        *,
        filters: ds.Expression | None = None,
        below: Mapping[int, int] | None = None,
        files: Sequence[DataFile] | None = None,
    ) -> pa.Table:
        """Return rows of a table, in no particular order; typed and empty where there are none.

        Args:
            name: `gold.bars`, ...
            columns: Some columns; None = all.
            filters: Which rows, e.g. `pc.field("symbol") == "BTC-USDT"`.
            below: Only causes below this offset, by partition; partitions not named have none.
            files: Only these of `data_files`.

        Raises:
            LogCorruptError: a file that the log names cannot be read.
        """
        schema = _known(name).schema
        chosen = self.data_files(name) if files is None else files
        root = table_path(self.path, _known(name))
        paths = [str(root / file.path) for file in chosen]
        if below is not None:
            within = pc.scalar(False)
            for partition, offset in below.items():
                within |= (pc.field("partition") == partition) & (pc.field("offset") < offset)
            filters = within if filters is None else filters & within
        try:
            dataset = ds.dataset(paths, schema=schema, format="parquet")
            return dataset.to_table(columns=list(columns) if columns is not None else schema.names, filter=filters)
        except (pa.ArrowException, OSError) as error:
            raise LogCorruptError(f"a file of {name} is missing or damaged ({error}); {_RESTORE}") from error

    def _handle(self, name: str) -> DeltaTable | None:
        with self._opening:
            if name not in self._handles:
                self._handles[name] = open_table(self.path, _known(name))
            return self._handles[name]


def _known(name: str) -> Table:
    if name not in TABLES:
        raise ConfigError(f"no table {name!r}; there are {', '.join(TABLES)}")
    return TABLES[name]
