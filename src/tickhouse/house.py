"""The composition root: puts journal, pipeline, sinks and engine of one house together. The only module that knows them all.

A house is a folder: `house.json` (what it is), `journal.db` (what was received, snapshots), `lake/` (the tables). One process
writes it, any number read it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import polars as pl
import pyarrow as pa
import structlog

from tickhouse.columns import EMPTY_BEATS, empty_trades
from tickhouse.engines.embedded import EmbeddedEngine, Listener
from tickhouse.errors import ConfigError, HouseLockedError, LogCorruptError, SchemaMismatchError, TickhouseError
from tickhouse.history import LakeHistories, LakeHistory
from tickhouse.journal.base import Journal
from tickhouse.journal.followed import FollowedRecording
from tickhouse.journal.recording import Recording
from tickhouse.journal.sqlite import SqliteAppender, SqliteJournal
from tickhouse.journal.sqlite_file import connect_read_only, translated
from tickhouse.model import Batch, Position
from tickhouse.pipeline import Counts, Pipeline
from tickhouse.plugins import SOURCES, build, names
from tickhouse.rules import Rules, parse_duration
from tickhouse.settings import HouseRules, KafkaSettings, Settings, find_file, load
from tickhouse.sinks.base import Sink
from tickhouse.sinks.lake import Lake, LakeTables
from tickhouse.sources.files.opener import Opener
from tickhouse.symbols import normalise
from tickhouse.tables import TABLES

if TYPE_CHECKING:  # loaded by what uses it: DuckDB, Kafka's client and the live side hold up no replay
    from tickhouse.follower import Followed, Follower
    from tickhouse.journal.kafka.appender import KafkaAppender
    from tickhouse.journal.kafka.journal import KafkaJournal
    from tickhouse.quality.verify import Report
    from tickhouse.serving.hub import Hub
    from tickhouse.serving.queries import Queries
    from tickhouse.serving.rows import Record

__all__ = ["House", "JournalKind", "Work", "house_rules", "open_house", "stored_rules"]

_log = structlog.get_logger(__name__)

_VERSION = 1
_TABLES_LOCK, _JOURNAL_LOCK = "lock", "ingest.lock"
_OTHERWISE = "stop that one, or use another --house (reading is always possible)"
_DYING_S = 5.0
"""How long a killed run's receiving process may take to end: it still flushes what it had received."""
JournalKind = Literal["sqlite", "recording", "kafka"]


class Work(NamedTuple):
    """A house opened for writing, ready to run."""

    engine: EmbeddedEngine
    pipelines: list[Pipeline]
    """One a partition."""
    journal: Journal
    starts: list[Position]
    """Where each pipeline's snapshot was taken."""
    sinks: list[Sink]

    @property
    def counts(self) -> Counts:
        """The balance since the house began."""
        return Counts.total(pipeline.counts for pipeline in self.pipelines)

    def close(self) -> None:
        """Release the sinks."""
        for sink in self.sinks:
            sink.close()


