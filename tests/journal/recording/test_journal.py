"""A recording as a journal: heartbeats by rule R3, offsets over files, reading on, refusals."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tickhouse.columns import trade_json
from tickhouse.errors import ConfigError, FatalError, SchemaMismatchError
from tickhouse.journal.recording import Recording
from tickhouse.journal.recording import journal as recording_journal
from tickhouse.journal.recording import reader as recording_reader
from tickhouse.journal.sqlite import SqliteJournal
from tickhouse.lines import FileOptions
from tickhouse.model import MAX_MESSAGE_ROWS, NO_TIME, Feed, Feeds, Position, Trade
from tickhouse.rules import Rules
from tickhouse.sources.base import Parsed
from tickhouse.sources.files.opener import Opener

T0 = 1_767_225_600_000_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
RULES = Rules()


class Echo:
    """A source whose frames are `{"echo": [count, ts]}`."""

    name = "echo"
    feed = Feed("echo", "IEX", "AAPL", "", "none", "aapl")

    def parse(self, payload, received_at):
        count, ts = json.loads(payload)["echo"]
        return Parsed(trades=[Trade(self.feed, ts, 1.0 + i, 1.0) for i in range(count)])

    def recognises(self, payload):
        return payload.startswith(b'{"echo"')


@pytest.fixture
def house(tmp_path):
    """Open the house's journal; every one opened is closed at the end."""
    opened = []

    def make(rules=RULES, name="house", **options):
        opened.append(Recording.create_or_open(tmp_path / name, rules, Opener([Echo()]), **options))
        return opened[-1]

    yield make
    for journal in opened:
        journal.close()


