"""How Binance spells things: names of instruments, numbers as text, bars as arrays, errors as codes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Self

from tickhouse.api.context import Context
from tickhouse.api.problems import BinanceError
from tickhouse.model import Instrument

__all__ = ["Instruments", "decimal", "kline", "trade_id"]


class Instruments:
    """The instruments of a house by their joined names, `BTCUSDT`; where two venues have one, Binance's, then the busiest."""

    def __init__(self, rows: list[tuple[str, str, int, float]]) -> None:
        self.by_name: dict[str, Instrument] = {}
        self.last_prices: dict[Instrument, float] = {}
        for venue, symbol, _, last in sorted(rows, key=lambda row: (row[0] != "BINANCE", -row[2])):
            instrument = Instrument(venue, symbol)
            self.by_name.setdefault(symbol.replace("-", ""), instrument)
            self.last_prices[instrument] = last

    @classmethod
    def of(cls, here: Context) -> Self:
        """Return those of a house, with the last prices that are known."""
        frame = here.house.queries.instruments()
        found = cls(frame.select("venue", "symbol", "trades", "last_price").rows())
        for row in here.hub.figures.records():
            instrument = Instrument(row["venue"], row["symbol"])
            found.by_name.setdefault(instrument.symbol.replace("-", ""), instrument)
            if row["last"] is not None:
                found.last_prices[instrument] = row["last"]
        return found

    def named(self, name: str) -> Instrument:
        """Return an instrument.

        Raises:
            BinanceError: there is none of that name.
        """
        found = self.by_name.get(name)
        if found is None:
            raise BinanceError(-1121, "Invalid symbol.")
        return found


def decimal(value: float) -> str:
    """Return a number as text, without an exponent and without a digit that it does not have."""
    return format(Decimal(repr(value)), "f")


def trade_id(row: dict[str, Any]) -> int:
    """Return a number for a trade: the venue's, or where it has none the journal's offset."""
    number: int = row["offset"] if row["trade_id"] is None else row["trade_id"]
    return number


def kline(row: dict[str, Any], bought: float, bought_value: float) -> list[Any]:
    """Return a bar as an array.

    Args:
        row: A bar, times in microseconds.
        bought: Volume of the trades whose aggressor bought.
        bought_value: Their value.
    """
    return [
        row["start"] // 1000, decimal(row["open"]), decimal(row["high"]), decimal(row["low"]), decimal(row["close"]),
        decimal(row["volume"]), row["end"] // 1000 - 1, decimal(row["notional"]), row["trades"], decimal(bought),
        decimal(bought_value), "0",
    ]  # fmt: skip
