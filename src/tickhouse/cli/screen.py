"""What the command line paints: the live table, query results, reports. Text only; no figure is made here."""

from __future__ import annotations

import datetime as dt
import sys
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tickhouse.model import NO_TIME

if TYPE_CHECKING:  # a question loads no engine to paint its answer, a replay no polars
    import polars as pl

    from tickhouse.live import Board
    from tickhouse.pipeline import Counts
    from tickhouse.quality.verify import Report

__all__ = ["console", "counts_table", "errors", "frame", "live_view", "verify_table"]

console = Console(width=None if sys.stdout.isatty() else 240)
errors = Console(stderr=True)

_MAX_SYMBOLS = 20


def live_view(board: Board, counts: Counts, started: float) -> Group:
    """Return the live table: one line a symbol, the balance below it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, style in (("symbol", "cyan"), ("venue", "dim")):
        table.add_column(name, style=style, no_wrap=True)
    for name in ("last", "change", "trades", "trades/s", "lag", "late", "duplicate", "rejected"):
        table.add_column(name, justify="right", no_wrap=True)
    lines = board.lines()
    for line in lines[:_MAX_SYMBOLS]:
        change = Text(f"{line.change_pct:+.2f}%", "green" if line.change_pct >= 0 else "red")
        lag = "-" if line.lag_us is None else f"{line.lag_us / 1000:,.0f} ms"
        table.add_row(
            Text(_plain(line.symbol)), Text(_plain(line.venue)), f"{line.last:,.8g}", change,
            f"{line.trades:,}", f"{line.rate:,.1f}", lag, f"{line.late:,}", f"{line.duplicate:,}",
            f"{line.rejected:,}",
        )  # fmt: skip
    more = f"  and {len(lines) - _MAX_SYMBOLS:,} more symbols" if len(lines) > _MAX_SYMBOLS else ""
    clock = "-" if board.clock == NO_TIME else dt.datetime.fromtimestamp(board.clock / 1e6, dt.UTC).strftime("%H:%M:%S UTC")
    return Group(
        table,
        Text(more, "dim"),
        Text(_balance(counts)),
        Text(f"clock {clock}  {_age(started)}  Ctrl-C commits and leaves", "dim"),
    )


def _balance(counts: Counts) -> str:
    rejected = sum(counts.rejected.values())
    return (
        f"received {counts.received:,} = accepted {counts.accepted:,} + duplicate {counts.duplicate:,} + rejected {rejected:,}"
        f"   late {counts.late:,}   bars {counts.bars:,}   anomalies {counts.anomalies:,}"
    )


def _age(started: float) -> str:
    return str(dt.timedelta(seconds=int(time.monotonic() - started)))


def counts_table(counts: Counts) -> Table:
    """Return the balance as a small table."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_row("received", f"{counts.received:,}")
    table.add_row("accepted", f"{counts.accepted:,}")
    table.add_row("duplicate", f"{counts.duplicate:,}")
    table.add_row("rejected", f"{sum(counts.rejected.values()):,}")
    for reason, number in sorted(counts.rejected.items(), key=lambda item: -item[1]):
        table.add_row(f"  {reason}", f"{number:,}")
    table.add_row("ignored", f"{counts.ignored:,}")
    table.add_row("late", f"{counts.late:,}")
    table.add_row("bars", f"{counts.bars:,} ({counts.revisions:,} revisions)")
    table.add_row("anomalies", f"{counts.anomalies:,}")
    return table


def frame(data: pl.DataFrame, limit: int = 50) -> Table:
    """Return a query's result as a table of at most `limit` rows."""
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    for name, kind in data.schema.items():
        table.add_column(Text(_plain(name)), justify="right" if kind.is_numeric() else "left", no_wrap=True)
    for row in data.head(limit).iter_rows():
        table.add_row(*(Text("null", "dim") if value is None else Text(_cell(value)) for value in row))
    if len(data) > limit:
        table.caption = f"{limit} of {len(data):,} rows; all of them: --output FILE.csv, .json or .parquet, or --json"
    return table


def _cell(value: Any) -> str:
    if isinstance(value, dt.datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.%f").rstrip("0").rstrip(".")
    if isinstance(value, float):
        return f"{value:.10g}"
    return _plain(str(value))


def _plain(text: str) -> str:
    """Return text that moves no cursor and colours nothing: symbols come from outside."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def verify_table(report: Report) -> Table:
    """Return a verification as one line a table."""
    data = report.to_json()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("table", "digest", "proven"):
        table.add_column(name)
    wrong = {str(item.get("table")) for item in data["differences"]}
    for name, digest in data["digests"].items():
        table.add_row(name, digest[:32], "[red]differs[/red]" if name in wrong else "[green]equal[/green]")
    return table
