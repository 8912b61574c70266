"""kill -9 at random moments: the tables come out as if nothing had happened."""

from __future__ import annotations

import json
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from bench.standard_work import write

from tests.faults import processes
from tests.faults.processes import finish, wait_until

QUICK = {"TICKHOUSE_ENGINE__COMMIT_EVERY": "50ms", "TICKHOUSE_ENGINE__SNAPSHOT_EVERY": "300ms"}


tickhouse = partial(processes.tickhouse, env=QUICK)


def digests(house: Path) -> dict[str, str]:
    """Return the digests of a house whose every number is proven and whose balance holds."""
    report = json.loads(finish(tickhouse("verify", "--house", house, "--json")))
    assert report["ok"], report
    assert report["balance"]["repeated_causes"] == 0
    digests: dict[str, str] = report["digests"]
    return digests


def killed_replays(tmp_path: Path, kills: int, lines: int, seed: int) -> None:
    """Kill a replay at random moments, let the last one finish, and compare with an undisturbed one."""
    dice = random.Random(seed)
    recorded = tmp_path / "market.ndjson"
    write(recorded, lines, 20, seed)
    finish(tickhouse("replay", recorded, "--house", tmp_path / "calm"))
    again = ["replay", recorded, "--house", tmp_path / "killed", "--json"]
    killed = 0
    speed = lines * 0.0072 / 2.5
    for _ in range(kills):
        process = tickhouse(*again, "--speed", str(speed))
        time.sleep(1.0 + dice.uniform(0, 3.0))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(tickhouse(*again))
    assert killed, "every process had ended before its kill: the test shows nothing"
    assert digests(tmp_path / "killed") == digests(tmp_path / "calm")


def test_a_killed_replay_ends_with_the_same_tables(tmp_path: Path) -> None:
    killed_replays(tmp_path, kills=5, lines=100_000, seed=1)


def test_a_killed_live_run_proves_every_number(tmp_path: Path) -> None:
    dice = random.Random(2)
    house = tmp_path / "live"
    for _ in range(3):
        process = tickhouse("run", "--no-serve", "--house", house, "--source", "synthetic", "--json", "--lateness", "500ms")
        wait_until(lambda: _receiving(house), 1, process)
        time.sleep(1.0 + dice.uniform(0, 2.0))
        assert process.poll() is None, process.communicate()[1].decode()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(
        tickhouse(
            "run", "--no-serve", "--house", house, "--source", "synthetic", "--json", "--lateness", "500ms", "--duration", "2s"
        )
    )
    report = json.loads(finish(tickhouse("verify", "--house", house, "--json")))
    assert report["ok"], report
    assert report["balance"]["received"] > 100
    assert report["balance"]["received"] == sum(report["balance"][name] for name in ("accepted", "duplicate", "rejected"))


def _receiving(house: Path) -> bool:
    lock = house / "ingest.lock"
    return lock.exists() and bool(pid := lock.read_text()) and Path(f"/proc/{pid}").exists()


def test_ctrl_c_commits_everything_received(tmp_path: Path) -> None:
    house = tmp_path / "live"
    process = tickhouse("run", "--no-serve", "--house", house, "--source", "synthetic", "--json")
    committed = house / "lake" / "silver" / "trades"
    wait_until(lambda: len(list(committed.rglob("*.parquet"))), 1, process)
    for _ in range(2):  # as it comes from a terminal through `make` or `timeout`: to the group, and passed on
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    summary = json.loads(finish(process, 60))
    assert summary["accepted"] > 0
    shown = finish(tickhouse("query", "select count(*) as n from silver.trades", "--house", house, "--json"))
    assert json.loads(shown)[0]["n"] == summary["accepted"]


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10))
def test_fifty_kills_change_no_row(tmp_path: Path, seed: int) -> None:
    killed_replays(tmp_path, kills=5, lines=200_000, seed=100 + seed)
