"""The Spark engine: Structured Streaming plans, distributes, restarts; the same journal, pipeline and lake do the work.

No trade crosses the JVM. A data source in Python plans ranges of the topic (`_Planner`), a stateful operator keyed by partition
works them off with the state that the last one left (`_Operator`), and the driver commits the files that come back, with the
positions they reach. A micro-batch that is run again, after whatever was killed, makes the same rows, and the tables skip what
they have. docs/scale.md tells how to size it.
"""

from __future__ import annotations

import gc
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import structlog
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition
from pyspark.sql.streaming import StatefulProcessor, StatefulProcessorHandle, StreamingQuery
from pyspark.sql.streaming.datasource import ReadAllAvailable, ReadLimit, ReadMaxRows, SupportsTriggerAvailableNow
from pyspark.sql.types import StructType

from tickhouse import errors
from tickhouse.engines.job import Job, Range
from tickhouse.engines.spark_session import spark_session
from tickhouse.errors import ConfigError, FatalError, TickhouseError, TransientError
from tickhouse.model import Position
from tickhouse.rules import parse_duration
from tickhouse.settings import SparkSettings
from tickhouse.telemetry import configure_logging

if TYPE_CHECKING:  # Spark starts processes that only plan, and import this module: they need no kernel
    from tickhouse.engines.ranges import RangeResult, State
    from tickhouse.journal.kafka.topic import KafkaTopic

__all__ = ["AVAILABLE_NOW", "SparkEngine", "partition_keys"]

AVAILABLE_NOW = "availableNow"
"""The trigger that works off what is there and ends."""

_RANGES = "key int, partition int, start long, end long, keep boolean"
_STATE = "house string, offset long, clock long, snapshot binary"
_RESULTS = "error string, told string, result binary"
_STATE_STORE = "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"
_KEEP_S = 60.0
"""How often the state of each partition is handed to the driver."""
_ROCKSDB = "spark.sql.streaming.stateStore.rocksdb"
_TOO_BUSY = "Python worker failed to connect back"
_TRIES = 5
_OUR_ERROR = re.compile(r"tickhouse\.errors\.(\w+): (.+)")
_ANY_ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt): .+$", re.MULTILINE)

_log = structlog.get_logger(__name__)

Results = Callable[[Sequence["RangeResult"]], None]
"""Called in the driver with what became of the ranges of a micro-batch; what it raises stops the query."""


