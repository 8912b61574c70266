"""The same recording in every way: one digest for each table, equal in all.

`make test` takes the first 200,000 lines of the standard work and a piece of a recorded day, `make campaign` all of it. With
TICKHOUSE_PARITY_FILES (paths joined by `:`) set, the suite takes those files instead.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from bench.standard_work import write

from tests.parity.ways import WAYS, Servers, digests
from tests.services.kafka import Broker
from tests.services.registry import Registry
from tests.test_cli import tickhouse

pytestmark = [pytest.mark.timeout(1_800), pytest.mark.slow]
GIVEN = [Path(name) for name in os.environ.get("TICKHOUSE_PARITY_FILES", "").split(":") if name]
LINES = 200_000
FRAMES = 9_000
REFERENCE, *OTHERS = WAYS


class Recorded(NamedTuple):
    """A recording, and what its tables are."""

    files: list[Path]
    expected: dict[str, str]


@pytest.fixture(scope="module")
def servers(broker: Broker, registry: Registry) -> Servers:
    """The servers."""
    return Servers(broker.servers, registry.url)


def proven(files: list[Path], folder: Path, servers: Servers) -> Recorded:
    """Make the tables in the first way, and prove them."""
    house = folder / REFERENCE
    WAYS[REFERENCE](files, house, servers)
    report = json.loads(tickhouse("verify", "--house", house, "--json"))
    assert report["ok"], report
    assert report["digests"] == digests(house)
    assert report["rows"]["gold.bars"]
    return Recorded(files, report["digests"])


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Recorded:
    """The first lines of the standard work, or the files that were given."""
    folder = tmp_path_factory.mktemp("standard")
    if GIVEN:
        return proven(GIVEN, folder, servers)
    return proven([work(folder, LINES, 50)], folder, servers)


@pytest.fixture(scope="module")
def recorded_day(shared: Path, tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Recorded:
    """A piece of a recorded Binance day."""
    folder = tmp_path_factory.mktemp("day")
    with gzip.open(shared / "fixtures" / "binance" / "ws_spot_btcusdt_20240808.gz") as file:
        (folder / "day.frames").write_bytes(b"".join(next(file) for _ in range(FRAMES)))
    return proven([folder / "day.frames"], folder, servers)


def work(folder: Path, lines: int, symbols: int) -> Path:
    """Write the first lines of the standard work of a million."""
    write(folder / "all.ndjson", max(lines, 1_000_000), symbols, 1)
    file = folder / f"first_{lines}.ndjson"
    with (folder / "all.ndjson").open("rb") as whole, file.open("wb") as part:
        part.writelines(next(whole) for _ in range(lines))
    (folder / "all.ndjson").unlink()
    return file


def must_be_equal(recorded: Recorded, way: str, house: Path, servers: Servers) -> None:
    """Make the tables in another way and compare."""
    WAYS[way](recorded.files, house, servers)
    found = digests(house)
    assert [name for name in found if found[name] != recorded.expected[name]] == []


@pytest.mark.parametrize("way", OTHERS)
def test_standard_work(standard: Recorded, way: str, tmp_path: Path, servers: Servers) -> None:
    must_be_equal(standard, way, tmp_path / way, servers)


@pytest.mark.parametrize("way", OTHERS)
def test_recorded_day(recorded_day: Recorded, way: str, tmp_path: Path, servers: Servers) -> None:
    must_be_equal(recorded_day, way, tmp_path / way, servers)


def all_ways(files: Sequence[Path], folder: Path, servers: Servers) -> None:
    """Compare every way on a recording of its own."""
    recorded = proven(list(files), folder, servers)
    for way in OTHERS:
        must_be_equal(recorded, way, folder / way, servers)


@pytest.mark.campaign
@pytest.mark.parametrize("symbols", [50, 5_000])
def test_the_whole_standard_work(symbols: int, tmp_path: Path, servers: Servers) -> None:
    all_ways([work(tmp_path, 1_000_000, symbols)], tmp_path, servers)


@pytest.mark.campaign
def test_whole_recorded_days(shared: Path, tmp_path: Path, servers: Servers) -> None:
    all_ways(sorted((shared / "fixtures" / "binance").glob("ws_spot_*.gz")), tmp_path, servers)
