"""The standard work as a Bytewax dataflow: lines, decoding, one stateful step a symbol, a Parquet sink; one worker.

A keyed step sees only its own symbol, so a bar closes by its symbol's own latest trade, not by the clock of the whole feed:
trades that others make late are still taken, and a few bars differ from the oracle's. The arithmetic is that of
`python_dicts`.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import bytewax.operators as op
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from bytewax.connectors.files import FileSource
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main
from measure import LATENESS_MS, MINUTE_MS, report
from python_dicts import BAR_SCHEMA, FLUSH_ROWS, TRADE_SCHEMA, Bar, Indicators, Line, Sample

TRADE, BAR = 0, 1
_decode = msgspec.json.Decoder(Line).decode


def _trades(lines: list[str]) -> list[tuple[str, Line]]:
    trades = []
    for line in lines:
        try:
            trade = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if trade.s and trade.p > 0 and trade.t > 0 and trade.v >= 0:
            trades.append((trade.s, trade))
    return trades


class _Symbol(StatefulBatchLogic):
    """Everything about one symbol."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.sample = Sample()
        self.indicators = Indicators()
        self.bars: dict[int, Bar] = {}
        self.latest = self.final = 0

    def on_batch(self, values: list[Line]) -> tuple[list[tuple[int, tuple[Any, ...]]], bool]:
        out: list[tuple[int, tuple[Any, ...]]] = []
        for trade in values:
            if trade.id in self.seen:
                continue
            self.seen.add(trade.id)
            t, price, size = trade.t, trade.p, trade.v
            if t > self.latest:
                self.latest = t
                if t >= self.final:
                    self._close(t, trade.s, out)
            start = t - t % MINUTE_MS
            late = start + MINUTE_MS + LATENESS_MS <= self.latest
            if not late:
                bar = self.bars.get(start)
                if bar is None:
                    self.bars[start] = Bar(t, price, size)
                    self.final = min(self.bars) + MINUTE_MS + LATENESS_MS
                else:
                    bar.add(t, price, size)
            out.append((TRADE, (trade.s, trade.id, t, price, size, late, self.sample.judge(price))))
        self.symbol = values[0].s
        return out, StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[list[tuple[int, tuple[Any, ...]]], bool]:
        out: list[tuple[int, tuple[Any, ...]]] = []
        self._close(self.latest + 2 * MINUTE_MS + LATENESS_MS, self.symbol, out)
        return out, StatefulBatchLogic.DISCARD

    def _close(self, now: int, symbol: str, out: list[tuple[int, tuple[Any, ...]]]) -> None:
        for start in sorted(start for start in self.bars if start + MINUTE_MS + LATENESS_MS <= now):
            bar = self.bars.pop(start)
            values = self.indicators.add(bar.close)
            vwap = bar.notional / bar.size if bar.size else None
            out.append((BAR, (symbol, start, bar.open, bar.high, bar.low, bar.close, bar.size, vwap, bar.trades, *values)))
        self.final = min(self.bars) + MINUTE_MS + LATENESS_MS if self.bars else 0

    def snapshot(self) -> None:
        return None


class _Table:
    """Rows gathered into row groups of one Parquet file."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[tuple[Any, ...]] = []
        self._writer = pq.ParquetWriter(path, schema, compression="lz4")

    def add(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        if len(self._rows) == FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        columns = [
            pa.array(column, field.type) for column, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
        ]
        self._writer.write_table(pa.table(columns, schema=self._schema))
        self._rows.clear()

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()


class _Writer(StatelessSinkPartition):
    def __init__(self, out: Path) -> None:
        self._tables = (_Table(out / "trades" / "0.parquet", TRADE_SCHEMA), _Table(out / "bars" / "0.parquet", BAR_SCHEMA))

    def write_batch(self, items: list[tuple[str, tuple[int, tuple[Any, ...]]]]) -> None:
        for _, (table, row) in items:
            self._tables[table].add(row)

    def close(self) -> None:
        for table in self._tables:
            table.close()


class _Parquet(DynamicSink):
    def __init__(self, out: Path) -> None:
        self._out = out

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Writer:
        return _Writer(self._out)


def work(source: Path, out: Path) -> None:
    flow = Dataflow("standard_work")
    lines = op.input("lines", flow, FileSource(source))
    trades = op.flat_map_batch("decode", lines, _trades)
    rows = op.stateful_batch("symbol", trades, lambda state: _Symbol())
    op.output("parquet", rows, _Parquet(out))
    run_main(flow)


if __name__ == "__main__":
    report(f"Bytewax {version('bytewax')}", work)
