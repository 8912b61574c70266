"""Opens what a house receives into: one file, a topic, or recordings; to append, to be worked off, or to be followed.

Hold the house first (`HouseFolder.writing`, `appending`), except to follow what another process writes.
"""

from __future__ import annotations

import hashlib
import platform
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

import structlog

from tickhouse.house.folder import HouseFolder, JournalKind
from tickhouse.journal.base import Journal
from tickhouse.journal.recording import FollowedRecording, Recording
from tickhouse.journal.sqlite import SqliteAppender, SqliteJournal
from tickhouse.plugins import SOURCES, build, names
from tickhouse.rules import Rules
from tickhouse.settings import HouseRules, KafkaSettings, Settings, find_file, load
from tickhouse.sinks.lake import LakeTables
from tickhouse.sources.files.opener import Opener
from tickhouse.tables import TABLES

if TYPE_CHECKING:  # Kafka's client is loaded where there is a topic
    from tickhouse.journal.kafka.appender import KafkaAppender
    from tickhouse.journal.kafka.journal import KafkaJournal

__all__ = [
    "house_rules",
    "live_kind",
    "open_appender",
    "open_followed",
    "open_live",
    "open_recording",
    "open_sqlite",
    "producer_name",
]

_log = structlog.get_logger(__name__)

_BRONZE = ("bronze.trades", "bronze.rejected", "bronze.events")


def house_rules(house: HouseFolder, settings: Settings) -> Rules:
    """Return the rules to run with: those asked for, else those the house has, else the defaults."""
    return _asked_rules(settings) or house.stored_rules() or Rules()


def live_kind(house: HouseFolder, settings: Settings) -> JournalKind:
    """Return which journal a live run of a house uses: its own, or that of the settings where it is new."""
    return "kafka" if house.kind == "kafka" else settings.journal.kind


def open_live(house: HouseFolder, settings: Settings, give_up: threading.Event | None = None) -> SqliteJournal | KafkaJournal:
    """Return the live journal of a house.

    Args:
        house: Held for writing or appending.
        settings: All of them.
        give_up: Set = stop waiting for a broker.
    """
    if live_kind(house, settings) == "sqlite":
        return open_sqlite(house, house_rules(house, settings), settings)
    from tickhouse.journal.kafka.journal import KafkaJournal

    return _whole(house, KafkaJournal.create_or_open(house.journal_path, settings.kafka, _asked_rules(settings), give_up))


def open_sqlite(house: HouseFolder, rules: Rules, settings: Settings) -> SqliteJournal:
    """Return the journal in a file of a house, made anew with `rules` where there is none."""
    return SqliteJournal.create_or_open(house.journal_path, rules, sync=settings.journal.sync)


def open_appender(house: HouseFolder, journal: SqliteJournal | KafkaJournal) -> SqliteAppender | KafkaAppender:
    """Return the one writer of a house's live journal."""
    if not isinstance(journal, SqliteJournal):
        return journal.appender(producer_name(house))
    highest = _reached(house, TABLES)
    if highest > journal.next_offset():
        # A power cut or a torn file: `verify` will name the rows that rest on records which are gone.
        _log.warning("journal_behind_tables", journal=journal.next_offset(), tables=highest)
    return journal.appender(at_least=highest)


def producer_name(house: HouseFolder) -> str:
    """Return the name under which a house writes to Kafka: another house, or another host, has another."""
    return f"{platform.node()}-{hashlib.sha256(str(house.path.absolute()).encode()).hexdigest()[:8]}"


def open_recording(house: HouseFolder, rules: Rules, *, beside: bool = False) -> Recording:
    """Return the recordings of a house.

    Args:
        house: Held for writing or appending.
        rules: Of a new one.
        beside: The house's journal is another one: the recordings are only read, to be sent through that.
    """
    return Recording.create_or_open(house.path / "replayed" if beside else house.path, rules, _opener())


def open_followed(house: HouseFolder, kafka: KafkaSettings | None) -> Journal | None:
    """Return a house's journal as one who only reads has it, without waiting for anything; None where there is none yet.

    Args:
        house: Another process may write it.
        kafka: Where its topic is, if it has one; None = as `tickhouse.toml` and the environment say.
    """
    kind = house.kind
    if kind is None:
        return None
    if kind == "sqlite":
        return SqliteJournal.open(house.journal_path, read_only=True)
    if kind == "recording":
        recording = Recording.create_or_open(house.path, None, _opener(), read_only=True)
        return FollowedRecording(recording, lambda: _reached(house, _BRONZE))
    from tickhouse.journal.kafka.journal import KafkaJournal

    never_wait = threading.Event()
    never_wait.set()
    return _whole(house, KafkaJournal.follow(house.journal_path, kafka or load(find_file(None))[0].kafka, never_wait))


def _whole(house: HouseFolder, journal: KafkaJournal) -> KafkaJournal:
    """Return a journal, having seen that its topic still has what the tables were made of."""
    try:
        lake = LakeTables(house.lake_path)
        for partition in range(journal.partitions):
            journal.must_hold(partition, max(lake.position(name, partition) for name in TABLES))
    except BaseException:
        journal.close()
        raise
    return journal


def _asked_rules(settings: Settings) -> Rules | None:
    return settings.rules.rules() if settings.rules != HouseRules() else None


def _opener() -> Opener:
    return Opener(build(SOURCES, name, {}) for name in names(SOURCES))


def _reached(house: HouseFolder, tables: Iterable[str]) -> int:
    """Return the largest offset that one of the tables has reached; a journal must never use one below it again."""
    lake = LakeTables(house.lake_path)
    return max(lake.position(name).offset for name in tables)
