"""The part of Binance's REST interface that reads market data, over the instruments of this house.

Programs written for Binance (ccxt, python-binance, and their users) read from the house by changing a base address. Where a
figure is not known here it is left out, not made up: bid and ask. A minute without trades has no bar (rule R7).
Reference: https://developers.binance.com/docs/binance-spot-api-docs/rest-api/market-data-endpoints
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from tickhouse.api.binance_words import Instruments, decimal, kline, trade_id
from tickhouse.api.context import Context, context
from tickhouse.api.problems import BinanceError, BinanceProblem
from tickhouse.model import Instrument
from tickhouse.serving.ring import Wanted

__all__ = ["router"]

_REASONS = {400: "Not understood", 401: "A token is needed", 404: "No such route", 429: "Too often", 503: "Not now"}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": BinanceProblem, "description": what} for status, what in _REASONS.items()
}
router = APIRouter(prefix="/api/v3", tags=["Binance-compatible"], responses=_ERRORS)

_DAY_US = 86_400_000_000
_MAX_MS = 4_102_444_800_000
_MOST_ROWS = 1_000

Here = Annotated[Context, Depends(context)]
SymbolName = Annotated[str | None, Query(max_length=100, examples=["BTCUSDT"])]
Symbols = Annotated[str | None, Query(max_length=10_000, description='A JSON list: ["BTCUSDT","ETHUSDT"]')]
Milliseconds = Annotated[str | None, Query(max_length=20, description="UTC milliseconds.")]
Limit = Annotated[str | None, Query(max_length=20, description=f"Default 500, at most {_MOST_ROWS}.")]


def _answer(value: Any) -> Response:
    return Response(json.dumps(value, separators=(",", ":")), media_type="application/json")


def _limit(given: str | None) -> int:
    number = _number("limit", given)
    if number is None:
        return 500
    if number < 1:
        raise BinanceError(-1100, "Illegal characters found in parameter 'limit'; legal range is '^[0-9]{1,20}$'.")
    return min(number, _MOST_ROWS)


def _number(name: str, given: str | None) -> int | None:
    if given is None or given == "":
        return None
    if not given.isascii() or not given.isdigit():
        raise BinanceError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(given)


def _time(name: str, given: str | None) -> datetime | None:
    number = _number(name, given)
    return None if number is None else datetime.fromtimestamp(min(number, _MAX_MS) / 1000, UTC)


def _at(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1e6, UTC)


def _one(here: Context, symbol: str | None) -> tuple[str, Instrument]:
    """Return the name of an instrument as Binance spells it, and the instrument."""
    here.rules()
    if not symbol:
        raise BinanceError(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
    name = symbol.upper()
    return name, Instruments.of(here).named(name)


def _several(here: Context, symbol: str | None, symbols: str | None) -> list[tuple[str, Instrument]]:
    here.rules()
    known = Instruments.of(here)
    if symbol:
        return [(symbol.upper(), known.named(symbol.upper()))]
    if not symbols:
        return sorted(known.by_name.items())
    try:
        names = json.loads(symbols)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BinanceError(-1100, "Illegal characters found in parameter 'symbols'; legal is a JSON list of names.")
    return [(name.upper(), known.named(name.upper())) for name in names]


@router.get("/ping")
def ping() -> Response:
    """Say that the server is there."""
    return _answer({})


@router.get("/time")
def time(here: Here) -> Response:
    """Say what time it is, UTC milliseconds."""
    return _answer({"serverTime": here.now() // 1000})


@router.get("/exchangeInfo")
def exchange_info(here: Here, symbol: SymbolName = None, symbols: Symbols = None) -> Response:
    """List the instruments of the house."""
    found = _several(here, symbol, symbols)
    return _answer({
        "timezone": "UTC",
        "serverTime": here.now() // 1000,
        "rateLimits": [
            {"rateLimitType": "RAW_REQUESTS", "interval": "SECOND", "intervalNum": 1, "limit": int(here.settings.rate_per_s)}
        ],
        "exchangeFilters": [],
        "symbols": [_about(name, instrument) for name, instrument in found],
    })  # fmt: skip


def _about(name: str, instrument: Instrument) -> dict[str, Any]:
    base, _, quote = instrument.symbol.rpartition("-")
    return {
        "symbol": name, "status": "TRADING", "baseAsset": base or name, "baseAssetPrecision": 8, "quoteAsset": quote,
        "quotePrecision": 8, "quoteAssetPrecision": 8, "baseCommissionPrecision": 8, "quoteCommissionPrecision": 8,
        "orderTypes": [], "icebergAllowed": False, "ocoAllowed": False, "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False, "filters": [], "permissions": [], "permissionSets": [["SPOT"]],
    }  # fmt: skip


@router.get("/klines")
def klines(
    here: Here, symbol: SymbolName = None, interval: Annotated[str | None, Query(max_length=20)] = None,
    startTime: Milliseconds = None, endTime: Milliseconds = None, limit: Limit = None,  # noqa: N803  (Binance's names)
) -> Response:  # fmt: skip
    """Bars, the open one last, as arrays of Binance's form."""
    _, instrument = _one(here, symbol)
    if not interval:
        raise BinanceError(-1102, "Mandatory parameter 'interval' was not sent, was empty/null, or malformed.")
    if interval not in here.rules().intervals:
        raise BinanceError(-1120, "Invalid interval.")
    start, end = _time("startTime", startTime), _time("endTime", endTime)
    most = _limit(limit)
    asked = {"symbol": instrument.symbol, "venue": instrument.venue, "interval": interval, "origin": "trades"}
    frame, _ = here.house.queries.page(
        "gold.bars",
        asked,
        start=start,
        end=_after(end),
        order=("start", "origin"),
        latest_by="venue, symbol, interval, start, origin",
        limit=most,
        newest=start is None,
    )
    rows = frame.with_columns(pl.col("start", "end").dt.epoch("us")).to_dicts()
    if len(rows) < most or start is None:
        known = {row["start"] for row in rows}
        opened = here.hub.open_bars.all_now(Wanted("bars", instrument.symbol, instrument.venue, interval))
        rows += [row for row in opened if row["start"] not in known and _within(row["start"], start, end)]
        rows = rows[-most:] if start is None else rows[:most]
    bought = _bought(here, instrument, rows)
    return _answer([kline(row, *bought.get(row["start"], (0.0, 0.0))) for row in sorted(rows, key=lambda row: row["start"])])


