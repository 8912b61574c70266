"""A journal whose write-ahead log was torn anywhere opens with a prefix of whole flushes."""

from __future__ import annotations

import random
import shutil
from contextlib import closing
from pathlib import Path

from tests.journals import drained
from tickhouse.journal.sqlite import SqliteJournal
from tickhouse.model import HEARTBEAT_US, Feed, Feeds, Trade
from tickhouse.rules import Rules

FEED = Feed("s", "V", "A-B", "trade", "contiguous", "AB")
FLUSHES, PER_FLUSH = 40, 3


def write(path: Path, folder: Path) -> int:
    """Copy a journal with its log as they are while the writer lives; return the log's size at the start of the flushes."""
    with closing(SqliteJournal.create_or_open(path, Rules())) as journal, closing(journal.appender()) as appender:
        journal.maintain()
        for flush in range(FLUSHES):
            appender.heartbeat((flush + 1) * HEARTBEAT_US)
            appender.trades([Trade(FEED, 1, 1.0, 1.0, flush * PER_FLUSH + i) for i in range(PER_FLUSH)], 0)
            appender.flush()
        for name in ("journal.db", "journal.db-wal"):
            shutil.copy(path / name, folder / name)
    return (folder / "journal.db-wal").stat().st_size


def test_torn_log_opens_with_a_prefix_of_whole_flushes(tmp_path):
    origin = tmp_path / "copy"
    origin.mkdir()
    size = write(tmp_path / "house", origin)
    cuts = random.Random(7)
    seen = set()
    for number, cut in enumerate(sorted(cuts.randrange(size) for _ in range(25))):
        house = tmp_path / str(number)
        shutil.copytree(origin, house)
        with (house / "journal.db-wal").open("r+b") as log:
            log.truncate(cut)
        with closing(SqliteJournal.create_or_open(house, Rules())) as journal:
            feeds = Feeds()
            batches = drained(journal.reader(0, 0, feeds))
            found = [int(i) for batch in batches for i in batch.trades.trade_id]
            assert found == list(range(len(found)))
            assert len(found) % PER_FLUSH == 0
            assert not found or journal.last_clock() == len(found) // PER_FLUSH * HEARTBEAT_US
            assert journal.counters()["trades"] == len(found)
            with closing(journal.appender()) as appender:
                appender.trades([Trade(FEED, 1, 1.0, 1.0, len(found))], 0)
            assert journal.counters()["trades"] == len(found) + 1
        seen.add(len(found))
    assert len(seen) > 5