class SparkEngine:
    """One streaming query over a topic; a context manager that ends it.

    Args:
        job: For which house.
        settings: Of [spark].
        folder: Where Spark keeps its checkpoint (`checkpoint/`) and its log (`spark.log`); every machine must see it.
        results: Commits a micro-batch.
    """

    def __init__(self, job: Job, settings: SparkSettings, folder: Path, results: Results) -> None:
        self._job = job
        self._settings = settings
        self._folder = folder
        self._results = results
        self._trigger = _trigger(settings.trigger)
        self._committing = threading.Lock()
        self._error: BaseException | None = None
        self._stack = ExitStack()
        self._spark: SparkSession | None = None
        self._tries = _TRIES
        self._query: StreamingQuery | None = None

    @property
    def running(self) -> bool:
        """False once the query has ended; where an error ended it, leaving raises that.

        A query that ended because a machine was too busy to start a process in Spark's ten seconds is begun again here.
        """
        return self._query is not None and (bool(self._query.isActive) or self._begun_again())

    def __enter__(self) -> Self:
        with self._stack as stack:
            try:
                self._spark = stack.enter_context(spark_session(self._settings, self._folder))
                self._query = self._started(self._spark)
            except TickhouseError:
                raise
            except Exception as error:
                raise _told(error, self._folder) from error
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End the query where it still runs.

        Raises:
            TickhouseError: what stopped it; everything committed stays, the same call goes on from there.
        """
        assert self._query is not None
        with self._stack:
            asked = bool(self._query.isActive)
            self._query.stop()
            failed = None if asked else self._query.exception()  # of a query that was stopped: what it was stopped in
            with self._committing:  # a commit under way is finished: the query's end does not interrupt it
                self._query = None
        if self._error is not None:
            raise self._error
        if failed is not None:
            raise _told(failed, self._folder)

    def _begun_again(self) -> bool:
        assert self._query is not None
        assert self._spark is not None
        failed = self._query.exception()
        if self._error is not None or failed is None or _TOO_BUSY not in str(failed) or not self._tries:
            return False
        self._tries -= 1
        _log.warning("spark_query_begun_again", reason=_TOO_BUSY, tries_left=self._tries)
        self._query = self._started(self._spark)
        return True

    def _started(self, spark: SparkSession) -> StreamingQuery:
        partitions = self._job.topic.partitions
        spark.conf.set("spark.sql.shuffle.partitions", partitions)
        spark.conf.set("spark.sql.streaming.stateStore.providerClass", _STATE_STORE)
        spark.conf.set("spark.sql.streaming.minBatchesToRetain", 5)  # each keeps a snapshot of every partition
        # A partition's state is one value that changes every time: a commit writes that value, not all files of a database.
        spark.conf.set(f"{_ROCKSDB}.changelogCheckpointing.enabled", True)
        spark.conf.set(f"{_ROCKSDB}.trackTotalNumberOfRows", False)
        spark.dataSource.register(_source(self._job, self._settings.max_records))
        ranges = spark.readStream.format("tickhouse").load()
        results = ranges.groupBy("key").transformWithState(
            statefulProcessor=_Operator(self._job), outputStructType=_RESULTS, outputMode="Append", timeMode="None"
        )
        writer = results.writeStream.foreachBatch(self._commit).trigger(**self._trigger)
        return writer.option("checkpointLocation", str(self._folder / "checkpoint")).start()

    def _commit(self, frame: DataFrame, _number: int) -> None:
        """Take what the operator gave; the one action of a micro-batch, a second one would run the operator again."""
        with self._committing:
            rows = frame.collect()
            try:
                self._results([_result(row) for row in rows])
            except BaseException as error:
                self._error = self._error or error
                raise


@cache
def partition_keys(partitions: int) -> tuple[int, ...]:
    """Return a key for each partition such that Spark gives each a task of its own, where there are as many tasks.

    Spark puts key k into task `murmur3(k) mod tasks`; the partitions' own numbers would share tasks, and leave others empty.
    """
    keys: dict[int, int] = {}
    candidate = 0
    while len(keys) < partitions:
        keys.setdefault(_murmur3(candidate) % partitions, candidate)
        candidate += 1
    return tuple(keys[partition] for partition in range(partitions))


def _murmur3(value: int) -> int:
    """Murmur3 (32 bits, seed 42) of a 32-bit integer, as a signed number: what Spark hashes keys with."""
    mask = 0xFFFFFFFF
    mixed = value * 0xCC9E2D51 & mask
    mixed = (mixed << 15 | mixed >> 17) & mask
    hashed = 42 ^ (mixed * 0x1B873593 & mask)
    hashed = (hashed << 13 | hashed >> 19) & mask
    hashed = (hashed * 5 + 0xE6546B64 & mask) ^ 4
    hashed = (hashed ^ hashed >> 16) * 0x85EBCA6B & mask
    hashed = (hashed ^ hashed >> 13) * 0xC2B2AE35 & mask
    hashed ^= hashed >> 16
    return hashed - (1 << 32) if hashed >> 31 else hashed


def _source(job: Job, max_records: int) -> type[DataSource]:
    """Return the data source of a job. It travels with its class, not in options, which Spark shows around."""

    class Ranges(DataSource):  # type: ignore[misc]  # Spark is not typed
        @classmethod
        def name(cls) -> str:
            return "tickhouse"

        def schema(self) -> str:
            return _RANGES

        def streamReader(self, schema: StructType) -> DataSourceStreamReader:  # noqa: N802  Spark's name
            del schema
            return _Planner(job, max_records)

    return Ranges


class _Ranges(InputPartition):  # type: ignore[misc]  # Spark is not typed
    """All ranges of a micro-batch: reading them is one task, for they are only a few numbers."""

    def __init__(self, ranges: list[tuple[int, int, int, int, bool]]) -> None:
        super().__init__(ranges)
        self.ranges = ranges


class _Planner(DataSourceStreamReader, SupportsTriggerAvailableNow):  # type: ignore[misc]  # Spark is not typed
    """Plans what a micro-batch works off; an offset of the query is {partition: offset after the last record}."""

    def __init__(self, job: Job, max_records: int) -> None:
        self._job = job
        self._max_records = max_records
        self._topic: KafkaTopic | None = None
        self._last: dict[str, int] | None = None
        self._keep_at = 0.0

    def initialOffset(self) -> dict[str, int]:  # noqa: N802  Spark's name, as those below
        return {str(partition): offset for partition, offset in enumerate(self._job.begin)}

    def getDefaultReadLimit(self) -> ReadLimit:  # noqa: N802  Spark's name
        return ReadMaxRows(self._max_records)

    def prepareForTriggerAvailableNow(self) -> None:  # noqa: N802  Spark's name
        topic = self._opened()
        self._last = {str(partition): topic.ends(partition).high for partition in range(topic.partitions)}

    def latestOffset(self, start: dict[str, int], limit: ReadLimit) -> dict[str, int]:  # noqa: N802  Spark's name
        highs = self._highs(start)
        if self._last is not None:
            highs = {name: min(high, max(self._last[name], start[name])) for name, high in highs.items()}
        if isinstance(limit, ReadAllAvailable):
            return highs
        assert isinstance(limit, ReadMaxRows)
        waiting = {name: high - start[name] for name, high in highs.items()}
        return {name: start[name] + share for name, share in _shares(waiting, limit.max_rows).items()}

    def partitions(self, start: dict[str, int], end: dict[str, int]) -> Sequence[InputPartition]:
        keys, now = partition_keys(self._job.topic.partitions), time.monotonic()
        keep = now >= self._keep_at or end == self._last
        if keep:
            self._keep_at = now + _KEEP_S
        ranges = [(keys[int(name)], int(name), start[name], end[name], keep) for name in end if end[name] > start[name]]
        return [_Ranges(ranges)] if ranges else []

    def read(self, partition: InputPartition) -> Iterator[tuple[Any, ...]]:
        assert isinstance(partition, _Ranges)
        yield from partition.ranges

    def stop(self) -> None:
        if self._topic is not None:
            self._topic.close()

    def _highs(self, start: Mapping[str, int]) -> dict[str, int]:
        """Return where each partition ends, having seen that the topic still has everything from `start` on."""
        from tickhouse.journal.kafka.reader import must_be_kept

        topic = self._opened()
        topic.must_be_same()
        return {name: must_be_kept(topic, int(name), offset).high for name, offset in start.items()}

    def _opened(self) -> KafkaTopic:
        if self._topic is None:
            configure_logging(os.environ.get("TICKHOUSE_LOG", "warning"))
            self._topic = self._job.open_topic()
        return self._topic


def _shares(waiting: Mapping[str, int], limit: int) -> dict[str, int]:
    """Divide a limit: what a partition does not need is left to the others; each with something waiting gets at least one."""
    shares = {}
    for left_over, name in enumerate(sorted(waiting, key=lambda name: waiting[name])):
        shares[name] = min(waiting[name], max(1, limit // (len(waiting) - left_over)))
        limit -= shares[name]
    return shares


class _Operator(StatefulProcessor):  # type: ignore[misc]  # Spark is not typed
    """Works off the ranges of a partition; its state is the pipeline's snapshot.

    What Tickhouse raises on purpose is a result too: tried again it would be the same, and the driver says it in one line.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def init(self, handle: StatefulProcessorHandle) -> None:
        configure_logging(os.environ.get("TICKHOUSE_LOG", "warning"))
        self._state = handle.getValueState("partition", _STATE)

    def handleInputRows(self, key: Any, rows: Iterator[Row], timerValues: Any) -> Iterator[Row]:  # noqa: N802, N803  Spark's name
        from tickhouse.engines.ranges import work_off

        del key, timerValues
        for range_ in sorted((row["partition"], row["start"], row["end"], row["keep"]) for row in rows):
            try:
                result, state = work_off(self._job, Range(*range_), self._stored())
            except TransientError:
                raise
            except TickhouseError as error:
                yield Row(error=type(error).__name__, told=str(error), result=None)
                return
            self._state.update((state.house, *state.position, state.snapshot))
            _leave_code_to_itself()
            yield Row(error=None, told=None, result=msgspec.msgpack.encode(result))

    def close(self) -> None:
        """Keep everything: the next range follows."""

    def _stored(self) -> State | None:
        from tickhouse.engines.ranges import State

        if not self._state.exists():
            return None
        house, offset, clock, snapshot = self._state.get()
        return State(house, Position(offset, clock), bytes(snapshot))


