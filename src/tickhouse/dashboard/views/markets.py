"""All instruments at a glance: search, watchlist, what they did in the last two hours and do now."""

from __future__ import annotations

import streamlit as st

from tickhouse.dashboard import components, controls

__all__ = ["page"]


def page() -> None:
    """Paint the page; the list lives in the component."""
    house = controls.house()
    if house is None:
        return
    intervals = house["intervals"]
    opened = components.markets({
        "intervals": {"finest": intervals[0], "usual": "1m" if "1m" in intervals else intervals[0]},
        "empty": "No trade has come in yet; this list fills by itself.",
    })  # fmt: skip
    if opened is not None:
        st.switch_page(st.session_state["pages"]["chart"], query_params={"symbol": opened})
