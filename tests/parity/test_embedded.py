"""What only recordings and SQLite can do, twice: two files in turn, a live run recorded and replayed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from bench.standard_work import write

from tests.test_cli import tickhouse

LIVELY = """
[rules]
lateness = "500ms"
intervals = ["1s", "5s", "1m"]
indicator_intervals = ["1s"]
[engine]
commit_every = "100ms"
snapshot_every = "400ms"
[sources.options.synthetic]
symbols = 5
rate = 400
duplicates = 0.1
late = 0.1
late_by_s = 5
gaps = 0.05
malformed = 0.05
"""


def digests(house: Path) -> dict[str, str]:
    """Return the digests of all eight tables of a proven house."""
    report = json.loads(tickhouse("verify", "--house", house, "--json"))
    assert report["ok"], report
    found: dict[str, str] = report["digests"]
    assert len(found) == 8
    return found


def replayed(house: Path, *words: str | Path) -> dict[str, str]:
    """Replay into a house and return its digests."""
    tickhouse("replay", *words, "--house", house)
    return digests(house)


def binance(shared: Path, folder: Path, lines: int) -> list[Path]:
    """Return two recordings of frames, one after the other, cut out of a recorded day."""
    with gzip.open(shared / "fixtures" / "binance" / "ws_spot_btcusdt_20240808.gz") as file:
        frames = [next(file) for _ in range(lines)]
    files = [folder / "a.frames", folder / "b.frames"]
    files[0].write_bytes(b"".join(frames[: lines // 3]))
    files[1].write_bytes(b"".join(frames[lines // 3 :]))
    return files


def test_standard_work_is_the_same_through_each_journal(tmp_path: Path) -> None:
    write(tmp_path / "market.ndjson", 5_000, 20, 3)
    assert replayed(tmp_path / "direct", tmp_path / "market.ndjson") == replayed(
        tmp_path / "through", tmp_path / "market.ndjson", "--to", "sqlite"
    )


def test_recorded_frames_are_the_same_through_each_journal(shared: Path, tmp_path: Path) -> None:
    files = binance(shared, tmp_path, 9_000)
    assert replayed(tmp_path / "direct", *files) == replayed(tmp_path / "through", *files, "--to", "sqlite")


def test_two_files_at_once_are_the_same_as_one_after_the_other(shared: Path, tmp_path: Path) -> None:
    files = binance(shared, tmp_path, 6_000)
    at_once = replayed(tmp_path / "at_once", *files)
    for file in files:
        tickhouse("replay", file, "--house", tmp_path / "in_turn")
    assert digests(tmp_path / "in_turn") == at_once


def test_a_recorded_live_run_replays_to_the_same_tables(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(LIVELY)
    rules = ["--config", tmp_path / "t.toml"]
    live = ["--source", "synthetic", "--record", tmp_path / "frames", "--duration", "2.5s", "--json"]
    for _ in range(2):
        summary = json.loads(tickhouse("run", "--no-serve", "--house", tmp_path / "live", *live, *rules))
    assert summary["rejected"]
    assert summary["duplicate"]
    assert summary["late"]
    files = sorted((tmp_path / "frames").iterdir())
    assert len(files) == 2
    assert replayed(tmp_path / "again", *files, *rules) == digests(tmp_path / "live")
