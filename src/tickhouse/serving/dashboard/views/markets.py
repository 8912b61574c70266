"""All instruments at a glance: search, watchlist, what they did in the last two hours and do now."""

from __future__ import annotations

import streamlit as st

from tickhouse.serving.dashboard import client, components

__all__ = ["page"]


def page() -> None:
    """Paint the page; the list lives in the component."""
    intervals = client.here().ask("house")["rules"]["intervals"]
    opened = components.markets({
        "interval": "1m" if "1m" in intervals else intervals[0],
        "empty": "The house is empty: no trade has come in yet. Start `tickhouse run`, or add recordings with "
        "`tickhouse replay FILES`; this page fills by itself.",
    })  # fmt: skip
    if opened is not None:
        st.switch_page(st.session_state["pages"]["chart"], query_params={"symbol": opened})
