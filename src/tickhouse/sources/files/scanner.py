"""Reads flat NDJSON at memory speed: lines of one and the same layout, straight from the bytes into columns.

`opener.py` gives it chunks of whole lines. The layout (which keys, in which order, how spaced) is learned from the lines
themselves; a line that differs in any way, or holds anything beyond plain text and plain decimal numbers, is handed back and
read one by one. What the scanner does read is equal, bit for bit, to what that slow way gives.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from tickhouse.errors import DataError
from tickhouse.lines import FileOptions
from tickhouse.model import I64, NO_TIME, Trades
from tickhouse.scanning import Texts, after, byte, decimal, digits, find, literals, text_code, text_end
from tickhouse.sources.files.columns import Columns
from tickhouse.sources.files.flat import Line, json_record, numbered_lines
from tickhouse.sources.files.rows import FlatRows
from tickhouse.sources.files.text import Chunk
from tickhouse.sources.files.values import read_side

__all__ = ["LineScanner", "Scanned"]

_SKIP, _SYMBOL, _PRICE, _SIZE, _TS, _ID, _RECEIVED, _SIDE, _CONDITIONS = range(9)
_KINDS = {
    "symbol": _SYMBOL,
    "price": _PRICE,
    "size": _SIZE,
    "ts": _TS,
    "trade_id": _ID,
    "received_at": _RECEIVED,
    "side": _SIDE,
    "conditions": _CONDITIONS,
}
_SCALES = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
_SIDE_WORDS = ("b", "buy", "bid", "s", "sell", "ask", "true", "false")
_LEARN_LINES = 100
_MAX_SYMBOLS, _SYMBOL_BYTES = 1 << 15, 1 << 20

_TEXT = rb'"(?:[^"\\\x00-\x1f]|\\.)*"'
_PAIR = re.compile(rb"(\s*(" + _TEXT + rb")\s*:\s*)(" + _TEXT + rb"|-?[0-9][0-9.eE+-]*|true|false|null)(\s*)")


class Scanned(NamedTuple):
    """What a chunk gave."""

    trades: Trades
    """Of the lines that were read."""
    unusual: list[Line]
    """Those to be read one by one, blank ones among them."""
    end: int
    """The line after the last."""


class LineScanner:
    """Scans the lines of one file.

    Args:
        columns: Which key is what.
        options: As in use; `ts_unit` is not `iso`.
        rows: The slow way of the same file, which knows its feeds.
    """

    def __init__(self, columns: Columns, options: FileOptions, rows: FlatRows) -> None:
        self._rows = rows
        self._symbol = options.symbol if columns.symbol is None else None
        self._keys = {name: _KINDS[ours] for ours, name in columns.as_dict().items()}
        if options.identity == "none" and columns.trade_id is not None:
            self._keys[columns.trade_id] = _SKIP
        self._scales = np.array(
            [*_SCALES[options.ts_unit or "us"], *_SCALES.get(options.received_unit or "us", (0, 1))], np.int64
        )
        is_maker = rows.is_maker
        self._words = np.array([_packed(word) for word in _SIDE_WORDS], np.int64)
        sides = [read_side(word, is_maker=is_maker) for word in _SIDE_WORDS]
        self._sides = np.array([0 if side is None else 1 if side == "buy" else 2 for side in sides], np.int8)
        self._symbols = Texts(_MAX_SYMBOLS, _SYMBOL_BYTES)
        self._codes = np.empty(0, np.int32)
        """Feed code of each, -1 where it names none."""
        self._odd: I64 = np.empty((0, 3), np.int64)
        """Room for (line, begin, end) of the lines that are handed back."""
        self._layout: _Layout | None = None

    def scan(self, chunk: Chunk, first: int) -> Scanned:
        """Read whole lines of which the first has number `first`."""
        if self._layout is None:
            self._layout = self._learn(chunk.text(0, min(chunk.size, 1 << 16)).split(b"\n")[:_LEARN_LINES])
        if self._layout is None:
            lines = numbered_lines(chunk.text(), first)
            return Scanned(self._trades(_Raw(0), 0), lines, first + len(lines))
        scanned = self._scan_layout(chunk, first, self._layout)
        if len(scanned.unusual) > (scanned.end - first) // 2:
            self._layout = self._learn(line.text for line in scanned.unusual[:_LEARN_LINES]) or self._layout
        return scanned

    def _scan_layout(self, chunk: Chunk, first: int, layout: _Layout) -> Scanned:
        raw = _Raw(chunk.size // layout.shortest + 1)
        if len(self._odd) < chunk.size:
            self._odd = np.empty((chunk.size, 3), np.int64)
        good, unusual, end = _scan(
            chunk.memory.ctypes.data,
            chunk.size,
            first,
            *layout.literals,
            layout.kinds,
            self._scales,
            self._words,
            self._sides,
            *self._symbols.arrays,
            raw.symbol,
            raw.price,
            raw.size,
            raw.times,
            raw.trade_id,
            raw.side,
            raw.offset,
            raw.start,
            self._odd,
        )
        self._intern()
        odd = self._odd[:unusual].tolist()
        lines = [Line(number, chunk.text(begin, stop).removesuffix(b"\r")) for number, begin, stop in odd]
        code = self._codes[raw.symbol[:good]]
        if not good or code.min() >= 0:
            return Scanned(self._trades(raw, good), lines, end)
        text = chunk.text()
        for i in np.flatnonzero(code < 0).tolist():
            begin = int(raw.start[i])
            lines.append(Line(int(raw.offset[i]), text[begin : text.index(b"\n", begin)].removesuffix(b"\r")))
        lines.sort()
        return Scanned(self._trades(raw, good, code >= 0), lines, end)

    def _trades(self, raw: _Raw, count: int, keep: Any = None) -> Trades:
        chosen: Any = slice(0, count) if keep is None else np.flatnonzero(keep)
        length = count if keep is None else len(chosen)
        return Trades(
            feed=self._codes[raw.symbol[chosen]],
            ts=raw.times[0][chosen],
            received_at=raw.times[1][chosen],
            price=raw.price[chosen],
            size=raw.size[chosen],
            trade_id=raw.trade_id[chosen],
            trade_id_hi=np.zeros(length, np.int64),
            side=raw.side[chosen],
            kind=np.zeros(length, np.int8),
            backfilled=np.zeros(length, np.int8),
            offset=raw.offset[chosen],
            row=np.zeros(length, np.int32),
        )

    def _intern(self) -> None:
        known, count = len(self._codes), max(len(self._symbols), 1 if self._symbol is not None else 0)
        if known == count:
            return
        new = np.full(count - known, -1, np.int32)
        for i in range(known, count):
            text = self._symbol
            if text is None:
                text = self._symbols[i].decode("ascii")
            try:
                new[i - known] = self._rows.feed_of(text)[1]
            except DataError:
                continue
        self._codes = np.concatenate([self._codes, new])

    def _learn(self, lines: Iterable[bytes]) -> _Layout | None:
        found: Counter[tuple[tuple[bytes, ...], tuple[int, ...]]] = Counter()
        for text in lines:
            layout = self._layout_of(text.removesuffix(b"\r"))
            if layout is not None:
                found[layout] += 1
        if not found:
            return None
        (between, kinds), _ = found.most_common(1)[0]
        return _Layout(between, kinds)

    def _layout_of(self, text: bytes) -> tuple[tuple[bytes, ...], tuple[int, ...]] | None:
        try:
            self._rows.read(json_record(text))
        except DataError:
            return None
        literals, kinds, at, before = [], [], 1, text[:1]
        while pair := _PAIR.match(text, at):
            literals.append(before + pair[1])
            kinds.append(self._keys.get(pair[2][1:-1].decode(errors="replace"), _SKIP))
            at = pair.end() + 1
            before = pair[4] + text[pair.end() : at]
            if text[pair.end() : at] != b",":
                break
        used = [kind for kind in kinds if kind != _SKIP]
        wanted = [kind for kind in self._keys.values() if kind in {_SYMBOL, _PRICE, _SIZE, _TS, _ID}]
        plain = text.startswith(b"{") and before.endswith(b"}") and at == len(text)
        if not plain or len(set(used)) < len(used) or not set(wanted) <= set(used) or b"\\" in text:
            return None
        keys = [literal.strip(b'{, \t:"') for literal in literals]
        return ((*literals, before), tuple(kinds)) if len(set(keys)) == len(keys) else None


class _Layout:
    """The bytes between the values of a line, and what the values are."""

    def __init__(self, between: Sequence[bytes], kinds: Sequence[int]) -> None:
        self.literals = literals(between)
        self.kinds = np.array(kinds, np.int64)
        self.shortest = int(self.literals.lengths.sum()) + len(kinds) + 1


class _Raw:
    """Columns to be filled, for up to `capacity` lines."""

    def __init__(self, capacity: int) -> None:
        self.symbol = np.empty(capacity, np.int32)
        self.price = np.empty(capacity, np.float64)
        self.size = np.empty(capacity, np.float64)
        self.times = np.empty((2, capacity), np.int64)
        self.trade_id = np.empty(capacity, np.int64)
        self.side = np.empty(capacity, np.int8)
        self.offset = np.empty(capacity, np.int64)
        self.start = np.empty(capacity, np.int64)


def _packed(word: str) -> int:
    return int.from_bytes(word.encode(), "big")


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _is_null(buf: Any, at: Any) -> Any:
    return byte(buf, at) == 110 and byte(buf, at + 1) == 117 and byte(buf, at + 2) == 108 and byte(buf, at + 3) == 108


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _word(buf: Any, at: Any) -> Any:
    """Return (letters packed in lower case, end) of a short word; end = -1 where there is none."""
    packed: Any = 0
    for _ in range(7):
        letter = byte(buf, at)
        if 65 <= letter <= 90:
            letter += 32
        if letter < 97 or letter > 122:
            break
        packed = packed * 256 + letter
        at += 1
    return packed, at if packed else -1


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _skipped(buf: Any, at: Any) -> Any:
    """Return where a plain value that nobody needs ends; -1 where it is not plain."""
    if byte(buf, at) == 34:
        end = text_end(buf, at + 1)
        return end + 1 if end >= 0 else -1
    if _is_null(buf, at):
        return at + 4
    if byte(buf, at) == 116 and byte(buf, at + 1) == 114 and byte(buf, at + 2) == 117 and byte(buf, at + 3) == 101:
        return at + 4
    _, end = decimal(buf, at)
    return end


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _scan(
    buf: Any,
    total: Any,
    line: Any,
    literal_words: Any,
    literal_masks: Any,
    literal_bounds: Any,
    literal_lengths: Any,
    kinds: Any,
    scales: Any,
    words: Any,
    sides: Any,
    slots: Any,
    arena: Any,
    bounds: Any,
    lengths: Any,
    symbols: Any,
    out_symbol: Any,
    out_price: Any,
    out_size: Any,
    out_times: Any,
    out_id: Any,
    out_side: Any,
    out_offset: Any,
    out_start: Any,
    odd: Any,
) -> Any:
    """Return (lines read, lines handed back, number of the line after the last).

    `buf` is the address of `total` bytes, the last of which is a newline; `PADDING` more follow them.
    """
    fields = len(kinds)
    start = 0
    good = 0
    unusual = 0
    side: Any = 0
    while start < total:
        at = start
        symbol, price, size, ts, received, trade_id, side = 0, 0.0, 0.0, 0, NO_TIME, 0, 0
        for field in range(fields + 1):
            at = after(buf, at, field, literal_words, literal_masks, literal_bounds, literal_lengths)
            if at < 0 or field == fields:
                break
            kind = kinds[field]
            quoted = byte(buf, at) == 34
            if quoted:
                at += 1
            if kind == _SYMBOL:
                if not quoted:
                    at = -1
                    break
                begin = at
                at = text_end(buf, at)
                if at <= begin:
                    at = -1
                    break
                symbol = text_code(buf, begin, at, slots, arena, bounds, lengths, symbols)
                if symbol < 0:
                    at = -1
                    break
            elif kind == _PRICE:
                price, at = decimal(buf, at)
            elif kind == _SIZE:
                size, at = decimal(buf, at)
            elif kind == _TS:
                ts, at = digits(buf, at)
                if ts > 9_000_000_000_000_000_000 // scales[0]:
                    at = -1
                ts = ts * scales[0] // scales[1]
            elif kind == _ID:
                trade_id, at = digits(buf, at)
            elif kind == _RECEIVED:
                if not quoted and _is_null(buf, at):
                    at += 4
                else:
                    received, at = digits(buf, at)
                    if scales[2] == 0 or received > 9_000_000_000_000_000_000 // max(scales[2], 1):
                        at = -1
                    received = received * scales[2] // scales[3]
            elif kind == _SIDE:
                packed, at = _word(buf, at)
                if at >= 0:
                    found = -1
                    for i in range(len(words)):
                        if words[i] == packed:
                            found = i
                    if found < 0 or (found >= 6) == quoted:
                        at = -1
                    elif quoted:
                        side = np.int64(sides[found])
                    else:
                        side = 2 if found == 6 else 1
            elif kind == _CONDITIONS:
                at = at + 4 if not quoted and _is_null(buf, at) else -1
            else:
                at = _skipped(buf, at - 1 if quoted else at)
                quoted = False
            if at < 0:
                break
            if quoted:
                if byte(buf, at) != 34:
                    at = -1
                    break
                at += 1
        if at >= 0 and byte(buf, at) == 13:
            at += 1
        if at >= 0 and byte(buf, at) == 10:
            out_symbol[good] = symbol
            out_price[good] = price
            out_size[good] = size
            out_times[0, good] = ts
            out_times[1, good] = received
            out_id[good] = trade_id
            out_side[good] = side
            out_offset[good] = line
            out_start[good] = start
            good += 1
            start = at + 1
        else:
            at = find(buf, start, 10)
            odd[unusual, 0] = line
            odd[unusual, 1] = start
            odd[unusual, 2] = at
            unusual += 1
            start = at + 1
        line += 1
    return good, unusual, line
