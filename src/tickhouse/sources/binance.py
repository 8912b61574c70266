"""Binance, spot and USD-M futures: trades over the public WebSocket streams; no key is needed.

Spot delivers single trades (`trade`), USD-M futures aggregated ones (`aggTrade`): one kind a symbol (rule R1). A recording of
aggregated spot trades is read too. The pull side, for refills and reconciliation, is `binance_rest.py`.
Whoever connects loads the transport: a replay only parses, and aiohttp takes a quarter of a second.

Reference: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams and
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tickhouse.clock import Clock, SystemClock
from tickhouse.errors import DataError, MalformedError, OutOfRangeError
from tickhouse.model import Event, Feed, Side, Trade
from tickhouse.sources.base import IGNORED, Frame, Parsed
from tickhouse.sources.rejection import reject
from tickhouse.symbols import normalise

if TYPE_CHECKING:
    from tickhouse.sources.binance_rest import BinanceRest

__all__ = ["Binance", "BinanceSettings"]

_DEFAULTS = {
    # USD-M pings every three minutes only, and serves market data under /market since 2026.
    "usdm": {"ws_url": "wss://fstream.binance.com/market", "rest_url": "https://fapi.binance.com", "quiet_s": 400.0},
    "spot": {"ws_url": "wss://stream.binance.com:9443", "rest_url": "https://api.binance.com", "quiet_s": 45.0},
}
_VENUES = {"spot": "BINANCE", "usdm": "BINANCE-USDM"}
_TOP = ("BTC-USDT", "ETH-USDT", "SOL-USDT", "BNB-USDT", "XRP-USDT", "DOGE-USDT", "ADA-USDT", "TRX-USDT")
_LONGEST_ADDRESS = 200
"""Streams named in the address; more are subscribed by messages, so that no proxy refuses the length."""

_IGNORED_KINDS = frozenset(
    {
        *("depthUpdate", "bookTicker", "kline", "24hrTicker", "24hrMiniTicker", "1hTicker", "4hTicker", "1dTicker", "avgPrice"),
        *("blockTrade", "referencePrice", "serverShutdown"),
        *("markPriceUpdate", "indexPriceUpdate", "forceOrder", "compositeIndex", "contractInfo", "assetIndexUpdate"),
        *("continuous_kline", "indexPrice_kline", "markPrice_kline", "tradingSession"),
    }
)
_IGNORED_SHAPES = (
    frozenset({"u", "s", "b", "B", "a", "A"}),
    frozenset({"lastUpdateId", "bids", "asks"}),
)
"""Messages without an event name: spot's bookTicker, partial depth and the REST depth snapshot."""

_INT64 = 2**63 - 1
_INF = float("inf")
_MICROSECONDS_FROM = 10**15
"""A time from here on is in microseconds (`timeUnit=MICROSECOND`): in milliseconds it would be the year 33658."""
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,4})?", re.ASCII)
_FEEDS_KEPT = 65_536


class BinanceSettings(BaseModel):
    """What to take from Binance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    symbols: tuple[str, ...] = Field(default=_TOP, min_length=1, max_length=1024)
    """Pairs, e.g. "BTC-USDT" or "btcusdt"; a connection takes up to 1024."""
    market: Literal["spot", "usdm"] = "spot"
    """`spot`, or `usdm` for USD-M futures (venue BINANCE-USDM)."""
    ws_url: str = "wss://stream.binance.com:9443"
    """Base address of the streams; the default follows `market`."""
    rest_url: str = "https://api.binance.com"
    """Base address of the REST interface; the default follows `market`."""
    quiet_s: float = Field(default=45.0, gt=0)
    """A connection with neither data nor ping for so long is dead; the default follows `market`."""
    renew_after_s: float = Field(default=23 * 3600.0, gt=0)
    """Binance cuts every connection at 24 hours; ours is renewed before, without a hole."""
    overlap_s: float = Field(default=2.0, ge=0)
    """How long both connections of a renewal deliver."""
    first_back_off_s: float = Field(default=0.5, gt=0)
    """Pause before the first reconnection; doubled at every failure in a row."""
    api_key: str | None = Field(default=None, repr=False)
    """Sent with REST requests where given; market data needs none on spot."""

    @model_validator(mode="before")
    @classmethod
    def _follow_market(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {**_DEFAULTS.get(given.get("market", "spot"), {}), **given}

    @field_validator("symbols")
    @classmethod
    def _canonical(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(dict.fromkeys(normalise(symbol, "BINANCE")[1] for symbol in symbols))
        except OutOfRangeError as error:
            raise ValueError(error.detail) from error

    @field_validator("ws_url", "rest_url")
    @classmethod
    def _no_slash(cls, url: str) -> str:
        return url.rstrip("/")

    @property
    def venue(self) -> str:
        """The venue of this market."""
        return _VENUES[self.market]


_SETTINGS = BinanceSettings()
_CLOCK = SystemClock()

_Id = Annotated[int, Meta(ge=0, le=_INT64)]


class _Trade(msgspec.Struct, tag_field="e", tag="trade"):
    s: str
    t: _Id
    p: float
    q: float
    T: _Id
    m: bool


class _AggTrade(msgspec.Struct, tag_field="e", tag="aggTrade"):
    s: str
    t: _Id = msgspec.field(name="a")
    p: float
    q: float
    T: _Id
    m: bool


class _DepthUpdate(msgspec.Struct, tag_field="e", tag="depthUpdate"):
    pass


class _BookTicker(msgspec.Struct, tag_field="e", tag="bookTicker"):
    pass


class _Kline(msgspec.Struct, tag_field="e", tag="kline"):
    pass


_Message = _Trade | _AggTrade | _DepthUpdate | _BookTicker | _Kline


class _Combined(msgspec.Struct):
    data: _Message


_decode_combined = msgspec.json.Decoder(_Combined, strict=False).decode
_decode_raw = msgspec.json.Decoder(_Message, strict=False).decode

_new = tuple.__new__
"""Half the cost of calling a NamedTuple's class, at once a frame."""