@cache
def _leave_code_to_itself() -> None:
    """Take what is loaded out of garbage collection: Spark collects after every task, which took an eighth of a second."""
    gc.freeze()


def _result(row: Row) -> RangeResult:
    from tickhouse.engines.ranges import RangeResult

    if row["error"] is not None:
        raise _ours(row["error"], row["told"])
    return msgspec.msgpack.decode(row["result"], type=RangeResult)


def _ours(name: str, told: str) -> TickhouseError:
    kind = getattr(errors, name, FatalError)
    return kind(told) if issubclass(kind, TickhouseError) and kind is not errors.DataError else FatalError(told)


def _told(error: BaseException, folder: Path) -> TickhouseError:
    """Return what stopped Spark as one of our errors: what our own code raised somewhere, or the line that says most."""
    text = str(error)
    ours = _OUR_ERROR.findall(text)
    if ours:
        return _ours(*ours[-1])
    if "JAVA_GATEWAY_EXITED" in text:
        return FatalError(f"Spark did not start: it needs Java 17 (JAVA_HOME, or java in PATH); see {folder}")
    lines = _ANY_ERROR.findall(text) or [text.strip().partition("\n")[0] or type(error).__name__]
    return FatalError(f"Spark stopped: {lines[-1].strip()[:500]}; its log is {folder / 'spark.log'}")


def _trigger(text: str) -> dict[str, Any]:
    if text.lower() == AVAILABLE_NOW.lower():
        return {"availableNow": True}
    try:
        return {"processingTime": f"{parse_duration(text) // 1_000} milliseconds"}
    except ConfigError as error:
        raise ConfigError(f"trigger {text!r}: use {AVAILABLE_NOW}, or how often a micro-batch begins, e.g. 5s") from error
