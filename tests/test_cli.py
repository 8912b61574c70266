"""The command line as a user meets it: what it prints, what it writes, what it says when something is wrong."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import polars as pl
import pytest

from tickhouse.cli import main

NDJSON = "".join(
    f'{{"s":"BINANCE:BTCUSDT","p":{100 + k % 7},"t":{1_768_516_200_000 + 500 * k},"v":0.5,"id":{k}}}\n' for k in range(1200)
)


def printed(*words: str | Path) -> str:
    """Run the command line, which finds something wrong; return what it printed."""
    out = io.StringIO()
    with patch.object(sys, "argv", ["tickhouse", *map(str, words)]), redirect_stdout(out), pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    return out.getvalue()


def tickhouse(*words: str | Path, code: int = 0) -> str:
    """Run the command line in this process; return what it printed (standard error where it must fail)."""
    out, err = io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", ["tickhouse", *map(str, words)]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as leave:
            ended = leave.code or 0
        else:
            ended = 0
    assert ended == code, out.getvalue() + err.getvalue()
    return err.getvalue() if code else out.getvalue()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A house with a short recording."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "trades.ndjson").write_text(NDJSON)
    summary = json.loads(tickhouse("replay", folder / "trades.ndjson", "--house", folder / "house", "--json"))
    assert summary["accepted"] == 1200
    return folder / "house"


def test_replay_says_what_it_did(tmp_path: Path) -> None:
    (tmp_path / "trades.ndjson").write_text(NDJSON + "{broken\n")
    said = tickhouse("replay", tmp_path / "trades.ndjson", "--house", tmp_path / "house")
    assert "received       1,201" in said.replace("  received", "received") or "1,201" in said
    assert "malformed" in said


def test_the_same_file_again_is_skipped(house: Path) -> None:
    before = tickhouse("verify", "--house", house, "--json")
    summary = json.loads(tickhouse("replay", house.parent / "trades.ndjson", "--house", house, "--json"))
    assert summary["accepted"] == 1200
    assert json.loads(tickhouse("verify", "--house", house, "--json")) == json.loads(before)


def test_query_prints_a_table_and_json(house: Path) -> None:
    sql = "select symbol, count(*) as n, sum(size) as volume from silver.trades group by symbol"
    assert json.loads(tickhouse("query", sql, "--house", house, "--json")) == [
        {"symbol": "BTC-USDT", "n": 1200, "volume": 600.0}
    ]
    assert "BTC-USDT" in tickhouse("query", sql, "--house", house)


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_query_writes_files(house: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"bars.{suffix}"
    tickhouse("query", "select * from gold.bars where interval = '1m'", "--house", house, "--output", target)
    data = {"csv": pl.read_csv, "json": pl.read_json, "parquet": pl.read_parquet}[suffix](target)
    assert data.height == 9
    assert data["trades"].sum() == 1080


@pytest.mark.parametrize("words", [("query", "select count(*) as n from silver.trades"), ("verify",)])
def test_a_command_that_works_has_nothing_to_complain_of(house: Path, words: tuple[str, ...]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tickhouse", *words, "--house", house], capture_output=True, text=True, check=False, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_verify_proves_and_finds_what_was_changed(tmp_path: Path) -> None:
    (tmp_path / "trades.ndjson").write_text(NDJSON)
    tickhouse("replay", tmp_path / "trades.ndjson", "--house", tmp_path / "house")
    report = json.loads(tickhouse("verify", "--house", tmp_path / "house", "--json"))
    assert report["ok"]
    assert len(report["digests"]) == 8
    [file] = [path for path in (tmp_path / "house/lake/gold/bars").rglob("*.parquet") if "checkpoint" not in path.name]
    bars = pl.read_parquet(file, hive_partitioning=False)
    bars.with_columns(close=pl.col("close") + 0.01).write_parquet(file)
    found = json.loads(printed("verify", "--house", tmp_path / "house", "--json"))
    assert not found["ok"]
    assert found["differences"][0]["table"] == "gold.bars"


def test_the_position_in_bytes_of_a_compacted_house_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "trades.ndjson").write_text(NDJSON)
    tickhouse("replay", tmp_path / "trades.ndjson", "--house", tmp_path / "house")
    before = json.loads(tickhouse("verify", "--house", tmp_path / "house", "--json"))
    tickhouse("compact", "--house", tmp_path / "house", "--day", "2026-01-15", "--layout", "date/symbol")
    assert list((tmp_path / "house/lake/silver/trades").rglob("symbol=BTC-USDT/*.parquet"))
    assert json.loads(tickhouse("verify", "--house", tmp_path / "house", "--json")) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["query", "select 1", "--house", "nowhere"], "no house at nowhere"),
        (["replay", "nothing.ndjson"], "nothing.ndjson: no such file"),
        (["replay", "--speed", "fast", __file__], "use max"),
        (["replay", "--columns", "price", __file__], "our name=theirs"),
        (["run", "--source", "binanse"], "did you mean 'binance'?"),
        (["config", "--config", "none.toml"], "none.toml does not exist"),
        (["replay", "--columns", "price=p,price=v", __file__], "'price' twice"),
        (["run", "--source", "synthetic", "--duration", "-5s"], "'-5s' is not a duration"),
        (["run", "--source", "synthetic", "--lateness", "10"], "'10' is not a duration"),
        (["frobnicate"], "No such command"),
    ],
)
def test_a_mistake_gets_one_clear_line(tmp_path: Path, words: list[str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = tickhouse(*words, code=2)
    assert says in said
    assert "Traceback" not in said


def test_an_unknown_setting_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tickhouse.toml").write_text('[rules]\nlatenes = "5s"\n')
    assert "did you mean 'rules.lateness'?" in tickhouse("config", code=2)


def test_a_house_of_recordings_refuses_to_run_live(house: Path) -> None:
    assert "tickhouse replay FILES" in tickhouse("run", "--house", house, "--source", "synthetic", code=2)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trades.ndjson").write_text(NDJSON)
    first = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tickhouse",
            "replay",
            tmp_path / "trades.ndjson",
            "--house",
            tmp_path / "house",
            "--speed",
            "1",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        for _ in range(200):
            if (tmp_path / "house" / "lock").exists() and (tmp_path / "house" / "lock").read_text():
                break
            subprocess.run(["sleep", "0.05"], check=True)
        said = tickhouse("replay", tmp_path / "trades.ndjson", "--house", tmp_path / "house", code=2)
        assert f"written by process {first.pid}" in said
    finally:
        first.terminate()
        first.communicate()


def test_the_metrics_of_another_program_are_not_ours(tmp_path: Path) -> None:
    lines = tmp_path / "trades.ndjson"
    lines.write_text(NDJSON)
    command = [sys.executable, "-m", "tickhouse", "replay", str(lines), "--house", str(tmp_path / "house"), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=150, check=False,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": "nowhere/metrics"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_house_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "house.json").write_text('{"version": 99, "journal": "sqlite"}')
    assert "newer Tickhouse" in tickhouse("query", "select 1", "--house", tmp_path / "house", code=2)


def test_other_rules_than_the_house_has_are_refused(house: Path) -> None:
    said = tickhouse("replay", house.parent / "trades.ndjson", "--house", house, "--lateness", "5s", code=2)
    assert "lateness" in said


def test_times_in_the_wrong_unit_stop_the_replay_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "trades.ndjson").write_text(NDJSON)
    said = tickhouse("replay", tmp_path / "trades.ndjson", "--house", tmp_path / "house", "--ts-unit", "s", code=2)
    assert "--ts-unit" in said


def test_doctor_and_plugins_answer(house: Path) -> None:
    assert "binance" in tickhouse("plugins")
    found = {one["what"]: one for one in json.loads(printed("doctor", "--house", house, "--json"))}
    assert found["house"]["ok"]
    assert found["lake"]["ok"]
