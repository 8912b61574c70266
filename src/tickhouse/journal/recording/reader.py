"""Reads the files of a recording as one partition: numbers the lines, sets the heartbeats between them, cuts batches.

Made by `Recording.reader`. Reading on from an offset reads its file again from the beginning without giving anything out before
that offset, so that heartbeats are those of an uninterrupted reading.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from tickhouse.columns import take_trades
from tickhouse.errors import ConfigError
from tickhouse.journal.base import Progress
from tickhouse.journal.recording.heartbeats import LOOKAHEAD, RecordedClock
from tickhouse.journal.recording.read_ahead import read_ahead
from tickhouse.lines import FileOptions, LineBlock, LineFile
from tickhouse.model import I32, I64, NO_TIME, Batch, Beats, Event, Feeds, Trades
from tickhouse.rules import Rules

__all__ = ["BATCH_ROWS", "FileEntry", "FileList", "RecordingReader", "check_order"]

BATCH_ROWS = 1 << 17
"""A batch has at most this many rows, but for a single line with more: the larger, the less a row costs."""

_MAX_FALL_US = 3_600_000_000
_HEAD_TIMES = 11
_BLOCKS_AHEAD = 2


class FileEntry(NamedTuple):
    """One file of the list."""

    id: int
    path: Path
    sha256: str | None
    """None until it was read through once."""
    bytes: int
    mtime_ns: int
    options: FileOptions
    """As in use."""
    lines: int | None
    """None until it was read to its end once."""
    running: int
    """The running maximum of the times at its end; see `RecordedClock`."""
    last: int
    """The last heartbeat at its end."""


class FileList(Protocol):
    """What the reader asks of its journal."""

    def files(self) -> list[FileEntry]:
        """Return the files in the order of their lines."""
        ...

    def open(self, entry: FileEntry) -> LineFile:
        """Open a file for reading."""
        ...

    def finish(self, entry: FileEntry, lines: int, running: int, last: int) -> None:
        """Note that a file was read to its end."""
        ...

    def refuse_from(self, entry: FileEntry) -> None:
        """Take a file and all after it off the list."""
        ...


def check_order(file: LineFile, path: Path, clock: int) -> None:
    """Refuse a file that falls back by more than an hour.

    Its time is the median of its first times, so that one odd line decides nothing.

    Args:
        file: Opened.
        path: To name it by.
        clock: The house's last heartbeat, or NO_TIME.

    Raises:
        ConfigError: it is older than `clock`.
    """
    times = np.sort(file.head_times()[:_HEAD_TIMES])
    if clock == NO_TIME or not len(times):
        return
    first = int(times[len(times) // 2])
    if first < clock - _MAX_FALL_US:
        begins, at = np.datetime64(first, "us"), np.datetime64(clock, "us")
        raise ConfigError(
            f"{path} begins at {begins}, more than an hour before the house's clock {at}; "
            "give the files oldest first, or use a new house (--house DIR)"
        )


class _Marked(NamedTuple):
    """A block with its heartbeats; offsets still count within the file."""

    block: LineBlock
    beat_line: I64
    beat_clock: I64


class RecordingReader:
    """Reads a recording forward, from a line on.

    Args:
        files: The journal.
        rules: Given out as the recording's first record.
        start: The first line wanted, over all files.
        feeds: The pipeline's.
    """

    def __init__(self, files: FileList, rules: Rules, start: int, feeds: Feeds) -> None:
        self._files = files
        self._entries = files.files()
        self._rules = rules
        self._start = start
        self._feeds = feeds
        self._clock = RecordedClock()
        self._done_bytes = 0
        self._file: LineFile | None = None
        self._line = 0
        self._exhausted = False
        self._batches = self._read_all()

    def read(self, timeout_s: float) -> Batch | None:  # noqa: ARG002 - a file never keeps one waiting
        """Return the next batch; None at the end.

        Raises:
            FatalError: a file is missing or has changed.
            ConfigError: a file is older than those before it; it has been taken off the list.
        """
        batch = next(self._batches, None)
        self._exhausted = batch is None
        return batch

    @property
    def exhausted(self) -> bool:
        """True once the end was read."""
        return self._exhausted

    @property
    def drained(self) -> bool:
        """True once the end was read."""
        return self._exhausted

    def at_end(self) -> bool:
        """Return whether the end was read."""
        return self._exhausted

    @property
    def progress(self) -> Progress:
        """How far reading has come."""
        current = 0 if self._file is None else self._file.bytes_read
        return Progress(self._done_bytes + current, sum(entry.bytes for entry in self._entries), self._line)

    def close(self) -> None:
        """Stop reading and close the file at hand."""
        self._batches.close()

    def _read_all(self) -> Generator[Batch, None, None]:
        base = 0
        for entry in self._entries:
            if entry.lines is not None and base + entry.lines <= self._start:
                self._clock = RecordedClock(entry.running, entry.last)
                base += entry.lines
            else:
                base = yield from self._read_file(entry, base)
            self._done_bytes += entry.bytes
            self._line = base

    def _read_file(self, entry: FileEntry, base: int) -> Generator[Batch, None, int]:
        file = self._files.open(entry)
        try:
            check_order(file, entry.path, self._clock.last)
        except ConfigError:
            self._files.refuse_from(entry)
            raise
        self._file = file
        codes = _FeedCodes(file.feeds, self._feeds)
        lines = 0
        for marked in self._mark_blocks(file):
            first, lines = lines, marked.block.end
            self._line = base + lines
            if self._line > self._start:
                yield from self._cut(marked, base, max(first, self._start - base), codes)
        self._files.finish(entry, lines, self._clock.running, self._clock.last)
        self._file = None
        return base + lines

    def _mark_blocks(self, file: LineFile) -> Iterator[_Marked]:
        with closing(read_ahead(file.blocks(), _BLOCKS_AHEAD)) as blocks:
            yield from self._mark_each(file, blocks)

    def _mark_each(self, file: LineFile, blocks: Iterator[LineBlock]) -> Iterator[_Marked]:
        held: deque[LineBlock] = deque()
        is_end = False
        while True:
            if not held:
                block = next(blocks, None)
                if block is None:
                    return
                held.append(block)
            marked = self._mark(held, has_beats=file.has_beats, is_end=is_end)
            if marked is not None:
                held.popleft()
                yield marked
                continue
            block = next(blocks, None)
            is_end = block is None
            if block is not None:
                held.append(block)

    def _mark(self, held: Sequence[LineBlock], *, has_beats: bool, is_end: bool) -> _Marked | None:
        block = held[0]
        if has_beats:
            return _Marked(block, *self._clock.take(block.beats))
        ahead = [later.time[:LOOKAHEAD] for later in list(held)[1:]]
        known = np.concatenate(ahead) if ahead else np.empty(0, np.int64)
        beats = self._clock.mark(block.time_line, block.time, known, is_end=is_end)
        return None if beats is None else _Marked(block, *beats)

    def _cut(self, marked: _Marked, base: int, begin: int, codes: _FeedCodes) -> Iterator[Batch]:
        block = marked.block
        offsets = block.trades.offset
        at = int(np.searchsorted(offsets, begin))
        while begin < block.end:
            stop, end = _piece(offsets, at, block.end)
            yield self._batch(marked, base, (begin, end), (at, stop), codes)
            begin, at = end, stop

    def _batch(self, marked: _Marked, base: int, lines: tuple[int, int], rows: tuple[int, int], codes: _FeedCodes) -> Batch:
        block, (begin, end) = marked.block, lines
        offsets = block.trades.offset[rows[0] : rows[1]]
        b, e = np.searchsorted(marked.beat_line, lines)
        beat_line = marked.beat_line[b:e]
        beats = Beats(
            clock=marked.beat_clock[b:e],
            at=np.searchsorted(offsets, beat_line).astype(np.int64),
            offset=beat_line + base,
            row=np.full(len(beat_line), -1, np.int32),
        )
        events = [
            msgspec.structs.replace(event, offset=event.offset + base, at=int(np.searchsorted(offsets, event.offset)))
            for event in block.events
            if begin <= event.offset < end
        ]
        if base + begin == 0:
            events.insert(0, Event(event="rules", detail=msgspec.to_builtins(self._rules), row=-2))
        return Batch(
            partition=0,
            trades=codes.translate(block.trades, rows, base),
            beats=beats,
            rejected=[
                msgspec.structs.replace(rejected, offset=rejected.offset + base)
                for rejected in block.rejected
                if begin <= rejected.offset < end
            ],
            events=events,
            ignored=sum(begin <= line < end for line in block.ignored_line),
            next_offset=base + end,
        )


class _FeedCodes:
    """Translates the feed codes of a file into the pipeline's.

    A feed is interned when its first trade is given out, not when it is read: how far ahead a file is read changes no state.
    """

    def __init__(self, own: Feeds, feeds: Feeds) -> None:
        self._own = own
        self._feeds = feeds
        self._codes: I32 = np.empty(0, np.int32)

    def translate(self, trades: Trades, rows: tuple[int, int], base: int) -> Trades:
        begin, end = rows
        part = trades if end - begin == len(trades) else take_trades(trades, slice(begin, end))
        highest = int(part.feed.max()) if len(part) else -1
        if highest >= len(self._codes):
            new = [self._feeds.code(feed) for feed in self._own.feeds[len(self._codes) : highest + 1]]
            self._codes = np.concatenate([self._codes, np.array(new, np.int32)])
        changed: dict[str, Any] = {"feed": self._codes[part.feed]}
        if base:
            changed["offset"] = part.offset + base
        return replace(part, **changed)


def _piece(offsets: I64, at: int, block_end: int) -> tuple[int, int]:
    """Return (row, line) where the batch that begins at row `at` ends: whole lines, at most BATCH_ROWS rows."""
    stop = at + BATCH_ROWS
    if stop >= len(offsets):
        return len(offsets), block_end
    line = int(offsets[stop])
    first = int(np.searchsorted(offsets, line))
    if first > at:
        return first, line
    # A single line with more rows than a batch should have stays whole.
    past = int(np.searchsorted(offsets, line, side="right"))
    return past, line + 1
