"""One spelling for every symbol (rule R1 starts from it)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickhouse.errors import OutOfRangeError
from tickhouse.symbols import CONTIGUOUS_VENUES, normalise


@pytest.mark.parametrize(
    ("spelled", "venue", "expected"),
    [
        ("BTCUSDT", "BINANCE", ("BINANCE", "BTC-USDT")),
        ("btcusdt", "binance", ("BINANCE", "BTC-USDT")),
        ("BINANCE:BTCUSDT", None, ("BINANCE", "BTC-USDT")),
        ("BINANCE:BTCUSDT", "AGGREGATE", ("BINANCE", "BTC-USDT")),
        ("BTC/USDT", None, ("AGGREGATE", "BTC-USDT")),
        ("BTC_USDT", None, ("AGGREGATE", "BTC-USDT")),
        ("BTC-USD", "COINBASE", ("COINBASE", "BTC-USD")),
        ("OANDA:EUR_USD", None, ("OANDA", "EUR-USD")),
        ("AAPL", None, ("AGGREGATE", "AAPL")),
        ("BRK.B", "SIP", ("SIP", "BRK.B")),
        ("BTCUSDT", None, ("AGGREGATE", "BTCUSDT")),
        ("S0042USDT", "BINANCE", ("BINANCE", "S0042-USDT")),
        ("S0042", "BINANCE", ("BINANCE", "S0042")),
        ("ETHBTC", "BINANCE", ("BINANCE", "ETH-BTC")),
        ("BTCTUSD", "BINANCE", ("BINANCE", "BTC-TUSD")),
        ("TUSDUSDT", "BINANCE", ("BINANCE", "TUSD-USDT")),
        ("BTCFDUSD", "BINANCE", ("BINANCE", "BTC-FDUSD")),
        ("USDTUSD", "BINANCEUS", ("BINANCEUS", "USDT-USD")),
        ("USDT", "BINANCE", ("BINANCE", "USDT")),
        ("1000SHIBUSDT", "BINANCE-USDM", ("BINANCE-USDM", "1000SHIB-USDT")),
        ("BTCUSDT_240628", "BINANCE-USDM", ("BINANCE-USDM", "BTC-USDT-240628")),
    ],
)
def test_spellings_of_one_instrument_become_one_name(spelled: str, venue: str | None, expected: tuple[str, str]) -> None:
    assert normalise(spelled, venue) == expected


@pytest.mark.parametrize(
    ("spelled", "symbol"),
    [
        ("XBT/USD", "BTC-USD"),
        ("XXBTZUSD", "BTC-USD"),
        ("XBTUSD", "BTC-USD"),
        ("XETHXXBT", "ETH-BTC"),
        ("USDTZUSD", "USDT-USD"),
        ("XDG/USD", "DOGE-USD"),
        ("XDGUSD", "DOGE-USD"),
        ("XXDGZUSD", "DOGE-USD"),
        ("XTZUSD", "XTZ-USD"),
        ("BTTUSD", "BTT-USD"),
        ("ZECUSD", "ZEC-USD"),
        ("XRPUSD", "XRP-USD"),
        ("ADAXBT", "ADA-BTC"),
    ],
)
def test_krakens_own_asset_codes_become_common_ones(spelled: str, symbol: str) -> None:
    assert normalise(spelled, "KRAKEN") == ("KRAKEN", symbol)


@pytest.mark.parametrize("spelled", ["", "  ", "BINANCE:", ":", "-", "/_"])
def test_an_empty_symbol_is_refused_with_its_reason(spelled: str) -> None:
    with pytest.raises(OutOfRangeError) as refused:
        normalise(spelled)
    assert refused.value.reason == "symbol"


_VENUES = st.sampled_from([None, "AGGREGATE", "SIP", "KRAKEN", "BINANCE", "BINANCE-USDM", "COINBASE"])
_CODES = st.sampled_from(["BTC", "XBT", "XXBT", "ZUSD", "USD", "USDT", "TUSD", "XDG", "T", "S0042", "240628", "ETH"])
_SPELLED = st.one_of(
    st.text(min_size=1, max_size=20),
    st.lists(_CODES, min_size=1, max_size=4).flatmap(
        lambda codes: st.sampled_from(["", "-", "/", "_", ":", " "]).map(lambda by: by.join(codes))
    ),
)


@given(_SPELLED, _VENUES)
def test_a_canonical_symbol_comes_back_unchanged(spelled: str, venue: str | None) -> None:
    try:
        where, symbol = normalise(spelled, venue)
    except OutOfRangeError:
        return
    assert symbol
    assert normalise(symbol, where) == (where, symbol)


@given(_CODES, _CODES, st.sampled_from(sorted(CONTIGUOUS_VENUES)))
def test_the_separator_makes_no_difference(base: str, quote: str, venue: str) -> None:
    assert len({normalise(base + by + quote, venue) for by in "-/_"}) == 1
    assert normalise(f"{venue}:{base}/{quote}") == normalise(f"{base.lower()}-{quote.lower()}", venue.lower())
