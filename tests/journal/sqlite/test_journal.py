"""The SQLite journal: what is appended comes back, in order and once; what does not fit is refused with the way out."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.journals import drained
from tickhouse.columns import TradesBuilder, trade_json
from tickhouse.errors import ConfigError, FatalError, LogCorruptError, SchemaMismatchError
from tickhouse.journal.sqlite import SqliteJournal
from tickhouse.model import (
    HEARTBEAT_US,
    MAX_MESSAGE_ROWS,
    MAX_PAYLOAD_BYTES,
    NO_TIME,
    Batch,
    Event,
    Feed,
    Feeds,
    Position,
    Rejected,
    Trade,
)
from tickhouse.rules import Rules

BTC = Feed("binance", "BINANCE", "BTC-USDT", "trade", "contiguous", "BTCUSDT")
ETH = Feed("binance", "BINANCE", "ETH-USDT", "trade", "contiguous", "ETHUSDT")
XYZ = Feed("other", "AGGREGATE", "XYZ", "trade", "unique", "XYZ")


def trade(number: int, feed: Feed = BTC, **more) -> Trade:
    return Trade(feed, 1_700_000_000_000_000 + number, 100.0 + number, 0.5, number, "buy", **more)


@pytest.fixture
def journal(tmp_path: Path):
    with closing(SqliteJournal.create_or_open(tmp_path, Rules())) as opened:
        yield opened


def read_all(journal: SqliteJournal, start: int = 0, feeds: Feeds | None = None) -> list[Batch]:
    return drained(journal.reader(0, start, Feeds() if feeds is None else feeds))


def one(journal: SqliteJournal, start: int = 1) -> Batch:
    (batch,) = read_all(journal, start)
    return batch


def ids(batches: list[Batch]) -> list[int]:
    return [int(number) for batch in batches for number in batch.trades.trade_id]


def test_first_record_of_a_new_journal_is_its_rules(journal):
    (event,) = one(journal, 0).events
    assert (event.event, event.offset, event.row, event.at) == ("rules", 0, 0, 0)
    assert msgspec.convert(event.detail, Rules) == Rules()
    assert journal.last_clock() == NO_TIME


def test_all_kinds_come_back_in_the_order_appended(journal):
    with closing(journal.appender()) as appender:
        appender.heartbeat(HEARTBEAT_US)
        appender.trades([trade(1), trade(2, ETH)], 10)
        appender.trades([trade(3)], 11)
        appender.rejected(Rejected("binance", 12, "malformed", b"\xff{"))
        appender.trades([trade(4)], 13)
        appender.event(Event(event="connected", source="binance", detail={"url": "wss://a"}))
        appender.heartbeat(2 * HEARTBEAT_US)
    batch = one(journal)
    assert batch.beats.clock.tolist() == [HEARTBEAT_US, 2 * HEARTBEAT_US]
    assert batch.beats.at.tolist() == [0, 4]
    assert batch.beats.offset.tolist() == [1, 6]
    assert batch.trades.offset.tolist() == [2, 2, 2, 4]
    assert batch.trades.row.tolist() == [0, 1, 2, 0]
    assert batch.trades.received_at.tolist() == [10, 10, 11, 13]
    (rejected,) = batch.rejected
    assert rejected == Rejected("binance", 12, "malformed", b"\xff{", offset=3, length=2)
    (event,) = batch.events
    assert (event.event, event.detail, event.offset, event.at) == ("connected", {"url": "wss://a"}, 5, 4)
    assert batch.next_offset == 7 == journal.next_offset()
    assert journal.last_clock() == 2 * HEARTBEAT_US


def test_every_field_of_a_trade_comes_back(journal):
    trades = [
        trade(1),
        Trade(XYZ, 5, 1e-12, 0.0, "text-id", "sell", "1,8", "polled", backfilled=True),
        Trade(ETH, 6, 3.25, 1e15, 1 << 62, None),
        Trade(XYZ, 7, 1.0, 1.0, 1 << 70, conditions=""),
    ]
    with closing(journal.appender()) as appender:
        for each in trades:
            appender.trades([each], NO_TIME)
            appender.flush()
    feeds = Feeds()
    (batch,) = read_all(journal, 1, feeds)
    again = [trade_json(batch.trades, i, feeds) for i in range(len(trades))]
    expected = [
        msgspec.structs.replace(each, trade_id=str(each.trade_id)) if each.trade_id == 1 << 70 else each for each in trades
    ]
    assert again == [msgspec.json.encode(each, order="sorted") for each in expected]
    assert batch.trades.received_at.tolist() == [NO_TIME] * 4
    assert all(getattr(batch.trades, name).flags.writeable for name in ("feed", "ts", "price", "side", "offset", "row"))


def test_nothing_is_visible_before_flush(journal):
    with closing(journal.appender()) as appender:
        appender.trades([trade(1)], 0)
        assert read_all(journal, 1) == []
        appender.flush()
        assert ids(read_all(journal, 1)) == [1]


def test_flush_wakes_a_waiting_reader(journal):
    found = []
    with closing(journal.appender()) as appender, closing(journal.reader(0, 1, Feeds())) as reader:
        waiting = threading.Thread(target=lambda: found.append(reader.read(20.0)))
        waiting.start()
        appender.trades([trade(7)], 0)
        appender.flush()
        waiting.join(120)
    assert ids(found) == [7]


def test_batches_hold_whole_messages_and_at_most_16k_trades(journal):
    size = 7_000
    payload = [trade(i) for i in range(size)]
    with closing(journal.appender()) as appender:
        for _ in range(5):
            appender.trades(payload, 0)
        appender.flush()
    batches = read_all(journal, 1)
    assert [len(batch.trades) for batch in batches] == [2 * size, 2 * size, size]
    assert ids(batches) == list(range(size)) * 5


def test_trades_of_a_payload_stay_in_one_message(journal):
    with closing(journal.appender()) as appender:
        appender.trades([trade(i) for i in range(MAX_MESSAGE_ROWS - 1)], 0)
        appender.trades([trade(i) for i in range(2)], 0)
    batches = read_all(journal, 1)
    assert [set(batch.trades.offset.tolist()) for batch in batches] == [{1}, {2}]
    assert batches[1].trades.row.tolist() == [0, 1]


def test_columns_are_stored_as_trades_are(tmp_path):
    feeds = Feeds([XYZ, ETH, BTC])
    builder = TradesBuilder()
    trades = [trade(i, feed) for i, feed in enumerate((BTC, ETH, BTC, XYZ))]
    for i, each in enumerate(trades):
        builder.add(each, feeds.code(each.feed), 9, 77, i)
    found = []
    for name in ("a", "b"):
        with closing(SqliteJournal.create_or_open(tmp_path / name, Rules())) as journal:
            with closing(journal.appender()) as appender:
                if name == "a":
                    appender.trades(trades, 9)
                else:
                    appender.columns(builder.build(), feeds)
            own = Feeds()
            (batch,) = read_all(journal, 1, own)
            found.append(
                (own.feeds, [getattr(batch.trades, column).tolist() for column in ("feed", "ts", "price", "offset", "row")])
            )
    assert found[0] == found[1]
    assert found[0][0] == [BTC, ETH, XYZ]


@pytest.mark.parametrize("cut", range(5))
def test_feed_codes_do_not_depend_on_where_reading_was_cut(journal, cut):
    with closing(journal.appender()) as appender:
        for i, feed in enumerate((BTC, XYZ, BTC, ETH)):
            appender.trades([trade(i, feed)], 0)
            appender.flush()
            if i == cut - 1:
                feeds = Feeds()
                read_all(journal, 0, feeds)
    feeds = Feeds(feeds.feeds) if cut else Feeds()
    assert len(feeds) == (0, 1, 2, 2, 3)[cut]
    batches = read_all(journal, cut + 1, feeds)
    assert [feeds.feeds[code] for batch in batches for code in batch.trades.feed] == [BTC, XYZ, BTC, ETH][cut:]
    assert feeds.feeds == [BTC, XYZ, ETH]


def test_ignored_payloads_are_counted_once(journal):
    with closing(journal.appender()) as appender:
        appender.ignored(2)
        appender.flush()
        appender.trades([trade(1)], 0)
        appender.flush()
        appender.ignored(3)
    assert sum(batch.ignored for batch in read_all(journal)) == 5
    assert journal.counters()["ignored"] == 5
    assert journal.counters()["trades"] == 1


def test_large_rejected_payload_keeps_its_start_length_and_digest(journal):
    payload = b"x" * (MAX_PAYLOAD_BYTES + 5)
    with closing(journal.appender()) as appender:
        appender.rejected(Rejected("s", 1, "malformed", payload))
    (rejected,) = one(journal).rejected
    assert (len(rejected.payload), rejected.length, len(rejected.sha256)) == (MAX_PAYLOAD_BYTES, len(payload), 64)


def test_a_house_keeps_its_rules(tmp_path):
    SqliteJournal.create_or_open(tmp_path, Rules()).close()
    with pytest.raises(ConfigError, match=r"lateness_us = 10000000, asked is 5000000.*use a new house"):
        SqliteJournal.create_or_open(tmp_path, Rules(lateness_us=5_000_000))
    with closing(SqliteJournal.open(tmp_path)) as journal:
        assert journal.rules() == Rules()


@pytest.mark.parametrize(("key", "value", "says"), [("kind", "recording", "new house"), ("version", "99", "begin a new house")])
def test_other_kind_or_version_is_refused(tmp_path, key, value, says):
    SqliteJournal.create_or_open(tmp_path, Rules()).close()
    with closing(sqlite3.connect(tmp_path / "journal.db")) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
        connection.commit()
    with pytest.raises(SchemaMismatchError, match=says):
        SqliteJournal.create_or_open(tmp_path, Rules())


def test_missing_journal_is_not_made_by_open(tmp_path):
    with pytest.raises(ConfigError, match="there is no journal"):
        SqliteJournal.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_file_says_the_repair(tmp_path):
    (tmp_path / "journal.db").write_bytes(b"not a database at all" * 500)
    with pytest.raises(LogCorruptError, match=r"\.recover"):
        SqliteJournal.create_or_open(tmp_path, Rules())


@pytest.mark.parametrize(
    ("conditions", "damage"),
    [
        (None, "payload = substr(payload, 1, 40)"),
        (None, "payload = CAST(payload || payload AS BLOB)"),
        (None, "rows = 3"),
        ("1,8", "payload = substr(payload, 1, 60)"),
        ("1,8", "payload = substr(payload, 1, 110)"),  # nothing of the text is left
        ("1,8", "payload = substr(payload, 1, 150)"),
        ("1,8", "payload = CAST(substr(payload, 1, 110) || zeroblob(64) AS BLOB)"),
        (None, "kind = 4"),
        (None, "rows = 0"),
        ("1,8", "rows = 1"),
    ],
)
def test_damaged_message_is_no_data(journal, conditions, damage):
    with closing(journal.appender()) as appender:
        appender.trades([trade(1), Trade(XYZ, 5, 1.0, 1.0, 2, conditions=conditions)], 0)
    with closing(sqlite3.connect(journal.file)) as connection:
        connection.execute(f"UPDATE messages SET {damage} WHERE offset = 1")
        connection.commit()
    with pytest.raises(LogCorruptError, match="from 1 on"):
        read_all(journal, 1)


def test_second_writer_is_refused(journal):
    with closing(journal.appender()) as first:
        second = journal.appender()
        first.trades([trade(1)], 0)
        first.flush()
        second.trades([trade(2)], 0)
        with pytest.raises(FatalError, match="one writer"):
            second.close()
    assert ids(read_all(journal)) == [1]


def test_clock_never_goes_back(journal):
    with closing(journal.appender()) as appender:
        appender.heartbeat(2 * HEARTBEAT_US)
        with pytest.raises(FatalError, match="never goes back"):
            appender.heartbeat(2 * HEARTBEAT_US)


def test_full_disk_loses_nothing_that_was_flushed_or_buffered(journal):
    with closing(journal.appender()) as appender:
        appender.trades([trade(1)], 0)
        appender.flush()
        pages = appender._connection.execute("PRAGMA page_count").fetchone()[0]
        appender._connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        appender.trades([trade(i) for i in range(2, 2_000)], 0)
        with pytest.raises(FatalError, match="no room left"):
            appender.flush()
        assert ids(read_all(journal)) == [1]
        appender._connection.execute("PRAGMA max_page_count = 1000000").fetchall()
    assert ids(read_all(journal)) == list(range(1, 2_000))


def test_newest_checkpoint_survives_reopening(tmp_path):
    with closing(SqliteJournal.create_or_open(tmp_path, Rules())) as journal:
        assert journal.checkpoint(0) is None
        journal.store_checkpoint(0, Position(5, 250_000), b"old")
        journal.store_checkpoint(0, Position(9, 500_000), b"new")
    with closing(SqliteJournal.open(tmp_path)) as journal:
        assert journal.checkpoint(0) == (Position(9, 500_000), b"new")


def test_offsets_and_feeds_go_on_after_reopening(tmp_path):
    for number, feed in enumerate((BTC, ETH, BTC)):
        with closing(SqliteJournal.create_or_open(tmp_path, Rules())) as journal, closing(journal.appender()) as appender:
            appender.trades([trade(number, feed)], 0)
    with closing(SqliteJournal.open(tmp_path)) as journal:
        (batch,) = read_all(journal, 1)
    assert batch.trades.offset.tolist() == [1, 2, 3]
    assert batch.trades.feed.tolist() == [0, 1, 0]


def test_offsets_of_tables_ahead_of_the_journal_are_not_used_again(journal):
    with closing(journal.appender(at_least=50)) as appender:
        appender.trades([trade(1)], 0)
    assert one(journal).trades.offset.tolist() == [50]
    assert journal.next_offset() == 51


def test_prune_deletes_what_is_old_and_before_checkpoint_and_positions(journal):
    with closing(journal.appender()) as appender:
        for beat in range(1, 11):
            appender.heartbeat(beat * HEARTBEAT_US)
            appender.flush()
        assert journal.prune(11, 0) == 0
        journal.store_checkpoint(0, Position(7, 6 * HEARTBEAT_US), b"")
        assert journal.prune(5, 8 * HEARTBEAT_US) == 2
        assert journal.prune(11, 0) == 5
        assert journal.prune(11, 0) == 0
    assert one(journal, 7).beats.offset.tolist() == [7, 8, 9, 10]
    with pytest.raises(FatalError, match="from 7 on, but 6"):
        journal.reader(0, 6, Feeds())
    assert (journal.next_offset(), journal.last_clock()) == (11, 10 * HEARTBEAT_US)


def test_reader_overtaken_by_prune_says_so(journal):
    with closing(journal.appender()) as appender, closing(journal.reader(0, 0, Feeds())) as reader:
        appender.heartbeat(HEARTBEAT_US)
        appender.heartbeat(2 * HEARTBEAT_US)
        appender.flush()
        journal.store_checkpoint(0, Position(2, HEARTBEAT_US), b"")
        assert journal.prune(2, -1) == 2
        with pytest.raises(FatalError, match="newest snapshot"):
            reader.read(0.0)


def test_mark_is_stored_with_the_flush(journal):
    with closing(journal.appender()) as appender:
        appender.set_mark("replay", "17,3")
        assert journal.mark("replay") is None
        appender.flush()
        assert journal.mark("replay") == "17,3"


def test_maintain_bounds_the_log_and_changes_no_record(journal, monkeypatch):
    monkeypatch.setattr("tickhouse.journal.sqlite.journal._WAL_BYTES", 100_000)
    wal = journal.file.with_name("journal.db-wal")
    sizes, next_id = [], itertools.count()
    with closing(journal.appender()) as appender:
        for _ in range(5):
            for _ in range(100):
                appender.trades([trade(next(next_id))], 0)
                appender.flush()
            sizes.append(wal.stat().st_size)
            journal.maintain()
        appender.trades([trade(next(next_id))], 0)
    assert sizes[0] > 100_000
    assert sizes == sizes[:1] * 5  # written from its beginning each time
    assert ids(read_all(journal)) == list(range(501))
    assert "501 trades" in journal.check()


def test_a_log_in_use_is_moved_once_it_is_not(journal, monkeypatch):
    monkeypatch.setattr("tickhouse.journal.sqlite.journal._WAL_BYTES", 100_000)
    with closing(journal.appender()) as appender, closing(sqlite3.connect(journal.file)) as looking:
        for i in range(100):
            appender.trades([trade(i)], 0)
            appender.flush()
        looking.execute("BEGIN")
        looking.execute("SELECT count(*) FROM messages").fetchall()
        journal.maintain()  # the reader holds the log: nothing is lost, nobody waits for the reader
        appender.trades([trade(100)], 0)
        appender.flush()
        grown = journal.file.with_name("journal.db-wal").stat().st_size
        looking.execute("COMMIT")
        journal.maintain()
        appender.trades([trade(101)], 0)
        appender.flush()
        assert journal.file.with_name("journal.db-wal").stat().st_size == grown
    assert ids(read_all(journal)) == list(range(102))


def test_partition_other_than_0_does_not_exist(journal):
    with pytest.raises(ConfigError, match="partition 0, not 1"):
        journal.reader(1, 0, Feeds())


@pytest.mark.parametrize("sync", ["normal", "full"])
def test_sync_setting_reaches_the_writer(tmp_path, sync):
    with closing(SqliteJournal.create_or_open(tmp_path, Rules(), sync)) as journal, closing(journal.appender()) as appender:
        level = appender._connection.execute("PRAGMA synchronous").fetchone()[0]
    assert level == {"normal": 1, "full": 2}[sync]


def test_many_small_messages_are_one_batch_with_rows_from_0(journal):
    with closing(journal.appender()) as appender:
        for i in range(300):
            appender.trades([trade(2 * i), trade(2 * i + 1, ETH)], i)
            appender.flush()
    batch = one(journal)
    assert batch.trades.trade_id.tolist() == list(range(600))
    assert np.array_equal(batch.trades.row, np.tile([0, 1], 300))
    assert np.array_equal(batch.trades.offset, np.repeat(np.arange(1, 301), 2))
