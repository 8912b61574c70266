"""Write the input of the standard work: trades of many symbols as NDJSON, with everything that goes wrong in real feeds.

Each line is `{"s":"BINANCE:BTCUSDT","p":67012.53,"t":1768516200123,"v":0.012345,"id":1000000}` in order of arrival. Of the
lines 1 % are exact re-deliveries (1 to 2,000 lines after the first), 0.1 % are malformed in seven ways; of the trades 1 %
come late by up to 30 s and 0.05 % are outliers of 1 to 5 %. Symbols follow Zipf's law with exponent 1, ids count up per
symbol from 1,000,000 (so one id occurs under many symbols), and time runs 7.2 ms a line from 2026-01-15 22:30 UTC, over
midnight.

The same arguments give the same bytes: `python bench/standard_work.py --n 1000000 --symbols 50 --seed 1 --out FILE`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

__all__ = ["lines", "write"]

_FIRST_MS = 1_768_516_200_000
_MS_A_LINE = 7.2
_FIRST_ID = 1_000_000
_NAMED = ("BTC", "ETH", "SOL", "XRP", "DOGE", "LTC", "LINK", "AVAX")
_MALFORMED_KINDS = 7


def _prices(rng: np.random.Generator, symbol: np.ndarray, symbols: int) -> tuple[np.ndarray, np.ndarray]:
    """A random walk for each symbol with rare outliers; returns prices and each symbol's number of decimals."""
    start = np.exp(rng.uniform(np.log(0.05), np.log(70_000.0), symbols))
    step = rng.normal(0.0, 2e-4, len(symbol))
    price = np.empty(len(symbol))
    by_symbol = np.argsort(symbol, kind="stable")
    for mine in np.split(by_symbol, np.flatnonzero(np.diff(symbol[by_symbol])) + 1):
        price[mine] = start[symbol[mine[0]]] * np.exp(np.cumsum(step[mine]))
    outlier = rng.random(len(symbol)) < 0.0005
    jump = rng.uniform(0.01, 0.05, len(symbol)) * rng.choice((-1.0, 1.0), len(symbol))
    price[outlier] *= 1.0 + jump[outlier]
    return price, np.select([start > 1000.0, start > 1.0], [2, 4], 6)


def _ids(symbol: np.ndarray) -> np.ndarray:
    """Number each symbol's trades from _FIRST_ID in order."""
    by_symbol = np.argsort(symbol, kind="stable")
    firsts = np.flatnonzero(np.r_[True, np.diff(symbol[by_symbol]) != 0])
    counts = np.diff(np.r_[firsts, len(symbol)])
    ids = np.empty(len(symbol), np.int64)
    ids[by_symbol] = _FIRST_ID + np.arange(len(symbol)) - np.repeat(firsts, counts)
    return ids


def _broken(kind: int, name: str, price: str, ts: int, size: str, trade_id: int) -> str:
    """A line that no reader may take for a trade."""
    match kind:
        case 0:
            whole = f'{{"s":"{name}","p":{price},"t":{ts},"v":{size},"id":{trade_id}}}'
            return whole[: len(whole) // 2]
        case 1:
            return f'{{"s":"{name}","t":{ts},"v":{size},"id":{trade_id}}}'
        case 2:
            return f'{{"s":"{name}","p":"n/a","t":{ts},"v":{size},"id":{trade_id}}}'
        case 3:
            return f'{{"s":"{name}","p":-{price},"t":{ts},"v":{size},"id":{trade_id}}}'
        case 4:
            return f'{{"s":"{name}","p":{price},"t":null,"v":{size},"id":{trade_id}}}'
        case 5:
            return "connection reset by peer"
        case _:
            return f'{{"s":"","p":{price},"t":{ts},"v":{size},"id":{trade_id}}}'


def lines(n: int, symbols: int, seed: int, *, late_share: float = 0.01, dense: float = 1.0) -> Iterator[str]:
    """Yield `n` lines without their line ends.

    Args:
        n: Number of lines in all.
        symbols: Number of symbols.
        seed: The same seed gives the same lines.
        late_share: Share of the trades that come late; 0 = bars without revisions, so that indicators can be compared too.
        dense: How many times as many lines a second: 1 has 139 lines a second, 144 has 20,000.
    """
    rng = np.random.default_rng(seed)
    repeats, broken = round(n * 0.01), round(n * 0.001)
    trades = n - repeats - broken
    weights = 1.0 / np.arange(1, symbols + 1)
    symbol = rng.choice(symbols, trades, p=weights / weights.sum())
    price, decimals = _prices(rng, symbol, symbols)
    size = np.maximum(rng.lognormal(-1.0, 1.5, trades), 1e-6)
    ts = _FIRST_MS + np.arange(trades) * (_MS_A_LINE / dense * n / trades) - np.minimum(rng.exponential(20.0, trades), 500.0)
    ts -= np.where(rng.random(trades) < late_share, rng.uniform(0.0, 30_000.0, trades), 0.0)
    ts_ms, trade_id = ts.astype(np.int64), _ids(symbol)

    repeated = rng.choice(trades, repeats, replace=False)
    spoiled = rng.choice(trades, broken, replace=False)
    of_trade = np.concatenate([np.arange(trades), repeated, spoiled])
    arrival = np.concatenate([np.arange(trades), repeated + rng.integers(1, 2001, repeats) + 0.25, spoiled + 0.5])
    kind = np.concatenate([np.full(trades + repeats, -1), rng.integers(0, _MALFORMED_KINDS, broken)])
    names = [f"BINANCE:{_NAMED[i] if i < len(_NAMED) else f'S{i:04d}'}USDT" for i in range(symbols)]
    for at in np.argsort(arrival, kind="stable").tolist():
        i = int(of_trade[at])
        code = symbol[i]
        name, p, v = names[code], f"{price[i]:.{decimals[code]}f}", f"{size[i]:.6f}"
        if kind[at] >= 0:
            yield _broken(int(kind[at]), name, p, int(ts_ms[i]), v, int(trade_id[i]) + 500_000_000)
        else:
            yield f'{{"s":"{name}","p":{p},"t":{ts_ms[i]},"v":{v},"id":{trade_id[i]}}}'


def write(path: Path, n: int, symbols: int, seed: int, *, late_share: float = 0.01, dense: float = 1.0) -> None:
    """Write the standard work to `path`; a file that is there has been written whole."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8", buffering=1 << 20) as out:
        out.writelines(line + "\n" for line in lines(n, symbols, seed, late_share=late_share, dense=dense))
    part.rename(path)


def main() -> None:
    """Write one file, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--late-share", type=float, default=0.01)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    write(given.out, given.n, given.symbols, given.seed, late_share=given.late_share)


if __name__ == "__main__":
    main()
