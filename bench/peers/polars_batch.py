"""The standard work as one batch in Polars: the whole file at once, all columns, all cores.

A batch knows the order of arrival, so lateness is exact too (the running maximum of the event time over the accepted trades).
Polars' JSON reader stops at the first malformed line: lines of the usual form are cut by a pattern, the few others are read
one by one with msgspec.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import polars as pl
from measure import BAR_COLUMNS, LATENESS_MS, MINUTE_MS, TRADE_COLUMNS, report

USUAL = r'^\{"s":"(?<s>[^"\\]+)","p":(?<p>[0-9.eE+-]+),"t":(?<t>[0-9]{1,18}),"v":(?<v>[0-9.eE+-]+),"id":(?<id>-?[0-9]{1,18})\}$'
TYPES = {"s": pl.String, "p": pl.Float64, "t": pl.Int64, "v": pl.Float64, "id": pl.Int64}


class Line(msgspec.Struct):
    s: str
    p: float
    t: int
    v: float
    id: int


def _unusual(lines: pl.DataFrame) -> pl.DataFrame:
    decode = msgspec.json.Decoder(Line).decode
    rows = []
    for n, line in lines.iter_rows():
        try:
            trade = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        rows.append((n, trade.s, trade.p, trade.t, trade.v, trade.id))
    return pl.DataFrame(rows, schema={"n": pl.UInt32, **TYPES}, orient="row")


def _read(source: Path) -> pl.DataFrame:
    cut = (
        pl.scan_lines(source, name="line")
        .with_row_index("n")
        .with_columns(pl.col("line").str.extract_groups(USUAL).alias("cut"))
        .with_columns(pl.col("cut").struct.field(name).cast(kind, strict=False) for name, kind in TYPES.items())
        .with_columns(usual=pl.all_horizontal(pl.col(*TYPES).is_not_null()))
        .drop("cut")
        .collect(engine="streaming")
    )
    usual = cut.filter("usual").select("n", *TYPES)
    unusual = _unusual(cut.filter(~pl.col("usual")).select("n", "line"))
    read = pl.concat([usual, unusual.with_columns(pl.col("n").cast(usual.schema["n"]))]).sort("n") if len(unusual) else usual
    valid = (pl.col("s") != "") & (pl.col("p") > 0) & (pl.col("t") > 0) & (pl.col("v") >= 0)
    return read.filter(valid)


def _trades(read: pl.DataFrame) -> pl.DataFrame:
    sample = pl.col("p").rolling_mean(100).shift(1), pl.col("p").rolling_std(100).shift(1)
    start = pl.col("t") - pl.col("t") % MINUTE_MS
    return (
        read.lazy()
        .unique(subset=["s", "id"], keep="first", maintain_order=True)
        .with_columns(start=start, late=start + MINUTE_MS + LATENESS_MS <= pl.col("t").cum_max())
        .with_columns(mean=sample[0].over("s"), deviation=sample[1].over("s"))
        .with_columns(
            anomaly=((pl.col("deviation") > 0) & ((pl.col("p") - pl.col("mean")).abs() > 3 * pl.col("deviation"))).fill_null(
                value=False
            )
        )
        .drop("mean", "deviation")
        .collect()
    )


def _bars(trades: pl.DataFrame) -> pl.DataFrame:
    close, ready = pl.col("close"), pl.int_range(pl.len())
    sma = close.rolling_mean(20)
    returns = close.log().diff()
    band = 2 * close.rolling_std(20, ddof=0)
    seeded = pl.when(ready == 19).then(sma).when(ready > 19).then(close)
    return (
        trades.lazy()
        .filter(~pl.col("late"))
        .sort("t", maintain_order=True)
        .group_by("s", "start")
        .agg(
            *(pl.first("p").alias("open"), pl.max("p").alias("high"), pl.min("p").alias("low"), pl.last("p").alias("close")),
            *(pl.sum("v").alias("volume"), (pl.col("p") * pl.col("v")).sum().alias("notional"), pl.len().alias("trades")),
        )
        .sort("s", "start")
        .with_columns(
            sma20=sma.over("s"),
            ema20=seeded.ewm_mean(alpha=2 / 21, adjust=False).over("s"),
            bb_upper=(sma + band).over("s"),
            bb_lower=(sma - band).over("s"),
            vol20=returns.rolling_std(20).over("s"),
            vwap=pl.when(pl.col("volume") > 0).then(pl.col("notional") / pl.col("volume")),
            trades=pl.col("trades").cast(pl.Int64),
        )
        .rename({"s": "symbol", "start": "bar_start"})
        .select(BAR_COLUMNS)
        .collect()
    )


def work(source: Path, out: Path) -> None:
    trades = _trades(_read(source))
    bars = _bars(trades)
    trades.rename({"s": "symbol"}).select(TRADE_COLUMNS).write_parquet(out / "trades" / "0.parquet", compression="lz4")
    bars.write_parquet(out / "bars" / "0.parquet", compression="lz4")


if __name__ == "__main__":
    report(f"Polars {pl.__version__}", work)
