"""The rules of the house as a small plain-Python model: journal, pipeline, tables and engine, without a line of `tickhouse`.

Times are small integers, so that a random search meets every boundary soon. `run` works one journal off with a schedule drawn
from `draw`: how batches are cut, when each table commits, when a snapshot is stored, when the process is killed. By the rules
as written the schedule and the number of partitions change no row; each `Weakness` drops one rule, and must be found.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import NamedTuple

__all__ = ["SINKS", "TABLES", "Beat", "Draw", "Frame", "Journal", "Tick", "Weakness", "run"]

INTERVALS = (4, 8)
LATENESS = 2
REVISION_STEP = 4
FUTURE = 2
SEEN_FOR = 10
KEPT_FOR = 6
"""A bar leaves the pipeline's state this long after it was final; after that it is re-made from `silver`."""
SCORED = 3
SINKS = ("lake", "warehouse")
TABLES = ("bronze", "silver", "bars", "indicators")

Draw = Callable[[int], int]
"""Gives the next choice of a schedule, in [0, n)."""


class Weakness(Enum):
    """One rule dropped on purpose."""

    TRADES_MOVE_THE_CLOCK = auto()
    VERDICTS_FROM_RECEIVE_TIMES = auto()
    VERDICTS_FROM_THE_BATCH = auto()
    SNAPSHOT_AHEAD_OF_A_TABLE = auto()
    TABLES_DO_NOT_SKIP_BY_CAUSE = auto()
    ROWS_AND_POSITION_COMMITTED_APART = auto()
    DUE_INSTANTS_UNORDERED = auto()
    DUE_INSTANTS_ONCE_A_BATCH = auto()
    BAR_WAITS_FOR_THE_NEXT_TRADE = auto()
    HISTORY_SEES_LATER_CAUSES = auto()
    HISTORY_FORGETS_ROWS_ON_THEIR_WAY = auto()


class Tick(NamedTuple):
    """A trade."""

    symbol: int
    ts: int
    trade_id: int
    price: int
    size: int
    received_at: int


class Frame(NamedTuple):
    """What a provider sent at once; one message in each partition that it touches."""

    ticks: tuple[Tick, ...]


class Beat(NamedTuple):
    """A heartbeat; one message in every partition."""

    clock: int


Journal = list[Frame | Beat]
Cause = tuple[int, int]
"""(offset, row)."""
Row = tuple[Cause, tuple[object, ...]]
Rows = dict[str, list[Row]]
Bar = tuple[int, int, int]
"""(symbol, level, start)."""


def _partition(journal: Journal, partition: int, partitions: int) -> Journal:
    """The messages of one partition: a symbol's trades are all in one, heartbeats in every one."""
    messages: Journal = []
    for record in journal:
        if isinstance(record, Beat):
            messages.append(record)
        elif mine := tuple(tick for tick in record.ticks if tick.symbol % partitions == partition):
            messages.append(Frame(mine))
    return messages


class _State:
    """Everything that a snapshot holds."""

    def __init__(self) -> None:
        self.clock: int | None = None
        self.received_at = 0
        self.seen: dict[tuple[int, int], int] = {}
        self.recent: dict[int, list[int]] = {}
        self.windows: dict[Bar, list[tuple[Tick, int]]] = {}
        self.due: list[tuple[int, Bar]] = []
        self.closes: dict[int, dict[int, int]] = {}


