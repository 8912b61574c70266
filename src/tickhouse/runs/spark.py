"""`tickhouse spark`: topic -> Spark -> lake, until it is stopped, or until everything that was there is worked off."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tickhouse.engines.embedded import commit_with_retries
from tickhouse.engines.job import Job
from tickhouse.engines.ranges import RangeResult
from tickhouse.engines.spark import SparkEngine
from tickhouse.errors import ConfigError, SchemaMismatchError
from tickhouse.house import House
from tickhouse.house.journals import open_live
from tickhouse.journal.kafka.client import TopicIdentity
from tickhouse.journal.kafka.journal import KafkaJournal
from tickhouse.live import Board
from tickhouse.model import Position
from tickhouse.pipeline import Counts
from tickhouse.settings import Settings
from tickhouse.sinks.lake import Lake

__all__ = ["SparkRun", "spark_job"]

_MARK = "tickhouse.json"


class _Mark(msgspec.Struct, frozen=True):
    """Stands in a checkpoint: what it belongs to, and where it began."""

    house: str
    topic: TopicIdentity
    rules: str
    begin: tuple[int, ...]


class SparkRun:
    """Works off a house's topic on Spark; a context manager that ends the query, in good order.

    Args:
        house: Whose topic and lake.
        settings: All of them.
        give_up: Set = stop waiting for a broker.
        from_beginning: Forget the checkpoint and make the state anew from the topic; tables keep what they have.
    """

    def __init__(
        self, house: House, settings: Settings, give_up: threading.Event | None = None, *, from_beginning: bool = False
    ) -> None:
        if house.kind not in (None, "kafka"):
            raise ConfigError(
                f"{house.path} has a {house.kind} journal, and Spark reads topics: fill one with `tickhouse ingest --journal "
                "kafka` or `tickhouse replay FILES --to kafka`, with a new --house"
            )
        self._house = house
        kafka = {"journal": settings.journal.model_copy(update={"kind": "kafka"})}
        self._settings = settings.model_copy(update=kafka)
        self._give_up = give_up
        self._from_beginning = from_beginning
        self.headline = f"topic {settings.kafka.topic} -> Spark at {settings.spark.master} -> {house.lake_path}"
        self.board = Board()
        self._stack = ExitStack()
        self._engine: SparkEngine | None = None
        self._lake: Lake | None = None
        self._journal: KafkaJournal | None = None
        self._reached: dict[int, Position] = {}
        self._counts: dict[int, Counts] = {}
        self._started = 0.0
        self.seconds = 0.0
        """From asking Spark to start to the last commit."""

    @property
    def counts(self) -> Counts:
        """The balance since the house began, of the partitions that this run has worked on."""
        return Counts.total(list(self._counts.values()))

    @property
    def positions(self) -> list[Position]:
        """How far this run came, in each partition that it has worked on."""
        return [position for _, position in sorted(self._reached.items())]

    @property
    def running(self) -> bool:
        """False once the query has ended by itself; where an error ended it, leaving raises that."""
        return self._engine is not None and self._engine.running

    def __enter__(self) -> Self:
        with self._stack as stack:
            stack.enter_context(self._house.writing("kafka"))
            journal = open_live(self._house, self._settings, self._give_up)
            stack.callback(journal.close)
            assert isinstance(journal, KafkaJournal)
            self._journal = journal
            self._lake = lake = Lake(self._house.lake_path, durable=self._settings.journal.sync == "full")
            stack.callback(lake.close)
            folder = self._house.path.absolute() / "spark"
            if self._from_beginning:
                shutil.rmtree(folder / "checkpoint", ignore_errors=True)
            job = spark_job(self._house, self._settings, journal, folder / "checkpoint")
            self._started = time.monotonic()
            self._engine = stack.enter_context(SparkEngine(job, self._settings.spark, folder, self._commit))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    def _commit(self, results: Sequence[RangeResult]) -> None:
        """Commit a micro-batch: each table's files with the positions they reach, together."""
        assert self._lake is not None
        for result in results:
            self._lake.take(result.range.partition, result.rows)
        commit_with_retries(self._lake, everything=True)
        for result in results:
            partition, position = result.range.partition, Position(result.range.end, result.clock)
            self._reached[partition], self._counts[partition] = position, result.counts
            if result.snapshot is not None:
                self._keep(partition, position, result.snapshot)
        self.seconds = time.monotonic() - self._started

    def _keep(self, partition: int, position: Position, snapshot: bytes) -> None:
        """Keep a state that every table has reached, as `work` does: who follows the house begins there."""
        assert self._journal is not None
        stored = self._journal.checkpoint(partition)
        if stored is None or stored[0].offset < position.offset:
            self._journal.store_checkpoint(partition, position, snapshot)


def spark_job(house: House, settings: Settings, journal: KafkaJournal, checkpoint: Path) -> Job:
    """Return what the executors have to know, having seen that the checkpoint belongs to the house.

    Raises:
        SchemaMismatchError: it does not.
        LogCorruptError: there is none, and what the state would be made of is gone.
    """
    file = checkpoint / _MARK
    if file.exists():
        begin = _read(file).begin
    elif (checkpoint / "offsets").exists():
        raise SchemaMismatchError(f"{checkpoint} is no checkpoint of Tickhouse; {_ANEW}")
    else:
        begin = tuple(journal.beginning(partition).offset for partition in range(journal.partitions))
    rules = journal.rules()
    mark = _Mark(house.identity(), journal.topic.identity, rules.fingerprint(), begin)
    if file.exists():
        _must_match(_read(file), mark, checkpoint)
    else:
        checkpoint.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.encode(mark))
    return Job(
        run=uuid.uuid4().hex,
        house=mark.house,
        topic=mark.topic,
        kafka=settings.kafka.model_dump_json(),
        rules=rules,
        lake=str(house.lake_path.absolute()),
        begin=begin,
        makes_beats=journal.makes_beats(),
    )


_ANEW = "`tickhouse spark --from-beginning` forgets it and makes the state anew from the topic; the tables keep what they have"


def _read(file: Path) -> _Mark:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Mark)
    except msgspec.MsgspecError as error:
        raise SchemaMismatchError(f"{file} is damaged ({error}); {_ANEW}") from error


def _must_match(found: _Mark, wanted: _Mark, checkpoint: Path) -> None:
    if found.house != wanted.house:
        raise SchemaMismatchError(f"{checkpoint} is the checkpoint of another house; {_ANEW}")
    if found.topic != wanted.topic:
        raise SchemaMismatchError(f"{checkpoint} is the checkpoint of another topic ({found.topic.topic}); {_ANEW}")
    if found.rules != wanted.rules:
        raise SchemaMismatchError(f"{checkpoint} was made with rules {found.rules}, the house has {wanted.rules}; {_ANEW}")
