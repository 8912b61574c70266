"""Rule R3: only heartbeats move the clock (docs/rules.md)."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from tests.journals import drained
from tests.scripted import BTC, MINUTE, SECOND, T0, Script, feed, rows_of, run
from tickhouse.clock import ManualClock
from tickhouse.errors import ConfigError, FatalError
from tickhouse.ingest import Heartbeats, IngestCore
from tickhouse.journal.recording import Recording
from tickhouse.journal.sqlite import SqliteJournal
from tickhouse.model import NO_TIME, Batch, Feeds, Trade
from tickhouse.rules import Rules
from tickhouse.sources.files.opener import Opener

QUARTER = SECOND // 4


def test_trades_never_move_the_clock(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0 + 4 * SECOND, trade_id=1).trade(T0 + 5 * SECOND, trade_id=2)
    tables = run(script, tmp_path)
    assert rows_of(tables["silver.trades"], "clock") == [(T0,), (T0,)]


def test_a_trade_before_the_first_heartbeat_is_rejected(tmp_path: Path) -> None:
    script = Script().trade(T0, trade_id=1).beat(T0).trade(T0, trade_id=1)
    tables = run(script, tmp_path)
    assert rows_of(tables["bronze.rejected"], "reason", "clock") == [("future", None)]
    assert tables["silver.trades"].height == 1


def test_a_future_dated_trade_closes_no_other_symbol(tmp_path: Path) -> None:
    fast = feed("ETH-USDT")
    script = Script().beat(T0).trade(T0, trade_id=1).trade(T0 + 60 * MINUTE, trade_id=1, of=fast).trade(T0 + SECOND, trade_id=2)
    tables = run(script, tmp_path)
    assert tables["gold.bars"].height == 0
    assert rows_of(tables["silver.trades"], "trade_id", "late") == [(1, False), (2, False)]


def test_the_clock_of_a_trade_is_the_largest_heartbeat_before_it(tmp_path: Path) -> None:
    script = Script().beat(T0).trade(T0, trade_id=1).beat(T0 + QUARTER).trade(T0, trade_id=2).beat(T0 + MINUTE)
    expected = [(1, T0), (2, T0 + QUARTER)]
    for cuts in ([], [1, 2, 3, 4]):
        assert rows_of(run(script, tmp_path, cuts=cuts)["silver.trades"], "trade_id", "clock") == expected


# Ingest: wall time at start plus the monotonic clock.


def journal_of(tmp_path: Path, clock: ManualClock, *steps: int, jump: int = 0) -> tuple[list[Batch], Feeds]:
    """A journal in which a trade came after each step of the monotonic clock, the wall clock jumping before the last."""
    with closing(SqliteJournal.create_or_open(tmp_path / "house", Rules())) as journal:
        with closing(journal.appender()) as appender:
            core = IngestCore(appender, clock, NO_TIME)
            for k, step in enumerate(steps):
                clock.advance(step)
                clock.step_wall(jump if k == len(steps) - 1 else 0)
                core.trades("test", [Trade(BTC, T0, 1.0, 1.0, k)], clock.wall())
            core.flush()
        feeds = Feeds()
        return drained(journal.reader(0, 1, feeds)), feeds


def beats_of(batches: list[Batch]) -> list[int]:
    return [(int(clock) - T0) // QUARTER for batch in batches for clock in batch.beats.clock]


def test_ingest_marks_every_quarter_second_before_what_came_after_it(tmp_path: Path) -> None:
    batches, _ = journal_of(tmp_path, ManualClock(T0), 0, QUARTER - 1, 1, 3 * QUARTER)
    assert beats_of(batches) == [0, 1, 2, 3, 4]
    assert [int(at) for batch in batches for at in batch.beats.at] == [0, 2, 3, 3, 3]


def test_a_wall_clock_set_back_or_a_second_forward_moves_no_heartbeat(tmp_path: Path) -> None:
    for name, jump in (("back", -60 * MINUTE), ("forward", SECOND)):
        batches, _ = journal_of(tmp_path / name, ManualClock(T0), 0, QUARTER, QUARTER, jump=jump)
        assert beats_of(batches) == [0, 1, 2]
        assert not [event for batch in batches for event in batch.events]


def test_after_a_suspend_heartbeats_jump_forward_with_an_event(tmp_path: Path) -> None:
    batches, _ = journal_of(tmp_path, ManualClock(T0), 0, QUARTER, QUARTER, jump=60 * MINUTE)
    assert beats_of(batches) == [0, 1, 14_402]
    assert [event.event for batch in batches for event in batch.events] == ["clock_jumped"]


def test_a_start_behind_the_journal_waits_up_to_five_seconds_else_refuses() -> None:
    assert Heartbeats(ManualClock(T0 - 5 * SECOND), T0).behind_us() == 5 * SECOND
    with pytest.raises(FatalError, match="set the host's clock"):
        Heartbeats(ManualClock(T0 - 5 * SECOND - 1), T0)
    waiting = Heartbeats(clock := ManualClock(T0 - SECOND), T0)
    assert list(waiting.due(jumped=False)) == []
    clock.advance(SECOND + QUARTER)
    assert list(waiting.due(jumped=False)) == [T0 + QUARTER]


# Recordings have no heartbeats: the journal makes them from the running maximum.


def recorded(tmp_path: Path, *files: list[int]) -> list[tuple[int, int]]:
    """Return (line, quarter seconds after T0) of the heartbeats of files whose trades have these times."""
    tmp_path.mkdir(exist_ok=True)
    opened = []
    for k, times in enumerate(files):
        rows = [{"s": "IEX:AAPL", "p": 10.0, "t": time, "v": 1, "id": i} for i, time in enumerate(times)]
        opened.append(tmp_path / f"{k}.ndjson")
        opened[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    with closing(Recording.create_or_open(tmp_path / "house", Rules(), Opener([]))) as journal:
        journal.add_files(opened)
        with closing(journal.reader(0, 0, Feeds())) as reader:
            batches = list(iter(lambda: reader.read(0), None))
    columns = [batch.beats for batch in batches]
    return [
        (int(line), (int(clock) - T0) // QUARTER)
        for beats in columns
        for line, clock in zip(beats.offset, beats.clock, strict=True)
    ]


def test_a_recording_has_a_heartbeat_before_the_line_that_reaches_the_quarter_second(tmp_path: Path) -> None:
    times = [T0 + k for k in (0, QUARTER - 1, QUARTER, QUARTER // 2, 3 * QUARTER + 7)]
    assert recorded(tmp_path, times) == [(0, 0), (2, 1), (4, 3)]


def test_a_leap_of_more_than_a_minute_counts_only_if_most_of_the_next_ten_lines_confirm_it(tmp_path: Path) -> None:
    calm = [T0 + k * SECOND for k in range(12)]
    wrong = [*calm[:1], T0 + 60 * MINUTE, *calm[1:]]
    assert recorded(tmp_path / "wrong", wrong) == [(0 if k == 0 else k + 1, 4 * k) for k in range(12)]
    right = [T0, *[T0 + 60 * MINUTE] * 7, *[T0] * 4]
    assert recorded(tmp_path / "right", right) == [(0, 0), (1, 14_400)]
    near = [*calm[:1], T0 + MINUTE, *calm[1:]]
    assert recorded(tmp_path / "near", near) == [(0, 0), (1, 240)]


def test_a_file_whose_time_falls_back_by_more_than_an_hour_is_refused(tmp_path: Path) -> None:
    late = [T0 + 2 * 60 * MINUTE + k for k in range(12)]
    with pytest.raises((ConfigError, FatalError), match="more than an hour before"):
        recorded(tmp_path, late, [T0 + k for k in range(12)])
