"""The standard work as one batch in DuckDB: SQL over the whole file, all cores; the moving average with a memory by TA-Lib.

The order of arrival is the order of the file, so lateness is exact (a running maximum). An EMA that starts from an average
cannot be said in SQL without recursion; a series of bars is short, so it is handed to TA-Lib a symbol at a time.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import talib
from measure import BAR_COLUMNS, LATENESS_MS, MINUTE_MS, TRADE_COLUMNS, report

TRADES = f"""
CREATE TEMP TABLE trades AS
WITH read AS (
    SELECT row_number() OVER () AS n, s, p, t, v, id FROM read_json(
        $source, format = 'newline_delimited', ignore_errors = true,
        columns = {{s: 'VARCHAR', p: 'DOUBLE', t: 'BIGINT', v: 'DOUBLE', id: 'BIGINT'}})
), first AS (
    SELECT * FROM read WHERE s <> '' AND p > 0 AND isfinite(p) AND t > 0 AND v >= 0 AND isfinite(v) AND id IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY s, id ORDER BY n) = 1
)
SELECT n, s AS symbol, id, t, p, v, t - t % {MINUTE_MS} AS start,
    start + {MINUTE_MS + LATENESS_MS} <= max(t) OVER (ORDER BY n ROWS UNBOUNDED PRECEDING) AS late,
    coalesce(count(*) OVER sample = 100 AND stddev_samp(p) OVER sample > 0
        AND abs(p - avg(p) OVER sample) > 3 * stddev_samp(p) OVER sample, false) AS anomaly
FROM first
WINDOW sample AS (PARTITION BY s ORDER BY n ROWS BETWEEN 100 PRECEDING AND 1 PRECEDING)
"""

BARS = """
CREATE TEMP TABLE bars AS
WITH bar AS (
    SELECT symbol, start AS bar_start, arg_min(p, (t, n)) AS open, max(p) AS high, min(p) AS low, arg_max(p, (t, n)) AS close,
        sum(v) AS volume, sum(p * v) AS notional, count(*) AS trades
    FROM trades WHERE NOT late GROUP BY symbol, start
), returns AS (
    SELECT *, ln(close / lag(close) OVER series) AS r FROM bar WINDOW series AS (PARTITION BY symbol ORDER BY bar_start)
)
SELECT symbol, bar_start, open, high, low, close, volume, CASE WHEN volume > 0 THEN notional / volume END AS vwap, trades,
    CASE WHEN count(*) OVER w = 20 THEN avg(close) OVER w END AS sma20,
    sma20 + 2 * stddev_pop(close) OVER w AS bb_upper, sma20 - 2 * stddev_pop(close) OVER w AS bb_lower,
    CASE WHEN count(r) OVER w = 20 THEN stddev_samp(r) OVER w END AS vol20
FROM returns WINDOW w AS (PARTITION BY symbol ORDER BY bar_start ROWS 19 PRECEDING) ORDER BY symbol, bar_start
"""


def _moving_averages(db: duckdb.DuckDBPyConnection) -> pa.Table:
    bars = db.sql("SELECT symbol, bar_start, close FROM bars ORDER BY symbol, bar_start").to_arrow_table().combine_chunks()
    close = bars["close"].to_numpy()
    symbols = bars["symbol"].combine_chunks().dictionary_encode().indices.to_numpy()
    values = [talib.EMA(series, 20) for series in np.split(close, np.flatnonzero(np.diff(symbols)) + 1)]
    return bars.append_column("ema20", pa.array(np.concatenate(values), from_pandas=True))


def work(source: Path, out: Path) -> None:
    db = duckdb.connect()
    db.execute(TRADES, {"source": str(source)})
    db.execute(BARS)
    db.register("averages", _moving_averages(db))
    trades, bars = out / "trades" / "0.parquet", out / "bars" / "0.parquet"
    db.execute(f"COPY (SELECT {', '.join(TRADE_COLUMNS)} FROM trades) TO '{trades}' (FORMAT parquet, COMPRESSION lz4)")
    joined = f"SELECT {', '.join(BAR_COLUMNS)} FROM bars JOIN averages USING (symbol, bar_start, close)"
    db.execute(f"COPY ({joined}) TO '{bars}' (FORMAT parquet, COMPRESSION lz4)")


if __name__ == "__main__":
    report(f"DuckDB {duckdb.__version__}, TA-Lib {talib.__version__}", work)
