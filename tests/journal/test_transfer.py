"""A recording sent through another journal keeps its order: a killed transfer goes on after the last place that arrived."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.standard_work import write

from tickhouse.columns import concat_trades
from tickhouse.journal.recording import Recording
from tickhouse.journal.transfer import transfer
from tickhouse.lines import FileOptions
from tickhouse.model import Event, Feeds, Rejected, Trades
from tickhouse.rules import Rules
from tickhouse.sources.files.opener import Opener


class Places:
    """A target that remembers what came, in order."""

    def __init__(self) -> None:
        self.places: list[tuple[int, int]] = []
        self.trades: list[Trades] = []
        self.rejected_places: list[tuple[int, int]] = []

    def resume(self, recording: str) -> int:
        return 0

    def place(self, line: int, row: int) -> None:
        self.places.append((line, row))

    def columns(self, trades: Trades, feeds: Feeds) -> None:
        self.places += zip(trades.offset.tolist(), trades.row.tolist(), strict=True)
        self.trades.append(trades)

    def rejected(self, rejected: Rejected) -> None:
        self.rejected_places.append((rejected.offset, rejected.row))

    def event(self, event: Event) -> None:
        pass

    def heartbeat(self, clock: int) -> None:
        pass

    def ignored(self, count: int) -> None:
        pass

    def reached(self, line: int) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_no_record_overtakes_another(tmp_path: Path) -> None:
    write(tmp_path / "market.ndjson", 20_000, 12, 3)
    target: Any = Places()
    with closing(Recording.create_or_open(tmp_path, Rules(), Opener([]))) as recording:
        recording.add_files([tmp_path / "market.ndjson"], FileOptions())
        transfer(recording, target, threading.Event(), None)
    assert len(target.rejected_places) >= 10
    assert sum(map(len, target.trades)) + len(target.rejected_places) >= 10_000 - 20
    assert target.places == sorted(target.places)
    assert concat_trades(target.trades).offset.tolist() == sorted(concat_trades(target.trades).offset.tolist())
