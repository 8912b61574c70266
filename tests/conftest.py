"""What every test may use: the recorded fixtures' folder, where it is present, and real servers, one of each a session."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest
from bench.standard_work import write

from tests.parity.ways import digests
from tests.services.kafka import Broker
from tests.services.maven import ServiceMissingError
from tests.services.registry import Registry
from tests.test_cli import tickhouse

# A busy machine fails no test: neither the time of an example nor that of making one is looked at.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI=true a skipped test is a failed one; only the recorded fixtures may be absent."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and "no recorded fixtures" not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which CI does not allow: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded market data (TICKHOUSE_SHARED, default ../shared beside the checkout)."""
    path = Path(os.environ.get("TICKHOUSE_SHARED", Path(__file__).parents[1].parent / "shared"))
    if not (path / "fixtures").is_dir():
        pytest.skip(f"no recorded fixtures at {path} (set TICKHOUSE_SHARED)")
    return path


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Generator[Broker, None, None]:
    """A Kafka broker for topics of the tests' own; never stopped by a test."""
    try:
        with Broker(tmp_path_factory.mktemp("kafka")) as server:
            yield server
    except ServiceMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Generator[Registry, None, None]:
    """A schema registry."""
    try:
        with Registry(tmp_path_factory.mktemp("registry")) as server:
            yield server
    except ServiceMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def market(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording with all disorder; the module's MARKET says how many lines and symbols it has, and its seed."""
    file = tmp_path_factory.mktemp("market") / "market.ndjson"
    write(file, *request.module.MARKET)
    return file


@pytest.fixture(scope="module")
def expected(market: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of an undisturbed replay of it."""
    house = tmp_path_factory.mktemp("expected") / "house"
    tickhouse("replay", market, "--house", house)
    return digests(house)
