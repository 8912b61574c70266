"""What every peer shares: its command line, its clock and the line it prints.

A peer is one file with one function `work(source, out)`; it writes OUT/bars and OUT/trades as Parquet, and `report` prints
`{"n":…, "seconds":…, "peak_rss_mb":…, "version":…}`. The seconds are those of the work, from opening the input to the last
file closed; starting Python and importing libraries is not in them.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["BAR_COLUMNS", "LATENESS_MS", "MINUTE_MS", "TRADE_COLUMNS", "report"]

MINUTE_MS = 60_000
LATENESS_MS = 10_000
TRADE_COLUMNS = ("symbol", "id", "t", "p", "v", "late", "anomaly")
BAR_COLUMNS = (
    *("symbol", "bar_start", "open", "high", "low", "close", "volume", "vwap", "trades"),
    *("sma20", "ema20", "bb_upper", "bb_lower", "vol20"),
)


def report(version: str, work: Callable[[Path, Path], int]) -> None:
    """Run a peer once, as the command line says, and print what it took.

    Args:
        version: The libraries that do the work, e.g. `polars 2.1.0`.
        work: Takes the NDJSON file and the folder to write to.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    for table in ("bars", "trades"):
        (given.out / table).mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    work(given.file, given.out)
    seconds = time.perf_counter() - began
    with given.file.open("rb") as file:
        n = sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))
    print(json.dumps({"n": n, "seconds": round(seconds, 4), "peak_rss_mb": round(peak, 1), "version": version}))