def flat(path: Path, times, first_id=1) -> Path:
    rows = [{"s": "IEX:AAPL", "p": 10 + i % 7, "t": time, "v": 1, "id": first_id + i} for i, time in enumerate(times)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def batches(journal, start=0, feeds=None):
    reader = journal.reader(0, start, Feeds() if feeds is None else feeds)
    found = []
    while (batch := reader.read(0)) is not None:
        found.append(batch)
    assert reader.exhausted
    assert reader.read(0) is None
    reader.close()
    return found


def beats(journal, start=0):
    """Return (line, seconds after T0) of all heartbeats."""
    return [
        (int(line), (int(clock) - T0) / SECOND)
        for batch in batches(journal, start)
        for line, clock in zip(batch.beats.offset, batch.beats.clock, strict=True)
    ]


def records(found, feeds):
    """Return every record of batches in journal order, wherever they were cut."""
    out = []
    for batch in found:
        assert batch.beats.at.tolist() == [int((batch.trades.offset < line).sum()) for line in batch.beats.offset]
        out += [(int(o), -1, "beat", int(c)) for o, c in zip(batch.beats.offset, batch.beats.clock, strict=True)]
        out += [(r.offset, r.row, "rejected", r.reason) for r in batch.rejected]
        out += [(e.offset, e.row, "event", e.event) for e in batch.events]
        trades = batch.trades
        out += [(int(trades.offset[i]), int(trades.row[i]), "trade", trade_json(trades, i, feeds)) for i in range(len(trades))]
    return sorted(out)


def test_first_record_is_the_rules_before_any_heartbeat(house, tmp_path):
    journal = house(Rules(lateness_us=5_000_000))
    journal.add_files([flat(tmp_path / "a", [T0, T0 + 1])])
    (batch,) = batches(journal)
    (event,) = batch.events
    assert (event.event, event.offset, event.row, event.at, event.detail["lateness_us"]) == ("rules", 0, -2, 0, 5_000_000)
    assert batch.beats.offset.tolist() == [0]
    assert batch.next_offset == 2


def test_heartbeat_stands_before_the_line_that_reaches_the_quarter_second(house, tmp_path):
    journal = house()
    at = [0, 0.1, 0.249999, 0.25, 0.3, 0.26, 0.7, 5.0, 5.1, 4.0, 5.25]
    journal.add_files([flat(tmp_path / "a", [T0 + round(t * SECOND) for t in at])])
    assert beats(journal) == [(0, 0.0), (3, 0.25), (6, 0.5), (7, 5.0), (10, 5.25)]


def test_heartbeat_goes_straight_to_the_new_value(house, tmp_path):
    journal = house()
    journal.add_files([flat(tmp_path / "a", [T0, T0 + 59 * SECOND])])
    assert beats(journal) == [(0, 0.0), (1, 59.0)]


def test_time_more_than_a_minute_ahead_moves_nothing_unless_the_next_lines_confirm_it(house, tmp_path):
    calm = [T0 + i * SECOND for i in range(20)]
    journal = house()
    journal.add_files([flat(tmp_path / "a", [*calm[:5], T0 + 3600 * SECOND, *calm[5:]])])
    assert beats(journal) == [(i if i < 5 else i + 1, float(i)) for i in range(20)]


def test_leap_that_most_of_the_next_lines_confirm_counts_at_once(house, tmp_path):
    later = T0 + 3600 * SECOND
    following = [later - 59 * SECOND] * 3 + [later - 60 * SECOND] * 3 + [T0] * 4
    journal = house()
    journal.add_files([flat(tmp_path / "a", [T0] * 12 + [later, *following])])
    assert beats(journal) == [(0, 0.0), (12, 3600.0)]


def test_half_of_the_next_lines_is_not_most(house, tmp_path):
    later = T0 + 3600 * SECOND
    journal = house()
    journal.add_files(
        [flat(tmp_path / "a", [T0] * 12 + [later] + [later - 60 * SECOND - 1] * 5 + [later - MINUTE] * 5 + [T0] * 12)]
    )
    assert (12, 3600.0) not in beats(journal)


def test_first_value_needs_confirmation_too(house, tmp_path):
    journal = house()
    journal.add_files([flat(tmp_path / "a", [T0 + 3600 * SECOND, *[T0 + i for i in range(10)]])])
    assert beats(journal) == [(1, 0.0)]


def test_leap_on_the_last_line_counts(house, tmp_path):
    journal = house()
    journal.add_files([flat(tmp_path / "a", [T0] * 12 + [T0 + 3600 * SECOND])])
    assert beats(journal) == [(0, 0.0), (12, 3600.0)]


def test_leap_is_judged_within_its_file(house, tmp_path):
    journal = house()
    journal.add_files(
        [flat(tmp_path / "a", [T0] * 12 + [T0 + 3600 * SECOND]), flat(tmp_path / "b", [T0 + 1800 * SECOND] * 12, 99)]
    )
    assert beats(journal) == [(0, 0.0), (12, 3600.0)]


def test_leap_at_the_end_of_a_block_is_judged_by_the_lines_of_the_next(house, tmp_path):
    block = MAX_MESSAGE_ROWS
    lines = [b"%d %s\n" % ((T0 + i) * 1000, b'{"echo":[0,0]}') for i in range(2 * block)]
    lines[block - 1] = b"%d %s\n" % ((T0 + 3600 * SECOND) * 1000, b'{"echo":[0,0]}')
    (tmp_path / "a").write_bytes(b"".join(lines))
    journal = house()
    journal.add_files([tmp_path / "a"])
    assert beats(journal) == [(0, 0.0)]


def test_trades_that_are_invalid_move_no_clock(house, tmp_path):
    path = flat(tmp_path / "a", [T0] * 12)
    bad = {"s": "IEX:AAPL", "p": -1, "t": T0 + 2 * SECOND, "v": 1, "id": 500}
    with path.open("a") as file:
        file.write(json.dumps(bad) + "\n")
    journal = house()
    journal.add_files([path])
    assert beats(journal) == [(0, 0.0)]
    assert sum(len(batch.trades) for batch in batches(journal)) == 13


def test_file_with_heartbeats_of_its_own_gets_no_others(house, tmp_path):
    lines = [
        b"%d %s\n"
        % ((T0 + i * SECOND) * 1000, b'{"tickhouse":{"heartbeat":%d}}' % beat if beat else b'{"echo":[1,%d]}' % (T0 + i))
        for i, beat in enumerate([T0, 0, 0, T0 + 5 * SECOND, T0 + 4 * SECOND, 0, T0 + 6 * SECOND + 99])
    ]
    (tmp_path / "a").write_bytes(b"".join(lines))
    journal = house()
    journal.add_files([tmp_path / "a"])
    assert beats(journal) == [(0, 0.0), (3, 5.0), (6, 6.0)]


def test_two_replays_equal_one(house, tmp_path):
    files = [
        flat(tmp_path / "a", [T0 + i * 40_000 for i in range(300)]),
        flat(tmp_path / "b", [T0 + (300 + i) * 40_000 - 7 for i in range(300)], 301),
    ]
    together, apart = house(), house(name="apart")
    together.add_files(files)
    apart.add_files(files[:1])
    feeds = Feeds()
    found = batches(apart, feeds=feeds)
    apart.add_files(files[1:])
    found += batches(apart, start=found[-1].next_offset, feeds=feeds)
    assert records(found, feeds) == records(batches(together), feeds)
    assert apart.last_clock() == together.last_clock() == T0 + 23_750_000


@pytest.mark.parametrize("start", [1, 150, 299, 300, 301, 450, 599])
def test_reading_on_from_any_line_gives_the_rest_of_an_uninterrupted_reading(house, tmp_path, start):
    times = np.random.default_rng(start).integers(-400_000, 400_000, 300).tolist()
    for name, shift in (("a", 0), ("b", 300)):
        flat(tmp_path / name, [T0 + (shift + i) * 40_000 + times[i] for i in range(300)], 1 + shift)
    with (tmp_path / "a").open("r+") as file:
        file.write("{not json" + " " * 20)
    journal = house()
    journal.add_files([tmp_path / "a", tmp_path / "b"])
    feeds = Feeds()
    whole = records(batches(journal, feeds=feeds), feeds)
    assert records(batches(journal, start, feeds), feeds) == [record for record in whole if record[0] >= start]


def test_batches_hold_whole_lines_and_at_most_so_many_rows(house, tmp_path, monkeypatch):
    monkeypatch.setattr(recording_reader, "BATCH_ROWS", MAX_MESSAGE_ROWS)
    counts = [1] * 20 + [9_000, 9_000, 2, MAX_MESSAGE_ROWS, 5, 0, 3]
    lines = [b'%d {"echo":[%d,%d]}\n' % ((T0 + i) * 1000, count, T0 + i) for i, count in enumerate(counts)]
    (tmp_path / "a").write_bytes(b"".join(lines))
    journal = house()
    journal.add_files([tmp_path / "a"])
    found = batches(journal)
    assert [len(batch.trades) for batch in found] == [9_020, 9_002, MAX_MESSAGE_ROWS, 8]
    assert [batch.next_offset for batch in found] == [21, 23, 24, 27]
    for batch in found:
        assert set(batch.trades.offset.tolist()) <= set(range(batch.next_offset))
    assert sum(len(batch.trades) for batch in found) == sum(counts)


def test_large_flat_file_is_cut_at_so_many_rows(house, tmp_path, monkeypatch):
    monkeypatch.setattr(recording_reader, "BATCH_ROWS", MAX_MESSAGE_ROWS)
    journal = house()
    journal.add_files([flat(tmp_path / "a", [T0 + i * 100 for i in range(40_000)])])
    found = batches(journal)
    assert [len(batch.trades) for batch in found] == [MAX_MESSAGE_ROWS, MAX_MESSAGE_ROWS, 40_000 - 2 * MAX_MESSAGE_ROWS]
    assert np.concatenate([batch.trades.offset for batch in found]).tolist() == list(range(40_000))


def test_same_file_again_is_skipped_whatever_its_name(house, tmp_path):
    first = flat(tmp_path / "a", [T0] * 3)
    copy = tmp_path / "copy"
    copy.write_bytes(first.read_bytes())
    journal = house()
    assert journal.add_files([first]) == []
    assert journal.add_files([copy, first]) == [copy, first]
    assert sum(len(batch.trades) for batch in batches(journal)) == 3


def test_house_is_read_again_from_its_files_alone(house, tmp_path):
    journal = house()
    journal.add_files([flat(tmp_path / "a", [T0] * 3)], FileOptions(identity="unique"))
    batches(journal)
    journal.store_checkpoint(0, Position(3, T0), b"state")
    journal.close()
    again = house(None)
    assert again.rules() == Rules()
    assert again.checkpoint(0) == (Position(3, T0), b"state")
    assert again.files()[0].options.identity == "unique"
    assert (again.files()[0].lines, again.last_clock()) == (3, T0)


def test_changed_or_missing_file_that_is_still_needed_is_said(house, tmp_path):
    journal = house()
    path = flat(tmp_path / "a", [T0] * 3)
    journal.add_files([path])
    batches(journal)
    path.write_text("other")
    assert batches(journal, start=3) == []
    with pytest.raises(FatalError, match="has changed since"):
        batches(journal, start=1)
    path.unlink()
    with pytest.raises(FatalError, match="is missing"):
        batches(journal)


def test_moved_file_is_found_when_it_is_named_again(house, tmp_path):
    journal = house()
    path = flat(tmp_path / "a", [T0] * 3)
    journal.add_files([path])
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / "a")
    assert journal.add_files([moved]) == [moved]
    assert sum(len(batch.trades) for batch in batches(journal)) == 3
    renamed = moved.rename(tmp_path / "b")
    assert journal.add_files([renamed]) == [renamed]
    assert sum(len(batch.trades) for batch in batches(journal)) == 3


