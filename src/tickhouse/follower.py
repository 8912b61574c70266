"""Follows a house that some process writes: a pipeline of its own over the house's journal, read-only, with no sinks.

`serve` and `House.stream` run one. It starts from the newest stored snapshot, reads on as the journal grows, and hands what it
makes to a hub. Whatever happens to the house meanwhile (not there yet, its writer stopped, its journal pruned, another house in
its place), it says so in its state and tries again; it never writes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from tickhouse.engines.embedded import EmbeddedEngine
from tickhouse.errors import TickhouseError
from tickhouse.history import LakeHistory
from tickhouse.journal.base import Journal
from tickhouse.model import I32, NO_TIME, Batch, Cause, Position
from tickhouse.pipeline import Counts, Pipeline
from tickhouse.rules import Rules
from tickhouse.serving.hub import Hub
from tickhouse.serving.pump import Pump
from tickhouse.serving.ring import CHANNELS, Wanted
from tickhouse.serving.rows import Record, records
from tickhouse.sinks.base import Outputs
from tickhouse.sinks.lake import LakeTables

__all__ = ["Followed", "Follower", "State", "follow_rows"]

_log = structlog.get_logger(__name__)

_RETRY_S = 1.0
_LOOK_S = 1.0
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
    position: int
    """The journal offset reached."""
    clock: int | None
    """The last heartbeat there."""


class Follower:
    """Runs in a thread of its own: `start`, then `stop`.

    Args:
        opened: Opens the house; None where there is none yet.
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
        self._position = Position()
        self.rules: Rules | None = None
        self.counts = Counts()
        """The balance since the house began, as of the position reached."""

    @property
    def state(self) -> State:
        """What it is doing."""
        clock = self._position.clock
        return State(self._status, self._detail, self._position.offset, None if clock == NO_TIME else clock)

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
            checkpoint = journal.checkpoint(0)
            start, state = checkpoint if checkpoint is not None else (Position(), None)
            history = LakeHistory(LakeTables(followed.lake), 0, _KEPT)
            pipeline = Pipeline(0, followed.rules, history, state, leave_out=_LEFT_OUT)
            run = _Run(pipeline, history, self._hub, start, self._moved)
            engine = self._engine = EmbeddedEngine(journal, [pipeline], history, (), snapshot_every_s=None, listener=run.listen)
            same = followed.identity == self._last_identity
            self._last_identity, self.rules, self.counts = followed.identity, followed.rules, pipeline.counts
            self._take_up(pipeline, history, start)
            pipeline.open_bars()  # what compiles, compiles before the first trade waits for it
            self._position = start
            self._hub.begin(start.offset, history, _Look(engine, pipeline), is_same_house=same)
            self._status, self._detail = "following", ""
            threading.Thread(target=self._watch, args=(engine, history, followed.identity), daemon=True).start()
            if not self._stop.is_set():
                engine.run([start])
        finally:
            self._engine = None
            journal.close()

    def _take_up(self, pipeline: Pipeline, history: LakeHistory, start: Position) -> None:
        """Tell the live figures what was open and connected where following begins."""
        before = Cause(0, start.offset, -(1 << 31))
        gaps, events = (
            records(history.rows(name, pc.scalar(True), before).sort_by([("offset", "ascending"), ("row", "ascending")]))
            for name in ("gold.gaps", "bronze.events")
        )
        self._hub.figures.begin([pipeline.tally], gaps, events)

    def _moved(self, position: Position) -> None:
        self._position = position

    def _watch(self, engine: EmbeddedEngine, history: LakeHistory, identity: tuple[int, int]) -> None:
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
    """Reads open bars out of a pipeline that another thread feeds."""

    def __init__(self, engine: EmbeddedEngine, pipeline: Pipeline) -> None:
        self._engine = engine
        self._pipeline = pipeline

    def __call__(self, instruments: I32 | None) -> pa.Table:
        with self._engine.feeding[0]:
            return self._pipeline.open_bars(instruments)


class _Run:
    """The engine's listener."""

    def __init__(
        self, pipeline: Pipeline, history: LakeHistory, hub: Hub, start: Position, moved: Callable[[Position], None]
    ) -> None:
        self._pipeline = pipeline
        self._history = history
        self._hub = hub
        self._begin = start.offset
        self._moved = moved

    def listen(self, batch: Batch, outputs: Outputs) -> None:
        """Hand on what a batch became."""
        # The pipeline has added the tables that it reads back itself.
        more = {name: table for name, table in outputs.tables.items() if name not in ("silver.trades", "gold.bars")}
        self._history.add(more)
        of = np.array(self._pipeline.feeds.instrument_of, np.int32)
        instruments = np.unique(of[batch.trades.feed]) if len(batch.trades) else np.empty(0, np.int32)
        self._hub.publish(batch, outputs, instruments, self._begin)
        self._begin = outputs.position.offset
        self._moved(outputs.position)
