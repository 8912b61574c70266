"""The Streamlit script: what runs for a browser that opens a page, and again when a control of the page is used.

Nothing that moves by itself runs here; live figures reach the browser over the WebSocket and are painted by `web/`.
"""

from __future__ import annotations

import streamlit as st

from tickhouse.dashboard import waiting
from tickhouse.dashboard.assets import WEB
from tickhouse.dashboard.views import chart, feeds, history, markets, sql
from tickhouse.errors import ConfigError, NotConnectedError

__all__ = ["main"]

_PAGES = (
    (markets.page, "Markets", "markets", ":material/list:"),
    (chart.page, "Chart", "chart", ":material/candlestick_chart:"),
    (feeds.page, "Feeds", "feeds", ":material/sensors:"),
    (history.page, "History", "history", ":material/history:"),
    (sql.page, "SQL", "sql", ":material/terminal:"),
)


def main() -> None:
    """Paint the page that the address names."""
    st.set_page_config(page_title="Tickhouse", page_icon=str(WEB / "icon.svg"), layout="wide")
    pages = {
        path: st.Page(function, title=title, url_path=path, icon=icon, default=path == "markets")
        for function, title, path, icon in _PAGES
    }
    st.session_state["pages"] = pages
    st.html(WEB / "page.css")
    st.logo(str(WEB / "icon.svg"), size="large")
    chosen = st.navigation(list(pages.values()), position="top")
    try:
        chosen.run()
    except NotConnectedError as error:
        waiting.for_an_answer(str(error))
    except ConfigError as error:
        st.error(f"**The house refused.** {error}", icon=":material/error:")


if __name__ == "__main__":
    main()
