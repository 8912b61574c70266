"""Journals written by hand: a `Script` of trades, heartbeats and events, run through a real pipeline.

Each record is a message of its own, so a script can be cut into batches anywhere.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tickhouse.columns import TradesBuilder
from tickhouse.history import LakeHistories
from tickhouse.model import Batch, Beats, Event, Feed, Feeds, Identity, Rejected, Trade
from tickhouse.pipeline import Pipeline
from tickhouse.rules import Rules
from tickhouse.sinks.lake import Lake
from tickhouse.tables import CAUSE, TABLES

__all__ = ["BTC", "MINUTE", "SECOND", "T0", "Script", "feed", "rows_of", "run"]

SECOND = 1_000_000
MINUTE = 60 * SECOND
T0 = int(dt.datetime(2026, 1, 15, 12, 0, tzinfo=dt.UTC).timestamp()) * SECOND
"""A quiet noon: midnight is far."""


def feed(
    symbol: str = "BTC-USDT",
    venue: str = "BINANCE",
    identity: Identity = "contiguous",
    space: str = "trade",
    source: str = "test",
) -> Feed:
    """Return a feed."""
    return Feed(source, venue, symbol, space if identity != "none" else "", identity, symbol.replace("-", ""))


BTC = feed()


@dataclass
class Script:
    """Records in journal order."""

    records: list[Any] = field(default_factory=list)

    def beat(self, clock: int) -> Script:
        """Add a heartbeat."""
        self.records.append(("beat", clock))
        return self

    def trade(
        self, ts: int, price: float = 100.0, size: float = 1.0, trade_id: int | str | None = None, of: Feed = BTC, **more: Any
    ) -> Script:
        """Add a trade."""
        self.records.append(("trade", Trade(of, ts, price, size, trade_id, **more)))
        return self

    def event(self, name: str, **more: Any) -> Script:
        """Add an event."""
        self.records.append(("event", Event(name, **more)))
        return self

    def rejected(self, reason: str, payload: bytes) -> Script:
        """Add a payload that became no trade."""
        self.records.append(("rejected", Rejected("test", T0, reason, payload)))
        return self

    def batch(self, feeds: Feeds, begin: int, end: int) -> Batch:
        """Return records [begin, end) as a batch."""
        builder = TradesBuilder()
        beats: list[tuple[int, int, int]] = []
        rejected, events = [], []
        for offset in range(begin, end):
            kind, record = self.records[offset]
            if kind == "beat":
                beats.append((record, len(builder), offset))
            elif kind == "trade":
                builder.add(record, feeds.code(record.feed), record.ts, offset, 0)
            elif kind == "event":
                events.append(
                    Event(record.event, record.source, record.venue, record.symbol, record.detail, offset, 0, len(builder))
                )
            else:
                rejected.append(Rejected(record.source, record.received_at, record.reason, record.payload, offset, 0))
        columns = np.array(beats, np.int64).reshape(-1, 3)
        clock, at, offsets = (np.ascontiguousarray(columns[:, i]) for i in range(3))
        return Batch(0, builder.build(), Beats(clock, at, offsets, np.zeros(len(beats), np.int32)), rejected, events, 0, end)


def run(
    script: Script,
    tmp_path: Path,
    rules: Rules | None = None,
    cuts: Sequence[int] = (),
    *,
    restore_at: Sequence[int] = (),
    commit_at: Sequence[int] = (),
    live: bool = False,
) -> dict[str, pl.DataFrame]:
    """Run a script and return every table, in the order of the rows' causes.

    Args:
        script: The journal.
        tmp_path: An empty folder, that of the lake.
        rules: In force.
        cuts: Where batches end.
        restore_at: Cuts after which the pipeline is made anew from its snapshot.
        commit_at: Cuts after which the lake has all rows; without any it has none, and history answers from what is on its
            way. Where the pipeline is made anew too, nothing but the lake and the snapshot is left.
        live: Take the live path of the indicators.
    """
    rules = rules or Rules()
    histories = LakeHistories(tmp_path, 1)
    pipeline = Pipeline(0, rules, histories.of[0])
    collected: dict[str, list[pa.Table]] = {name: [] for name in TABLES}
    borders = sorted({0, *cuts, *restore_at, *commit_at, len(script.records)})
    lake = Lake(tmp_path) if commit_at else None
    for begin, end in pairwise(borders):
        outputs = pipeline.feed(script.batch(pipeline.feeds, begin, end), catching_up=not live)
        for name, table in outputs.tables.items():
            collected[name].append(table.cast(TABLES[name].schema))
        if lake is not None:
            lake.write(outputs)
            if end in commit_at:
                lake.commit(everything=end in restore_at)
                histories.committed()
        if end in restore_at:
            if end in commit_at:
                histories = LakeHistories(tmp_path, 1)
            pipeline = Pipeline(0, rules, histories.of[0], pipeline.snapshot())
    if lake is not None:
        lake.close()
    return {
        name: pl.from_arrow(pa.concat_tables(parts) if parts else TABLES[name].schema.empty_table()).sort(
            *CAUSE, maintain_order=True
        )
        for name, parts in collected.items()
    }


def rows_of(table: pl.DataFrame, *names: str, **where: Any) -> list[tuple[Any, ...]]:
    """Return the named columns of the rows in which each of `where` holds, times as microseconds."""
    for name, value in where.items():
        table = table.filter(pl.col(name) == value)
    shown = table.select(pl.col(name).dt.epoch("us") if table.schema[name] == pl.Datetime else pl.col(name) for name in names)
    return shown.rows()
