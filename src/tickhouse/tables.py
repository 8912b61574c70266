"""The tables of the house: names, keys and Arrow columns, in one place for every store.

A store spells these columns in its own types; none adds or renames one. `CAUSE` stands beside the key of every table: the
journal record that made the row appear, by which a table skips what it already has.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

__all__ = ["CAUSE", "TABLES", "TIME", "Table"]

TIME = pa.timestamp("us", tz="UTC")
CAUSE = ("partition", "offset", "row")

_CAUSE_FIELDS = [pa.field(name, kind, False) for name, kind in zip(CAUSE, (pa.int32(), pa.int64(), pa.int32()), strict=True)]
_TEXT = pa.string()


@dataclass(frozen=True, slots=True)
class Table:
    """One table: `layer.name`, its columns in order, and what makes a row unique."""

    name: str
    """`bronze.trades`, `gold.bars`, ..."""
    schema: pa.Schema
    """All columns, the cause last."""
    key: tuple[str, ...]
    date_from: str
    """The time column whose UTC date is the lake's partition (`date`); where it is null, 1970-01-01."""
    sort_by: tuple[str, ...]
    """The order of rows within a file."""

    @property
    def values(self) -> list[str]:
        """The columns that two runs are compared by: all but the cause."""
        return [name for name in self.schema.names if name not in CAUSE]


def _table(name: str, key: tuple[str, ...], date_from: str, columns: list[tuple[str, pa.DataType, bool]]) -> Table:
    fields = [pa.field(column, kind, nullable) for column, kind, nullable in columns]
    names = [column for column, _, _ in columns]
    return Table(name, pa.schema(fields + _CAUSE_FIELDS), key, date_from, ("symbol",) if "symbol" in names else ())


_F, _I, _B = pa.float64(), pa.int64(), pa.bool_()

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        _table(
            "bronze.trades",
            CAUSE,
            "clock",
            [
                ("source", _TEXT, False),
                ("venue", _TEXT, False),
                ("symbol", _TEXT, False),
                ("provider_symbol", _TEXT, False),
                ("id_space", _TEXT, False),
                ("identity", _TEXT, False),
                ("epoch", pa.int32(), False),
                ("trade_id", _I, True),  # null where there is none, or where it is no number
                ("trade_ref", _TEXT, True),  # the venue's id where it is no number
                ("ts", TIME, False),
                ("received_at", TIME, True),
                ("clock", TIME, False),
                ("price", _F, False),
                ("size", _F, False),
                ("side", _TEXT, True),
                ("conditions", _TEXT, True),
                ("kind", _TEXT, False),
                ("backfilled", _B, False),
                ("verdict", _TEXT, False),
            ],
        ),
        _table(
            "bronze.rejected",
            CAUSE,
            "clock",
            [
                ("source", _TEXT, False),
                ("received_at", TIME, True),
                ("clock", TIME, True),
                ("reason", _TEXT, False),
                ("payload", pa.binary(), False),
                ("length", _I, False),
                ("sha256", _TEXT, True),
            ],
        ),
        _table(
            "bronze.events",
            CAUSE,
            "clock",
            [
                ("clock", TIME, True),
                ("source", _TEXT, True),
                ("venue", _TEXT, True),
                ("symbol", _TEXT, True),
                ("event", _TEXT, False),
                ("detail", _TEXT, False),  # canonical JSON
            ],
        ),
        _table(
            "silver.trades",
            CAUSE,
            "ts",
            [
                ("venue", _TEXT, False),
                ("symbol", _TEXT, False),
                ("trade_id", _I, True),
                ("trade_ref", _TEXT, True),
                ("ts", TIME, False),
                ("clock", TIME, False),
                ("price", _F, False),
                ("size", _F, False),
                ("value", _F, False),  # price x size
                ("side", _TEXT, True),
                ("late", _B, False),  # for the finest interval
                ("anomaly", _B, False),
                ("score", _F, True),  # (price - mean) / deviation; null where not scored
            ],
        ),
        _table(
            "gold.bars",
            ("venue", "symbol", "interval", "start", "origin", "revision"),
            "start",
            [
                ("venue", _TEXT, False),
                ("symbol", _TEXT, False),
                ("interval", _TEXT, False),
                ("start", TIME, False),
                ("end", TIME, False),
                ("origin", _TEXT, False),
                ("revision", pa.int32(), False),
                ("open", _F, False),
                ("high", _F, False),
                ("low", _F, False),
                ("close", _F, False),
                ("volume", _F, False),
                ("notional", _F, False),
                ("vwap", _F, True),  # notional / volume, null at volume 0
                ("trades", _I, False),
                ("first_trade_id", _I, True),  # of the open and the close trade; null without numeric ids
                ("last_trade_id", _I, True),
                ("available_at", TIME, False),
            ],
        ),
        _table(
            "gold.indicators",
            ("venue", "symbol", "interval", "start", "indicator", "output", "available_at"),
            "start",
            [
                ("venue", _TEXT, False),
                ("symbol", _TEXT, False),
                ("interval", _TEXT, False),
                ("start", TIME, False),
                ("indicator", _TEXT, False),  # the specification, e.g. `bbands(20,2)`
                ("output", _TEXT, False),  # e.g. `upper`
                ("value", _F, True),  # null until ready
                ("available_at", TIME, False),
            ],
        ),
        _table(
            "gold.anomalies",
            (*CAUSE, "detector"),
            "ts",
            [
                ("venue", _TEXT, False),
                ("symbol", _TEXT, False),
                ("ts", TIME, False),
                ("clock", TIME, False),
                ("detector", _TEXT, False),
                ("value", _F, False),
                ("score", _F, False),
                ("baseline", _F, False),
                ("threshold", _F, False),
            ],
        ),
        _table(
            "gold.gaps",
            ("venue", "symbol", "epoch", "first_missing_id", "state"),
            "clock",
            [
                ("venue", _TEXT, False),
                ("symbol", _TEXT, False),
                ("epoch", pa.int32(), False),
                ("first_missing_id", _I, False),
                ("last_missing_id", _I, False),
                ("state", _TEXT, False),  # `open`, `healed`, `lost`
                ("clock", TIME, False),
            ],
        ),
    )
}
