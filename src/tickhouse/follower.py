"""Follows a house that some process writes: pipelines of its own over the house's journal, read-only, with no sinks.

`serve` and `House.stream` run one. It starts from the newest stored snapshots, reads on as the journal grows, and hands what it
makes to a hub. Whatever happens to the house meanwhile (not there yet, its writer stopped, its journal pruned, another house in
its place), it says so in its state and tries again; it never writes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from tickhouse.engines.embedded import EmbeddedEngine
from tickhouse.errors import TickhouseError
from tickhouse.history import LakeHistories
from tickhouse.journal.base import Journal
from tickhouse.model import I32, NO_TIME, Batch, Position
from tickhouse.pipeline import Counts, Pipeline
from tickhouse.rules import Rules
from tickhouse.serving.hub import Hub
from tickhouse.serving.pump import Pump
from tickhouse.serving.ring import CHANNELS, Wanted
from tickhouse.serving.rows import Record, records
from tickhouse.sinks.base import Outputs
from tickhouse.tables import CAUSE

__all__ = ["Followed", "Follower", "State", "follow_rows"]

_log = structlog.get_logger(__name__)

_RETRY_S = 1.0
_LOOK_S = 1.0
_PACE_S = 0.002
"""A sixth of a core less at 20,000 trades a second, for a millisecond: subscribers are sent what was gathered anyway."""
_KEPT = (*(name for name in CHANNELS.values() if name), "gold.gaps")
_LEFT_OUT = ("bronze.trades",)
"""What was received is read from the lake."""


class Followed(NamedTuple):
    """A house opened for following; made anew for each start."""

    journal: Journal
    rules: Rules
    lake: Path
    identity: tuple[int, int]
    """Of the journal's file: another one is another house."""


class State(NamedTuple):
    """What a follower is doing."""

    status: str
    """`waiting` (there is no house yet), `following`, `failed` (and trying again)."""
    detail: str
    """For people."""
    positions: tuple[Position, ...]
    """How far it has come, by partition; empty where nothing was followed yet."""

    @property
    def position(self) -> int:
        """The journal offsets reached, together: it rises with every message."""
        return sum(position.offset for position in self.positions)

    @property
    def clock(self) -> int | None:
        """The last heartbeat that every partition has come to, of those that have any."""
        return min((position.clock for position in self.positions if position.clock != NO_TIME), default=None)


