"""The Delta log of one table of the lake: opening, positions, commits, checkpoints.

The lake sink and its compaction change tables only through this; readers open the same log. The log is what makes files
visible: a commit adds (or, in a compaction, swaps) files and stores the position they reach, in one step.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from tickhouse.errors import FatalError, SchemaMismatchError, TransientError
from tickhouse.model import Position
from tickhouse.sinks.lake_files import DataFile, stamp
from tickhouse.tables import Table

__all__ = [
    "TableLog",
    "disk_error",
    "flush",
    "lake_schema",
    "listed_files",
    "named_position",
    "open_table",
    "stored_position",
    "table_path",
]

CHECKPOINT_EVERY = 20
"""Commits between checkpoints: each commit since the last one makes the next a third of a millisecond slower."""

KEEP_HOURS = 1
"""How long files and log entries that a compaction replaced stay, for readers that opened the table before."""

_CONFIGURATION = {
    "delta.logRetentionDuration": f"interval {KEEP_HOURS} hours",
    "delta.deletedFileRetentionDuration": f"interval {KEEP_HOURS} hours",
    "delta.checkpointInterval": "1000000000",  # made here, with the handle opened anew after each
}
_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def table_path(lake: Path, table: Table) -> Path:
    """Return the folder of a table, e.g. `bronze/trades`."""
    return lake.joinpath(*table.name.split("."))


def lake_schema(table: Table) -> pa.Schema:
    """Return the columns of a table as the lake has them: its own, and the partition column `date`."""
    return table.schema.append(pa.field("date", pa.date32(), nullable=False))


def open_table(lake: Path, table: Table) -> DeltaTable | None:
    """Return the newest state of a table; None where nothing was ever committed.

    Raises:
        SchemaMismatchError: it has other columns than this Tickhouse writes.
        FatalError: the log cannot be read.
    """
    path = table_path(lake, table)
    if not (path / "_delta_log").is_dir():
        return None
    try:
        handle = DeltaTable(path)
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        told = str(error).partition("\n")[0]
        raise FatalError(f"the log of {table.name} at {path} cannot be read ({told}); restore it from a backup") from error
    stored = [field.name for field in handle.schema().fields]
    expected = lake_schema(table).names
    if stored != expected:
        raise SchemaMismatchError(
            f"{table.name} at {path} has columns {stored}, this Tickhouse writes {expected}; use the version it was made with"
        )
    return handle


def stored_position(handle: DeltaTable | None, partition: int) -> Position:
    """Return the position committed with the rows that `handle` sees."""
    if handle is None:
        return Position()
    offset, clock = (handle.transaction_version(name) for name in _application_ids(partition))
    return Position() if offset is None or clock is None else Position(offset, clock)


def named_position(application_id: str) -> tuple[int, str] | None:
    """Return the partition and the field of `Position` that a transaction of the log is about; None for one not of ours."""
    ours, partition, which = (*application_id.split(":"), "", "")[:3]
    return (int(partition), which) if ours == "tickhouse" and partition.isdigit() and which in Position._fields else None


def disk_error(error: BaseException, what: str, path: Path) -> FatalError:
    """Return the error that says why the disk did not take a file, and what to do."""
    number = getattr(error, "errno", None)
    text = str(error)
    if number in _FULL or "No space left" in text or "File too large" in text:
        return FatalError(
            f"no room to write {what} under {path} ({text}); free some space and start again, nothing committed is lost"
        )
    return FatalError(f"cannot write {what} under {path} ({text}); check the folder's permissions and start again")


class TableLog:
    """One table's log, held open by its one writer.

    Args:
        lake: The lake's folder.
        table: Which table.
        durable: A commit survives a power cut: files reach the disk before the log names them, the log before the commit is
            done. A swap is always so, since the files that it replaces are removed.
    """

    def __init__(self, lake: Path, table: Table, *, durable: bool = False) -> None:
        self._lake = lake
        self._table = table
        self._durable = durable
        self._handle = open_table(lake, table)
        self._since_checkpoint = self._tail()
        self._reached: dict[int, Position] = {}
        self.commits = 0
        """Made through this object."""

    @property
    def root(self) -> Path:
        """The table's folder."""
        return table_path(self._lake, self._table)

    @property
    def exists(self) -> bool:
        """Whether anything was ever committed."""
        return self._handle is not None

    def position(self, partition: int) -> Position:
        """Return how far the table is committed, by this writer and those before it."""
        if partition not in self._reached:
            self._reached[partition] = stored_position(self._handle, partition)
        return self._reached[partition]

    def append(self, files: Sequence[DataFile], positions: Mapping[int, Position]) -> None:
        """Commit files and the positions they reach, together.

        Raises:
            TransientError: the commit did not happen; try again.
            FatalError: the disk is full or refuses, or another process writes this table.
        """
        handle = self._opened()
        if any(stored_position(handle, partition) != self.position(partition) for partition in positions):
            raise self._second_writer()
        transactions = [
            Transaction(name, value)
            for partition, position in positions.items()
            for name, value in zip(_application_ids(partition), position, strict=True)
        ]
        properties = CommitProperties(app_transactions=transactions, custom_metadata={"tickhouse": "append"})
        try:
            if self._durable:
                self._flush(files)
            self._write(handle, [_added(file, data_change=True) for file in files], properties, durable=self._durable)
        except (DeltaError, OSError) as error:
            self._handle = open_table(self._lake, self._table)
            if any(stored_position(self._handle, partition) != position for partition, position in positions.items()):
                raise self._classified(error) from error
            # otherwise it was committed, and only the answer was lost
        self._reached.update(positions)
        self.commits += 1

    def swap(self, old: Sequence[DataFile], new: Sequence[DataFile]) -> None:
        """Replace files by others with the same rows; positions stay.

        Raises:
            TransientError: nothing was replaced; try again.
            FatalError: the disk is full or refuses.
        """
        handle = self._opened()
        now = time.time_ns() // 1_000_000
        removed = [RemoveAction(file.path, False, now, file.size_bytes, {"date": file.day.isoformat()}) for file in old]
        properties = CommitProperties(custom_metadata={"tickhouse": "compact"})
        try:
            self._flush(new)
            self._write(handle, [*removed, *(_added(file, data_change=False) for file in new)], properties, durable=True)
        except (DeltaError, OSError) as error:
            self._handle = open_table(self._lake, self._table)
            raise self._classified(error) from error

    def refresh(self) -> None:
        """See what was committed elsewhere."""
        self._handle = open_table(self._lake, self._table)

    def files(self) -> list[DataFile]:
        """Return the files of the table as last seen."""
        return listed_files(self._handle)

    def checkpoint(self) -> None:
        """Write the whole state into one file, drop log entries older than the retention, and open the log anew."""
        if self._handle is not None:
            self._handle.create_checkpoint()
            log, version = self.root / "_delta_log", int(self._handle.version())
            flush([*log.glob(f"{version:020}.checkpoint*"), log / "_last_checkpoint", log])
            self._handle.cleanup_metadata()
            self._handle = open_table(self._lake, self._table)
        self._since_checkpoint = 0

    def vacuum(self) -> None:
        """Remove files that no reader of the last hour can see: replaced ones, and those left by a killed writer."""
        if self._handle is not None:
            self._handle.vacuum(
                retention_hours=KEEP_HOURS,
                dry_run=False,
                enforce_retention_duration=False,
                full=True,
                post_commithook_properties=_NO_HOOKS,
            )
            self._handle = open_table(self._lake, self._table)

    def _opened(self) -> DeltaTable:
        if self._handle is None:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                self._handle = DeltaTable.create(
                    self.root,
                    lake_schema(self._table),
                    mode="ignore",
                    partition_by=["date"],
                    name=self._table.name,
                    configuration=_CONFIGURATION,
                )
                self._flush_log(0)
                flush([self.root, *(folder for folder in self.root.parents if folder.is_relative_to(self._lake))])
            except (DeltaError, OSError) as error:
                raise disk_error(error, self._table.name, self.root) from error
        return self._handle

    def _flush(self, files: Sequence[DataFile]) -> None:
        paths = [self.root / file.path for file in files]
        flush([*paths, *{folder for path in paths for folder in path.parents if folder.is_relative_to(self.root)}])

    def _flush_log(self, version: int) -> None:
        log = self.root / "_delta_log"
        flush([log / f"{version:020}.json", log])

    def _write(
        self, handle: DeltaTable, actions: list[AddAction | RemoveAction], properties: CommitProperties, *, durable: bool
    ) -> None:
        handle.create_write_transaction(
            actions,
            mode="append",
            schema=lake_schema(self._table),
            partition_by=["date"],
            commit_properties=properties,
            post_commithook_properties=_NO_HOOKS,
        )
        handle.update_incremental()
        if durable:
            self._flush_log(int(handle.version()))
        self._since_checkpoint += 1
        if self._since_checkpoint >= CHECKPOINT_EVERY:
            self.checkpoint()

    def _second_writer(self) -> FatalError:
        return FatalError(f"another process commits to {self._table.name} at {self.root}; stop it, a house has one writer")

    def _classified(self, error: BaseException) -> FatalError | TransientError:
        text = str(error)
        if "oncurrent transaction" in text:
            return self._second_writer()
        if isinstance(error, OSError) or any(
            word in text for word in ("No space left", "File too large", "ermission denied", "Read-only")
        ):
            return disk_error(error, f"the log of {self._table.name}", self.root)
        return TransientError(f"commit to {self._table.name} at {self.root} failed: {text}")

    def _tail(self) -> int:
        """Log entries since the last checkpoint, so that many short runs do not grow the log's tail."""
        if self._handle is None:
            return 0
        marker = self.root / "_delta_log" / "_last_checkpoint"
        try:
            return int(self._handle.version()) - int(json.loads(marker.read_text("utf-8"))["version"])
        except (OSError, ValueError, KeyError):
            return int(self._handle.version())


