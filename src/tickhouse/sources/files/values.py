"""Reads single values of flat files: numbers, times, ids, sides.

What cannot be read raises `DataError` with the reason under which the line is rejected. Ranges are not judged here (rule R12
has one judge, the kernel); only what is no finite number at all ends here.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

from tickhouse.errors import DataError
from tickhouse.lines import TsUnit
from tickhouse.model import Side

__all__ = ["guess_unit", "read_conditions", "read_id", "read_number", "read_side", "read_time"]

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_PLAIN_INTEGER = re.compile(r"-?[1-9]\d{0,18}|0", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INT64 = 1 << 63
_FACTORS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_BUY, _SELL = frozenset({"b", "buy", "bid"}), frozenset({"s", "sell", "ask"})


def read_number(value: Any, name: str) -> float:
    """Return `value`, a number or the text of one, as a float.

    Raises:
        DataError: `type_<name>`: it is neither, or not finite.
    """
    if type(value) is float:
        number = value
    elif type(value) is int or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        try:
            number = float(value)
        except OverflowError:
            raise _type_error(name, value) from None
    else:
        raise _type_error(name, value)
    if not isfinite(number):
        raise _type_error(name, value)
    return number


def read_time(value: Any, unit: TsUnit, name: str = "ts") -> int:
    """Return `value` as UTC microseconds; nanoseconds are rounded down, fractions of larger units to the nearest.

    Raises:
        DataError: `type_<name>`: it is no time in `unit`, nor ISO-8601 text; `ts`: no 64-bit number can hold it.
    """
    if isinstance(value, str):
        value = _parsed_text(value, unit, name)
    if type(value) is datetime:
        return (_aware(value) - _EPOCH) // _MICROSECOND
    if unit == "iso" or type(value) not in {int, float}:
        raise _type_error(name, value)
    if type(value) is float:
        if not isfinite(value * 1e6):
            raise DataError(name, f"{value!r} is no time")
        us = round(value * _FACTORS[unit]) if unit in _FACTORS else int(value // 1000)
    else:
        us = value * _FACTORS[unit] if unit in _FACTORS else value // 1000
    if not -_INT64 < us < _INT64:
        raise DataError(name, f"{value!r} is no time")
    return us


def read_id(value: Any) -> int | str:
    """Return a trade id: a whole number, also where it is written as text, else the text.

    Raises:
        DataError: `type_trade_id`: it is neither.
    """
    if type(value) is int:
        return value
    if not isinstance(value, str) or not value:
        raise _type_error("trade_id", value)
    if _PLAIN_INTEGER.fullmatch(value) and -_INT64 <= (number := int(value)) < _INT64:
        return number
    return value


def read_side(value: Any, *, is_maker: bool) -> Side | None:
    """Return the aggressor's side; None where `value` does not say.

    Args:
        value: A word (`buy`, `S`, `bid`, ...) or, with `is_maker`, whether the buyer was the maker.
        is_maker: The column tells the maker's side: the aggressor is the other one.
    """
    if value is True or value is False:
        return "sell" if value else "buy"
    if not isinstance(value, str):
        return None
    word = value.lower()
    if is_maker and word in {"true", "false"}:
        return "sell" if word == "true" else "buy"
    if word in _BUY:
        return "sell" if is_maker else "buy"
    if word in _SELL:
        return "buy" if is_maker else "sell"
    return None


def read_conditions(value: Any) -> str | None:
    """Return sale conditions as one text, several joined by commas; None where there are none."""
    if isinstance(value, (list, tuple)):
        value = ",".join(str(part) for part in value)
    return None if value is None or value == "" else str(value)


def guess_unit(value: Any) -> TsUnit | None:
    """Return the unit in which `value` is a time between 1990 and the year 5000, by its magnitude; None where it is no time."""
    if isinstance(value, datetime):
        return "iso"
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return "iso" if _is_iso(value) else None
        value = float(value)
    if type(value) not in {int, float} or not 0 < value < _INT64:
        return None
    return "s" if value < 1e11 else "ms" if value < 1e14 else "us" if value < 1e17 else "ns"


def _parsed_text(value: str, unit: TsUnit, name: str) -> int | float | datetime:
    if unit != "iso" and _NUMBER.fullmatch(value):
        if _PLAIN_INTEGER.fullmatch(value):
            return int(value)
        number = float(value)
        if isfinite(number):
            return number
        raise _type_error(name, value)
    try:
        return datetime.fromisoformat(value.strip())
    except ValueError:
        raise _type_error(name, value) from None


def _is_iso(value: str) -> bool:
    try:
        datetime.fromisoformat(value.strip())
    except ValueError:
        return False
    return True


def _aware(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value


def _type_error(name: str, value: Any) -> DataError:
    return DataError(f"type_{name}", f"{str(value)[:100]!r} cannot be read as {name}")
