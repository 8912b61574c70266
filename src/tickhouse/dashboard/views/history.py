"""Any day as it is known now, or as it was known at an instant; and what has been revised since."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import streamlit as st

from tickhouse.dashboard import client, components, controls
from tickhouse.dashboard.controls import Instrument

__all__ = ["page"]

_MOST_REVISIONS = 1_000


def page() -> None:
    """Paint the page."""
    house = controls.house()
    if house is None:
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = controls.instrument()
        if chosen is None:
            return
        interval = controls.interval(house["intervals"])
        day = _day(chosen)
        as_of = _as_of(day)
    start = int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp()) * 1_000_000
    end = start + 86_400_000_000
    catalogue = [entry for entry in client.here().rows("indicators/catalogue") if interval in entry["intervals"]]
    components.chart({
        "symbol": chosen.symbol, "venue": chosen.venue, "interval": interval, "indicators": catalogue,
        "live": False, "start": start, "end": end, "as_of": None if as_of is None else as_of.isoformat(),
    })  # fmt: skip
    _revisions(chosen, interval, day, as_of)


def _day(chosen: Instrument) -> dt.date:
    first, last = (_instant(chosen.row[name]).date() for name in ("first_ts", "last_ts"))
    kept = st.session_state.get("history_day", last)
    st.session_state["history_day"] = min(max(kept, first), last)
    day: dt.date = st.date_input("Day (UTC)", min_value=first, max_value=last, key="history_day", width=150)
    return day


def _as_of(day: dt.date) -> dt.datetime | None:
    asked = _asked()
    st.session_state.setdefault("history_then", asked is not None)
    st.session_state.setdefault("history_instant", asked or dt.datetime.combine(day, dt.time(12)))
    help_text = "See only what the house knew at that instant: later revisions are left out."
    if not st.toggle("As known at", key="history_then", help=help_text):
        st.query_params.pop("as_of", None)
        return None
    chosen: dt.datetime | None = st.datetime_input(
        "Instant (UTC)", format="YYYY-MM-DD", step=60, width=240, key="history_instant"
    )
    if chosen is None:
        return None
    st.query_params["as_of"] = chosen.isoformat(timespec="minutes")
    return chosen.replace(tzinfo=dt.UTC)


def _asked() -> dt.datetime | None:
    """Return the instant in the address, if one is there."""
    try:
        return dt.datetime.fromisoformat(st.query_params["as_of"]).replace(tzinfo=None)
    except (KeyError, ValueError):
        return None


def _revisions(chosen: Instrument, interval: str, day: dt.date, as_of: dt.datetime | None) -> None:
    known = f" as known at {as_of:%Y-%m-%d %H:%M} UTC" if as_of else ""
    st.markdown(f"**Revisions of {day}**{known}")
    found = _revised(chosen, interval, day, as_of)
    if not found:
        st.caption(f"No {interval} bar of this day was revised: no trade came late.")
        return
    for row in found:
        for name in ("start", "known_since"):
            row[name] = _instant(row[name]).replace(tzinfo=None)
    revisions = f"{len(found):,} revision{'s'[: len(found) != 1]}"
    st.caption(f"{revisions}. Each is a bar issued again because of late trades; the one before it stays readable.")
    time = st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm:ss")
    st.dataframe(found, hide_index=True, column_config={"start": time, "known_since": time})


def _revised(chosen: Instrument, interval: str, day: dt.date, as_of: dt.datetime | None) -> list[dict[str, Any]]:
    """Ask for every revision beside the one before it."""
    order = "PARTITION BY venue, symbol, start, origin ORDER BY revision"
    sql = f"""
        SELECT start, revision, available_at AS known_since,
            close_before, close, trades_before, trades, volume_before, volume
        FROM (SELECT *, lag(close) OVER w AS close_before, lag(trades) OVER w AS trades_before,
                lag(volume) OVER w AS volume_before
            FROM gold.bars WHERE date = '{day}' AND venue = {_quoted(chosen.venue)} AND symbol = {_quoted(chosen.symbol)}
                AND interval = {_quoted(interval)} WINDOW w AS ({order}))
        WHERE revision > 0 ORDER BY start DESC, revision DESC"""
    answer = client.here().select(sql, limit=_MOST_REVISIONS, as_of=None if as_of is None else as_of.isoformat())
    found: list[dict[str, Any]] = json.loads(answer)["rows"]
    return found


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _instant(us: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(us / 1e6, dt.UTC)
