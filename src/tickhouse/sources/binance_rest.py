"""The pull side of Binance: past trades for refills, its own bars for reconciliation.

One client counts the request weight that Binance allows an address a minute, and stops before Binance does. It never retries:
its errors say how long to wait, and whoever asked decides.

Reference: https://developers.binance.com/docs/binance-spot-api-docs/rest-api (limits: "LIMITS", "HTTP Return Codes").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp
import msgspec

from tickhouse.clock import Clock
from tickhouse.errors import ConfigError, MalformedError, NotConnectedError, RateLimitedError
from tickhouse.model import Feed, Trade

__all__ = ["BinanceRest", "Kline", "spell"]

_MINUTE_US = 60_000_000
_TIMEOUT_S = 20.0
_INVALID_SYMBOL = -1121
_TOO_MANY_REQUESTS = -1003
_MICROSECONDS_FROM = 10**15

_PATHS = {"spot": "/api/v3", "usdm": "/fapi/v1"}
_ALLOWED_WEIGHT = {"spot": 6000, "usdm": 2400}
_WEIGHTS = {
    "spot": {"ping": 1, "exchangeInfo": 20, "historicalTrades": 25, "aggTrades": 4, "klines": 2},
    "usdm": {"ping": 1, "exchangeInfo": 1, "historicalTrades": 20, "aggTrades": 20, "klines": 10},
}


class Kline(msgspec.Struct, frozen=True):
    """A bar as Binance made it."""

    start: int
    """UTC microseconds."""
    end: int
    """First microsecond after the bar."""
    open: float
    high: float
    low: float
    close: float
    volume: float
    notional: float
    trades: int


class _Answer(msgspec.Struct):
    id: int
    price: str
    qty: str
    time: int
    isBuyerMaker: bool  # noqa: N815 - Binance's name


class _AggAnswer(msgspec.Struct):
    a: int
    p: str
    q: str
    T: int
    m: bool


class _KlineAnswer(msgspec.Struct, array_like=True):
    start: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    last: int
    notional: str
    trades: int


class _Refusal(msgspec.Struct):
    code: int = 0
    msg: str = ""


class BinanceRest:
    """A client of the REST interface; use it as an async context manager.

    Args:
        url: Base address, e.g. `https://api.binance.com`.
        market: `spot` or `usdm`.
        feed: Returns the feed of (Binance's symbol, id space).
        clock: Counts the minutes of the quota.
        api_key: Sent where given.
    """

    def __init__(
        self,
        url: str,
        market: Literal["spot", "usdm"],
        feed: Callable[[str, str], Feed],
        clock: Clock,
        api_key: str | None = None,
    ) -> None:
        self._base = url + _PATHS[market]
        self._market = market
        self._feed = feed
        self._clock = clock
        self._headers = {"X-MBX-APIKEY": api_key} if api_key else {}
        self._session: aiohttp.ClientSession | None = None
        self._minute = 0
        self._used = 0
        self._banned_until = 0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ping(self) -> None:
        """Return when Binance answers.

        Raises:
            NotConnectedError: it does not.
            RateLimitedError: it asks for a pause.
        """
        await self._get("ping", {})

    async def check_symbols(self, symbols: Iterable[str]) -> None:
        """Return when Binance lists all `symbols` (canonical).

        Raises:
            ConfigError: some are not listed; names them where Binance does.
            TransientError: as for `ping`.
        """
        wanted = {spell(symbol): symbol for symbol in symbols}
        # USD-M takes no list of symbols, and its whole list is as cheap.
        parameters = {"symbols": msgspec.json.encode(sorted(wanted)).decode()} if self._market == "spot" else {}
        answer = _decode(await self._get("exchangeInfo", parameters), dict[str, Any])
        listed = {entry.get("symbol") for entry in answer.get("symbols", ()) if isinstance(entry, dict)}
        missing = sorted(wanted[spelled] for spelled in wanted.keys() - listed)
        if missing:
            raise ConfigError(f"binance: not listed at {self._base}: {', '.join(missing)}; check the symbols setting")

    async def trades(self, symbol: str, from_id: int, limit: int = 1000) -> list[Trade]:
        """Return up to `limit` (at most 1000) single trades from id `from_id` on, marked as backfilled.

        Raises:
            ConfigError: Binance refuses the request.
            TransientError: try again later, at the earliest after `retry_after_s`.
            MalformedError: the answer is not of the documented form.
        """
        spelled = spell(symbol)
        body = await self._get("historicalTrades", {"symbol": spelled, "fromId": from_id, "limit": limit})
        feed = self._feed(spelled, "trade")
        return [
            _trade(feed, answer.id, answer.price, answer.qty, answer.time, is_maker=answer.isBuyerMaker)
            for answer in _decode(body, list[_Answer])
        ]

    async def agg_trades(
        self, symbol: str, from_id: int | None = None, start: int | None = None, end: int | None = None, limit: int = 1000
    ) -> list[Trade]:
        """Return up to `limit` (at most 1000) aggregated trades, by first id or by time, marked as backfilled.

        Args:
            symbol: Canonical.
            from_id: First id; None where `start` is given.
            start: First instant, UTC microseconds.
            end: Last instant (excluded), UTC microseconds.
            limit: At most 1000.

        Raises:
            TickhouseError: as for `trades`.
        """
        spelled = spell(symbol)
        first = {} if from_id is None else {"fromId": from_id}
        body = await self._get("aggTrades", {"symbol": spelled, "limit": limit, **first, **_span(start, end)})
        feed = self._feed(spelled, "agg")
        return [
            _trade(feed, answer.a, answer.p, answer.q, answer.T, is_maker=answer.m)
            for answer in _decode(body, list[_AggAnswer])
        ]

    async def klines(self, symbol: str, interval: str, start: int, end: int, limit: int = 1000) -> list[Kline]:
        """Return Binance's bars with `start` <= bar start < `end` (UTC microseconds), oldest first, at most `limit`.

        Raises:
            TickhouseError: as for `trades`.
        """
        span = _span(start, end)
        body = await self._get("klines", {"symbol": spell(symbol), "interval": interval, "limit": limit, **span})
        return [_kline(answer) for answer in _decode(body, list[_KlineAnswer])]

    async def _get(self, endpoint: str, parameters: Mapping[str, str | int]) -> bytes:
        self._reserve(_WEIGHTS[self._market][endpoint])
        if self._session is None:
            raise NotConnectedError("binance: the client is closed; use it inside `async with`")
        try:
            async with self._session.get(f"{self._base}/{endpoint}", params=parameters) as answer:
                self._note_weight(answer.headers.get("X-MBX-USED-WEIGHT-1M", ""))
                body = await answer.read()
                if answer.status != 200:
                    raise self._refusal(endpoint, answer.status, body, answer.headers.get("Retry-After", ""))
        except (aiohttp.ClientError, OSError) as error:
            raise NotConnectedError(f"binance: cannot reach {self._base}/{endpoint}: {_why(error)}") from error
        return body

    def _reserve(self, weight: int) -> None:
        now = self._clock.monotonic()
        if now < self._banned_until:
            wait = (self._banned_until - now) / 1e6
            raise RateLimitedError(f"binance: paused for {wait:.0f} s more, as Binance asked", wait)
        wall = self._clock.wall()
        if wall // _MINUTE_US != self._minute:
            self._minute, self._used = wall // _MINUTE_US, 0
        if self._used + weight > _ALLOWED_WEIGHT[self._market]:
            wait = ((self._minute + 1) * _MINUTE_US - wall) / 1e6
            raise RateLimitedError(f"binance: request weight {self._used} of this minute is used up", wait)
        self._used += weight

    def _note_weight(self, used: str) -> None:
        # Other programs at this address use the same quota, so Binance's count is the one that matters.
        if used.isdecimal():
            self._used = max(self._used, int(used))

    def _refusal(self, endpoint: str, status: int, body: bytes, retry_after: str) -> Exception:
        try:
            refusal = msgspec.json.decode(body, type=_Refusal)
        except (msgspec.DecodeError, UnicodeDecodeError):
            refusal = _Refusal()
        said = f"binance: {self._base}/{endpoint} answered HTTP {status} {refusal.msg}".rstrip()
        if status in {418, 429} or refusal.code == _TOO_MANY_REQUESTS:
            wait = float(retry_after) if retry_after.isdecimal() else 60.0
            self._banned_until = self._clock.monotonic() + round(wait * 1e6)
            return RateLimitedError(said, wait)
        if status == 403:
            return RateLimitedError(f"{said} (its firewall)", 300.0)
        if status == 451:
            return ConfigError(f"{said}: Binance does not serve your place; set rest_url and ws_url to a venue that does")
        if 400 <= status < 500:
            hint = "; check the symbols setting" if refusal.code == _INVALID_SYMBOL else ""
            return ConfigError(f"{said} (code {refusal.code}){hint}")
        return NotConnectedError(said)


def spell(symbol: str) -> str:
    """Return Binance's spelling of a canonical symbol: `BTCUSDT`, or `BTCUSDT_260626` for a delivery contract."""
    base, *rest = symbol.split("-")
    return base + "".join(rest[:1]) + "".join(f"_{part}" for part in rest[1:])


def _span(start: int | None, end: int | None) -> dict[str, int]:
    span = {}
    if start is not None:
        span["startTime"] = -(-start // 1000)
    if end is not None:
        span["endTime"] = (end - 1) // 1000
    return span


def _decode(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedError(f"binance: {error} in {body[:200]!r}") from error


def _trade(feed: Feed, trade_id: int, price: str, size: str, time: int, *, is_maker: bool) -> Trade:
    try:
        return Trade(
            feed,
            time * 1000 if time < _MICROSECONDS_FROM else time,
            float(price),
            float(size),
            trade_id,
            "sell" if is_maker else "buy",
            backfilled=True,
        )
    except ValueError as error:
        raise MalformedError(f"binance: trade {trade_id}: {error}") from error


def _kline(answer: _KlineAnswer) -> Kline:
    try:
        open_, high, low, close, volume, notional = map(
            float, (answer.open, answer.high, answer.low, answer.close, answer.volume, answer.notional)
        )
    except ValueError as error:
        raise MalformedError(f"binance: bar {answer.start}: {error}") from error
    factor = 1000 if answer.start < _MICROSECONDS_FROM else 1
    return Kline(answer.start * factor, (answer.last + 1) * factor, open_, high, low, close, volume, notional, answer.trades)


def _why(error: Exception) -> str:
    inner = getattr(error, "os_error", error)
    return str(getattr(inner, "strerror", None) or inner or type(inner).__name__)
