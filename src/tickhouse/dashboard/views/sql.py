"""Ask the tables: one SELECT, its result, and the result as a file."""

from __future__ import annotations

import time
from functools import partial

import pyarrow as pa
import streamlit as st

from tickhouse.dashboard import client, controls
from tickhouse.dashboard.client import ARROW, CSV, PARQUET, Client
from tickhouse.errors import ConfigError
from tickhouse.tables import CAUSE, TABLES

__all__ = ["page"]

_SHOWN = 1_000
_IN_FILE = 50_000
_EXAMPLES = {
    "Newest bars": "SELECT symbol, start, open, high, low, close, volume, trades\n"
    "FROM gold.bars_latest\nWHERE interval = '1m'\nORDER BY start DESC, symbol\nLIMIT 100",
    "Largest trades": "SELECT ts, venue, symbol, side, price, size, value\n"
    "FROM silver.trades\nORDER BY value DESC\nLIMIT 50",
    "Revised bars": "SELECT symbol, interval, start, max(revision) AS revisions, max(available_at) AS last_revised\n"
    "FROM gold.bars\nGROUP BY ALL\nHAVING max(revision) > 0\nORDER BY last_revised DESC\nLIMIT 100",
    "Why rejected": "SELECT source, reason, count(*) AS payloads, max(clock) AS last_seen\n"
    "FROM bronze.rejected\nGROUP BY ALL\nORDER BY payloads DESC",
}  # fmt: skip
_VIEWS = {
    "gold.bars_latest": "The columns of gold.bars; of each bar its newest revision.",
    "gold.indicators_latest": "The columns of gold.indicators; of each its newest value.",
    "gold.indicators_wide": "One row a bar, one column an output, e.g. `sma_20`.",
}


def page() -> None:
    """Paint the page."""
    if controls.house() is None:
        return
    asking, tables = st.columns([3, 1], gap="medium")
    with tables, st.container(gap="xsmall", key="tables"):
        _tables()
    with asking:
        _ask(client.here())


def _ask(house: Client) -> None:
    if "sql" not in st.session_state:
        st.session_state["sql"] = next(iter(_EXAMPLES.values()))
    with st.container(horizontal=True):
        for title, text in _EXAMPLES.items():
            st.button(title, on_click=st.session_state.update, args=({"sql": text, "asked": text},), type="tertiary")
    sql = st.text_area("One SELECT, in DuckDB's SQL", key="sql", height=190)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if st.button("Run", type="primary", shortcut="Ctrl+Enter"):
            st.session_state["asked"] = sql
        as_of = st.text_input(
            "As known at (UTC)", placeholder="now", key="sql_as_of", width=230,
            help="Every table then holds only what was known at that instant, e.g. 2026-01-15 22:30",
        )  # fmt: skip
    if asked := st.session_state.get("asked"):
        _answer(house, asked, as_of or None)


def _answer(house: Client, sql: str, as_of: str | None) -> None:
    began = time.monotonic()
    try:
        found = pa.ipc.open_stream(house.select(sql, ARROW, limit=_SHOWN, as_of=as_of)).read_all()
    except ConfigError as error:
        st.error(str(error), icon=":material/error:")
        return
    seconds = time.monotonic() - began
    if not len(found):
        st.info(f"No row. ({seconds:.2f} s)")
        return
    first = "the first " if len(found) == _SHOWN else ""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"{first}{len(found):,} row{'s'[: len(found) != 1]} in {seconds:.2f} s, times in UTC", width="stretch")
        for title, suffix, kind in (("CSV", "csv", CSV), ("Parquet", "parquet", PARQUET)):
            st.download_button(
                title,
                partial(house.select, sql, kind, limit=_IN_FILE, as_of=as_of),
                f"tickhouse.{suffix}",
                kind,
                on_click="ignore",
                icon=":material/download:",
                help=f"All rows, up to {_IN_FILE:,}.",
            )
    st.dataframe(_plain_times(found), hide_index=True, height=min(560, 38 + 35 * len(found)))


def _plain_times(found: pa.Table) -> pa.Table:
    """Return the table with times that are shown without a zone: they are UTC all."""
    for place, field in enumerate(found.schema):
        if pa.types.is_timestamp(field.type):
            found = found.set_column(place, field.name, found.column(place).cast(pa.timestamp(field.type.unit)))
    return found


def _tables() -> None:
    st.markdown("**Tables**")
    for name, table in TABLES.items():
        with st.expander(name):
            lines = [f"`{field.name}` {_kind(field.type)}" for field in table.schema if field.name not in CAUSE]
            last = "`date` day, cheapest to filter by", "`partition`, `offset`, `row`: its cause"
            st.markdown("  \n".join((*lines, *last)))
    for name, meaning in _VIEWS.items():
        with st.expander(name):
            st.markdown(meaning)


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "time, UTC"
    return {"string": "text", "double": "number", "int64": "integer", "int32": "integer", "bool": "yes/no"}.get(
        str(kind), str(kind)
    )