def _after(end: datetime | None) -> datetime | None:
    """Return the bound for Binance's `endTime`, which is included."""
    return None if end is None else datetime.fromtimestamp(end.timestamp() + 0.001, UTC)


def _within(start: int, first: datetime | None, last: datetime | None) -> bool:
    return (first is None or start >= first.timestamp() * 1e6) and (last is None or start <= last.timestamp() * 1e6)


def _bought(here: Context, instrument: Instrument, rows: Sequence[dict[str, Any]]) -> dict[int, tuple[float, float]]:
    """Return volume and value of the trades whose aggressor bought, by start of the bar."""
    if not rows:
        return {}
    length = rows[0]["end"] - rows[0]["start"]
    origin = rows[0]["start"]
    found = here.house.queries.sql(
        "SELECT ? + (epoch_us(ts) - ?) // ? * ? AS start, sum(size) AS volume, sum(value) AS value FROM silver.trades "
        "WHERE venue = ? AND symbol = ? AND side = 'buy' AND ts >= ? AND ts < ? GROUP BY 1",
        [
            origin, origin, length, length, instrument.venue, instrument.symbol,
            _at(min(row["start"] for row in rows)), _at(max(row["end"] for row in rows)),
        ],
    )  # fmt: skip
    return {start: (volume, value) for start, volume, value in found.iter_rows()}


def _trades(here: Context, instrument: Instrument, limit: int, **bounds: Any) -> list[dict[str, Any]]:
    frame, _ = here.house.queries.page(
        "silver.trades",
        {"symbol": instrument.symbol, "venue": instrument.venue},
        order=("ts", "partition", "offset", "row"),
        limit=limit,
        newest=bounds.get("start") is None,
        **bounds,
    )
    return frame.with_columns(pl.col("ts").dt.epoch("us")).to_dicts()