def flush(paths: Iterable[Path]) -> None:
    """Have the disk keep files and folders as they are now."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def listed_files(handle: DeltaTable | None) -> list[DataFile]:
    """Return the files that a state of a table consists of, with what the log says of each."""
    if handle is None:
        return []
    actions = pa.table(handle.get_add_actions(flatten=True))
    names = actions.column_names
    return [
        DataFile(
            path=row["path"],
            day=row["partition.date"],
            size_bytes=row["size_bytes"],
            rows=row["num_records"],
            smallest={name[4:]: row[name] for name in names if name.startswith("min.") and row[name] is not None},
            largest={name[4:]: row[name] for name in names if name.startswith("max.") and row[name] is not None},
            nulls={name[11:]: row[name] for name in names if name.startswith("null_count.") and row[name] is not None},
        )
        for row in actions.to_pylist()
    ]


def _application_ids(partition: int) -> tuple[str, str]:
    return f"tickhouse:{partition}:offset", f"tickhouse:{partition}:clock"


def _added(file: DataFile, *, data_change: bool) -> AddAction:
    stats = {
        "numRecords": file.rows,
        "minValues": {name: _spelled(value, up=False) for name, value in file.smallest.items()},
        "maxValues": {name: _spelled(value, up=True) for name, value in file.largest.items()},
        "nullCount": file.nulls,
    }
    return AddAction(
        file.path, file.size_bytes, {"date": file.day.isoformat()}, time.time_ns() // 1_000_000, data_change, json.dumps(stats)
    )


def _spelled(value: Any, *, up: bool) -> Any:
    return stamp(value, up=up) if hasattr(value, "astimezone") else value
