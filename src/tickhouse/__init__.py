"""Tickhouse: a self-hosted market-data house. Every trade kept, every number provable.

`tickhouse.open("house/")` reads a house; the command line (`tickhouse --help`) makes and writes one. Importing this package
loads none of the heavy libraries.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tickhouse.house import House

__all__ = ["open"]


def open(path: str | Path = "house") -> House:  # noqa: A001  (as one says it)
    """Open a house for reading.

    Args:
        path: Its folder.

    Raises:
        ConfigError: there is no house.

    Example:
        >>> import tickhouse
        >>> house = tickhouse.open("house")  # doctest: +SKIP
        >>> house.bars("BTC-USDT", "1m", as_of="2026-01-16T00:00:00Z")  # doctest: +SKIP
    """
    from tickhouse.house import open_house

    return open_house(path)