@router.get("/trades")
def trades(here: Here, symbol: SymbolName = None, limit: Limit = None) -> Response:
    """The latest trades, oldest first."""
    _, instrument = _one(here, symbol)
    return _answer([
        {
            "id": trade_id(row), "price": decimal(row["price"]), "qty": decimal(row["size"]), "quoteQty": decimal(row["value"]),
            "time": row["ts"] // 1000, "isBuyerMaker": row["side"] == "sell", "isBestMatch": True,
        }
        for row in _trades(here, instrument, _limit(limit))
    ])  # fmt: skip


@router.get("/aggTrades")
def agg_trades(
    here: Here, symbol: SymbolName = None, startTime: Milliseconds = None, endTime: Milliseconds = None,  # noqa: N803  (Binance's names)
    limit: Limit = None,
) -> Response:  # fmt: skip
    """Trades in the form of aggregated ones, each an aggregate of itself; only where the venue numbers them."""
    _, instrument = _one(here, symbol)
    rows = _trades(here, instrument, _limit(limit), start=_time("startTime", startTime), end=_after(_time("endTime", endTime)))
    if any(row["trade_id"] is None for row in rows):
        raise BinanceError(-1121, "Invalid symbol: its venue does not number trades.")
    return _answer([
        {
            "a": row["trade_id"], "p": decimal(row["price"]), "q": decimal(row["size"]), "f": row["trade_id"],
            "l": row["trade_id"], "T": row["ts"] // 1000, "m": row["side"] == "sell", "M": True,
        }
        for row in rows
    ])  # fmt: skip


@router.get("/ticker/price")
def ticker_price(here: Here, symbol: SymbolName = None, symbols: Symbols = None) -> Response:
    """The last price of one instrument, or of several."""
    found = _several(here, symbol, symbols)
    last = Instruments.of(here).last_prices
    rows = [{"symbol": name, "price": decimal(last[instrument])} for name, instrument in found]
    return _answer(rows[0] if symbol else rows)


@router.get("/ticker/24hr")
def ticker_24hr(here: Here, symbol: SymbolName = None, symbols: Symbols = None) -> Response:
    """What happened in the last 24 hours of the house's clock."""
    found = _several(here, symbol, symbols)
    clock = here.follower.state.clock or here.now()
    rows = [_ticker(here, name, instrument, clock) for name, instrument in found]
    return _answer(rows[0] if symbol else rows)


_TICKER = """
SELECT arg_min(price, o) AS first, arg_max(price, o) AS last, max(price) AS high, min(price) AS low, sum(size) AS volume,
    sum(value) AS value, count(*) AS trades, arg_max(size, o) AS size, min(trade_id) AS first_id, max(trade_id) AS last_id
FROM (SELECT *, (ts, "offset", "row") AS o FROM silver.trades
    WHERE venue = ? AND symbol = ? AND ts > ? AND ts <= ?)
"""


def _ticker(here: Context, name: str, instrument: Instrument, clock: int) -> dict[str, Any]:
    begin = clock - _DAY_US
    row = here.house.queries.sql(_TICKER, [instrument.venue, instrument.symbol, _at(begin), _at(clock)]).row(0, named=True)
    about: dict[str, Any] = {"symbol": name, "openTime": begin // 1000, "closeTime": clock // 1000, "count": row["trades"]}
    if not row["trades"]:
        return about | {"lastPrice": decimal(Instruments.of(here).last_prices[instrument]), "volume": "0", "quoteVolume": "0"}
    change = row["last"] - row["first"]
    return about | {
        "priceChange": decimal(change), "priceChangePercent": f"{change / row['first'] * 100:.3f}",
        "weightedAvgPrice": decimal(row["value"] / row["volume"]) if row["volume"] else "0",
        "lastPrice": decimal(row["last"]), "lastQty": decimal(row["size"]), "openPrice": decimal(row["first"]),
        "highPrice": decimal(row["high"]), "lowPrice": decimal(row["low"]), "volume": decimal(row["volume"]),
        "quoteVolume": decimal(row["value"]), "firstId": row["first_id"], "lastId": row["last_id"],
    }  # fmt: skip
