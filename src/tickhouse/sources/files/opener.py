"""Opens recorded files, finds out what they are, and reads them into blocks of lines.

Recorded frames, NDJSON, CSV and Parquet; text may be compressed with gzip or zstandard. The recording journal is handed an
`Opener` and reads every file through it, so that the same file always gives the same lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tickhouse.columns import empty_trades
from tickhouse.errors import ConfigError, DataError
from tickhouse.lines import FileFormat, FileOptions, LineBlock
from tickhouse.model import I64, MAX_MESSAGE_ROWS, Feeds
from tickhouse.sources.base import Source
from tickhouse.sources.files.columns import Columns, find_columns, find_units
from tickhouse.sources.files.flat import FlatBlockBuilder, Line, csv_record, json_record, numbered_lines, rejected_line
from tickhouse.sources.files.frames import CONTROL_PREFIX, FrameReader, is_heartbeat, split_frame
from tickhouse.sources.files.parquet import ParquetRows
from tickhouse.sources.files.rows import FlatRows
from tickhouse.sources.files.scanner import LineScanner
from tickhouse.sources.files.text import Chunk, TextFile

__all__ = ["Opener", "RecordedFile"]

_HEAD_BYTES = 1 << 18
_HEAD_LINES = 1_000
_BLOCK_LINES = MAX_MESSAGE_ROWS
_DELIMITERS = (",", ";", "\t", "|")
_PARQUET = b"PAR1"
_NO_COLUMNS = Columns("symbol", "price", "size", "ts")
"""Of a file in whose first lines no record could be read."""


class Opener:
    """Opens recorded files.

    Args:
        sources: The installed ones, asked in this order which of them recognises recorded frames; made only when a file holds
            some.
    """

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        self._given = sources

    @cached_property
    def sources(self) -> dict[str, Source]:
        """The installed sources by name."""
        return {source.name: source for source in self._given}

    def __call__(self, path: Path, options: FileOptions) -> RecordedFile:
        """Open `path` and find out what `options` leaves open.

        Raises:
            ConfigError: the file cannot be read in this way; the text says which option helps.
        """
        if not path.is_file():
            raise ConfigError(f"{path} is no file; give recorded frames, NDJSON, CSV or Parquet")
        return RecordedFile(path, options, self)


class RecordedFile:
    """One recorded file; see `LineFile`."""

    def __init__(self, path: Path, options: FileOptions, opener: Opener) -> None:
        self.feeds = Feeds()
        self.has_beats = False
        self._path = path
        self._opener = opener
        self._text = TextFile(path)
        self._parquet: ParquetRows | None = None
        self._header: list[str] = []
        self._delimiter = ","
        self._columns = _NO_COLUMNS
        self._head: list[Line] = []
        self.options = self._find_out(options)

    @property
    def _sources(self) -> Mapping[str, Source]:
        return self._opener.sources

    @property
    def bytes_read(self) -> int:
        """Bytes of the file consumed by `blocks`, as they lie on disk."""
        return self._text.bytes_read if self._parquet is None else self._parquet.bytes_read

    def head_times(self) -> I64:
        """Return the times of the file's first lines that tell one."""
        if self._parquet is not None:
            first = next(self._parquet_blocks(_HEAD_LINES), None)
            return np.empty(0, np.int64) if first is None else first.time
        if self.options.format == "frames":
            block = self._frame_reader(Feeds()).read_block(self._head, 0)
            return np.array([instant for _, instant in block.beats], np.int64) if block.beats else block.time
        builder = FlatBlockBuilder(self._rows(Feeds()), self._decode())
        builder.read_lines(self._head[: 2 * _HEAD_LINES])
        return builder.build(0).time

    def blocks(self) -> Iterator[LineBlock]:
        """Read the file from its beginning."""
        if self._parquet is not None:
            return self._parquet_blocks(_BLOCK_LINES)
        if self.options.format == "frames":
            return self._frame_blocks()
        return self._flat_blocks()

    def _find_out(self, options: FileOptions) -> FileOptions:
        with self._path.open("rb") as file:
            if file.read(4) == _PARQUET:
                return self._find_out_parquet(options)
        head = next(TextFile(self._path).chunks(_HEAD_BYTES), Chunk.of(b""))
        self._head = numbered_lines(head.text(), 0)
        lines = [line.text for line in self._head if line.text.strip()]
        kind = options.format or self._format(lines, options)
        options = msgspec.structs.replace(options, format=kind)
        if kind == "frames":
            return self._find_out_frames(lines, options)
        if kind == "csv":
            return self._find_out_csv(lines, options)
        if kind == "parquet":
            raise ConfigError(f"{self._path} is no Parquet file")
        return self._find_out_ndjson(lines, options)

    def _format(self, lines: list[bytes], options: FileOptions) -> FileFormat:
        if not lines:
            return "ndjson"
        if any(_is_timed_frame(line) for line in lines[:10]):
            return "frames"
        if any(line.startswith(b"{") for line in lines[:100]):
            return "ndjson" if options.columns or not self._is_raw_frames(lines, options) else "frames"
        if any(delimiter.encode() in lines[0] for delimiter in _DELIMITERS) and not lines[0].startswith(b"["):
            return "csv"
        if self._recognised(lines) is not None:
            return "frames"
        raise ConfigError(
            f"{self._path}: the first line is neither a recorded frame, nor JSON, nor a CSV header: {lines[0][:80]!r}; "
            "say --format frames|ndjson|csv"
        )

    def _is_raw_frames(self, lines: list[bytes], options: FileOptions) -> bool:
        if lines[0].startswith(CONTROL_PREFIX):
            return True
        try:
            find_columns(_names(_json_records(lines)), options, self._path)
        except ConfigError:
            return self._recognised(lines) is not None
        return False

    def _recognised(self, lines: list[bytes]) -> str | None:
        for line in lines[:100]:
            try:
                _, payload = split_frame(line)
            except DataError:
                continue
            for name, source in self._sources.items():
                if source.recognises(payload):
                    return name
        return None

    def _find_out_frames(self, lines: list[bytes], options: FileOptions) -> FileOptions:
        # A busy feed sends most of a megabyte between two heartbeats: more than the head is looked through.
        start = next(TextFile(self._path).chunks(), Chunk.of(b"")).text().split(b"\n")
        self.has_beats = any(CONTROL_PREFIX in line[:64] and is_heartbeat(line) for line in start)
        source = options.source or self._recognised([line for line in lines if CONTROL_PREFIX not in line[:64]])
        names_its_source = any(CONTROL_PREFIX + b'{"source"' in line[:64] for line in lines)
        if source is None and not names_its_source:
            known = ", ".join(sorted(self._sources)) or "none"
            raise ConfigError(f"{self._path}: no source recognises these frames (installed: {known}); say --source NAME")
        if source is not None and source not in self._sources:
            raise ConfigError(f"no source {source!r} is installed; known: {', '.join(sorted(self._sources)) or 'none'}")
        return msgspec.structs.replace(options, source=source)

    def _find_out_ndjson(self, lines: list[bytes], options: FileOptions) -> FileOptions:
        records = _json_records(lines)
        if not records:
            return options
        self._columns = find_columns(_names(records), options, self._path)
        return find_units(records, self._columns, options, self._path)

    def _find_out_csv(self, lines: list[bytes], options: FileOptions) -> FileOptions:
        try:
            header = lines[0].decode() if lines else ""
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self._path}: the header is no UTF-8: {error}") from error
        self._delimiter = max(_DELIMITERS, key=header.count)
        self._header = [name.strip().strip('"') for name in header.split(self._delimiter)]
        if any(_is_number(name) for name in self._header):
            raise ConfigError(
                f"{self._path} has no header line (it begins with {header[:80]!r}); add one, e.g. ts,price,size,trade_id"
            )
        if len(set(self._header)) < len(self._header):
            raise ConfigError(f"{self._path}: a column stands twice in the header {header[:200]!r}")
        self._columns = find_columns(self._header, options, self._path)
        records = []
        for line in lines[1 : 1 + _HEAD_LINES]:
            try:
                records.append(csv_record(line, self._header, self._delimiter, None))
            except DataError:
                continue
        return find_units(records, self._columns, options, self._path) if records else options

    def _find_out_parquet(self, options: FileOptions) -> FileOptions:
        self._parquet = ParquetRows(self._path)
        self._columns = find_columns(self._parquet.names, options, self._path)
        options = msgspec.structs.replace(options, format="parquet")
        if self._columns.ts in self._parquet.timed:
            options = msgspec.structs.replace(options, ts_unit="us")
        if self._columns.received_at in self._parquet.timed:
            options = msgspec.structs.replace(options, received_unit="us")
        head = next(self._parquet.batches(list(self._columns.as_dict().values()), _HEAD_LINES), None)
        return find_units(head, self._columns, options, self._path) if head else options

    def _frame_blocks(self) -> Iterator[LineBlock]:
        reader = self._frame_reader(self.feeds)
        at = 0
        for chunk in self._text.chunks():
            lines = numbered_lines(chunk.text(), at)
            for begin in range(0, len(lines), _BLOCK_LINES):
                piece = lines[begin : begin + _BLOCK_LINES]
                at += len(piece)
                yield reader.read_block(piece, at)
        yield from self._torn_end(at)

    def _flat_blocks(self) -> Iterator[LineBlock]:
        rows = self._rows(self.feeds)
        scans = self.options.format == "ndjson" and self.options.ts_unit not in {None, "iso"}
        scanner = LineScanner(self._columns, self.options, rows) if scans else None
        at, header = 0, bool(self._header)
        for chunk in self._text.chunks():
            builder = FlatBlockBuilder(rows, self._decode())
            if scanner is not None:
                scanned = scanner.scan(chunk, at)
                builder.read_lines(scanned.unusual)
                at = scanned.end
                yield builder.build(at, scanned.trades)
                continue
            lines = numbered_lines(chunk.text(), at)
            at += len(lines)
            if header:
                skipped = next((i for i, line in enumerate(lines) if line.text.strip()), len(lines))
                lines, header = lines[skipped + 1 :], skipped == len(lines)
            builder.read_lines(lines)
            yield builder.build(at)
        yield from self._torn_end(at)

    def _parquet_blocks(self, count: int) -> Iterator[LineBlock]:
        assert self._parquet is not None
        rows = self._rows(self.feeds)
        at = 0
        for records in self._parquet.batches(list(self._columns.as_dict().values()), count):
            builder = FlatBlockBuilder(rows, json_record)
            for record in records:
                builder.read_record(record, at)
                at += 1
            yield builder.build(at)
        yield from self._torn_end(at)

    def _torn_end(self, at: int) -> Iterator[LineBlock]:
        if self._text.torn or (self._parquet is not None and self._parquet.torn):
            note = f"{self._path.name}: the compressed data ends early or is damaged after {self.bytes_read} bytes"
            empty = np.empty(0, np.int64)
            rejected = rejected_line("torn_file", note.encode(), at)
            yield LineBlock(at + 1, empty_trades(), empty, empty, rejected=[rejected])

    def _frame_reader(self, feeds: Feeds) -> FrameReader:
        return FrameReader(self._sources, self.options.source, feeds, has_beats=self.has_beats)

    def _rows(self, feeds: Feeds) -> FlatRows:
        return FlatRows(self._columns, self.options, feeds)

    def _decode(self) -> Callable[[bytes], Mapping[str, Any]]:
        if self.options.format != "csv":
            return json_record
        return partial(csv_record, header=self._header, delimiter=self._delimiter, keep_empty=self._columns.symbol)


def _is_timed_frame(line: bytes) -> bool:
    head, space, payload = line.partition(b" ")
    return bool(space) and head.isdigit() and len(head) >= 16 and payload[:1] in {b"{", b"["}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _json_records(lines: list[bytes]) -> list[Mapping[str, Any]]:
    records: list[Mapping[str, Any]] = []
    for line in lines:
        if len(records) == _HEAD_LINES:
            break
        try:
            records.append(json_record(line))
        except DataError:
            continue
    return records


def _names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the records' columns, less those that a few odd records alone have."""
    counts = Counter(name for record in records for name in record)
    return [name for name, count in counts.items() if count * 20 >= len(records)]