class _Pipeline:
    """The rules of one partition. `past` answers with the accepted trades of a bar (R15)."""

    def __init__(
        self, state: _State, weakness: Weakness | None, past: Callable[[Bar, Cause, Rows], list[tuple[Tick, int]]]
    ) -> None:
        self.state = state
        self.weakness = weakness
        self._past = past
        self._out: Rows = {}

    def feed(self, batch: list[tuple[int, Frame | Beat]]) -> Rows:
        self._out = {table: [] for table in TABLES}
        last_beat = max((i for i, (_, message) in enumerate(batch) if isinstance(message, Beat)), default=-1)
        ahead = max((message.clock for _, message in batch if isinstance(message, Beat)), default=self.state.clock)
        for i, (offset, message) in enumerate(batch):
            if isinstance(message, Beat):
                self.state.clock = message.clock
                waits = self.weakness is Weakness.BAR_WAITS_FOR_THE_NEXT_TRADE
                if not waits and (i == last_beat or self.weakness is not Weakness.DUE_INSTANTS_ONCE_A_BATCH):
                    self._work_off((offset, 0))
                continue
            for row, tick in enumerate(message.ticks):
                self._judge(tick, (offset, row), ahead)
        return self._out

    def _judge(self, tick: Tick, cause: Cause, ahead: int | None) -> None:
        state = self.state
        if self.weakness is Weakness.BAR_WAITS_FOR_THE_NEXT_TRADE and state.clock is not None:
            self._work_off(cause)
        clock = state.clock
        if self.weakness is Weakness.VERDICTS_FROM_THE_BATCH:
            clock = ahead
        if self.weakness is Weakness.VERDICTS_FROM_RECEIVE_TIMES:
            clock = state.received_at = max(state.received_at, tick.received_at)
        verdict = self._verdict(tick, clock)
        self._emit("bronze", cause, (tick, clock, verdict))
        if verdict != "accepted" or clock is None:
            return
        state.seen[tick.symbol, tick.trade_id] = clock
        late = False
        for level, interval in reversed(list(enumerate(INTERVALS))):
            start = tick.ts - tick.ts % interval
            late = self._count(tick, clock, (tick.symbol, level, start))
        recent = state.recent.setdefault(tick.symbol, [])
        far_off = len(recent) == SCORED and abs(tick.price * SCORED - sum(recent)) > 2 * SCORED
        recent[:] = [*recent, tick.price][-SCORED:]
        self._emit("silver", cause, (tick, clock, late, far_off))
        if self.weakness is Weakness.TRADES_MOVE_THE_CLOCK and state.clock is not None:
            state.clock = max(state.clock, tick.ts)
            self._work_off(cause)

    def _verdict(self, tick: Tick, clock: int | None) -> str:
        if clock is None or tick.ts > clock + FUTURE:
            return "future"
        first = self.state.seen.get((tick.symbol, tick.trade_id))
        return "accepted" if first is None or clock - first > SEEN_FOR else "duplicate"

    def _count(self, tick: Tick, clock: int, bar: Bar) -> bool:
        """Put a trade into a bar and make the bar due (R5); say whether the trade is late for it."""
        final = bar[2] + INTERVALS[bar[1]] + LATENESS
        late = clock >= final
        instant = clock + 1 + (LATENESS - clock - 1) % REVISION_STEP if late else final
        if clock < final + KEPT_FOR or bar in self.state.windows:
            self.state.windows.setdefault(bar, []).append((tick, clock))
        if (instant, bar) not in self.state.due:
            self.state.due.append((instant, bar))
        return late

    def _work_off(self, cause: Cause) -> None:
        """Issue everything that the clock has reached: instants in order, within one all bars first, then indicators (R6)."""
        state = self.state
        assert state.clock is not None
        reached = [(instant, bar) for instant, bar in state.due if instant <= state.clock]
        state.due = [(instant, bar) for instant, bar in state.due if instant > state.clock]
        instants = list(dict.fromkeys(instant for instant, _ in reached))
        if self.weakness is not Weakness.DUE_INSTANTS_UNORDERED:
            instants.sort()
        for instant in instants:
            touched: dict[int, int] = {}
            for bar in sorted(bar for at, bar in reached if at == instant):
                close = self._issue(bar, instant, cause)
                if bar[1] == 0:
                    state.closes.setdefault(bar[0], {})[bar[2]] = close
                    touched[bar[0]] = min(touched.get(bar[0], bar[2]), bar[2])
            for symbol, start in touched.items():
                self._indicate(symbol, start, instant, cause)
        for bar in [bar for bar in state.windows if bar[2] + INTERVALS[bar[1]] + LATENESS + KEPT_FOR <= state.clock]:
            del state.windows[bar]

    def _issue(self, bar: Bar, instant: int, cause: Cause) -> int:
        symbol, level, start = bar
        final = start + INTERVALS[level] + LATENESS
        held = self.state.windows.get(bar) if final + KEPT_FOR > instant else None
        trades = sorted(
            self._past(bar, cause, self._out) if held is None else held, key=lambda trade: (trade[0].ts, trade[0].trade_id)
        )
        prices = [tick.price for tick, _ in trades] or [0]
        revision = sum(final <= clock < instant for _, clock in trades)
        ohlc = (prices[0], max(prices), min(prices), prices[-1])
        volume = sum(tick.size for tick, _ in trades)
        self._emit("bars", cause, (symbol, level, start, revision, *ohlc, volume, len(trades), instant))
        return prices[-1]

    def _indicate(self, symbol: int, start: int, instant: int, cause: Cause) -> None:
        """Issue the mean of the last two closes from `start` on, over the bars as of now (R10)."""
        closes = self.state.closes[symbol]
        starts = sorted(closes)
        for i in range(starts.index(start), len(starts)):
            value = closes[starts[i - 1]] + closes[starts[i]] if i else None
            self._emit("indicators", cause, (symbol, starts[i], value, instant))

    def _emit(self, table: str, cause: Cause, values: tuple[object, ...]) -> None:
        self._out[table].append((cause, values))

    def snapshot(self) -> _State:
        # A store gives sets back in an order of its own: what is due must not depend on it.
        state = copy.deepcopy(self.state)
        state.due.sort(reverse=True)
        return state


