"""The parts of the pages that live in the browser: each a JavaScript module of `web/`, mounted by Streamlit without an iframe.

A part gets its first `data` from the page and everything that moves from the API, so no script runs for a tick. What a part
returns is only what its reader has chosen.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from tickhouse.dashboard.assets import WEB

__all__ = ["chart", "feeds", "markets"]


def _loader(module: str) -> str:
    # The module is loaded by its own address, so that it can import those beside it and shows under its name in a debugger.
    return (
        f"const module = import(new URL('/web/{module}.js', location.origin));\n"
        "export default async (part) => (await module).default(part);"
    )


def _css(*names: str) -> str:
    return "\n".join((WEB / f"{name}.css").read_text("utf-8") for name in names)


_chart = st.components.v2.component("tickhouse_chart", css=_css("house", "chart"), js=_loader("chart"))


def chart(data: dict[str, Any]) -> None:
    """Show bars, tape and flagged trades of one instrument; see `web/chart.js` for what `data` holds."""
    _chart(key="chart", data=data)


_markets = st.components.v2.component("tickhouse_markets", css=_css("house", "table", "markets"), js=_loader("markets"))


def markets(data: dict[str, Any]) -> str | None:
    """Show the list of instruments; return the key (`VENUE:SYMBOL`) of the one just opened, else None."""
    return _markets(key="markets", data=data, on_open_change=lambda: None).open  # type: ignore[no-any-return]


_feeds = st.components.v2.component("tickhouse_feeds", css=_css("house", "table", "feeds"), js=_loader("feeds"))


def feeds(data: dict[str, Any]) -> None:
    """Show how well the house is fed."""
    _feeds(key="feeds", data=data)
