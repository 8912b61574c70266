"""The benchmark's own generator, oracle and peers: the numbers they race for are right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

BENCH = Path(__file__).parents[2] / "bench"
N = 200_000
"""24 minutes of the standard work: indicators become ready."""


def _python(*arguments: object) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _standard_work(folder: Path, n: int, *options: object) -> tuple[Path, Path]:
    """Write a small input and its answer; return both."""
    file, answer = folder / "work.ndjson", folder / "answer"
    _python(BENCH / "standard_work.py", "--n", n, "--symbols", 20, "--out", file, *options)
    _python(BENCH / "oracle.py", file, answer)
    return file, answer


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return _standard_work(tmp_path_factory.mktemp("work"), N)


def test_generator_gives_the_shares_it_names(work: tuple[Path, Path]):
    counts = json.loads((work[1] / "counts.json").read_text())
    assert counts["lines"] == N
    assert counts["malformed"] == N * 0.001
    assert counts["duplicates"] == N * 0.01
    assert 0 < counts["late"] < N * 0.01
    assert counts["anomalies"] > 0


def test_generator_writes_the_same_bytes_again(tmp_path: Path):
    files = [tmp_path / name for name in ("one", "again", "other")]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        _python(BENCH / "standard_work.py", "--n", 5_000, "--symbols", 20, "--seed", seed, "--out", file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes() != files[2].read_bytes()


@pytest.mark.parametrize("peer", ["python_dicts", "polars_batch", "duckdb_batch"])
def test_peer_equals_the_oracle(work: tuple[Path, Path], tmp_path: Path, peer: str):
    told = json.loads(_python(BENCH / "peers" / f"{peer}.py", work[0], "--out", tmp_path))
    assert told["n"] == N
    assert told["seconds"] > 0
    _python(BENCH / "check.py", work[1], tmp_path)


def test_check_notices_one_changed_price(work: tuple[Path, Path], tmp_path: Path):
    for table in ("bars", "trades"):
        (tmp_path / table).mkdir()
        rows = pl.read_parquet(work[1] / f"{table}.parquet")
        if table == "bars":
            rows = rows.with_columns(close=pl.when(pl.int_range(pl.len()) == 7).then(pl.col("close") + 1e-6).otherwise("close"))
        rows.write_parquet(tmp_path / table / "0.parquet")
    done = subprocess.run(
        [sys.executable, BENCH / "check.py", work[1], tmp_path], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["diff_close"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("n", "late_share"), [(N // 4, 0.01), (N, 0.0)], ids=["with late trades", "with indicators"])
def test_house_equals_the_oracle_to_the_last_bit(tmp_path: Path, n: int, late_share: float):
    file, answer = _standard_work(tmp_path, n, "--late-share", late_share)
    told = json.loads(_python("-m", "tickhouse", "replay", file, "--house", tmp_path / "house", "--json"))
    counts = json.loads((answer / "counts.json").read_text())
    assert told["accepted"] == counts["trades"]
    assert told["duplicate"] == counts["duplicates"]
    assert sum(told["rejected"].values()) == counts["malformed"]
    compared = json.loads(_python(BENCH / "check.py", answer, tmp_path / "house"))
    assert compared["bars"] > 0
    assert ("diff_sma20" in compared) == (late_share == 0.0)
    assert (pl.read_parquet(answer / "bars.parquet")["vol20"].count() > 0) == (n == N)


@pytest.mark.parametrize("symbols", [5, 200])
def test_oracle_agrees_with_the_recorded_one(shared: Path, tmp_path: Path, symbols: int):
    file = tmp_path / "theirs.ndjson"
    _python(shared / "bench" / "gen.py", "--n", N // 10, "--symbols", symbols, "--seed", 11, "--out", file)
    _python(shared / "bench" / "oracle.py", file, tmp_path / "theirs")
    _python(BENCH / "oracle.py", file, tmp_path / "ours")
    _python(shared / "bench" / "check.py", tmp_path / "theirs", _as_peer(tmp_path / "ours"))
    ours, theirs = (pl.read_parquet(tmp_path / name / "bars.parquet") for name in ("ours", "theirs"))
    for name in ("symbol", "bar_start", "open", "high", "low", "close", "volume", "vwap", "trades"):
        assert ours[name].equals(theirs[name]), name


def _as_peer(answer: Path) -> Path:
    for table in ("bars", "trades"):
        (answer / table).mkdir()
        (answer / f"{table}.parquet").rename(answer / table / "0.parquet")
        (answer / f"{table}.parquet").symlink_to(answer / table / "0.parquet")
    return answer
