"""What a page says while there is nothing to show, and how it goes on by itself once there is."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from tickhouse.dashboard import client
from tickhouse.errors import ConfigError, TransientError

__all__ = ["for_an_answer", "for_trades"]


def for_an_answer(why: str) -> None:
    """Say that nobody answers; look again every two seconds."""
    st.warning(
        f"**No connection to the house.** {why}. Start it with `tickhouse run` or `tickhouse serve`; this page tries again "
        "every two seconds.",
        icon=":material/cloud_off:",
    )
    _rerun_once(lambda: bool(client.here().ask("health")))


def for_trades() -> None:
    """Say that the house is empty; look again every two seconds."""
    st.info(
        "**The house is empty.** No trade has come in yet. Start `tickhouse run`, or add recordings with "
        "`tickhouse replay FILES`; this page fills by itself.",
        icon=":material/hourglass_empty:",
    )
    _rerun_once(lambda: bool(client.here().ask("house")["intervals"]) and bool(client.here().rows("symbols")))


def _rerun_once(is_there: Callable[[], bool]) -> None:
    @st.fragment(run_every=2)
    def look() -> None:
        try:
            if not is_there():
                return
        except TransientError:
            return
        except ConfigError:
            pass  # the house answers; what it refuses, the page will say
        st.rerun()

    look()
