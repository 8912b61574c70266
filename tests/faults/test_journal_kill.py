"""kill -9 of a process that appends: every flush it reported is there, and nothing of a flush is there in half."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from tests.journals import drained
from tickhouse.journal.sqlite import SqliteJournal
from tickhouse.model import Feeds
from tickhouse.rules import Rules

PER_FLUSH = 7
APPEND_FOR_EVER = f"""
import sys
from pathlib import Path
from tickhouse.journal.sqlite import SqliteJournal
from tickhouse.model import Feed, Trade
from tickhouse.rules import Rules

journal = SqliteJournal.create_or_open(Path(sys.argv[1]), Rules())
appender = journal.appender()
number = int(journal.mark("done") or 0)
print(number, flush=True)
while True:
    feed = Feed("s", "V", f"S{{number // 500}}", "trade", "contiguous", "x")
    appender.trades([Trade(feed, 1, 1.0, 1.0, number + i) for i in range({PER_FLUSH})], 0)
    number += {PER_FLUSH}
    appender.set_mark("done", str(number))
    appender.flush()
    if number % 50 == 0:
        journal.maintain()
    print(number, flush=True)
"""


def kill_in_the_middle(house: Path, after_s: float) -> int:
    """Run an appender, kill it some time after its first flush, and return the last number that it reported as flushed."""
    with subprocess.Popen([sys.executable, "-c", APPEND_FOR_EVER, str(house)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # where it begins
        first = process.stdout.readline()
        time.sleep(after_s)
        process.kill()
        rest = process.stdout.read().split(b"\n")[:-1]
    return int(rest[-1] if rest else first)


def test_every_flushed_record_survives_a_kill(tmp_path):
    moments = random.Random(3)
    reported = 0
    for _ in range(5):
        before, reported = reported, kill_in_the_middle(tmp_path, moments.uniform(0.02, 0.3))
        with closing(SqliteJournal.create_or_open(tmp_path, Rules())) as journal:
            feeds = Feeds()
            batches = drained(journal.reader(0, 0, feeds))
            found = [int(number) for batch in batches for number in batch.trades.trade_id]
            assert found == list(range(len(found)))
            assert len(found) % PER_FLUSH == 0
            assert before < reported <= len(found) == int(journal.mark("done") or 0)
            assert [feeds.feeds[code].symbol for batch in batches for code in batch.trades.feed] == [
                f"S{number // PER_FLUSH * PER_FLUSH // 500}" for number in found
            ]


def test_reader_of_another_process_follows_the_writer(tmp_path):
    with closing(SqliteJournal.create_or_open(tmp_path, Rules())) as journal, closing(journal.reader(0, 1, Feeds())) as reader:
        process = subprocess.Popen([sys.executable, "-c", APPEND_FOR_EVER, str(tmp_path)], stdout=subprocess.DEVNULL)
        try:
            found: list[int] = []
            while len(found) < 2_000:
                batch = reader.read(30.0)
                assert batch is not None
                found += batch.trades.trade_id.tolist()
        finally:
            process.kill()
            process.wait()
    assert found == list(range(len(found)))
