"""A market made up from a seed: moves without a network or a key, and misbehaves on request.

Its frames are JSON payloads read by `parse` like anyone's, so duplicates, late trades, gaps and malformed messages take the way
that a provider's would. `frames` gives the same bytes for the same settings; `stream` sends them at the pace of a clock.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from pydantic import BaseModel, ConfigDict, Field

from tickhouse.clock import Clock, SystemClock
from tickhouse.errors import ConfigError
from tickhouse.model import MAX_MESSAGE_ROWS, Event, Feed, Rejected, Side, Trade
from tickhouse.sources.base import Frame, Parsed
from tickhouse.sources.rejection import reject

__all__ = ["Synthetic", "SyntheticSettings"]

_VENUE = "SYNTHETIC"
_START = 1_768_516_200_000_000
"""2026-01-15 22:30 UTC, where `frames` starts unless told."""

_KNOWN = (
    ("BTC-USD", 67_000.0),
    ("ETH-USD", 3_400.0),
    ("SOL-USD", 150.0),
    ("BNB-USD", 580.0),
    ("XRP-USD", 0.52),
    ("DOGE-USD", 0.12),
    ("ADA-USD", 0.45),
    ("AVAX-USD", 28.0),
    ("LINK-USD", 14.0),
    ("DOT-USD", 6.2),
    ("LTC-USD", 72.0),
    ("ATOM-USD", 7.1),
)
_YEAR_S = 365.25 * 86_400
_BLOCK = 4096
_TICK_S = 0.005
"""Frames are sent this often at most; at higher rates they hold several trades."""
_MOST_IN_FRAME = 1000
_REMEMBERED = 2000
"""A duplicate repeats one of so many trades before it."""

_HEAD = b'{"type":"synthetic","trades":['
_BAD_PARTS = (
    b'{"s":"%(s)s","i":%(i)d,"q":1.0,"T":%(T)d,"S":"buy"}',
    b'{"s":"%(s)s","i":%(i)d,"p":"abc","q":1.0,"T":%(T)d,"S":"buy"}',
    b'{"s":"%(s)s","i":%(i)d,"p":1.0,"q":1.0,"T":null,"S":"buy"}',
    b'{"s":"","i":%(i)d,"p":1.0,"q":1.0,"T":%(T)d,"S":"buy"}',
    b"[%(i)d]",
)
_BAD_FRAMES = (
    b'{"type":"synthetic","trades":[{"s":"%(s)s","i":%(i)d',
    b"not JSON at all %(i)d",
    b'{"type":"surprise","id":%(i)d}',
)


class SyntheticSettings(BaseModel):
    """What the made-up market does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    symbols: int = Field(default=12, ge=1, le=100_000)
    """How many; activity falls with their rank (Zipf)."""
    rate: float = Field(default=200.0, gt=0, le=1_000_000)
    """Trades a second, over all symbols."""
    seed: int = Field(default=7, ge=0)
    """The same seed makes the same trades."""
    duplicates: float = Field(default=0.0, ge=0, le=0.5)
    """Fraction of trades followed by an exact re-delivery of an earlier one."""
    late: float = Field(default=0.0, ge=0, le=0.5)
    """Fraction of trades that are delayed."""
    late_by_s: float = Field(default=30.0, gt=0)
    """A delayed trade happened up to so many seconds ago."""
    gaps: float = Field(default=0.0, ge=0, le=0.5)
    """Fraction of trades before which 1 to 3 ids are missing."""
    malformed: float = Field(default=0.0, ge=0, le=0.5)
    """Fraction of trades followed by something that is no trade."""


_SETTINGS = SyntheticSettings()
_CLOCK = SystemClock()


class _Wire(msgspec.Struct):
    s: Annotated[str, Meta(min_length=1)]
    i: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    p: float
    q: float
    T: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    S: Side


class _WireFrame(msgspec.Struct, tag_field="type", tag="synthetic"):
    trades: list[_Wire]


class _RawFrame(msgspec.Struct, tag_field="type", tag="synthetic"):
    trades: list[msgspec.Raw]


_encode = msgspec.json.Encoder().encode
_decode_frame = msgspec.json.Decoder(_WireFrame).decode
_decode_parts = msgspec.json.Decoder(_RawFrame).decode
_decode_part = msgspec.json.Decoder(_Wire).decode


