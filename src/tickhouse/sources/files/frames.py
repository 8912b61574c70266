"""Reads recorded frames: `<receive time ns> <payload as received>`, one a line, through the `parse` of their source.

Lines of our own stand between them where the recording was made by `tickhouse run --record`::

    <ns> {"tickhouse": {"source": "binance"}}       who sends the frames that follow
    <ns> {"tickhouse": {"heartbeat": 1767225600250000}}
    <ns> {"tickhouse": {"event": {"event": "connected", ...}}}
    <ns> {"tickhouse": {"frame_b64": "..."}}        a frame that is not one line of UTF-8

A payload without a receive time is a frame too.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np

from tickhouse.columns import TradesBuilder
from tickhouse.errors import ConfigError, DataError, MalformedError
from tickhouse.lines import EARLIEST_US, LATEST_US, LineBlock
from tickhouse.model import HEARTBEAT_US, NO_TIME, Event, Feeds, Rejected, Trade
from tickhouse.sources.base import Source
from tickhouse.sources.files.flat import Line, json_record, rejected_line

__all__ = ["CONTROL_PREFIX", "FrameReader", "is_heartbeat", "split_frame"]

CONTROL_PREFIX = b'{"tickhouse":'
_MAX_DIGITS = 20


def split_frame(text: bytes) -> tuple[int, bytes]:
    """Return (receive time in microseconds, payload) of a line; NO_TIME where it begins with no time.

    Raises:
        MalformedError: it begins with neither a time nor a JSON value.
    """
    head, space, payload = text.partition(b" ")
    if space and head.isdigit() and len(head) <= _MAX_DIGITS:
        received_at = int(head) // 1000
        return (received_at if EARLIEST_US <= received_at < LATEST_US else NO_TIME), payload
    if text.startswith((b"{", b"[")):
        return NO_TIME, text
    raise MalformedError("neither '<receive time ns> <payload>' nor JSON")


def is_heartbeat(text: bytes) -> bool:
    """Say whether a line is a recorded heartbeat."""
    try:
        _, payload = split_frame(text)
        instant = _control(payload).get("heartbeat") if payload.startswith(CONTROL_PREFIX) else None
        return isinstance(instant, int) and EARLIEST_US <= instant < LATEST_US
    except DataError:
        return False


class FrameReader:
    """Reads the lines of one file of recorded frames.

    Args:
        sources: The installed ones by name.
        source: Name of the one whose frames come first; None = a line of our own says so before the first.
        feeds: The file's own, filled here.
        has_beats: Recorded heartbeats are taken.
    """

    def __init__(self, sources: Mapping[str, Source], source: str | None, feeds: Feeds, *, has_beats: bool) -> None:
        self._sources = sources
        self._feeds = feeds
        self._has_beats = has_beats
        self._source: Source | None = None
        if source is not None:
            self._use(source)

    def read_block(self, lines: Iterable[Line], end: int) -> LineBlock:
        """Return the block of `lines`, of which `end` is the line after the last."""
        block = _Block()
        for line in lines:
            if line.text.strip():
                self._read(line, block)
        return block.build(end)

    def _read(self, line: Line, block: _Block) -> None:
        name = "replay" if self._source is None else self._source.name
        received_at = NO_TIME
        try:
            received_at, payload = split_frame(line.text)
            if received_at != NO_TIME:
                block.times.append((line.number, received_at))
            if payload.startswith(CONTROL_PREFIX):
                frame = self._read_control(payload, line, block)
                if frame is None:
                    return
                payload = frame
            self._read_frame(payload, received_at, line, block)
        except DataError as error:
            block.rejected.append(rejected_line(error.reason, line.text, line.number, name, received_at))

    def _read_frame(self, payload: bytes, received_at: int, line: Line, block: _Block) -> None:
        if self._source is None:
            raise MalformedError("a frame of an unknown source")
        parsed = self._source.parse(payload, received_at)
        latest = NO_TIME
        row = 0
        for row, trade in enumerate(parsed.trades, 1):
            block.trades.add(trade, self._feeds.code(trade.feed), received_at, line.number, row - 1)
            if received_at == NO_TIME and trade.ts > latest and _is_valid(trade):
                latest = trade.ts
        if latest != NO_TIME:
            block.times.append((line.number, latest))
        for part, rejected in enumerate(parsed.rejected, row):
            block.rejected.append(
                msgspec.structs.replace(
                    rejected,
                    offset=line.number,
                    row=part,
                    received_at=received_at,
                    length=rejected.length or len(rejected.payload),
                )
            )
        block.ignored.extend([line.number] * parsed.ignored)

    def _read_control(self, payload: bytes, line: Line, block: _Block) -> bytes | None:
        control = _control(payload)
        match control:
            case {"source": str(name)}:
                self._use(name)
            case {"heartbeat": int(instant)} if EARLIEST_US <= instant < LATEST_US:
                if self._has_beats:
                    block.beats.append((line.number, instant // HEARTBEAT_US * HEARTBEAT_US))
            case {"event": dict(event)}:
                block.events.append(_event(event, line.number))
            case {"frame_b64": str(text)}:
                return _from_base64(text)
            case _:
                raise MalformedError("a line of Tickhouse's own that says nothing known")
        return None

    def _use(self, name: str) -> None:
        source = self._sources.get(name)
        if source is None:
            raise ConfigError(f"the recording holds frames of {name!r}, which is not installed; known: {_names(self._sources)}")
        self._source = source


class _Block:
    """What is collected of one block."""

    def __init__(self) -> None:
        self.trades = TradesBuilder()
        self.times: list[tuple[int, int]] = []
        self.rejected: list[Rejected] = []
        self.events: list[Event] = []
        self.ignored: list[int] = []
        self.beats: list[tuple[int, int]] = []

    def build(self, end: int) -> LineBlock:
        times = np.array(self.times, np.int64).reshape(-1, 2)
        return LineBlock(
            end=end,
            trades=self.trades.build(),
            time_line=np.ascontiguousarray(times[:, 0]),
            time=np.ascontiguousarray(times[:, 1]),
            rejected=self.rejected,
            events=self.events,
            ignored_line=self.ignored,
            beats=self.beats,
        )


def _control(payload: bytes) -> Mapping[str, Any]:
    control = json_record(payload).get("tickhouse")
    if not isinstance(control, dict):
        raise MalformedError("a line of Tickhouse's own without an object")
    return control


def _event(fields: Mapping[str, Any], line: int) -> Event:
    try:
        event = msgspec.convert(fields, Event)
    except msgspec.ValidationError as error:
        raise MalformedError(str(error)) from error
    return msgspec.structs.replace(event, offset=line, row=0, at=0)


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(str(error)) from error


def _is_valid(trade: Trade) -> bool:
    if not (1e-12 <= trade.price <= 1e12 and EARLIEST_US <= trade.ts < LATEST_US):
        return False
    return trade.size == 0 or 1e-18 <= trade.size <= 1e15


def _names(sources: Mapping[str, Source]) -> str:
    return ", ".join(sorted(sources)) or "none"
