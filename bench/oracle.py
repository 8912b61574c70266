"""The right answer of the standard work, slow and plain: one dictionary, one list, every window summed afresh.

`python bench/oracle.py FILE OUT` writes OUT/bars.parquet, OUT/trades.parquet and OUT/counts.json for `check.py` to compare
with. What it computes, in the house's rules: the trades without malformed lines and re-deliveries (R1, R12); late flags
against the largest event time so far (R3, R5); revision 0 of every 1m bar (R2, R4, R7, R8); indicators over these bars (R10);
trades that lie more than three deviations off the previous hundred (R11). At the end of the file every bar is closed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

__all__ = ["Answer", "solve"]

MINUTE_MS = 60_000
LATENESS_MS = 10_000
SAMPLE = 100
BARS = 20
TRADES_SCHEMA = {
    "symbol": pl.String,
    "id": pl.Int64,
    "t": pl.Int64,
    "p": pl.Float64,
    "v": pl.Float64,
    "late": pl.Boolean,
    "anomaly": pl.Boolean,
}
BARS_SCHEMA = {"symbol": pl.String, "bar_start": pl.Int64} | dict.fromkeys(
    ("open", "high", "low", "close", "volume", "vwap"), pl.Float64
)
BARS_SCHEMA |= {"trades": pl.Int64} | dict.fromkeys(("sma20", "ema20", "bb_upper", "bb_lower", "vol20"), pl.Float64)


class Answer(NamedTuple):
    """What the tables must hold."""

    trades: pl.DataFrame
    """symbol, id, t, p, v, late, anomaly; in order of arrival."""
    bars: pl.DataFrame
    """symbol, bar_start, open, high, low, close, volume, vwap, trades, sma20, ema20, bb_upper, bb_lower, vol20."""
    counts: dict[str, int]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _trade(line: str) -> dict[str, Any] | None:
    """Return the trade of a line, None where it is malformed."""
    try:
        trade = json.loads(line)
    except ValueError:
        return None
    if not isinstance(trade, dict) or not (isinstance(trade.get("s"), str) and trade["s"]):
        return None
    if any(not isinstance(trade.get(key), int) or isinstance(trade[key], bool) for key in ("t", "id")):
        return None
    if not (_is_number(trade.get("p")) and trade["p"] > 0 and _is_number(trade.get("v")) and trade["v"] >= 0):
        return None
    return trade if trade["t"] > 0 else None


def _is_anomaly(price: float, before: list[float]) -> bool:
    if len(before) < SAMPLE:
        return False
    mean = statistics.fmean(before)
    deviation = math.sqrt(math.fsum((p - mean) ** 2 for p in before) / (SAMPLE - 1))
    return deviation > 0 and abs(price - mean) > 3 * deviation


def _bar(symbol: str, start: int, trades: list[tuple[int, int, float, float]]) -> dict[str, Any]:
    trades = sorted(trades)
    prices = [price for _, _, price, _ in trades]
    volume = math.fsum(size for *_, size in trades)
    notional = math.fsum(price * size for *_, price, size in trades)
    return {
        "symbol": symbol,
        "bar_start": start,
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "volume": volume,
        "vwap": notional / volume if volume else None,
        "trades": len(trades),
    }


def _indicators(closes: list[float]) -> list[dict[str, float | None]]:
    rows: list[dict[str, float | None]] = []
    ema = None
    for i, close in enumerate(closes):
        window = closes[max(0, i + 1 - BARS) : i + 1]
        if len(window) < BARS:
            rows.append(dict.fromkeys(("sma20", "ema20", "bb_upper", "bb_lower", "vol20")))
            continue
        mean = statistics.fmean(window)
        band = 2 * math.sqrt(math.fsum((x - mean) ** 2 for x in window) / BARS)
        ema = mean if ema is None else ema + (close - ema) * 2 / (BARS + 1)
        returns = [math.log(closes[j] / closes[j - 1]) for j in range(i + 1 - BARS, i + 1)] if i >= BARS else None
        volatility = statistics.stdev(returns) if returns else None
        rows.append({"sma20": mean, "ema20": ema, "bb_upper": mean + band, "bb_lower": mean - band, "vol20": volatility})
    return rows


def solve(lines: Iterable[str]) -> Answer:
    """Work the standard work off, line by line."""
    counts = {"lines": 0, "malformed": 0, "duplicates": 0, "late": 0}
    seen: set[tuple[str, int]] = set()
    recent: dict[str, list[float]] = defaultdict(list)
    members: dict[tuple[str, int], list[tuple[int, int, float, float]]] = defaultdict(list)
    accepted: list[tuple[str, int, int, float, float, bool, bool]] = []
    latest = 0
    for line in lines:
        counts["lines"] += 1
        trade = _trade(line)
        if trade is None:
            counts["malformed"] += 1
            continue
        symbol, trade_id, ts, price, size = trade["s"], trade["id"], trade["t"], float(trade["p"]), float(trade["v"])
        if (symbol, trade_id) in seen:
            counts["duplicates"] += 1
            continue
        seen.add((symbol, trade_id))
        latest = max(latest, ts)
        start = ts - ts % MINUTE_MS
        late = latest >= start + MINUTE_MS + LATENESS_MS
        if late:
            counts["late"] += 1
        else:
            members[symbol, start].append((ts, len(accepted), price, size))
        accepted.append((symbol, trade_id, ts, price, size, late, _is_anomaly(price, recent[symbol])))
        recent[symbol] = [*recent[symbol][1 - SAMPLE :], price]
    bars = [_bar(symbol, start, trades) for (symbol, start), trades in sorted(members.items())]
    closes: dict[str, list[float]] = defaultdict(list)
    for bar in bars:
        closes[bar["symbol"]].append(bar["close"])
    values = [row for symbol in sorted(closes) for row in _indicators(closes[symbol])]
    counts |= {"trades": len(accepted), "bars": len(bars), "anomalies": sum(row[-1] for row in accepted)}
    return Answer(
        pl.DataFrame(accepted, schema=TRADES_SCHEMA, orient="row"),
        pl.DataFrame([bar | row for bar, row in zip(bars, values, strict=True)], schema=BARS_SCHEMA),
        counts,
    )


def main() -> None:
    """Solve one file and keep the answer."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    with given.file.open(encoding="utf-8", errors="replace") as lines:
        answer = solve(lines)
    given.out.mkdir(parents=True, exist_ok=True)
    answer.trades.write_parquet(given.out / "trades.parquet")
    answer.bars.write_parquet(given.out / "bars.parquet")
    (given.out / "counts.json").write_text(json.dumps(answer.counts) + "\n", encoding="utf-8")
    print(json.dumps(answer.counts))


if __name__ == "__main__":
    main()