class Synthetic:
    """The made-up market.

    Args:
        settings: What it does.
        clock: Sets the pace of `stream` and stamps its trades.
        sleep: Waits so many seconds; a test passes one that moves its clock.
    """

    name = "synthetic"

    def __init__(
        self,
        settings: SyntheticSettings = _SETTINGS,
        clock: Clock = _CLOCK,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self._feeds: dict[str, Feed] = {}

    def parse(self, payload: bytes, received_at: int) -> Parsed:
        """Read one frame; never raises."""
        try:
            frame = _decode_frame(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._parse_parts(payload, received_at)
        if len(frame.trades) > MAX_MESSAGE_ROWS:
            return Parsed(rejected=(reject(self.name, "oversized", payload, received_at),))
        return Parsed([self._trade(part) for part in frame.trades])

    def recognises(self, payload: bytes) -> bool:
        """Say whether `payload` is a frame of this source."""
        return payload.startswith(_HEAD)

    def frames(self, count: int, start: int = _START, trades_per_frame: int = 1) -> Iterator[Frame]:
        """Yield `count` frames of the market from its beginning: the same bytes for the same arguments and settings.

        Args:
            count: How many frames.
            start: When the first trade happens, UTC microseconds.
            trades_per_frame: Trades newly made in each; re-deliveries and malformed parts come on top.

        Raises:
            ConfigError: a frame would hold more rows than a message may.
        """
        if not 1 <= trades_per_frame <= MAX_MESSAGE_ROWS // 2:
            raise ConfigError(f"trades_per_frame = {trades_per_frame} must be between 1 and {MAX_MESSAGE_ROWS // 2}")
        market = _Market(self._settings)
        step = 1e6 / self._settings.rate
        made = 0
        while count > 0:
            instants = [start + round((made + place) * step) for place in range(trades_per_frame)]
            made += trades_per_frame
            for payload in market.payloads(instants)[:count]:
                count -= 1
                yield Frame(payload, instants[-1])

    async def stream(self) -> AsyncIterator[Frame | Event]:
        """Yield frames at the configured rate, for ever.

        Ids start afresh with every stream, which a `new_ids` event for each symbol says first (rule R1).
        """
        market = _Market(self._settings)
        yield Event(event="connected", source=self.name, detail={"reason": f"made up from seed {self._settings.seed}"})
        for symbol in market.symbols:
            yield Event(event="new_ids", source=self.name, venue=_VENUE, symbol=symbol)
        pause = max(_TICK_S, 1 / self._settings.rate)
        began, sent = self._clock.monotonic(), 0
        while True:
            await self._sleep(pause)
            elapsed_s = (self._clock.monotonic() - began) / 1e6
            due = min(int(elapsed_s * self._settings.rate) - sent, _MOST_IN_FRAME)
            if due <= 0:
                continue
            sent += due
            now = self._clock.wall()
            spread = min(pause, 0.1) * 1e6 / due
            for payload in market.payloads([now - round((due - 1 - place) * spread) for place in range(due)]):
                yield Frame(payload, now)

    async def check(self) -> str:
        """Return a line that says what the market does; it is always reachable."""
        settings = self._settings
        return f"synthetic: {settings.symbols} made-up symbols, {settings.rate:g} trades/s, seed {settings.seed}"

    def _parse_parts(self, payload: bytes, received_at: int) -> Parsed:
        try:
            parts = _decode_parts(payload).trades
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            reason = "undocumented" if _is_object(payload) else "malformed"
            return Parsed(rejected=(reject(self.name, reason, payload, received_at),))
        if len(parts) > MAX_MESSAGE_ROWS:
            return Parsed(rejected=(reject(self.name, "oversized", payload, received_at),))
        trades: list[Trade] = []
        rejected: list[Rejected] = []
        for part in parts:
            try:
                trades.append(self._trade(_decode_part(part)))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                rejected.append(reject(self.name, _reason(bytes(part)), bytes(part), received_at))
        return Parsed(trades, rejected)

    def _trade(self, part: _Wire) -> Trade:
        feed = self._feeds.get(part.s)
        if feed is None:
            feed = self._feeds[part.s] = Feed(self.name, _VENUE, part.s, "trade", "contiguous", part.s)
        return Trade(feed, part.T, part.p, part.q, part.i, part.S)


class _Market:
    """The seeded walk: geometric Brownian prices on a tick grid, lognormal sizes, Zipf activity."""

    def __init__(self, settings: SyntheticSettings) -> None:
        self._settings = settings
        self._random = np.random.Generator(np.random.PCG64(settings.seed))
        count = settings.symbols
        self.symbols = [_KNOWN[n][0] if n < len(_KNOWN) else f"S{n:04d}-USD" for n in range(count)]
        first = [_KNOWN[n][1] if n < len(_KNOWN) else math.exp(self._random.uniform(-1, 6)) for n in range(count)]
        weights = 1.0 / np.arange(1, count + 1)
        weights /= weights.sum()
        self._cumulated = np.cumsum(weights)
        yearly = self._random.uniform(0.4, 1.2, count)
        # sigma per trade = yearly / sqrt(trades a year), so that a minute moves as a minute does, at any rate
        self._sigma = [float(sigma) for sigma in yearly / np.sqrt(settings.rate * weights * _YEAR_S)]
        self._log_price = [math.log(price) for price in first]
        self._decimals = [5 - math.floor(math.log10(price)) for price in first]
        self._median_size = [500.0 / price for price in first]
        self._next_id = [1] * count
        self._recent: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._block: Iterator[tuple[int, float, float, float, float, float]] = iter(())

    def payloads(self, instants: list[int]) -> list[bytes]:
        """Return a frame with one new trade for each of `instants`, and what goes wrong on request."""
        parts: list[bytes] = []
        broken: list[bytes] = []
        for ts in instants:
            draw = next(self._block, None)
            if draw is None:
                self._block = self._draw()
                draw = next(self._block)
            parts.append(self._make(ts, draw))
            self._misbehave(ts, draw, parts, broken)
        return [_HEAD + b",".join(parts) + b"]}", *broken]

    def _draw(self) -> Iterator[tuple[int, float, float, float, float, float]]:
        random = self._random
        which = np.minimum(np.searchsorted(self._cumulated, random.random(_BLOCK)), len(self.symbols) - 1)
        return zip(
            which.tolist(),
            random.standard_normal(_BLOCK).tolist(),
            random.lognormal(0.0, 1.2, _BLOCK).tolist(),
            *(random.random(_BLOCK).tolist() for _ in range(3)),
            strict=True,
        )

    def _make(self, ts: int, draw: tuple[int, float, float, float, float, float]) -> bytes:
        n, step, size, fault, amount, _ = draw
        settings = self._settings
        self._log_price[n] += self._sigma[n] * step
        decimals = self._decimals[n]
        price = max(round(math.exp(self._log_price[n]), decimals), 10.0**-decimals)
        if fault < settings.gaps:
            self._next_id[n] += 1 + int(amount * 3)
        elif fault < settings.gaps + settings.late:
            ts -= int(amount * settings.late_by_s * 1e6)
        trade_id = self._next_id[n]
        self._next_id[n] += 1
        side: Side = "buy" if step > 0 else "sell"
        part = _encode(_Wire(self.symbols[n], trade_id, price, max(round(size * self._median_size[n], 6), 1e-6), ts, side))
        self._recent.append(part)
        return part

    def _misbehave(
        self, ts: int, draw: tuple[int, float, float, float, float, float], parts: list[bytes], broken: list[bytes]
    ) -> None:
        n, _, _, _, amount, fault = draw
        settings = self._settings
        if fault < settings.duplicates:
            parts.append(self._recent[int(amount * len(self._recent))])
        elif fault < settings.duplicates + settings.malformed:
            template = (*_BAD_PARTS, *_BAD_FRAMES)[int(amount * (len(_BAD_PARTS) + len(_BAD_FRAMES)))]
            said = template % {b"s": self.symbols[n].encode(), b"i": self._next_id[n], b"T": ts}
            (parts if template in _BAD_PARTS else broken).append(said)


def _is_object(payload: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(payload), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _reason(part: bytes) -> str:
    try:
        fields = msgspec.json.decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "malformed"
    if not isinstance(fields, dict):
        return "malformed"
    for key, meaning in (("s", "symbol"), ("i", "id"), ("p", "price"), ("q", "size"), ("T", "ts"), ("S", "side")):
        if key not in fields:
            return f"missing_{meaning}"
        if key == "s" and not fields[key]:
            return "symbol"
        try:
            msgspec.convert(fields[key], _KINDS[key])
        except msgspec.ValidationError:
            return f"type_{meaning}"
    return "malformed"


_KINDS: dict[str, Any] = {field.encode_name: field.type for field in msgspec.structs.fields(_Wire)}
