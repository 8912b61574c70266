"""Rows of any table from a few named values, the rest filled in: what tests of stores and readers write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from tickhouse.tables import TABLES

T0 = 1_700_000_000_000_000
"""2023-11-14 22:13:20 UTC."""
MINUTE = 60_000_000
DAY = 86_400_000_000


def rows(name: str, records: Iterable[dict[str, Any]]) -> pa.Table:
    """Return rows of a table; what a record leaves out is the zero of its type, null where that is allowed."""
    schema = TABLES[name].schema
    columns = {field.name: [] for field in schema}
    for record in records:
        for field in schema:
            columns[field.name].append(record.get(field.name, _default(field)))
    arrays = [_array(columns[field.name], field.type) for field in schema]
    return pa.table(arrays, schema=schema)


def trade(offset: int, symbol: str = "BTC-USDT", *, ts: int | None = None, **more: Any) -> dict[str, Any]:
    """Return a record of a trade, good for bronze and silver."""
    at = T0 + offset * 1000 if ts is None else ts
    return {
        "venue": "BINANCE",
        "symbol": symbol,
        "trade_id": offset,
        "ts": at,
        "clock": at,
        "price": 100.0 + offset,
        "size": 1.0,
        "value": 100.0 + offset,
        "verdict": "accepted",
        "kind": "trade",
        "offset": offset,
        **more,
    }


def bar(
    offset: int, start: int, symbol: str = "BTC-USDT", *, revision: int = 0, available_at: int | None = None, **more: Any
) -> dict[str, Any]:
    """Return a record of a one-minute bar."""
    return {
        "venue": "BINANCE",
        "symbol": symbol,
        "interval": "1m",
        "start": start,
        "end": start + MINUTE,
        "origin": "trades",
        "revision": revision,
        "close": float(offset),
        "trades": 1,
        "available_at": start + MINUTE + 10_000_000 if available_at is None else available_at,
        "offset": offset,
        **more,
    }


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.int64()).cast(kind) if pa.types.is_timestamp(kind) else pa.array(values, kind)


def _default(field: pa.Field) -> Any:
    if field.nullable:
        return None
    if pa.types.is_string(field.type):
        return ""
    if pa.types.is_binary(field.type):
        return b""
    return False if pa.types.is_boolean(field.type) else 0
