"""Recorded market data of third parties as files that `replay` reads, and the venues' own bars of it, for the proofs.

Trades become flat NDJSON `{"s":venue:symbol,"p":price,"t":ms,"v":size}` in their order, prices and sizes in the recorder's
own digits. A file ends with two trades of a symbol of its own, `ZZZ`, whose times bring the clock to where the last bar is
final.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

__all__ = [
    "FuturesUpdate",
    "Ohlcv",
    "coinbase_bars",
    "coinbase_trades",
    "eurusd_bars",
    "eurusd_quotes",
    "futures_updates",
    "gold_bars",
    "gold_trades",
]

MINUTE_MS = 60_000
LATENESS_MS = 10_000
CLOSING = "ZZZ"
BarKey = tuple[str, int]
"""(symbol, start in ms)."""


class Ohlcv(NamedTuple):
    """A venue's bar."""

    open: float
    high: float
    low: float
    close: float
    volume: float


def _rows(archive: Path) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield the name and the rows of every CSV in a zip."""
    with zipfile.ZipFile(archive) as files:
        for name in sorted(files.namelist()):
            with files.open(name) as file:
                yield name, list(csv.reader(io.TextIOWrapper(file, "utf-8")))


def _midnight_ms(name: str) -> int:
    """Milliseconds of the day that a file's name begins with."""
    return int(datetime.strptime(name[:8], "%Y%m%d").replace(tzinfo=UTC).timestamp() * 1000)


def _write(path: Path, venue: str, trades: Iterable[tuple[int, str, str, str]]) -> Path:
    """Write (ms, symbol, price, size) in their order, and what closes the last bar."""
    last = 0
    with path.open("w", encoding="utf-8") as out:
        for ms, symbol, price, size in trades:
            last = max(last, ms)
            out.write(f'{{"s":"{venue}:{symbol}","p":{price},"t":{ms},"v":{size}}}\n')
        final = last - last % MINUTE_MS + MINUTE_MS + LATENESS_MS
        for ms in ((last + final) // 2, final):
            out.write(f'{{"s":"{venue}:{CLOSING}","p":1,"t":{ms},"v":0}}\n')
    return path


def gold_trades(shared: Path, path: Path) -> Path:
    """Write the trades of all COMEX gold contracts of a day, merged by time."""
    trades = [
        (_midnight_ms(name) + int(ms), _contract(name), price, size)
        for name, rows in _rows(shared / "fixtures/pairs/gc_20131007/tick_trade.zip")
        for ms, price, size, *_ in rows
    ]
    return _write(path, "COMEX", sorted(trades, key=lambda trade: trade[0]))


def gold_bars(shared: Path) -> dict[BarKey, Ohlcv]:
    """Return the vendor's minute bars of the same contracts."""
    return {
        (_contract(name), _midnight_ms(name) + int(ms)): Ohlcv(*map(float, values))
        for name, rows in _rows(shared / "fixtures/pairs/gc_20131007/minute_trade.zip")
        for ms, *values in rows
    }


def _contract(name: str) -> str:
    return "GC" + name.removesuffix(".csv").rpartition("_")[2]


def eurusd_quotes(shared: Path, path: Path) -> Path:
    """Write OANDA's EUR/USD bids and asks of a day, as two symbols without sizes."""
    ((name, rows),) = _rows(shared / "fixtures/pairs/eurusd_20140507/tick_quote.zip")
    quotes = (
        (_midnight_ms(name) + int(ms), f"EUR-USD-{side}", price, "0")
        for ms, bid, ask in rows
        for side, price in (("BID", bid), ("ASK", ask))
    )
    return _write(path, "OANDA", quotes)


def eurusd_bars(shared: Path, interval: str) -> dict[BarKey, Ohlcv]:
    """Return the vendor's bars of both sides; its sizes are 0."""
    resolution = {"1s": "second", "1m": "minute"}[interval]
    ((name, rows),) = _rows(shared / f"fixtures/pairs/eurusd_20140507/{resolution}_quote.zip")
    bars: dict[BarKey, Ohlcv] = {}
    for ms, *values in rows:
        start = _midnight_ms(name) + int(ms)
        bars["EUR-USD-BID", start] = Ohlcv(*map(float, values[:5]))
        bars["EUR-USD-ASK", start] = Ohlcv(*map(float, values[5:10]))
    return bars


def coinbase_trades(shared: Path, path: Path) -> Path:
    """Write Coinbase's one-second bars of two days as four trades each: open, high, low, and close with the volume."""
    trades = [
        (start, "BTC-USD", price, size)
        for name, rows in _coinbase(shared, "second")
        for start, o, h, low, c, volume in ((_midnight_ms(name) + int(row[0]), *row[1:]) for row in rows)
        for price, size in ((o, "0"), (h, "0"), (low, "0"), (c, volume))
    ]
    return _write(path, "COINBASE", trades)


def coinbase_bars(shared: Path) -> dict[BarKey, Ohlcv]:
    """Return Coinbase's minute bars of the same days."""
    return {
        ("BTC-USD", _midnight_ms(name) + int(ms)): Ohlcv(*map(float, values))
        for name, rows in _coinbase(shared, "minute")
        for ms, *values in rows
    }


def _coinbase(shared: Path, interval: str) -> Iterator[tuple[str, list[list[str]]]]:
    for day in (20161007, 20161008):
        yield from _rows(shared / f"fixtures/ohlcv_intraday/coinbase_btcusd/{interval}_{day}_trade.zip")


class FuturesUpdate(NamedTuple):
    """One message of a kline stream, and the aggregated trades up to its last."""

    start: int
    bar: Ohlcv
    trades: list[dict[str, Any]]


def _futures(shared: Path) -> list[tuple[int, str, dict[str, Any]]]:
    """Return (receive time in ns, raw frame, its data) of the frames of Binance's USD-M streams, as captured."""
    with (shared / "fixtures/ws_captures/binance_futures.jsonl.zst").open("rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8")
        records = [json.loads(line) for line in lines]
    frames = [(round(record["ts"] * 1e9), record["data"]) for record in records if record["t"] == "recv"]
    return [(ns, raw, json.loads(raw).get("data", {})) for ns, raw in frames]


def futures_updates(shared: Path) -> list[FuturesUpdate]:
    """Return the kline updates of the minute that begins in the capture whose trades it holds from first to last."""
    trades: dict[str, list[dict[str, Any]]] = {}
    updates: list[FuturesUpdate] = []
    frames = [data for _, _, data in _futures(shared)]
    for data in frames:
        if data.get("e") == "aggTrade":
            trades.setdefault(data["s"], []).append(data)
    for data in frames:
        if data.get("e") != "kline":
            continue
        kline, seen = data["k"], trades[data["s"]]
        if seen[0]["f"] > kline["f"] or all(trade["l"] != kline["L"] for trade in seen):
            continue
        bar = Ohlcv(*(float(kline[key]) for key in ("o", "h", "l", "c", "v")))
        updates.append(FuturesUpdate(kline["t"], bar, [trade for trade in seen if trade["l"] <= kline["L"]]))
    return updates
