"""A Kafka topic as the journal of a house: many partitions, written by one ingest, read by engines on any machine.

What was received is in the topic; the house's folder keeps the rules, the newest snapshot of each partition, and which topic it
is, so that another one, or one that lost messages, is not taken for it.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import structlog

from tickhouse.errors import ConfigError, LogCorruptError, SchemaMismatchError
from tickhouse.journal.kafka.appender import KafkaAppender
from tickhouse.journal.kafka.reader import KafkaReader, must_be_kept, other_messages
from tickhouse.journal.kafka.topic import KafkaTopic, TopicIdentity, another_topic
from tickhouse.journal.sqlite_file import connect_read_only, journal_file, transaction, translated
from tickhouse.model import NO_TIME, Feeds, Position
from tickhouse.rules import Rules
from tickhouse.settings import KafkaSettings

__all__ = ["KafkaJournal"]

_KIND = "kafka"
_VERSION = "2"
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE checkpoints (
    partition INTEGER PRIMARY KEY, offset INTEGER NOT NULL, clock INTEGER NOT NULL, snapshot BLOB NOT NULL
);
"""

_log = structlog.get_logger(__name__)


class KafkaJournal:
    """A topic with the state of a house beside it; use `create_or_open`, or `follow`."""

    def __init__(self, topic: KafkaTopic, file: Path, connection: sqlite3.Connection, *, read_only: bool = False) -> None:
        self.topic = topic
        self.partitions = topic.partitions
        self.file = file
        self._connection = connection
        self._read_only = read_only
        self._lock = threading.Lock()

    @classmethod
    def create_or_open(
        cls, path: Path, settings: KafkaSettings, rules: Rules | None, give_up: threading.Event | None = None
    ) -> KafkaJournal:
        """Return the journal of a house; its topic is made where it is missing, and waited for while no broker answers.

        Args:
            path: The house's folder, or the file in it that keeps its state (`*.db`).
            settings: Which topic, where.
            rules: Those asked for; None = the topic's, or those that the house has, or the defaults.
            give_up: Set = stop waiting for a broker.

        Raises:
            ConfigError: the house, or the topic, was made with other rules.
            SchemaMismatchError: the house belongs to another topic.
            LogCorruptError: the file is damaged.
        """
        topic = KafkaTopic.open(settings, give_up)
        file = journal_file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with translated(file):
            connection = sqlite3.connect(file, timeout=30, isolation_level=None, check_same_thread=False)
        journal = cls(topic, file, connection)
        try:
            with translated(file):
                journal._begin(rules)
        except BaseException:
            journal.close()
            raise
        return journal

    @classmethod
    def follow(cls, file: Path, settings: KafkaSettings, give_up: threading.Event | None = None) -> KafkaJournal:
        """Return the journal of a house that another process writes: neither its state nor its topic is changed.

        Args:
            file: Keeps the state.
            settings: Where the topic is.
            give_up: Set = stop waiting for a broker; set from the first = never wait.

        Raises:
            NotConnectedError: there is no broker, or no topic.
            SchemaMismatchError: the house belongs to another topic.
            LogCorruptError: the file is damaged.
        """
        topic = KafkaTopic.open(settings, give_up, make=False)
        try:
            with translated(file):
                journal = cls(topic, file, connect_read_only(file), read_only=True)
                journal._check_same(None)
        except BaseException:
            topic.close()
            raise
        return journal

    def rules(self) -> Rules:
        """Return the rules the house was made with."""
        return Rules.from_json(self._meta()["rules"].encode())

    def reader(self, partition: int, start: int, feeds: Feeds) -> KafkaReader:
        """Return a reader from offset `start` on, interning into `feeds`.

        Raises:
            LogCorruptError: messages from `start` on are gone; the loss is named.
        """
        stored = self.checkpoint(partition)
        clock = NO_TIME if start == self._begun(partition) else None
        if stored is not None and stored[0].offset == start:
            clock = stored[0].clock
        gathers = not self._read_only  # tables are committed once a second; who follows is live
        return self.topic.reader(partition, start, feeds, clock=clock, makes_beats=self.makes_beats(), gathers=gathers)

    def appender(self, holder: str) -> KafkaAppender:
        """Return the writer of the topic.

        Args:
            holder: Names who writes: the same name goes on at once where it was killed, another one is refused.
        """
        return KafkaAppender(self.topic, self.rules(), holder)

    def beginning(self, partition: int) -> Position:
        """Return where the house begins to read a partition without a snapshot: where the topic began when it was made.

        Raises:
            LogCorruptError: what the state would be made of is gone; the loss is named.
        """
        begin, low = self._begun(partition), self.topic.ends(partition).low
        if low > begin:
            raise LogCorruptError(
                f"the state of partition {partition} is to be made anew, but retention has deleted {low - begin:,} messages of "
                f"{self.topic.settings.topic} that {self.file.parent} needs for it, {begin} to {low - 1}: "
                "restore the snapshot from a backup, or begin a new house"
            )
        return Position(begin)

    def checkpoint(self, partition: int) -> tuple[Position, bytes] | None:
        """Return the newest stored snapshot of a partition and where it was taken."""
        with self._lock, translated(self.file):
            row = self._connection.execute(
                "SELECT offset, clock, snapshot FROM checkpoints WHERE partition = ?", (partition,)
            ).fetchone()
        return None if row is None else (Position(row[0], row[1]), bytes(row[2]))

    def store_checkpoint(self, partition: int, position: Position, snapshot: bytes) -> None:
        """Keep a snapshot, durably, in place of the one before."""
        with self._lock, translated(self.file):
            self._connection.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?)", (partition, *position, snapshot))

    def must_hold(self, partition: int, reached: Position) -> None:
        """See that what tables were made of is still in the topic, up to where they have come.

        Brokers that came back without their newest messages are written on: tables would take what comes in their place for
        what they have. Heartbeats tell: one that was written since is later than any that was read. (A topic of another
        program has none: only its end is looked at.)

        Raises:
            LogCorruptError: it is not; the loss is named.
        """
        if reached.offset <= max(self._begun(partition), self.topic.ends(partition).low):
            return  # what retention has deleted since is missed by who reads on from there
        must_be_kept(self.topic, partition, reached.offset)
        if not self.makes_beats() and self.topic.last_clock(partition, reached.offset) > reached.clock:
            raise other_messages(self.topic, partition, reached.offset)

    def last_clock(self) -> int:
        """Return the last heartbeat in the topic, NO_TIME where there is none."""
        return max(self.topic.last_clock(partition) for partition in range(self.partitions))

    def check(self) -> str:
        """Return a line that says the topic is usable."""
        ends = [self.topic.ends(partition) for partition in range(self.partitions)]
        kept = sum(end.high - end.low for end in ends)
        settings = self.topic.settings
        return f"Kafka topic {settings.topic} at {settings.servers}: {self.partitions} partitions, {kept:,} messages"

    def close(self) -> None:
        """Release the file and the connections."""
        with self._lock:
            self._connection.close()
        self.topic.close()

    def _begin(self, rules: Rules | None) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL").fetchall()
        self._connection.execute("PRAGMA synchronous = FULL")
        begun = self.topic.rules()
        if begun is not None and rules is not None and begun != rules:
            raise ConfigError(
                f"topic {self.topic.settings.topic} was begun with other rules than those asked for: a topic keeps its rules; "
                "leave [rules] out, or use another topic"
            )
        if self._is_empty():
            self._create(begun or rules or Rules())
        self._check_same(begun or rules)

    def _is_empty(self) -> bool:
        return not self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]

    def _create(self, rules: Rules) -> None:
        """Make the tables, unless another process does just now: `work` and the one who fills the topic may begin together."""
        meta = {"kind": _KIND, "version": _VERSION, "rules": rules.to_json().decode()}
        meta |= {name: str(value) for name, value in self.topic.identity._asdict().items()}
        lows = [self.topic.ends(partition).low for partition in range(self.partitions)]
        meta["begins"] = " ".join(map(str, lows))
        if any(lows):
            hint = "retention has deleted what came before; this house begins here"
            _log.warning("kafka_topic_begins_late", topic=self.topic.settings.topic, first_offsets=lows, hint=hint)
        with transaction(self._connection):
            if not self._is_empty():
                return
            for statement in _TABLES.strip().split(";\n"):
                self._connection.execute(statement)
            self._connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())

    def _check_same(self, rules: Rules | None) -> None:
        meta = self._meta()
        if meta.get("kind") != _KIND or meta.get("version") != _VERSION:
            raise SchemaMismatchError(f"{self.file} is no Kafka journal's state of version {_VERSION}: name another house")
        stored = TopicIdentity(meta["cluster"], meta["topic"], meta["topic_id"], int(meta["partitions"]))
        if stored != self.topic.identity:
            raise SchemaMismatchError(_other_topic(self.file.parent, stored, self.topic.identity))
        if rules is not None and rules != self.rules():
            raise ConfigError(f"the house of {self.file} was made with other rules: a house keeps its rules: use a new house")

    def _meta(self) -> dict[str, str]:
        with self._lock, translated(self.file):
            return dict(self._connection.execute("SELECT key, value FROM meta"))

    def makes_beats(self) -> bool | None:
        """Return whether heartbeats are made from record times: found out once the topic has messages, and kept."""
        known = self._meta().get("makes_beats")
        if known is not None:
            return known == "yes"
        found = self.topic.makes_beats()
        if found is not None and not self._read_only:
            with self._lock, translated(self.file):
                self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('makes_beats', ?)", ("yes" if found else "no",))
        return found

    def _begun(self, partition: int) -> int:
        """Return where the topic began when the house was made."""
        return int(self._meta()["begins"].split()[partition])


def _other_topic(house: Path, stored: TopicIdentity, found: TopicIdentity) -> str:
    if stored.topic != found.topic:
        return f"{house} belongs to topic {stored.topic}, not {found.topic}: set [kafka] topic, or name another house"
    if stored.cluster != found.cluster:
        return (
            f"{house} belongs to topic {stored.topic} of another Kafka cluster ({stored.cluster}, not {found.cluster}): "
            "name another house"
        )
    return another_topic(f"{house} read it", stored, found)
