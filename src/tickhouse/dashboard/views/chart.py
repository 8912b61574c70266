"""One instrument, live: bars with volume and indicators, the trade tape, flagged trades."""

from __future__ import annotations

import streamlit as st

from tickhouse.dashboard import client, components, controls

__all__ = ["page"]


def page() -> None:
    """Paint the page; what moves on it does so in the component."""
    house = controls.house()
    if house is None:
        return
    with st.container(horizontal=True, vertical_alignment="bottom", key="controls"):
        chosen = controls.instrument()
        if chosen is None:
            return
        interval = controls.interval(house["intervals"])
        catalogue = [entry for entry in client.here().rows("indicators/catalogue") if interval in entry["intervals"]]
        titles = {entry["indicator"]: entry["title"] for entry in catalogue}
        if catalogue:
            shown = st.pills(
                "Indicators", list(titles), selection_mode="multi", default=list(titles), key=f"indicators_{interval}",
                help="; ".join(titles.values()),
            )  # fmt: skip
        else:
            shown = []
            st.caption(f"Indicators are computed on {', '.join(house['indicator_intervals'])} only.")
    components.chart({
        "symbol": chosen.symbol,
        "venue": chosen.venue,
        "interval": interval,
        "indicators": [entry for entry in catalogue if entry["indicator"] in shown],
        "live": True,
        "day": {name: chosen.row[name] for name in ("last_price", "change_pct")},
    })  # fmt: skip
