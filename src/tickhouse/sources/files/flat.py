"""Reads chunks of NDJSON or CSV lines into blocks of trades.

The middle step of `files.py` for flat text: lines that the fast scanner does not take, and every line where there is none, go
one by one through `FlatRows`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from tickhouse.columns import TradesBuilder, concat_trades, take_trades
from tickhouse.errors import DataError, MalformedError
from tickhouse.lines import EARLIEST_US, LATEST_US, LineBlock, is_reliable_time
from tickhouse.model import I64, NO_TIME, Rejected, Trades
from tickhouse.sources.files.rows import FLAT_SOURCE, FlatRows
from tickhouse.sources.rejection import reject

__all__ = ["FlatBlockBuilder", "Line", "csv_record", "json_record", "numbered_lines", "rejected_line"]

_decode = msgspec.json.Decoder().decode

Decode = Callable[[bytes], Mapping[str, Any]]


class Line(NamedTuple):
    """One line of a file, without its newline."""

    number: int
    text: bytes


def numbered_lines(chunk: bytes, first: int) -> list[Line]:
    """Return the lines of `chunk`, blank ones included, counted from `first`."""
    texts = chunk.split(b"\n")
    if not texts[-1]:
        texts.pop()
    return [Line(first + i, text.removesuffix(b"\r")) for i, text in enumerate(texts)]


def json_record(text: bytes) -> Mapping[str, Any]:
    """Return the JSON object in `text`; of a key that stands twice, the last.

    Raises:
        MalformedError: it is none.
    """
    try:
        record = _decode(text)
    except (ValueError, RecursionError) as error:
        raise MalformedError(str(error)) from error
    if not isinstance(record, dict):
        raise MalformedError("not a JSON object")
    return record


def csv_record(text: bytes, header: Sequence[str], delimiter: str, keep_empty: str | None) -> Mapping[str, Any]:
    """Return the fields of a CSV line by name; empty ones are left out, that of column `keep_empty` excepted.

    Raises:
        MalformedError: it is no UTF-8, or has more or fewer fields than the header.
    """
    try:
        line = text.decode()
        fields = next(csv.reader([line], delimiter=delimiter, strict=True), []) if '"' in line else line.split(delimiter)
    except (UnicodeDecodeError, csv.Error) as error:
        raise MalformedError(str(error)) from error
    if len(fields) != len(header):
        raise MalformedError(f"{len(fields)} fields, the header has {len(header)}")
    return {name: field for name, field in zip(header, fields, strict=True) if field or name == keep_empty}


def rejected_line(reason: str, text: bytes, number: int, source: str = FLAT_SOURCE, received_at: int = NO_TIME) -> Rejected:
    """Return the record of a line that gave no trade."""
    return msgspec.structs.replace(reject(source, reason, text, received_at), offset=number)


class FlatBlockBuilder:
    """Collects the records of one block."""

    def __init__(self, rows: FlatRows, decode: Decode) -> None:
        self._rows = rows
        self._decode = decode
        self._trades = TradesBuilder()
        self._rejected: list[Rejected] = []
        self._rejected_times: list[tuple[int, int]] = []

    def read_lines(self, lines: Iterable[Line]) -> None:
        """Read lines in order; blank ones are skipped."""
        for number, text in lines:
            if not text.strip():
                continue
            try:
                record = self._decode(text)
            except DataError as error:
                self._rejected.append(rejected_line(error.reason, text, number))
                continue
            self.read_record(record, number, text)

    def read_record(self, record: Mapping[str, Any], number: int, text: bytes | None = None) -> None:
        """Read one record; `text` are its bytes as received, None = its JSON."""
        try:
            trade, code, received_at = self._rows.read(record)
        except DataError as error:
            received_at = self._rows.received_at(record)
            payload = msgspec.json.encode(record, order="sorted") if text is None else text
            self._rejected.append(rejected_line(error.reason, payload, number, received_at=received_at))
            if EARLIEST_US <= received_at < LATEST_US:
                self._rejected_times.append((number, received_at))
            return
        self._trades.add(trade, code, received_at, number, 0)

    def build(self, end: int, fast: Trades | None = None) -> LineBlock:
        """Return the block.

        Args:
            end: The line after its last.
            fast: Trades of other lines of the block, read by the scanner.
        """
        trades = self._trades.build()
        if fast is not None and len(fast):
            trades = concat_trades([fast, trades]) if len(trades) else fast
            if len(trades) > len(fast):
                trades = take_trades(trades, np.argsort(trades.offset, kind="stable"))
        time_line, time = _times(trades, self._rejected_times)
        return LineBlock(end=end, trades=trades, time_line=time_line, time=time, rejected=self._rejected)


def _valid_trades(trades: Trades) -> npt.NDArray[np.bool_]:
    """Say which trades rule R12 lets pass, whatever the clock."""
    price, size = trades.price, trades.size
    good: npt.NDArray[np.bool_] = (price >= 1e-12) & (price <= 1e12) & is_reliable_time(trades.ts)
    good &= (size == 0) | ((size >= 1e-18) & (size <= 1e15))
    return good


def _times(trades: Trades, rejected: list[tuple[int, int]]) -> tuple[I64, I64]:
    valid = _valid_trades(trades)
    time = np.where(valid, trades.ts, NO_TIME)
    if len(trades) and trades.received_at.max() != NO_TIME:
        time = np.where(is_reliable_time(trades.received_at), trades.received_at, time)
    told = time != NO_TIME
    if told.all() and not rejected:
        return trades.offset, time
    line, time = trades.offset[told], time[told]
    if rejected:
        extra = np.array(rejected, np.int64)
        line, time = np.concatenate([line, extra[:, 0]]), np.concatenate([time, extra[:, 1]])
        order = np.argsort(line, kind="stable")
        line, time = line[order], time[order]
    return line, time