class Binance:
    """Trades of Binance.

    Args:
        settings: What to take; default: the most traded pairs of the spot market.
        clock: Stamps what is received.
    """

    name = "binance"

    def __init__(self, settings: BinanceSettings = _SETTINGS, clock: Clock = _CLOCK) -> None:
        self._settings = settings
        self._clock = clock
        self._single: dict[str, Feed] = {}
        self._aggregated: dict[str, Feed] = {}

    def parse(self, payload: bytes, received_at: int) -> Parsed:
        """Read one frame, combined or raw; never raises.

        The usual frames take a typed path; whatever does not fit it is read again slowly, to say exactly what is wrong.
        """
        try:
            message: _Message = _decode_combined(payload).data if payload[:9] == b'{"stream"' else _decode_raw(payload)
            if isinstance(message, _Trade):
                feed = self._single.get(message.s) or self.feed(message.s, "trade")
            elif isinstance(message, _AggTrade):
                feed = self._aggregated.get(message.s) or self.feed(message.s, "agg")
            else:
                return IGNORED
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, DataError):
            return self._parse_slowly(payload, received_at)
        price, size, ts = message.p, message.q, message.T
        # The decoder also takes numbers, and "nan": documented are decimals in quotes.
        if not (0.0 <= price < _INF and 0.0 <= size < _INF and b'"p":"' in payload and b'"q":"' in payload):
            return self._parse_slowly(payload, received_at)
        side: Side = "sell" if message.m else "buy"
        trade = Trade(feed, ts * 1000 if ts < _MICROSECONDS_FROM else ts, price, size, message.t, side)
        return _new(Parsed, ((trade,), (), 0))

    def recognises(self, payload: bytes) -> bool:
        """Say whether `payload` is a Binance frame of a kind we know."""
        try:
            data = _unwrap(_load(payload))
        except DataError:
            return False
        first = data[0] if isinstance(data, list) and data else data
        if not isinstance(first, dict):
            return False
        kind = first.get("e")
        if kind == "trade" or kind == "aggTrade":  # noqa: PLR1714 - it may be unhashable
            return "s" in first and "T" in first
        return (isinstance(kind, str) and kind in _IGNORED_KINDS) or any(shape <= first.keys() for shape in _IGNORED_SHAPES)

    async def stream(self) -> AsyncIterator[Frame | Event]:
        """Yield the frames of the configured symbols; see `WebSocketTransport.frames`.

        Binance sends nothing, and no error, for a symbol it does not list: `check` finds those.

        Raises:
            ConfigError: the very first connection is refused.
        """
        from tickhouse.sources.binance_rest import spell
        from tickhouse.sources.transport import TransportSettings, WebSocketTransport

        settings = self._settings
        kind = "trade" if settings.market == "spot" else "aggTrade"
        names = [f"{spell(symbol).lower()}@{kind}" for symbol in settings.symbols]
        address = f"{settings.ws_url}/stream"
        opening: list[str] = []
        if len(names) <= _LONGEST_ADDRESS:
            address += f"?streams={'/'.join(names)}"
        else:
            opening = [
                msgspec.json.encode({"method": "SUBSCRIBE", "params": names[at : at + _LONGEST_ADDRESS], "id": at}).decode()
                for at in range(0, len(names), _LONGEST_ADDRESS)
            ]
        transport = WebSocketTransport(
            self.name,
            address,
            self._clock,
            TransportSettings(
                quiet_s=settings.quiet_s,
                renew_after_s=settings.renew_after_s,
                overlap_s=settings.overlap_s,
                first_back_off_s=settings.first_back_off_s,
            ),
            opening=opening,
            asks_renewal=_asks_renewal,
        )
        async for item in transport.frames():
            yield item

    async def check(self) -> str:
        """Return a line that says Binance is reachable and lists the symbols.

        Raises:
            NotConnectedError: it is not; the text says why.
            ConfigError: a symbol is not listed.
        """
        async with self.rest() as rest:
            await rest.ping()
            await rest.check_symbols(self._settings.symbols)
        count = len(self._settings.symbols)
        return f"binance: {self._settings.rest_url} answers and lists all {count} symbol{'s' if count != 1 else ''}"

    def rest(self) -> BinanceRest:
        """Return a client of the REST interface with these settings; an async context manager."""
        from tickhouse.sources.binance_rest import BinanceRest

        settings = self._settings
        return BinanceRest(settings.rest_url, settings.market, self.feed, self._clock, settings.api_key)

    def feed(self, spelled: str, id_space: str) -> Feed:
        """Return the feed of a symbol in Binance's spelling; `id_space` is `trade` or `agg`.

        Raises:
            OutOfRangeError: it names no symbol.
        """
        known = self._single if id_space == "trade" else self._aggregated
        feed = known.get(spelled)
        if feed is None:
            venue = self._settings.venue
            where, symbol = normalise(spelled, venue)
            if where != venue or not spelled.isprintable():
                raise OutOfRangeError("symbol", f"{spelled!r} is no symbol of Binance")
            if len(known) >= _FEEDS_KEPT:
                known.clear()
            feed = known[spelled] = Feed(self.name, venue, symbol, id_space, "contiguous", spelled)
        return feed

    def _parse_slowly(self, payload: bytes, received_at: int) -> Parsed:
        try:
            trade = self._read(_unwrap(_load(payload)))
        except DataError as error:
            return Parsed(rejected=(reject(self.name, error.reason, payload, received_at),))
        return IGNORED if trade is None else Parsed((trade,))

    def _read(self, data: Any) -> Trade | None:
        """Return the trade, or None for what is documented and not taken."""
        if isinstance(data, list):
            kinds = [item.get("e") if isinstance(item, dict) else None for item in data if not _has_ignored_shape(item)]
            if data and all(isinstance(kind, str) and kind in _IGNORED_KINDS for kind in kinds):
                return None
            raise DataError("undocumented", "a list of something else than tickers")
        if not isinstance(data, dict):
            raise MalformedError("not a JSON object")
        kind = data.get("e")
        if kind == "trade":
            return self._read_trade(data, "t", "trade")
        if kind == "aggTrade":
            return self._read_trade(data, "a", "agg")
        if (isinstance(kind, str) and kind in _IGNORED_KINDS) or ("e" not in data and _has_ignored_shape(data)):
            return None
        raise DataError("undocumented", f"event {kind!r}")

    def _read_trade(self, data: dict[str, Any], id_key: str, id_space: str) -> Trade:
        symbol = _take(data, "s", "symbol", str)
        ts = _whole(data, "T", "ts")
        return Trade(
            self.feed(symbol, id_space),
            ts * 1000 if ts < _MICROSECONDS_FROM else ts,
            _decimal(data, "p", "price"),
            _decimal(data, "q", "size"),
            _whole(data, id_key, "id"),
            "sell" if _take(data, "m", "side", bool) else "buy",
        )


