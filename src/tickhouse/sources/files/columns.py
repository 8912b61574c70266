"""Finds out which column of a flat file is what: symbol, price, size, time, id, side.

Used by `files.py` on the first lines of NDJSON, CSV and Parquet files; well-known names are recognised, others are mapped by
the user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tickhouse.errors import ConfigError
from tickhouse.lines import FileOptions, TsUnit
from tickhouse.sources.files.values import guess_unit

__all__ = ["KNOWN_NAMES", "Columns", "find_columns", "find_units"]

KNOWN_NAMES: dict[str, tuple[str, ...]] = {
    "symbol": ("s", "S", "sym", "symbol", "ticker", "instrument", "product_id"),
    "price": ("p", "px", "last", "price"),
    "size": ("v", "q", "qty", "size", "quantity", "amount", "volume"),
    "ts": ("t", "T", "ts", "time", "timestamp", "ts_event", "datetime"),
    "trade_id": ("id", "trade_id", "tid", "a"),
    "received_at": ("r", "received", "received_at", "ts_recv"),
    "side": ("d", "side", "taker_side", "m", "maker", "is_buyer_maker", "isBuyerMaker"),
    "conditions": ("c", "conditions", "cond"),
}
"""Our name -> the names recognised without being told."""


class Columns(msgspec.Struct, frozen=True):
    """The file's name of each of ours; None where the file has none."""

    symbol: str | None
    price: str
    size: str
    ts: str
    trade_id: str | None = None
    received_at: str | None = None
    side: str | None = None
    conditions: str | None = None

    def as_dict(self) -> dict[str, str]:
        """Return those that the file has."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


def find_columns(names: Sequence[str], options: FileOptions, path: object) -> Columns:
    """Return which of `names` is what.

    Names compare case by case first, then ignoring case; our own name wins over every other.

    Raises:
        ConfigError: a needed column is not found, or there is more than one candidate.
    """
    unknown = [name for name in options.columns if name not in KNOWN_NAMES]
    if unknown:
        raise ConfigError(f"--columns knows no {unknown[0]!r}; it maps {', '.join(KNOWN_NAMES)}")
    found: dict[str, str | None] = {}
    for ours in KNOWN_NAMES:
        if ours == "symbol" and options.symbol and ours not in options.columns:
            found[ours] = None
        else:
            found[ours] = _find(ours, names, options, path)
    for ours in ("symbol", "price", "size", "ts"):
        if found[ours] is None and not (ours == "symbol" and options.symbol):
            hint = f"--columns {ours}=NAME" + (" or --symbol" if ours == "symbol" else "")
            raise ConfigError(f"{path}: no column for {ours!r} among {', '.join(names) or 'none'}; say {hint}")
    if options.identity in {"contiguous", "unique"} and found["trade_id"] is None:
        raise ConfigError(f"{path}: --identity {options.identity} needs a column of trade ids; say --columns trade_id=NAME")
    return msgspec.convert(found, Columns)


def find_units(rows: Sequence[Mapping[str, Any]], columns: Columns, options: FileOptions, path: object) -> FileOptions:
    """Return `options` with the units of the times, guessed by the magnitude of the first that can be read.

    Raises:
        ConfigError: no line has a time.
    """
    ts_unit = options.ts_unit or _first_unit(rows, columns.ts)
    if ts_unit is None:
        raise ConfigError(f"{path}: none of the first {len(rows)} lines has a time in {columns.ts!r}; say --columns ts=NAME")
    received_unit = options.received_unit
    if received_unit is None and columns.received_at is not None:
        received_unit = _first_unit(rows, columns.received_at) or ts_unit
    return msgspec.structs.replace(options, ts_unit=ts_unit, received_unit=received_unit, columns=columns.as_dict())


def _find(ours: str, names: Sequence[str], options: FileOptions, path: object) -> str | None:
    if ours in options.columns:
        theirs = options.columns[ours]
        if theirs not in names:
            raise ConfigError(f"{path} has no column {theirs!r} (--columns {ours}={theirs}), only {', '.join(names) or 'none'}")
        return theirs
    taken = set(options.columns.values())
    free = [name for name in names if name not in taken]
    if ours in free:
        return ours
    candidates = [name for name in free if name in KNOWN_NAMES[ours]]
    if not candidates:
        known = {name.lower() for name in KNOWN_NAMES[ours]}
        candidates = [name for name in free if name.lower() in known]
    if len(candidates) > 1:
        choice = " or ".join(f"{ours}={name}" for name in candidates)
        raise ConfigError(f"{path}: {ours!r} could be {' or '.join(candidates)}; say --columns {choice}")
    return candidates[0] if candidates else None


def _first_unit(rows: Sequence[Mapping[str, Any]], name: str) -> TsUnit | None:
    return next((unit for row in rows if (unit := guess_unit(row.get(name))) is not None), None)
