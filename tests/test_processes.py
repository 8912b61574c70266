"""Children of a running house: they get their parent's settings, say why they end, and never outlive it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tickhouse.errors import FatalError
from tickhouse.processes import Child
from tickhouse.settings import HouseRules, Settings, Sources

SYNTHETIC = Settings(sources=Sources(enabled=("synthetic",)), rules=HouseRules(lateness="500ms"))


def ingest(house: Path, settings: Settings = SYNTHETIC) -> Child:
    """Start the receiving half of a house."""
    return Child(["ingest", "--house", str(house)], settings)


def until(what: object, timeout_s: float = 120.0) -> None:
    """Wait until a call says True."""
    assert callable(what)
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.02)


def test_a_child_takes_the_settings_of_its_parent_and_stops_when_asked(tmp_path: Path) -> None:
    from tickhouse.journal.sqlite import SqliteJournal

    with ingest(tmp_path / "house") as child:
        assert child.first_line(120).startswith("synthetic -> ")
        assert child.alive
    assert not child.alive
    journal = SqliteJournal.open(tmp_path / "house")
    rules = journal.rules()
    assert rules is not None
    assert rules.lateness_us == 500_000
    journal.close()


def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    with ingest(tmp_path, Settings(sources=Sources(enabled=("binanse",)))) as child, pytest.raises(FatalError, match="binance"):
        child.first_line(120)


def test_a_second_process_that_receives_is_refused(tmp_path: Path) -> None:
    with ingest(tmp_path) as first:
        first.first_line(120)
        with ingest(tmp_path) as second, pytest.raises(FatalError, match=f"process {first.pid} receives into"):
            second.first_line(120)


def test_what_was_received_survives_the_parents_death(tmp_path: Path) -> None:
    words = ["run", "--no-serve", "--house", str(tmp_path), "--source", "synthetic", "--lateness", "500ms", "--json"]
    parent = subprocess.Popen([sys.executable, "-m", "tickhouse", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lock = tmp_path / "ingest.lock"
    try:
        until(lambda: lock.exists() and lock.read_text())
        child = int(lock.read_text())
        assert child != parent.pid
        until(lambda: (tmp_path / "journal.db-wal").stat().st_size > 100_000)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    until(lambda: not _lives(child))
    done = subprocess.run(
        [sys.executable, "-m", "tickhouse", "work", "--house", str(tmp_path), "--duration", "1s", "--no-serve", "--json"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["accepted"] > 0


@pytest.mark.parametrize("wait_s", [0.0, 1.0, 2.0])
def test_a_dashboard_that_still_loads_ends_when_it_is_asked(wait_s: float) -> None:
    child = Child(["dashboard", "--port", "0"], Settings())
    time.sleep(wait_s)
    child.stop(120.0)
    assert child._process.returncode == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_of_a_run_ends_it_well(tmp_path: Path, signum: signal.Signals) -> None:
    words = ["run", "--no-dashboard", "--port", "0", "--house", str(tmp_path), "--source", "synthetic", "--json"]
    parent = subprocess.Popen(
        [sys.executable, "-m", "tickhouse", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert parent.stderr is not None
    said = ""
    while "API on" not in said:
        line = parent.stderr.readline()
        assert line, said
        said += line
    until(lambda: (tmp_path / "journal.db-wal").stat().st_size > 50_000)
    os.killpg(parent.pid, signum)
    out, err = parent.communicate(timeout=60)
    assert (parent.returncode, err) == (0, "")
    summary = json.loads(out)
    assert summary["received"] == summary["accepted"] + summary["duplicate"] + sum(summary["rejected"].values())


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
