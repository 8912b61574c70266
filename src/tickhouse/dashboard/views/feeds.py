"""How well the house is fed: the balance, each feed's lag and faults, gaps, events."""

from __future__ import annotations

from tickhouse.dashboard import components, controls

__all__ = ["page"]


def page() -> None:
    """Paint the page; the figures live in the component."""
    if controls.house() is not None:
        components.feeds({"empty": "No feed yet: nothing has come in since the house was opened."})