class Follower:
    """Runs in a thread of its own: `start`, then `stop`.

    Args:
        opened: Opens the house, without waiting for anything; None where there is none yet.
        identity: Tells which journal is there now, None = none.
        hub: Where everything goes.
    """

    def __init__(self, opened: Callable[[], Followed | None], identity: Callable[[], tuple[int, int] | None], hub: Hub) -> None:
        self._opened = opened
        self._identity = identity
        self._hub = hub
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tickhouse-follower", daemon=True)
        self._engine: EmbeddedEngine | None = None
        self._last_identity: tuple[int, int] | None = None
        self._status, self._detail = "waiting", "starting"
        self._positions: list[Position] = []
        self._pipelines: Sequence[Pipeline] = ()
        self.rules: Rules | None = None

    @property
    def state(self) -> State:
        """What it is doing."""
        positions = tuple(self._positions)
        return State(self._status, self._detail, positions)

    @property
    def counts(self) -> Counts:
        """The balance since the house began, as of the positions reached."""
        return Counts.total(pipeline.counts for pipeline in self._pipelines)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End; what was published stays in the hub."""
        self._stop.set()
        engine = self._engine
        if engine is not None:
            engine.stop()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                followed = self._opened()
                if followed is None:
                    self._last_identity = None
                    self._status, self._detail = "waiting", "there is no house yet; `tickhouse run` or `replay` makes one"
                else:
                    self._follow(followed)
                    continue
            except TickhouseError as error:
                self._status, self._detail = "failed", str(error)
            except Exception as error:  # noqa: BLE001  the thread's boundary: a reader outlives what it reads
                self._status, self._detail = "failed", f"{type(error).__name__}: {error}"
                _log.exception("follower_failed")
            self._stop.wait(_RETRY_S)

    def _follow(self, followed: Followed) -> None:
        journal = followed.journal
        try:
            history = LakeHistories(followed.lake, journal.partitions, _KEPT)
            pipelines, starts = [], []
            for partition, past in enumerate(history.of):
                start, state = journal.checkpoint(partition) or (journal.beginning(partition), None)
                pipelines.append(Pipeline(partition, followed.rules, past, state, leave_out=_LEFT_OUT))
                starts.append(start)
            engine = self._engine = EmbeddedEngine(
                journal,
                pipelines,
                history,
                (),
                snapshot_every_s=None,
                listener=_Run(pipelines, history, self._hub, self._moved),
                pace_s=_PACE_S,
            )
            same = followed.identity == self._last_identity
            self._last_identity, self.rules = followed.identity, followed.rules
            self._pipelines = pipelines
            self._take_up(pipelines, history, starts)
            pipelines[0].open_bars()  # what compiles, compiles before the first trade waits for it
            look, instruments = _Look(engine, pipelines), [pipeline.feeds.instruments for pipeline in pipelines]
            self._hub.begin(tuple(start.offset for start in starts), history, look, instruments, is_same_house=same)
            # Together: who has seen the positions may ask what it is doing.
            self._status, self._detail, self._positions = "following", "", starts
            threading.Thread(target=self._watch, args=(engine, history, followed.identity), daemon=True).start()
            if not self._stop.is_set():
                engine.run(starts)
        finally:
            self._engine = None
            journal.close()

    def _take_up(self, pipelines: Sequence[Pipeline], history: LakeHistories, starts: Sequence[Position]) -> None:
        """Tell the live figures what was open and connected where following begins."""
        before = tuple(start.offset for start in starts)
        order = [(name, "ascending") for name in CAUSE]
        gaps, events = (
            records(history.rows(name, pc.scalar(True), before).sort_by(order)) for name in ("gold.gaps", "bronze.events")
        )
        clock = max(start.clock for start in starts)
        self._hub.figures.begin([pipeline.tally for pipeline in pipelines], clock, gaps, events)

    def _moved(self, partition: int, position: Position) -> None:
        self._positions[partition] = position

    def _watch(self, engine: EmbeddedEngine, history: LakeHistories, identity: tuple[int, int]) -> None:
        """Take note of what was committed; stop the engine when another journal lies where its was."""
        while self._engine is engine and not self._stop.wait(_LOOK_S):
            if self._identity() != identity:
                engine.stop()
                return
            try:
                history.committed()
            except TickhouseError as error:
                _log.warning("commits_not_seen", error=str(error))


async def follow_rows(follower_of: Callable[[Hub], Follower], wanted: Wanted) -> AsyncGenerator[Record, None]:
    """Yield the rows that a subscriber of a house gets, in the caller's event loop, until it is closed.

    Args:
        follower_of: Makes a follower for a hub.
        wanted: What of.
    """
    pump, ready = Pump(), asyncio.Event()
    hub = Hub(pump.wake)
    follower = follower_of(hub)
    pumping = asyncio.create_task(pump.run(hub.pump))
    subscription = hub.subscribe(wanted, ready.set, as_records=True)
    follower.start()
    try:
        while True:
            await ready.wait()
            ready.clear()
            message = subscription.take()
            if subscription.is_stale:
                message = await asyncio.to_thread(subscription.finish, subscription.begin())
            for row in message.records if message is not None else ():
                yield row
            if subscription.has_more:
                ready.set()
    finally:
        await asyncio.to_thread(follower.stop)  # pumped to the end: a full hub would keep it waiting
        pumping.cancel()


class _Look:
    """Reads open bars out of pipelines that other threads feed; see `_Run` for the codes of instruments."""

    def __init__(self, engine: EmbeddedEngine, pipelines: Sequence[Pipeline]) -> None:
        self._engine = engine
        self._pipelines = pipelines

    def __call__(self, instruments: I32 | None, intervals: Collection[str] | None) -> pa.Table:
        found, count = [], len(self._pipelines)
        for partition, pipeline in enumerate(self._pipelines):
            own = None if instruments is None else instruments[instruments % count == partition] // count
            if own is None or len(own) or not partition:
                with self._engine.feeding[partition]:
                    found.append(pipeline.open_bars(own, intervals))
        return found[0] if len(found) == 1 else pa.concat_tables(found, promote_options="permissive").unify_dictionaries()


class _Run:
    """The engine's listener. To the hub, an instrument's code is that of its pipeline, times the partitions, plus its own."""

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        history: LakeHistories,
        hub: Hub,
        moved: Callable[[int, Position], None],
    ) -> None:
        self._pipelines = pipelines
        self._history = history
        self._hub = hub
        self._moved = moved

    def __call__(self, batch: Batch, outputs: Outputs) -> None:
        """Hand on what a batch became."""
        partition = outputs.partition
        # The pipeline has added the tables that it reads back itself.
        more = {name: table for name, table in outputs.tables.items() if name not in ("silver.trades", "gold.bars")}
        self._history.of[partition].add(more)
        of = np.array(self._pipelines[partition].feeds.instrument_of, np.int32)
        codes = np.unique(of[batch.trades.feed]) if len(batch.trades) else np.empty(0, np.int32)
        self._hub.publish(batch, outputs, codes * len(self._pipelines) + partition)
        self._moved(partition, outputs.position)