class House:
    """One house: reading it, and, by `writing`, the one process that writes it.

    Args:
        path: Its folder.
        kafka: Where its topic is followed, if it has one; None = as `tickhouse.toml` and the environment say.
    """

    def __init__(self, path: Path, kafka: KafkaSettings | None = None) -> None:
        self.path = path
        self._kafka = kafka
        self.lake_path = path / "lake"
        self.journal_path = path / "journal.db"

    @property
    def kind(self) -> JournalKind | None:
        """Which kind of journal the house has; None where there is no house yet.

        Raises:
            SchemaMismatchError: the house was written by a newer version, or `house.json` is damaged.
        """
        file = self.path / "house.json"
        if not file.exists():
            return None
        try:
            about = json.loads(file.read_text("utf-8"))
            version, kind = int(about["version"]), about["journal"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SchemaMismatchError(
                f"{file} is damaged ({error}); restore it, it holds only version and kind of journal"
            ) from error
        if version > _VERSION:
            raise SchemaMismatchError(
                f"{self.path} was written by a newer Tickhouse (format {version}, this one knows {_VERSION}); upgrade Tickhouse"
            )
        if kind not in get_args(JournalKind):
            raise SchemaMismatchError(f"{file} names an unknown journal {kind!r}")
        return kind  # type: ignore[no-any-return]  # checked just above; JSON has no types

    def identity(self) -> str:
        """Return the id that no other house has, given at the first call; hold the house for writing."""
        file = self.path / "house.json"
        about = json.loads(file.read_text("utf-8"))
        if "id" not in about:
            about["id"] = uuid.uuid4().hex
            _put(file, about)
        return str(about["id"])

    def is_written(self) -> bool:
        """Say whether a process that receives into the house, or makes its tables, can be seen from here."""
        return any(_is_alive(self.path / name) for name in (_JOURNAL_LOCK, _TABLES_LOCK))

    def must_exist(self) -> None:
        """Check that there is a house to read.

        Raises:
            ConfigError: there is none; the text says how to make one.
        """
        if self.kind is None:
            raise ConfigError(
                f"no house at {self.path}; make one with `tickhouse run` or `tickhouse replay FILES` (--house DIR)"
            )

    # Reading: each of these takes as_of and then sees what was known at that instant (rule R13).

    @cached_property
    def queries(self) -> Queries:
        """What answers questions about the tables."""
        from tickhouse.serving.queries import Queries

        return Queries(self.lake_path)

    def bars(self, symbol: str, interval: str = "1m", **options: Any) -> pl.DataFrame:
        """Return bars of a symbol; see `Queries.bars` for start, end, as_of, venue, revisions."""
        return self.queries.bars(symbol, interval, **options)

    def trades(self, symbol: str, **options: Any) -> pl.DataFrame:
        """Return accepted trades of a symbol; see `Queries.trades`."""
        return self.queries.trades(symbol, **options)

    def indicators(self, symbol: str, interval: str = "1m", **options: Any) -> pl.DataFrame:
        """Return indicator values of a symbol in long form; see `Queries.indicators`."""
        return self.queries.indicators(symbol, interval, **options)

    def anomalies(self, symbol: str | None = None, **options: Any) -> pl.DataFrame:
        """Return flagged trades; see `Queries.anomalies`."""
        return self.queries.anomalies(symbol, **options)

    def gaps(self, symbol: str | None = None, **options: Any) -> pl.DataFrame:
        """Return gaps in trade ids; see `Queries.gaps`."""
        return self.queries.gaps(symbol, **options)

    def sql(self, query: str, **options: Any) -> pl.DataFrame:
        """Run a read-only query over tables named `bronze.trades`, `silver.trades`, `gold.bars`, ..."""
        return self.queries.sql(query, **options)

    def verify(self, progress: Callable[[float, float], None] | None = None, day: date | None = None) -> Report:
        """Recompute silver and gold from bronze and compare; see `quality.verify.verify`.

        Args:
            progress: Called with (trades done, trades in all), now and then.
            day: Only the rows of this UTC day.
        """
        from tickhouse.quality.verify import verify

        self.must_exist()
        store = _Stored(self)
        if progress is None:
            return verify(store, day=day)
        total = store.trades()
        return verify(store, day=day, progress=lambda done: progress(done, total))

    # Writing.

    @contextmanager
    def writing(self, kind: JournalKind) -> Iterator[None]:
        """Hold the house's tables for writing, making the house where it is new.

        Raises:
            HouseLockedError: another process writes them.
            ConfigError: the house has the other kind of journal.
        """
        told = f"{self.path} is being written by process {{holder}}; {_OTHERWISE}"
        with self._held(_TABLES_LOCK, told, wait_s=0.0):
            self._claim(kind)
            yield

    @contextmanager
    def appending(self, kind: JournalKind) -> Iterator[None]:
        """Hold the house's journal for appending, making the house where it is new.

        Raises:
            HouseLockedError: another process appends to it.
            ConfigError: the house has the other kind of journal.
        """
        told = (
            f"process {{holder}} receives into {self.path}; stop that one, or use another --house (reading is always possible)"
        )
        with self._held(_JOURNAL_LOCK, told, wait_s=_DYING_S):
            self._claim(kind)
            yield

    @contextmanager
    def _held(self, name: str, told: str, *, wait_s: float) -> Iterator[None]:
        """Hold a lock file of the house; `told` is raised where another process has it, `{holder}` being its id."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / name).open("a+")
        except OSError as error:
            raise ConfigError(f"cannot write the house {self.path}: {error.strerror}") from error
        with lock:
            until = time.monotonic() + wait_s
            while not _locked(lock):
                if time.monotonic() >= until:
                    lock.seek(0)
                    raise HouseLockedError(told.format(holder=lock.read().strip() or "unknown"))
                time.sleep(0.05)
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            try:
                yield
            finally:
                lock.truncate(0)

    def _claim(self, kind: JournalKind) -> None:
        told = f"{self.path} is being made by process {{holder}}; try again"
        with self._held("claim.lock", told, wait_s=_DYING_S):
            self._make_or_check(kind)

    def _make_or_check(self, kind: JournalKind) -> None:
        have = self.kind
        if have is None:
            if self.journal_path.exists():
                raise SchemaMismatchError(
                    f"{self.path} has a journal but no house.json; restore that file, or use a new --house"
                )
            _put(self.path / "house.json", {"version": _VERSION, "journal": kind})
        elif have != kind:
            hint = (
                "`tickhouse replay FILES` adds recordings to it; for a live house use another --house"
                if have == "recording"
                else "its topic is that of [kafka]; leave --journal out, or use another --house"
                if have == "kafka"
                else "it is a live house; for recordings use another --house, or `tickhouse replay --to sqlite` "
                "to send them through its journal"
            )
            raise ConfigError(f"{self.path} has a {have} journal: {hint}")
        elif self.stored_rules() is None and any(self.lake_path.glob("*/*/_delta_log")):
            raise SchemaMismatchError(
                f"{self.path} has tables, but its journal.db is missing or empty; restore that file, or use a new --house"
            )

    def sqlite(self, rules: Rules, settings: Settings) -> SqliteJournal:
        """Return the live journal of this house; hold it for writing first."""
        return SqliteJournal.create_or_open(self.journal_path, rules, sync=settings.journal.sync)

    def live_kind(self, settings: Settings) -> JournalKind:
        """Return which journal a live run of this house uses: its own, or that of the settings where it is new."""
        return "kafka" if self.kind == "kafka" else settings.journal.kind

    def live(self, settings: Settings, give_up: threading.Event | None = None) -> SqliteJournal | KafkaJournal:
        """Return the live journal of this house; hold it for writing or appending first.

        Args:
            settings: All of them.
            give_up: Set = stop waiting for a broker.
        """
        if self.live_kind(settings) == "sqlite":
            return self.sqlite(house_rules(self, settings), settings)
        from tickhouse.journal.kafka.journal import KafkaJournal

        asked = settings.rules.rules() if settings.rules != HouseRules() else None
        return self._whole(KafkaJournal.create_or_open(self.journal_path, settings.kafka, asked, give_up))

    def _whole(self, journal: KafkaJournal) -> KafkaJournal:
        """Return a journal, having seen that its topic still has what the tables were made of."""
        try:
            lake = LakeTables(self.lake_path)
            for partition in range(journal.partitions):
                journal.must_hold(partition, max(lake.position(name, partition) for name in TABLES))
        except BaseException:
            journal.close()
            raise
        return journal

    def appender(self, journal: SqliteJournal | KafkaJournal) -> SqliteAppender | KafkaAppender:
        """Return the one writer of this house's live journal; hold the house for appending first."""
        if not isinstance(journal, SqliteJournal):
            return journal.appender(self._holder())
        highest = self.highest_offset()
        if highest > journal.next_offset():
            # A power cut or a torn file: `verify` will name the rows that rest on records which are gone.
            _log.warning("journal_behind_tables", journal=journal.next_offset(), tables=highest)
        return journal.appender(at_least=highest)

    def _holder(self) -> str:
        """Return the name under which this house writes to Kafka: another house, or another host, has another."""
        return f"{platform.node()}-{hashlib.sha256(str(self.path.absolute()).encode()).hexdigest()[:8]}"

    def recording(self, rules: Rules, *, beside: bool = False) -> Recording:
        """Return the recording journal of this house; hold it for writing first.

        Args:
            rules: Of a new one.
            beside: The house's journal is another one: the recording is only read, to be sent through that.
        """
        sources = (build(SOURCES, name, {}) for name in names(SOURCES))
        return Recording.create_or_open(self.path / "replayed" if beside else self.path, rules, Opener(sources))

    def lake(self, *, durable: bool = False) -> Lake:
        """Return the lake as a sink; hold the house for writing first.

        Args:
            durable: Its commits survive a power cut, as `journal.sync = "full"` says.
        """
        return Lake(self.lake_path, durable=durable)

    def load_code(self, rules: Rules) -> None:
        """Load the compiled code that pipelines call; in a thread of its own, while something else is waited for."""
        with suppress(TickhouseError):  # the run meets it again
            pipeline = Pipeline(0, rules, LakeHistory(LakeTables(self.lake_path), 0))
            pipeline.feed(Batch(0, empty_trades(), EMPTY_BEATS))

    def work(
        self, journal: Journal, rules: Rules, settings: Settings, listener: Listener | None = None, *, pace_s: float = 0.0
    ) -> Work:
        """Return the engine over a journal of this house, where the last run left off; see `EmbeddedEngine`."""
        lake = self.lake(durable=settings.journal.sync == "full")
        histories = LakeHistories(self.lake_path, journal.partitions)
        pipelines, starts = [], []
        for partition, history in enumerate(histories.of):
            stored = journal.checkpoint(partition)
            if stored is not None and min(lake.positions(partition).values()).offset < stored[0].offset:
                # A table lost what it had: it is filled again from the journal's beginning on, the others skip what they have.
                stored = None
            start, state = stored or (journal.beginning(partition), None)
            pipelines.append(Pipeline(partition, rules, history, state))
            starts.append(start)
        sinks: list[Sink] = [lake]
        if settings.kafka.publish:
            from tickhouse.journal.kafka.publisher import KafkaPublisher

            sinks.append(KafkaPublisher(settings.kafka, journal.partitions, self._holder(), starts))
        engine = EmbeddedEngine(
            journal,
            pipelines,
            histories,
            sinks,
            commit_every_s=parse_duration(settings.engine.commit_every) / 1e6,
            snapshot_every_s=parse_duration(settings.engine.snapshot_every) / 1e6,
            listener=listener,
            pace_s=pace_s,
        )
        return Work(engine, pipelines, journal, starts, sinks)

    # Following: reading what another process writes, as it writes it.

    def stream(
        self,
        symbol: str | None = None,
        interval: str | None = "1m",
        *,
        venue: str | None = None,
        channel: str = "bars",
        indicators: bool = False,
        since: int | None = None,
    ) -> AsyncGenerator[Record, None]:
        """Yield rows as the house makes them: open bars in their newest state, final bars and revisions each once.

        Args:
            symbol: In any spelling; None = all.
            interval: Of bars and indicators; None = all.
            venue: Only this one.
            channel: `bars`, `trades`, `indicators`, `anomalies`, `events` or `feeds`.
            indicators: With bars: a column for each output.
            since: UTC microseconds: first everything stored from then on, each row once.

        Raises:
            ConfigError: the symbol or the channel means nothing.

        Example:
            >>> async for bar in house.stream("BTC-USDT", "1m"):  # doctest: +SKIP
            ...     print(bar["close"], bar["final"])
        """
        from tickhouse.follower import follow_rows
        from tickhouse.serving.ring import Wanted

        where, canonical = (venue, None) if symbol is None else normalise(symbol, venue)
        of_any = symbol is None or (venue is None and ":" not in symbol)
        per_interval = interval if channel in ("bars", "indicators") else None
        wanted = Wanted(channel, canonical, (venue or None) if of_any else where, per_interval, indicators, since)
        return follow_rows(self.follower, wanted)

    def follower(self, hub: Hub) -> Follower:
        """Return what follows this house into a hub; the house need not exist yet."""
        from tickhouse.follower import Follower

        return Follower(self._followed, self._journal_identity, hub)

    def _journal_identity(self) -> tuple[int, int] | None:
        try:
            stat = self.journal_path.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    def _followed(self) -> Followed | None:
        from tickhouse.follower import Followed

        kind, identity, rules = self.kind, self._journal_identity(), self.stored_rules()
        if kind is None or identity is None or rules is None:
            return None
        journal: Journal
        if kind == "kafka":
            from tickhouse.journal.kafka.journal import KafkaJournal

            if self._kafka is None:
                self._kafka = load(find_file(None))[0].kafka
            never_wait = threading.Event()
            never_wait.set()
            journal = self._whole(KafkaJournal.follow(self.journal_path, self._kafka, never_wait))
        elif kind == "sqlite":
            journal = SqliteJournal.open(self.journal_path, read_only=True)
        else:
            sources = [build(SOURCES, name, {}) for name in names(SOURCES)]
            recording = Recording.create_or_open(self.path, None, Opener(sources), read_only=True)
            journal = FollowedRecording(recording, self._reached)
        return Followed(journal, rules, self.lake_path, identity)

    def _reached(self) -> int:
        """Return the offset that the tables have reached."""
        lake = LakeTables(self.lake_path)
        return max(lake.position(name).offset for name in ("bronze.trades", "bronze.rejected", "bronze.events"))

    def stored_rules(self) -> Rules | None:
        """Return the rules the house was made with; None where there is no house yet."""
        kind = self.kind
        if kind is None or not self.journal_path.exists():
            return None
        return stored_rules(self.journal_path)

    def highest_offset(self) -> int:
        """Return the largest offset that some table has reached; a journal must never use one below it again."""
        lake = LakeTables(self.lake_path)
        return max(lake.position(name).offset for name in TABLES)

    def partitions(self) -> int:
        """Return the number of partitions of the house's journal; it never changes."""
        if self.kind != "kafka" or not self.journal_path.exists():
            return 1
        row = _peek(self.journal_path, "SELECT value FROM meta WHERE key = 'partitions'")
        return int(row[0]) if row else 1

    def snapshot_offset(self, partition: int = 0) -> int:
        """Return where a partition's newest stored snapshot was taken: every table had reached it; 0 where there is none."""
        if not self.journal_path.exists():
            return 0
        one = f" WHERE partition = {partition:d}" if self.kind != "sqlite" else ""
        row = _peek(self.journal_path, f"SELECT max(offset) FROM checkpoints{one}")
        return int(row[0] or 0) if row else 0


def house_rules(house: House, settings: Settings) -> Rules:
    """Return the rules to run with: those asked for, else those the house has, else the defaults."""
    if settings.rules != HouseRules():
        return settings.rules.rules()
    return house.stored_rules() or Rules()


def stored_rules(journal: Path) -> Rules | None:
    """Read the rules that a journal file holds, None from one not begun; both kinds keep them alike.

    Raises:
        LogCorruptError: the file is damaged.
    """
    row = _peek(journal, "SELECT value FROM meta WHERE key = 'rules'")
    return Rules.from_json(row[0] if isinstance(row[0], bytes) else row[0].encode()) if row else None


def _put(file: Path, about: dict[str, Any]) -> None:
    """Write `house.json`, whole or not at all."""
    draft = file.with_name(f"{file.name}.new")
    draft.write_text(json.dumps(about) + "\n", "utf-8")
    draft.replace(file)


def _is_alive(lock: Path) -> bool:
    """Say whether the process that last held a lock is there; asking for the lock itself could make a writer fail."""
    try:
        holder = int(lock.read_text().strip() or 0)
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


def _peek(journal: Path, query: str) -> tuple[Any, ...] | None:
    """Return the first row of a query; None from a journal without tables, as a kill at its first instant leaves it."""
    with translated(journal), closing(connect_read_only(journal)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            return None
        row: tuple[Any, ...] | None = connection.execute(query).fetchone()
        return row


class _Stored:
    """What `verify` reads of a house: its tables, each up to the smallest of all their positions."""

    def __init__(self, house: House) -> None:
        self._house = house
        # Before the tables are looked at: a writer moves them first.
        self._snapshots = [house.snapshot_offset(partition) for partition in range(house.partitions())]
        self._lake = LakeTables(house.lake_path)

    def rules(self) -> Rules:
        """Return the rules that the house was made with."""
        rules = self._house.stored_rules()
        if rules is None:
            raise SchemaMismatchError(f"{self._house.journal_path} holds no rules; nothing can be recomputed without them")
        return rules

    def partitions(self) -> int:
        """Return the number of partitions."""
        return len(self._snapshots)

    def position(self, partition: int) -> Position:
        """Return the smallest position over the tables.

        Raises:
            LogCorruptError: a table has lost rows that it had.
        """
        position, name = min((self._lake.position(name, partition), name) for name in TABLES)
        snapshot = self._snapshots[partition]
        if position.offset < snapshot:
            raise LogCorruptError(
                f"{name} reaches record {position.offset} only, though it had reached {snapshot}: rows were lost; "
                "the next `tickhouse run` or `replay` fills it again from the journal, or restore the lake from a backup"
            )
        return position

    def read(self, table: str, partition: int, below: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of a partition whose offset is below the given one."""
        return self._lake.table(table, columns=columns, below={partition: below})

    def trades(self) -> int:
        """Return the rows of bronze.trades."""
        return self._house.queries.row_counts()["bronze.trades"]


def open_house(path: str | Path = "house") -> House:
    """Open a house for reading.

    Args:
        path: Its folder.

    Raises:
        ConfigError: there is no house.

    Example:
        >>> house = open_house("house")  # doctest: +SKIP
        >>> house.bars("BTC-USDT", "1m")  # doctest: +SKIP
    """
    house = House(Path(path))
    house.must_exist()
    return house