class _Table:
    """One table of one sink, of one partition."""

    def __init__(self, *, skips: bool) -> None:
        self.rows: list[Row] = []
        self.position = 0
        self.pending: list[Row] = []
        self.reached = 0
        self._skips = skips

    def write(self, rows: list[Row], position: int) -> None:
        self.pending += [row for row in rows if row[0][0] >= self.position or not self._skips]
        self.reached = max(self.reached, position)

    def commit_rows(self) -> None:
        self.rows, self.pending = self.rows + self.pending, []

    def commit_position(self) -> None:
        self.position = max(self.position, self.reached)

    def kill(self) -> None:
        self.pending, self.reached = [], self.position


class _Engine:
    """Works one partition off; every step may be its last before a kill."""

    def __init__(self, messages: Journal, weakness: Weakness | None) -> None:
        skips = weakness is not Weakness.TABLES_DO_NOT_SKIP_BY_CAUSE
        self.tables = {(sink, table): _Table(skips=skips) for sink in SINKS for table in TABLES}
        self._messages = messages
        self._weakness = weakness
        self._stored = (0, _State())
        self._offset = 0
        self._restart()

    def _restart(self) -> None:
        for table in self.tables.values():
            table.kill()
        self._offset, state = self._stored
        self._pipeline = _Pipeline(copy.deepcopy(state), self._weakness, self._past)

    def _past(self, bar: Bar, before: Cause, out: Rows) -> list[tuple[Tick, int]]:
        silver = self.tables["lake", "silver"]
        rows = list(silver.rows)
        if self._weakness is not Weakness.HISTORY_FORGETS_ROWS_ON_THEIR_WAY:
            rows += silver.pending + out["silver"]
        if self._weakness is not Weakness.HISTORY_SEES_LATER_CAUSES:
            rows = [row for row in rows if row[0] < before]
        symbol, level, start = bar
        trades = [(values[0], values[1]) for values in dict(rows).values()]
        return [
            (tick, clock) for tick, clock in trades if tick.symbol == symbol and start <= tick.ts < start + INTERVALS[level]
        ]

    def work(self, draw: Draw) -> None:
        kills = 3
        while self._offset < len(self._messages):
            for _ in self._step(draw):
                if kills and draw(6) == 0:
                    kills -= 1
                    self._restart()
                    break
        for table in self.tables.values():
            table.commit_rows()

    def _step(self, draw: Draw) -> Iterator[None]:
        """Do one thing of an engine's life; yields wherever a kill would leave something different behind."""
        choice = draw(6)
        if choice < 3:
            count = 1 + draw(4)
            batch = list(enumerate(self._messages))[self._offset : self._offset + count]
            rows = self._pipeline.feed(batch)
            self._offset += len(batch)
            for (_, name), table in self.tables.items():
                table.write(rows[name], self._offset)
            yield
        elif choice < 5:
            for table in [table for table in self.tables.values() if table.pending and draw(2)]:
                yield from self._commit(table)
        else:
            snapshot = (self._offset, self._pipeline.snapshot())
            if self._weakness is Weakness.SNAPSHOT_AHEAD_OF_A_TABLE:
                self._stored = snapshot
            yield
            for table in self.tables.values():
                yield from self._commit(table)
            self._stored = snapshot
            yield

    def _commit(self, table: _Table) -> Iterator[None]:
        table.commit_rows()
        if self._weakness is Weakness.ROWS_AND_POSITION_COMMITTED_APART:
            yield
        table.commit_position()
        yield


def run(
    journal: Journal, partitions: int, draw: Draw, weakness: Weakness | None = None
) -> dict[tuple[str, str], Counter[tuple[object, ...]]]:
    """Work a journal off; return the rows of every (sink, table) as a multiset, without their causes."""
    result: dict[tuple[str, str], Counter[tuple[object, ...]]] = {
        (sink, table): Counter() for sink in SINKS for table in TABLES
    }
    for partition in range(partitions):
        engine = _Engine(_partition(journal, partition, partitions), weakness)
        engine.work(draw)
        for key, table in engine.tables.items():
            result[key].update(values for _, values in table.rows)
    return result
