"""What every test may use: the recorded fixtures' folder, where it is present."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest


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
