"""The embedded engine with sinks that fail: what is committed stays, the rest comes after, nothing twice."""

from __future__ import annotations

import threading
from pathlib import Path
from unittest.mock import patch

import pytest
from bench.standard_work import write

from tickhouse.errors import TickhouseError, TransientError
from tickhouse.house import House
from tickhouse.journal.recording import reader as recording_reader
from tickhouse.runs import ReplayRun
from tickhouse.settings import Engine, Settings
from tickhouse.sinks.lake import Lake

SETTINGS = Settings(engine=Engine(commit_every="10ms", snapshot_every="30ms"))


class FailingLake(Lake):
    """A lake whose commits fail now and then, after some tables have been committed."""

    failures = 0
    every = 2
    commits = 0

    def commit(self, *, everything: bool = False) -> None:
        """Fail every second time, `failures` times in all."""
        type(self).commits += 1
        if self.failures and self.commits % self.every == 0:
            type(self).failures -= 1
            self._tables["bronze.trades"].commit(everything=everything)
            raise TransientError("the store is away", retry_after_s=0.001)
        super().commit(everything=everything)


def replay(house: Path, file: Path) -> dict[str, str]:
    """Replay a file and return the digests of the proven house."""
    ReplayRun(House(house), SETTINGS, [file], {}, say=lambda _line: None).run(threading.Event())
    report = House(house).verify()
    assert report.ok, report.differences
    return report.digests


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short market, in batches small enough for many commits."""
    monkeypatch.setattr(recording_reader, "BATCH_ROWS", 4_096)
    file = tmp_path / "market.ndjson"
    write(file, 60_000, 20, 3)
    return file


def test_a_commit_that_fails_now_and_then_is_tried_again(tmp_path: Path, recorded: Path) -> None:
    FailingLake.failures, FailingLake.every, FailingLake.commits = 4, 2, 0
    with patch("tickhouse.house.work.Lake", FailingLake):
        disturbed = replay(tmp_path / "disturbed", recorded)
    assert FailingLake.failures < 4, "no commit failed: the test shows nothing"
    assert disturbed == replay(tmp_path / "calm", recorded)


def test_a_store_that_stays_away_stops_the_run_and_the_next_run_goes_on(tmp_path: Path, recorded: Path) -> None:
    FailingLake.failures, FailingLake.every, FailingLake.commits = 1_000_000, 1, 0
    with (
        patch("tickhouse.house.work.Lake", FailingLake),
        pytest.raises(TickhouseError, match="still fails after 5 tries: the store is away"),
    ):
        replay(tmp_path / "disturbed", recorded)
    assert replay(tmp_path / "disturbed", recorded) == replay(tmp_path / "calm", recorded)


def test_stopped_and_started_again_gives_the_same_tables(tmp_path: Path, recorded: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.15, stop.set).start()
    run = ReplayRun(House(tmp_path / "disturbed"), SETTINGS, [recorded], {}, speed="2000", say=lambda _line: None)
    first = run.run(stop)
    assert replay(tmp_path / "disturbed", recorded) == replay(tmp_path / "calm", recorded)
    assert first["received"] < 60_000
