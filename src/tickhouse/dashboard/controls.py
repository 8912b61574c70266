"""The controls that several pages have: which instrument, which interval, which indicators.

The address of the page holds what is chosen (`?symbol=SYNTHETIC:BTC-USD&interval=1m`), so that it can be kept and sent.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import streamlit as st

from tickhouse.dashboard import client, waiting

__all__ = ["Instrument", "house", "instrument", "interval"]


class Instrument(NamedTuple):
    """What is chosen."""

    venue: str
    symbol: str
    row: dict[str, Any]
    """Its row of `/v1/symbols`."""


def house() -> dict[str, Any] | None:
    """Return what the API says of the house; None, and words on the page, where there is none yet."""
    found: dict[str, Any] = client.here().ask("house")
    if not found["intervals"]:
        waiting.for_trades()
        return None
    return found


def instrument() -> Instrument | None:
    """Let the reader choose an instrument; None where there is none to choose or the address names an unknown one."""
    rows = client.here().rows("symbols")
    if not rows:
        waiting.for_trades()
        return None
    known = {f"{row['venue']}:{row['symbol']}": row for row in sorted(rows, key=lambda row: -row["trades"])}
    asked = _resolved(st.query_params.get("symbol"), known)
    if asked is not None and asked not in known:
        _unknown(asked, known)
        return None
    choice = _kept("symbol", asked, list(known))
    label = {key: f"{row['symbol']}  ·  {row['venue']}" for key, row in known.items()}
    st.selectbox("Symbol", list(known), key="symbol", format_func=label.__getitem__, on_change=_keep, args=("symbol",))
    row = known[choice]
    return Instrument(row["venue"], row["symbol"], row)


def interval(intervals: Sequence[str]) -> str:
    """Let the reader choose one of the house's intervals."""
    choice = _kept("interval", st.query_params.get("interval"), intervals)
    st.segmented_control("Interval", intervals, key="interval", required=True, on_change=_keep, args=("interval",))
    return choice


def _resolved(asked: str | None, known: dict[str, Any]) -> str | None:
    """A symbol alone, in any letters, is enough where one venue has it."""
    if asked is None or asked in known:
        return asked
    matching = [key for key in known if asked.upper() in (key.upper(), key.upper().partition(":")[2])]
    return matching[0] if matching else asked


def _unknown(asked: str, known: dict[str, Any]) -> None:
    near = difflib.get_close_matches(asked.upper(), [row["symbol"] for row in known.values()], 3, 0.3)
    hint = f" Did you mean {', '.join(f'**{name}**' for name in near)}?" if near else ""
    st.warning(f"**Unknown symbol.** The house has no trades of `{asked}`.{hint}", icon=":material/search_off:")
    if st.button("Show the symbols it has"):
        st.switch_page(st.session_state["pages"]["markets"])


def _kept(name: str, asked: str | None, options: Sequence[str]) -> str:
    """What the address says, else what was chosen last on any page, else the first."""
    last = st.session_state.get(f"last_{name}")
    choice = next((each for each in (asked, last) if each is not None and each in options), options[0])
    st.session_state[name] = st.session_state[f"last_{name}"] = choice
    if asked != choice:
        st.query_params[name] = choice
    return choice


def _keep(name: str) -> None:
    st.query_params[name] = st.session_state[name]
