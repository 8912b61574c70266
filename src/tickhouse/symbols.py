"""One spelling for every symbol: turns what providers write into (venue, canonical symbol).

Sources call it once a spelling (it is cached); recordings and configuration use the same function, so `BTCUSDT` in a file,
`btc/usdt` in a setting and `BINANCE:BTCUSDT` on a wire are one instrument.
"""

from __future__ import annotations

import re
from functools import lru_cache

from tickhouse.errors import OutOfRangeError

__all__ = ["CONTIGUOUS_VENUES", "DEFAULT_VENUE", "normalise"]

CONTIGUOUS_VENUES = frozenset({"BINANCE", "BINANCE-USDM", "COINBASE", "KRAKEN"})
"""Venues whose numeric trade ids have no holes (rule R1)."""

DEFAULT_VENUE = "AGGREGATE"
"""Where nobody says where a trade happened."""

_FIAT = ("USD", "EUR", "GBP", "JPY", "AUD", "CAD", "CHF")
_STABLE = ("USDT", "USDC", "DAI")
_BINANCE = (
    *_FIAT,
    *_STABLE,
    *("FDUSD", "BUSD", "TUSD", "USDP", "USDS", "USD1", "USDE", "XUSD", "PAX", "UST", "VAI", "EURI", "AEUR"),
    *("BTC", "ETH", "BNB", "XRP", "TRX", "DOGE", "SOL", "DOT"),
    *("TRY", "BRL", "RUB", "UAH", "ZAR", "NGN", "PLN", "RON", "ARS", "MXN", "CZK", "COP", "IDR"),
    *("IDRT", "BIDR", "BVND", "BKRW"),
)
# Quotes differ by venue on purpose: with Binance's TUSD in the list, Kraken's BTTUSD would be split into BT and TUSD.
_QUOTES: dict[str, tuple[str, ...]] = {
    "BINANCE": _BINANCE,
    "BINANCE-USDM": ("USDT", "USDC", "BUSD", "USD", "BTC"),
    "BINANCEUS": (*_FIAT, *_STABLE, "BUSD", "BTC", "ETH", "BNB"),
    "KRAKEN": (*_FIAT, *_STABLE, "XBT", "BTC", "ETH", "DOT", "PYUSD", "AED"),
    **dict.fromkeys(
        ("COINBASE", "BITSTAMP", "GEMINI", "BITFINEX", "OKX", "OKEX", "BYBIT", "KUCOIN", "HUOBI", "GATEIO", "MEXC"),
        (*_FIAT, *_STABLE, "BTC", "ETH"),
    ),
}
_LONGEST_FIRST = {venue: tuple(sorted(quotes, key=lambda quote: (-len(quote), quote))) for venue, quotes in _QUOTES.items()}

_KRAKEN_LEGACY = {
    **{"Z" + code: code for code in ("USD", "EUR", "GBP", "JPY", "CAD", "AUD")},
    **{"X" + code: code for code in ("ETH", "LTC", "XRP", "XMR", "ZEC", "ETC", "REP", "XLM", "MLN")},
    "XXBT": "BTC",
    "XXDG": "DOGE",
}
_KRAKEN = {**_KRAKEN_LEGACY, "XDG": "DOGE"}
_MOST_CHARACTERS = 1_000
_SEPARATORS = re.compile(r"[/_\-\s]+")


@lru_cache(maxsize=1 << 16)
def normalise(spelled: str, venue: str | None = None) -> tuple[str, str]:
    """Return (venue, canonical symbol) of a symbol as someone spelled it; a canonical one comes back unchanged.

    A symbol without a separator is split only on a venue whose quote currencies are known (longest match); one that cannot be
    split is returned in upper case as it is.

    Args:
        spelled: `AAPL`, `BTCUSDT`, `BTC/USDT`, `btc_usdt`, `XXBTZUSD`, or with its venue as in `BINANCE:BTCUSDT`.
        venue: Where it trades; None or empty = `AGGREGATE`. A venue inside `spelled` wins.

    Raises:
        OutOfRangeError: nothing is left of `spelled`, or it is longer than any name; reject the message it came in.

    Example:
        >>> normalise("BINANCE:BTCUSDT")
        ('BINANCE', 'BTC-USDT')
        >>> normalise("xbt/usd", "kraken")
        ('KRAKEN', 'BTC-USD')
        >>> normalise("AAPL")
        ('AGGREGATE', 'AAPL')
    """
    if len(spelled) > _MOST_CHARACTERS:
        raise OutOfRangeError("symbol", f"{spelled[:40]!r}... has {len(spelled):,} characters; nothing is named so")
    prefix, _, rest = spelled.upper().rpartition(":")
    where = prefix.strip() or (venue or "").strip().upper() or DEFAULT_VENUE
    parts = [part for part in _SEPARATORS.split(rest) if part]
    if not parts:
        raise OutOfRangeError(
            "symbol", f"{spelled!r} names no symbol; expected something like AAPL, BTC-USDT or BINANCE:BTCUSDT"
        )
    delivery = len(parts) == 2 and parts[1].isdigit()
    if len(parts) == 1 or delivery:
        parts[:1] = _split(parts[0], where)
    return where, "-".join([_asset(part, where) for part in parts] if len(parts) > 1 else parts)


def _split(joined: str, venue: str) -> tuple[str, ...]:
    quotes = _LONGEST_FIRST.get(venue)
    if quotes is None or joined in quotes:
        return (joined,)
    if venue == "KRAKEN" and joined[4:] in _KRAKEN_LEGACY:
        return joined[:4], joined[4:]
    fits = [(joined[: -len(quote)], quote) for quote in quotes if joined.endswith(quote)]
    # USDTUSD is tether in dollars, not dollars in TUSD.
    return next((fit for fit in fits if fit[0] != "USD"), fits[0] if fits else (joined,))


def _asset(code: str, venue: str) -> str:
    if code == "XBT":
        return "BTC"
    return _KRAKEN.get(code, code) if venue == "KRAKEN" else code
