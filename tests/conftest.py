"""What every test may use: the recorded fixtures' folder, where it is present."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded market data (TICKHOUSE_SHARED, default ../shared beside the checkout)."""
    path = Path(os.environ.get("TICKHOUSE_SHARED", Path(__file__).parents[1].parent / "shared"))
    if not (path / "fixtures").is_dir():
        pytest.skip(f"no recorded fixtures at {path} (set TICKHOUSE_SHARED)")
    return path
