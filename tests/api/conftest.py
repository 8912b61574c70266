"""A house and a server for it: written once, served once a test session, asked by every test of the API."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.live import LiveHouse, Served
from tickhouse.settings import ServeSettings


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A house with two hours of trades of three instruments; nobody writes it any more."""
    path = tmp_path_factory.mktemp("api") / "house"
    with LiveHouse(path) as house:
        house.play(random.Random(7), minutes=120, a_minute=40)
    return path


@pytest.fixture(scope="session")
def served(stored: Path) -> Iterator[Served]:
    """A server for it."""
    hours = {"BINANCE": "Mon-Sun 00:00-24:00 UTC", "COINBASE": "Sat-Sun 00:00-24:00 UTC"}  # the house ends on a Thursday
    settings = ServeSettings(port=0, rate_per_s=1e6, burst=1_000_000, sql_timeout_s=30.0, hours=hours)
    with Served(stored, settings) as server:
        server.until_reached(1)
        yield server
