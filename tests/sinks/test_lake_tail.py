"""How far tables are committed, learned from what is new in their logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.table_rows import rows, trade
from tickhouse.model import Position
from tickhouse.sinks import lake_tail
from tickhouse.sinks.base import Outputs
from tickhouse.sinks.lake import Lake
from tickhouse.sinks.lake_log import open_table
from tickhouse.sinks.lake_tail import LakeTail
from tickhouse.tables import Table

NAME = "silver.trades"


def commit(lake: Lake, partition: int, reached: int) -> None:
    written = rows(NAME, [trade(reached - 1, partition=partition)])
    lake.write(Outputs(partition, Position(reached, 10 * reached), {NAME: written}))
    lake.commit()


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which every opening of a table is added."""
    seen: list[str] = []

    def noted(path: Path, table: Table) -> object:
        seen.append(table.name)
        return open_table(path, table)

    monkeypatch.setattr(lake_tail, "open_table", noted)
    return seen


def test_a_lake_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    tail = LakeTail(tmp_path / "lake", [NAME], [0])
    assert not tail.look()
    assert tail.position(NAME, 0) == Position()
    lake = Lake(tmp_path / "lake")
    commit(lake, 0, 5)
    assert tail.look()
    assert tail.position(NAME, 0) == Position(5, 50)
    lake.close()


def test_commits_are_followed_without_opening_the_table_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, tail = Lake(tmp_path), LakeTail(tmp_path, [NAME], [0, 1])
    commit(lake, 0, 5)
    tail.look()
    seen = opened(monkeypatch)
    for reached in range(10, 400, 10):  # over checkpoints
        commit(lake, reached // 10 % 2, reached)
        assert tail.look()
        assert tail.position(NAME, reached // 10 % 2) == Position(reached, 10 * reached)
        assert not tail.look()
    assert tail.position(NAME, 1) == Position(390, 3900)
    assert tail.position(NAME, 0) == Position(380, 3800)
    lake.compact("2023-11-14")
    assert tail.look()
    assert tail.position(NAME, 1) == Position(390, 3900)
    assert seen == []
    lake.close()


def test_a_commit_that_is_gone_from_the_log_is_found_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, tail = Lake(tmp_path), LakeTail(tmp_path, [NAME], [0])
    commit(lake, 0, 5)
    tail.look()
    for reached in range(10, 400, 10):
        commit(lake, 0, reached)
    log = tmp_path / "silver" / "trades" / "_delta_log"
    newest = json.loads((log / "_last_checkpoint").read_text())["version"]
    for old in range(newest):
        (log / f"{old:020}.json").unlink(missing_ok=True)
    seen = opened(monkeypatch)
    assert tail.look()
    assert tail.position(NAME, 0) == Position(390, 3900)
    assert seen == [NAME]
    lake.close()
