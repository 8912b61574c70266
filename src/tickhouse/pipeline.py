"""The one thing an engine runs: kernel, indicators and detector in order, over one partition.

`feed(batch) -> outputs`, `snapshot() -> bytes`, and back from a snapshot. It knows nothing of engines, reads no clock, and
gives the same rows for the same journal however it is cut into batches, killed and restored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace

import msgspec
import numpy as np
import pyarrow as pa

from tickhouse import outputs as rows
from tickhouse.columns import take_trades, trade_json
from tickhouse.errors import SchemaMismatchError
from tickhouse.history import History
from tickhouse.indicators.indicators import Indicators
from tickhouse.journal.codec import bounded
from tickhouse.kernel.base import DUPLICATE, REASONS, Gaps, StepOutputs
from tickhouse.kernel.kernel import Kernel
from tickhouse.kernel.tally import Tally
from tickhouse.model import I32, I64, Batch, Beats, Cause, Event, Feed, Feeds, Instrument, Position, Rejected, Trades
from tickhouse.remake import merge_bars, remake
from tickhouse.rules import Rules
from tickhouse.sinks.base import Outputs

__all__ = ["Counts", "Pipeline"]

_VERSION = 1


@dataclass(slots=True)
class Counts:
    """The balance since the house began: received = accepted + duplicate + rejected."""

    accepted: int = 0
    duplicate: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    late: int = 0
    ignored: int = 0
    bars: int = 0
    revisions: int = 0
    anomalies: int = 0

    @property
    def received(self) -> int:
        """Trades and rejected messages together."""
        return self.accepted + self.duplicate + sum(self.rejected.values())

    @classmethod
    def total(cls, parts: Iterable[Counts]) -> Counts:
        """Return the balance of several partitions together."""
        together = cls()
        for part in parts:
            for field_ in fields(cls):
                if field_.name != "rejected":
                    setattr(together, field_.name, getattr(together, field_.name) + getattr(part, field_.name))
            for reason, count in list(part.rejected.items()):
                together.reject(reason, count)
        return together

    def reject(self, reason: str, count: int = 1) -> None:
        """Count rejected records by reason."""
        self.rejected[reason] = self.rejected.get(reason, 0) + count


class _Snapshot(msgspec.Struct, frozen=True):
    version: int
    rules: str
    feeds: list[Feed]
    instruments: list[Instrument]
    kernel: bytes
    indicators: bytes
    counts: Counts
    tally: bytes = b""


class Pipeline:
    """All state of one partition.

    Args:
        partition: Which one.
        rules: In force in the house.
        history: How the pipeline reads its own past (rule R15).
        snapshot: A state that `snapshot` gave, to go on from; None = a new house.
        leave_out: Tables that are not made, because nobody asks this pipeline for them.

    Raises:
        SchemaMismatchError: the snapshot is of another version, or of other rules.
    """

    def __init__(
        self, partition: int, rules: Rules, history: History, snapshot: bytes | None = None, *, leave_out: Collection[str] = ()
    ) -> None:
        self.partition = partition
        self.rules = rules
        self.feeds = Feeds()
        self.counts = Counts()
        self._history = history
        self._leave_out = leave_out
        self._catching_up = True
        taken = self._unpack(snapshot) if snapshot is not None else None
        if taken is not None:
            for instrument in taken.instruments:
                self.feeds.instrument_code(instrument)
            for feed in taken.feeds:
                self.feeds.code(feed)
            self.counts = taken.counts
        self._kernel = Kernel(rules, self.feeds)
        self._indicators = Indicators(rules, history, partition=partition, fresh=taken is None)
        self._names = rows.FeedColumns(self.feeds)
        self.tally = Tally(self.feeds, b"" if taken is None else taken.tally)
        """The figures of each instrument since the house began."""
        self._threshold = float(rules.detector.rstrip(")").rpartition(",")[2])
        if taken is not None:
            self._kernel.restore(taken.kernel)
            self._indicators.restore(taken.indicators)

    @property
    def clock(self) -> int:
        """The last heartbeat fed."""
        return self._kernel.clock

    def open_bars(self, instruments: I32 | None = None, intervals: Collection[str] | None = None) -> pa.Table:
        """Return the bars that are not final yet as rows of `gold.bars`; see `Kernel.open_bars`. Not while `feed` runs.

        Args:
            instruments: Codes; None = all.
            intervals: None = all.
        """
        levels = None
        if intervals is not None:
            levels = [level for level, name in enumerate(self.rules.intervals) if name in intervals]
        return rows.bars(self.partition, self._kernel.open_bars(instruments, levels), self._names, self.rules.intervals)

    def snapshot(self) -> bytes:
        """Return the whole state; feeding on from it gives the rows that feeding on from here gives."""
        return msgspec.msgpack.encode(
            _Snapshot(
                version=_VERSION,
                rules=self.rules.fingerprint(),
                feeds=self.feeds.feeds,
                instruments=self.feeds.instruments,
                kernel=self._kernel.snapshot(),
                indicators=self._indicators.snapshot(),
                counts=self.counts,
                tally=self.tally.pack(),
            )
        )

    def _unpack(self, snapshot: bytes) -> _Snapshot:
        try:
            taken = msgspec.msgpack.decode(snapshot, type=_Snapshot)
        except msgspec.MsgspecError as error:
            raise SchemaMismatchError(
                f"the stored snapshot cannot be read ({error}); was it made by another version?"
            ) from error
        if taken.version != _VERSION or taken.rules != self.rules.fingerprint():
            raise SchemaMismatchError(
                f"the stored snapshot has version {taken.version} and rules {taken.rules}; "
                f"this Tickhouse has version {_VERSION} and rules {self.rules.fingerprint()}"
            )
        return taken

    def feed(self, batch: Batch, *, catching_up: bool = True) -> Outputs:
        """Work off a batch.

        Args:
            batch: Whole messages, following the last batch.
            catching_up: More is waiting: indicators then take the cheaper way, with the same values.
        """
        before = self._kernel.clock
        self._catching_up = catching_up
        pieces: list[tuple[str, pa.Table]] = []
        judged: list[tuple[Rejected, int]] = []
        for trades, beats, event in _pieces(batch, self._repeats(batch.trades)):
            self._step(trades, beats, pieces, judged)
            if event is not None:
                self._turn(event, pieces)
        refused = [(record, _clock_at(batch, before, record.offset, record.row)) for record in batch.rejected]
        if refused or judged:
            pieces.append(("bronze.rejected", rows.rejected(self.partition, refused, judged)))
        # What concerns no symbol, the rules above all, may stand in every partition; it is told once.
        told = [event for event in batch.events if self.partition == 0 or event.symbol is not None]
        if told:
            seen = [(event, _clock_at(batch, before, event.offset, event.row)) for event in told]
            pieces.append(("bronze.events", rows.events(self.partition, seen)))
        for record, _ in refused:
            self.counts.reject(record.reason)
        self.counts.ignored += batch.ignored
        return Outputs(self.partition, Position(batch.next_offset, self._kernel.clock), rows.tables_rows(pieces))

    def _step(
        self, trades: Trades, beats: Beats, pieces: list[tuple[str, pa.Table]], judged: list[tuple[Rejected, int]]
    ) -> None:
        self._look_up_backfill(trades)
        step = self._kernel.feed(trades, beats)
        partition, names = self.partition, self._names
        stores_all = "bronze.trades" not in self._leave_out
        # Many trades on their way to a store are laid out as it sorts them; whoever only looks wants them as they came.
        order = names.by_symbol(trades.feed) if stores_all and self._catching_up else None
        silver = rows.silver_trades(partition, trades, step, names, order)
        if stores_all:
            pieces.append(("bronze.trades", rows.bronze_trades(partition, trades, step, names, order)))
        pieces.append(("silver.trades", silver))
        if step.anomaly.any():
            pieces.append(("gold.anomalies", rows.anomalies(partition, trades, step, names, self.rules, self._threshold)))
        if len(step.gaps.first):
            pieces.append(("gold.gaps", rows.gaps(partition, step.gaps, names)))
        self._history.add({"silver.trades": silver})
        self._issue(step, pieces)
        self._count(trades, step, judged)

    def _issue(self, step: StepOutputs, pieces: list[tuple[str, pa.Table]]) -> None:
        issued = step.bars
        if len(step.remakes.start):
            again = remake(step.remakes, self._history, self.feeds, self.partition, self.rules.lateness_us)
            issued = merge_bars([issued, again])
        if not len(issued.start):
            return
        table = rows.bars(self.partition, issued, self._names, self.rules.intervals)
        made = self._indicators.feed(issued, self.feeds, catching_up=self._catching_up)
        self._history.add({"gold.bars": table})
        pieces.append(("gold.bars", table))
        if len(made.start):
            pieces.append(("gold.indicators", rows.indicators(self.partition, made, self._names, self.rules.intervals)))
        self.counts.bars += len(issued.start)
        self.counts.revisions += int((issued.revision > 0).sum())

    def _asked(self, trades: Trades) -> I64:
        """Return which trades rule R1 looks up in everything stored: backfilled ones with a unique id."""
        if not trades.backfilled.any():
            return np.zeros(0, np.int64)
        unique = np.array([feed.identity == "unique" for feed in self.feeds.feeds], np.bool_)
        return np.flatnonzero((trades.backfilled != 0) & unique[trades.feed])

    def _repeats(self, trades: Trades) -> list[int]:
        """Return which of those repeat an id of this very batch: History must have the earlier ones by then."""
        asked = self._asked(trades)
        if not len(asked):
            return []
        ids = np.stack([self._names.instrument(trades.feed).astype(np.int64), trades.trade_id, trades.trade_id_hi])
        _, first = np.unique(ids, axis=1, return_index=True)
        return [int(i) for i in np.setdiff1d(asked, first)]

    def _look_up_backfill(self, trades: Trades) -> None:
        asked = self._asked(trades)
        known: list[int] = []
        for code in np.unique(trades.feed[asked]):
            index = asked[trades.feed[asked] == code]
            ids = [_venue_id(trades, int(i)) for i in index]
            before = Cause(self.partition, int(trades.offset[0]), int(trades.row[0]))
            stored = self._history.known_ids(self.feeds.feeds[code].instrument, ids, before)
            known += [int(i) for i, trade_id in zip(index, ids, strict=True) if trade_id in stored]
        if known:
            self._kernel.known_duplicates(trades, np.array(sorted(known), np.int64))

    def _turn(self, event: Event, pieces: list[tuple[str, pa.Table]]) -> None:
        """Let an event move the kernel: a new epoch, a refill done."""
        if event.venue is None or event.symbol is None:
            return
        code = self.feeds.instrument_code(Instrument(event.venue, event.symbol))
        closed: Gaps | None = None
        if event.event == "new_ids":
            closed = self._kernel.new_ids(code, event.offset, event.row)
        elif event.event == "refilled":
            first, last = int(event.detail["first"]), int(event.detail["last"])
            closed = self._kernel.refilled(code, first, last, event.offset, event.row)
        if closed is not None and len(closed.first):
            pieces.append(("gold.gaps", rows.gaps(self.partition, closed, self._names)))

    def _count(self, trades: Trades, step: StepOutputs, judged: list[tuple[Rejected, int]]) -> None:
        verdicts = np.bincount(step.verdict, minlength=DUPLICATE + 1)
        self.counts.accepted += int(verdicts[0])
        self.counts.duplicate += int(verdicts[1])
        self.counts.late += int(np.count_nonzero(step.late))
        self.counts.anomalies += int(np.count_nonzero(step.anomaly))
        self.tally.take(trades, step, self._names.instrument(trades.feed))
        if len(verdicts) == DUPLICATE + 1:
            return
        for i in np.flatnonzero(step.verdict > DUPLICATE):
            reason = REASONS[int(step.verdict[i])]
            self.counts.reject(reason)
            judged.append((
                bounded(Rejected(
                    source=self.feeds.feeds[int(trades.feed[i])].source,
                    received_at=int(trades.received_at[i]),
                    reason=reason,
                    payload=trade_json(trades, int(i), self.feeds),
                    offset=int(trades.offset[i]),
                    row=int(trades.row[i]),
                )),
                int(step.clock[i]),
            ))  # fmt: skip


def _pieces(batch: Batch, repeats: list[int]) -> Iterator[tuple[Trades, Beats, Event | None]]:
    """Cut a batch where an event may move the kernel, or History must catch up; one piece where neither is so."""
    turning = [event for event in batch.events if event.event in {"new_ids", "refilled"}]
    if not turning and not repeats:
        yield batch.trades, batch.beats, None
        return
    borders: list[tuple[int, int, Event | None]] = [
        (event.at, _beats_before(batch.beats, event.offset, event.row), event) for event in turning
    ]
    trades = batch.trades
    borders += [(i, _beats_before(batch.beats, int(trades.offset[i]), int(trades.row[i])), None) for i in repeats]
    borders.sort(key=lambda border: border[:2])
    begin_trade = begin_beat = 0
    for end_trade, end_beat, event in [*borders, (len(trades), len(batch.beats), None)]:
        index: I64 = np.arange(begin_trade, end_trade, dtype=np.int64)
        cut = slice(begin_beat, end_beat)
        beats = replace(
            batch.beats,
            clock=batch.beats.clock[cut],
            at=batch.beats.at[cut] - begin_trade,
            offset=batch.beats.offset[cut],
            row=batch.beats.row[cut],
        )
        yield take_trades(trades, index), beats, event
        begin_trade, begin_beat = end_trade, end_beat


def _beats_before(beats: Beats, offset: int, row: int) -> int:
    """Return how many heartbeats stand before a record; only a recording's heartbeat shares an offset, with row -1."""
    return int(np.searchsorted(beats.offset, offset, side="right" if row > -1 else "left"))


def _clock_at(batch: Batch, before: int, offset: int, row: int) -> int:
    """Return the clock of the record at (offset, row)."""
    count = _beats_before(batch.beats, offset, row)
    return int(batch.beats.clock[count - 1]) if count else before


def _venue_id(trades: Trades, i: int) -> int | str:
    if trades.trade_id_hi[i] == 0:
        return int(trades.trade_id[i])
    assert trades.text is not None
    return str(trades.text.column("trade_ref")[i].as_py())
