"""Did it change? Compare what a peer, or a house, made of the standard work with the oracle's answer.

`python bench/check.py ANSWER OUT`: ANSWER is a folder of `oracle.py`, OUT a peer's folder or a house. Prints the differences
as JSON; exit code 1 where there is one. A house must agree to the last bit in open, high, low, close, volume, vwap and
trades; peers that add floats one by one to 1e-9. Two things are left out for a house, by its rules: bars that are not final
at the end of the file (R5), and indicators where trades are late (R10 computes them over revisions too: write the input with
`--late-share 0`).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import polars as pl
from oracle import LATENESS_MS, MINUTE_MS

__all__ = ["compare"]

EXACT = ("open", "high", "low", "close", "trades")
SUMS = ("volume", "vwap")
INDICATORS = {
    "sma20": ("sma(20)", "value"),
    "ema20": ("ema(20)", "value"),
    "bb_upper": ("bbands(20,2)", "upper"),
    "bb_lower": ("bbands(20,2)", "lower"),
    "vol20": ("volatility(20)", "value"),
}


class _Result(NamedTuple):
    bars: pl.DataFrame
    trades: pl.DataFrame
    tolerance: float
    until_ms: int | None
    """Only bars final at this clock are there; None = all."""


def compare(answer: Path, out: Path) -> dict[str, int]:
    """Return by name how much was compared (`bars`, `trades`) and how much differs (all other names).

    Args:
        answer: Folder with the oracle's bars.parquet, trades.parquet and counts.json.
        out: A peer's folder with `bars/` and `trades/`, or a house.
    """
    result = _house(out) if (out / "house.json").exists() else _peer(out)
    expected = pl.read_parquet(answer / "bars.parquet")
    if result.until_ms is not None:
        expected = expected.filter(pl.col("bar_start") + MINUTE_MS + LATENESS_MS <= result.until_ms)
    found = _differing_bars(expected, result)
    return found | _differing_trades(pl.read_parquet(answer / "trades.parquet"), result.trades)


def _differing_bars(expected: pl.DataFrame, result: _Result) -> dict[str, int]:
    key = ["symbol", "bar_start"]
    both = expected.join(result.bars, on=key, how="inner", suffix="_got")
    counted = {
        "bars": len(expected),
        "bars_missing": len(expected.join(result.bars, on=key, how="anti")),
        "bars_extra": len(result.bars.join(expected, on=key, how="anti")),
        "bars_twice": len(result.bars) - len(result.bars.unique(key)),
    }
    for name, tolerance in [
        *((n, 0.0) for n in EXACT),
        *((n, result.tolerance) for n in SUMS),
        *((n, 1e-7) for n in INDICATORS),
    ]:
        if f"{name}_got" in both.columns:
            counted[f"diff_{name}"] = _unequal(both[name], both[f"{name}_got"], tolerance)
    return counted


def _differing_trades(expected: pl.DataFrame, trades: pl.DataFrame) -> dict[str, int]:
    key = ["symbol", "id"]
    both = expected.join(trades, on=key, how="inner", suffix="_got")
    return {
        "trades": len(expected),
        "trades_missing": len(expected) - len(both.unique(key)),
        "trades_extra": len(trades) - len(both),
        "diff_late": int((both["late"] != both["late_got"]).sum()),
        "diff_anomaly": int((both["anomaly"] != both["anomaly_got"]).sum()),
    }


def _unequal(one: pl.Series, other: pl.Series, tolerance: float) -> int:
    one, other = one.cast(pl.Float64).fill_nan(None), other.cast(pl.Float64).fill_nan(None)
    return int(((one.is_null() != other.is_null()) | ((one - other).abs() > tolerance * one.abs())).sum())


def _peer(out: Path) -> _Result:
    return _Result(pl.read_parquet(out / "bars"), pl.read_parquet(out / "trades"), 1e-9, None)


def _house(out: Path) -> _Result:
    from tickhouse.sinks.lake import LakeTables

    lake = LakeTables(out / "lake")
    spelled = pl.concat_str(pl.col("venue"), pl.lit(":"), pl.col("symbol").cast(pl.String).str.replace("-", "", literal=True))
    bars = (
        pl.DataFrame(lake.table("gold.bars"))
        .filter((pl.col("interval") == "1m") & (pl.col("origin") == "trades") & (pl.col("revision") == 0))
        .with_columns(symbol=spelled, bar_start=pl.col("start").dt.epoch("ms"))
        .select("symbol", "bar_start", *EXACT, *SUMS)
    )
    silver = pl.DataFrame(lake.table("silver.trades")).with_columns(symbol=spelled).rename({"trade_id": "id"})
    if not silver["late"].any():
        bars = bars.join(_house_indicators(lake, spelled), on=["symbol", "bar_start"], how="left")
    until = lake.position("gold.bars").clock // 1000
    return _Result(bars, silver.select("symbol", "id", "late", "anomaly"), 0.0, until)


def _house_indicators(lake, spelled: pl.Expr) -> pl.DataFrame:
    rows = pl.DataFrame(lake.table("gold.indicators")).filter(pl.col("interval") == "1m")
    rows = rows.with_columns(symbol=spelled, bar_start=pl.col("start").dt.epoch("ms"))
    wide = rows.select("symbol", "bar_start").unique()
    for name, (indicator, output) in INDICATORS.items():
        mine = rows.filter((pl.col("indicator") == indicator) & (pl.col("output") == output))
        wide = wide.join(
            mine.select("symbol", "bar_start", pl.col("value").alias(name)), on=["symbol", "bar_start"], how="left"
        )
    return wide


def main() -> None:
    """Compare, print, and say by the exit code whether anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("answer", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    found = compare(given.answer, given.out)
    print(json.dumps(found))
    sys.exit(any(count for name, count in found.items() if name not in {"bars", "trades"}))


if __name__ == "__main__":
    main()