def test_digest_of_a_file_is_known_once_it_is_read(house, tmp_path):
    journal = house()
    path = flat(tmp_path / "a", [T0] * 3)
    journal.add_files([path])
    assert journal.files()[0].sha256 is None
    batches(journal)
    assert journal.files()[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert journal.name() == journal.files()[0].sha256[:12]


def test_file_touched_once_its_digest_is_known_is_read(house, tmp_path):
    journal = house()
    paths = [flat(tmp_path / name, [T0 + shift] * 3) for shift, name in enumerate("ab")]
    journal.add_files(paths)
    before = journal.files()
    batches(journal)
    os.utime(paths[1], (1, 1))
    journal.open(before[1])
    assert journal.files()[1].sha256 is not None
    paths[1].write_bytes(paths[1].read_bytes() + b" ")
    with pytest.raises(FatalError, match="has changed since"):
        journal.open(before[1])


def test_a_list_whose_first_file_went_unread_has_no_name(house, tmp_path):
    journal = house()
    journal.add_files([flat(tmp_path / "a", [T0] * 3), flat(tmp_path / "b", [T0 + 1] * 4)])
    (tmp_path / "a").unlink()
    with pytest.raises(FatalError, match="before it was read through"):
        journal.name()


def test_first_of_two_files_does_not_wait_for_the_digest_of_the_second(house, tmp_path, monkeypatch):
    asked, digest = threading.Event(), recording_journal.sha256

    def slowly(path: Path, *stop: threading.Event) -> str | None:
        if path.name == "b":
            asked.wait(60)
        return digest(path, *stop)

    monkeypatch.setattr(recording_journal, "sha256", slowly)
    journal = house()
    journal.add_files([flat(tmp_path / "a", [T0] * 3), flat(tmp_path / "b", [T0 + 1] * 4)])
    reader = journal.reader(0, 0, Feeds())
    assert len(reader.read(10.0).trades) == 3
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(reader.read, 10.0)  # which ends the first file
        try:
            assert len(second.result(20).trades) == 4
            assert [entry.sha256 is None for entry in journal.files()] == [False, True]
        finally:
            asked.set()
        assert pool.submit(reader.read, 10.0).result(20) is None
    reader.close()
    assert journal.files()[1].sha256 is not None


def test_digest_that_a_kill_left_out_is_made_up_for(house, tmp_path):
    journal = house()
    path = flat(tmp_path / "a", [T0] * 3)
    journal.add_files([path])
    journal.close()
    again = house()
    batches(again)
    assert again.files()[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_file_that_may_be_one_that_is_gone_is_refused(house, tmp_path):
    journal = house()
    path = flat(tmp_path / "a", [T0] * 3)
    journal.add_files([path])
    text = path.read_bytes()
    path.unlink()
    copy = tmp_path / "copy"
    copy.write_bytes(text)
    os.utime(copy, ns=(journal.files()[0].mtime_ns,) * 2)
    with pytest.raises(ConfigError, match=r"copy may be .*a, which this house still needs"):
        journal.add_files([copy])
    path.write_bytes(text)
    os.utime(path, ns=(journal.files()[0].mtime_ns,) * 2)
    assert journal.add_files([copy]) == [copy]
    other = flat(tmp_path / "other", [T0 + 5] * 3)
    assert other.stat().st_size == path.stat().st_size
    assert journal.add_files([other]) == []


def test_other_rules_need_a_new_house(house):
    house(Rules())
    with pytest.raises(SchemaMismatchError, match=r"lateness_us 10000000 there, 5000000 now; use a new house"):
        house(Rules(lateness_us=5_000_000))


def test_file_more_than_an_hour_older_is_refused_with_a_hint(house, tmp_path):
    journal = house()
    journal.add_files([flat(tmp_path / "a", [T0 + 7200 * SECOND] * 12)])
    batches(journal)
    with pytest.raises(ConfigError, match="oldest first, or use a new house"):
        journal.add_files([flat(tmp_path / "b", [T0] * 12)])
    journal.add_files([flat(tmp_path / "c", [T0 + 3600 * SECOND] * 12)])
    assert [entry.path.name for entry in journal.files()] == ["a", "c"]


def test_older_file_of_one_call_is_taken_off_the_list_when_it_is_reached(house, tmp_path):
    journal = house()
    journal.add_files([flat(tmp_path / "a", [T0 + 7200 * SECOND] * 12), flat(tmp_path / "b", [T0] * 12)])
    with pytest.raises(ConfigError, match="oldest first"):
        batches(journal)
    assert [entry.path.name for entry in journal.files()] == ["a"]
    assert len(batches(journal)) == 1


def test_empty_recording_has_no_clock_and_no_batch(house, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    journal = house()
    journal.add_files([tmp_path / "empty"])
    assert batches(journal) == []
    assert journal.last_clock() == NO_TIME


def test_reader_tells_its_progress(house, tmp_path):
    journal = house()
    path = flat(tmp_path / "a", [T0] * 3)
    journal.add_files([path])
    reader = journal.reader(0, 0, Feeds())
    assert reader.progress == (0, path.stat().st_size, 0)
    while reader.read(0) is not None:
        pass
    assert reader.progress == (path.stat().st_size, path.stat().st_size, 3)


def test_reading_only_changes_nothing_and_needs_a_house(house, tmp_path):
    with pytest.raises(ConfigError, match="no journal"):
        house(None, name="none", read_only=True)
    journal = house()
    journal.add_files([flat(tmp_path / "a", [T0] * 3)])
    follower = house(None, read_only=True)
    assert len(batches(follower)) == 1
    assert follower.files()[0].lines is None


def test_folder_of_a_live_journal_is_refused(house, tmp_path):
    SqliteJournal.create_or_open(tmp_path / "house", Rules()).close()
    with pytest.raises(ConfigError, match="live journal"):
        house()