def _asks_renewal(payload: bytes) -> bool:
    return len(payload) < 256 and b'"serverShutdown"' in payload


def _load(payload: bytes) -> Any:
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(str(error)) from error


def _unwrap(frame: Any) -> Any:
    if isinstance(frame, dict) and "stream" in frame and "data" in frame and "e" not in frame:
        return frame["data"]
    return frame


def _has_ignored_shape(data: Any) -> bool:
    if not isinstance(data, dict):
        return False
    answer = ("result" in data and "id" in data) or "error" in data or ("code" in data and "msg" in data)
    return answer or any(shape <= data.keys() for shape in _IGNORED_SHAPES)


def _take(data: dict[str, Any], key: str, meaning: str, kind: type) -> Any:
    if key not in data:
        raise DataError(f"missing_{meaning}", f"no {key!r}")
    value = data[key]
    if type(value) is not kind:
        raise DataError(f"type_{meaning}", f"{key!r} is {value!r}")
    return value


def _whole(data: dict[str, Any], key: str, meaning: str) -> int:
    given = data.get(key)
    value: int = (
        int(given) if isinstance(given, str) and given.isdecimal() and len(given) < 20 else _take(data, key, meaning, int)
    )
    if not 0 <= value <= _INT64:
        raise DataError(f"type_{meaning}", f"{key!r} is {value}")
    return value


def _decimal(data: dict[str, Any], key: str, meaning: str) -> float:
    text: str = _take(data, key, meaning, str)
    if _DECIMAL.fullmatch(text) is None:
        raise DataError(f"type_{meaning}", f"{key!r} is {text!r}")
    value = float(text)
    if not -_INF < value < _INF:
        raise OutOfRangeError(meaning, f"{key!r} is {text!r}")
    return value
