"""Bronze tables written by hand, and what the reading makes of them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from tickhouse.model import NO_TIME, Feed, Position, Trade
from tickhouse.quality.reading import Reading, read_partition
from tickhouse.rules import Rules
from tickhouse.tables import TABLES

S = 1_000_000
T0 = 1_768_521_600 * S  # 2026-01-16 00:00 UTC


class Bronze:
    """Writes bronze rows; times are seconds after T0, a trade's ts that of its clock where not given."""

    def __init__(self, identity: str = "contiguous", venue: str = "BINANCE", symbol: str = "BTC-USDT") -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {"bronze.trades": [], "bronze.rejected": [], "bronze.events": []}
        self.identity, self.venue, self.symbol = identity, venue, symbol
        self.offset = 0

    def trade(
        self, clock: float | None, trade_id: int | str | None = None, price=100.0, size=1.0, ts=None, **other: Any
    ) -> None:
        values: dict[str, Any] = {
            "source": "test",
            "venue": self.venue,
            "symbol": self.symbol,
            "provider_symbol": "btcusdt",
            "id_space": "trade",
            "identity": self.identity,
            "epoch": 0,
            "trade_id": trade_id if isinstance(trade_id, int) else None,
            "trade_ref": trade_id if isinstance(trade_id, str) else None,
            "ts": us(clock if ts is None else ts),
            "received_at": None,
            "clock": us(clock),
            "price": price,
            "size": size,
            "side": None,
            "conditions": None,
            "kind": "trade",
            "backfilled": False,
            "verdict": "accepted",
            **other,
        }
        if values["verdict"] in {"accepted", "duplicate"}:
            self._add("bronze.trades", values)
            return
        feed = {name: values[name] for name in ("source", "venue", "symbol", "id_space", "identity", "provider_symbol")}
        names = ("ts", "price", "size", "side", "conditions", "kind", "backfilled")
        trade = Trade(feed=Feed(**feed), trade_id=trade_id, **{name: values[name] for name in names})
        self.reject(clock, values["verdict"], msgspec.json.encode(trade, order="sorted"))

    def reject(self, clock: float | None, reason: str, payload: bytes) -> None:
        row = {"source": "test", "received_at": None, "clock": us(clock), "reason": reason, "payload": payload}
        self._add("bronze.rejected", {**row, "length": len(payload), "sha256": None})

    def event(self, clock: float, event: str, **detail: Any) -> None:
        row = {"clock": us(clock), "source": None, "venue": self.venue, "symbol": self.symbol, "event": event}
        self._add("bronze.events", {**row, "detail": json.dumps(detail)})

    def _add(self, table: str, values: dict[str, Any]) -> None:
        self.rows[table].append({**values, "partition": 0, "offset": self.offset, "row": 0})
        self.offset += 1

    def table(self, name: str) -> pa.Table:
        return pa.Table.from_pylist(self.rows[name], schema=TABLES[name].schema)

    def read(self, clock: float | None, rules: Rules | None = None) -> Reading:
        end = us(clock)
        return read_partition(*(self.table(name) for name in self.rows), rules or Rules(), NO_TIME if end is None else end)

    def rows_of(self, table: str, clock: float, rules: Rules | None = None, **where: Any) -> list[dict[str, Any]]:
        """Derived rows as dicts, times as seconds after T0, sorted by what the table's key names."""
        made = self.read(clock, rules).tables[table]
        for i, field in enumerate(made.schema):
            if pa.types.is_timestamp(field.type):
                made = made.set_column(i, field.name, made.column(i).cast(pa.int64()))
        rows = [
            {
                name: seconds(value) if name in {"ts", "clock", "start", "end", "available_at"} else value
                for name, value in row.items()
            }
            for row in made.to_pylist()
        ]
        key = [name for name in (*TABLES[table].key, "available_at", "clock") if name in made.column_names]
        rows = [row for row in rows if all(row[name] == value for name, value in where.items())]
        return sorted(rows, key=lambda row: tuple(row[name] for name in key))

    def verdicts(self) -> list[str]:
        """The verdict that the rules give each trade, in journal order; the stored one where they agree."""
        other = {found.offset: found.recomputed for found in self.read(0).other_verdicts}
        stored = [(row["offset"], row["verdict"]) for row in self.rows["bronze.trades"]]
        stored += [(row["offset"], row["reason"]) for row in self.rows["bronze.rejected"]]
        return [other.get(offset, verdict) for offset, verdict in sorted(stored)]


class MemoryStore:
    """A house's tables in memory, one partition."""

    def __init__(self, tables: dict[str, pa.Table], rules: Rules, position: Position) -> None:
        self.tables, self._rules, self._position = tables, rules, position

    @classmethod
    def of(cls, bronze: Bronze, clock: float, rules: Rules | None = None) -> MemoryStore:
        """A house that holds what the rules say."""
        tables = {name: bronze.table(name) for name in bronze.rows}
        for name, made in bronze.read(clock, rules).tables.items():
            rows = [{**row, "partition": 0, "offset": i, "row": 0} for i, row in enumerate(made.to_pylist())]
            tables[name] = pa.Table.from_pylist(rows, schema=TABLES[name].schema)
        return cls(tables, rules or Rules(), Position(max(bronze.offset, 1_000_000), us(clock)))

    def rules(self) -> Rules:
        return self._rules

    def partitions(self) -> int:
        return 1

    def position(self, partition: int) -> Position:
        return self._position

    def read(self, table: str, partition: int, below: int, columns=None) -> pa.Table:
        rows = self.tables[table].filter((pa.compute.field("partition") == partition) & (pa.compute.field("offset") < below))
        return rows if columns is None else rows.select(columns)


def us(at: float | None) -> int | None:
    return None if at is None else T0 + round(at * S)


def seconds(at: int | None) -> float | None:
    return None if at is None else (at - T0) / S


@pytest.fixture
def bronze() -> Bronze:
    """Bronze of one contiguous instrument."""
    return Bronze()


@pytest.fixture
def bronze_of() -> type[Bronze]:
    """Makes bronze of another identity, venue or symbol."""
    return Bronze


@pytest.fixture
def memory_store() -> type[MemoryStore]:
    """Makes a store."""
    return MemoryStore
