"""Keeps every frame as it came, for `run --record DIR`: the inverse of what `replay` reads.

Ingest hands over frames, events and heartbeats in exactly the order in which it appends them to the journal, so a replay of the
files makes the same tables. Each line is `<receive time, ns> <frame>`, or one of ours, `<ns> {"tickhouse": {...}}`.
"""

from __future__ import annotations

import base64
import gzip
import io
import itertools
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Protocol, Self

import msgspec
import zstandard

from tickhouse.errors import ConfigError, FatalError
from tickhouse.model import Event

__all__ = ["FrameRecorder"]

_CONTROL = b'{"tickhouse":'
_FLUSH_US = 1_000_000
_DAY_US = 86_400_000_000
_LEVEL = 3


class FrameRecorder:
    """Writes one compressed file a UTC day and start, `frames-YYYYMMDDTHHMMSS.ndjson.zst`.

    A killed process loses at most the last second of a recording; what is there before the cut can be read.

    Args:
        directory: Where the files go; made where it is missing.
        compression: `zst`, or `gz` for readers without zstandard.

    Raises:
        ConfigError: the directory cannot be made.
    """

    def __init__(self, directory: Path, compression: Literal["zst", "gz"] = "zst") -> None:
        self._directory = directory
        self._compression: Literal["zst", "gz"] = compression
        self._out: _Compressor | None = None
        self._source: str | None = None
        self._flushed_us = 0
        self._day = 0
        self.path: Path | None = None
        """The file being written; None before the first line."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot record into {directory}: {error}; name a folder that can be written") from error

    def frame(self, source: str, payload: bytes, received_at: int) -> None:
        """Write a frame of `source`, received at `received_at` (microseconds)."""
        self._open_at(received_at)
        if source != self._source:
            self._source = source
            self._control(received_at, {"source": source})
        if _is_line(payload):
            self._write(b"%d %b\n" % (received_at * 1000, payload))
        else:
            self._control(received_at, {"frame_b64": base64.b64encode(payload).decode()})

    def heartbeat(self, clock: int) -> None:
        """Write a heartbeat; once a second, hand everything to the operating system."""
        self._open_at(clock)
        self._control(clock, {"heartbeat": clock})
        if clock - self._flushed_us >= _FLUSH_US:
            self._flushed_us = clock
            self.flush()

    def event(self, event: Event, at: int) -> None:
        """Write a feed event that ingest appended at `at` (microseconds)."""
        self._open_at(at)
        fields = {
            name: value
            for name in ("event", "source", "venue", "symbol", "detail")
            if (value := getattr(event, name)) not in (None, {})
        }
        self._control(at, {"event": fields})

    def flush(self) -> None:
        """Make everything written so far readable by others, also after a kill."""
        if self._out is not None:
            self._guarded(self._out.flush)

    def close(self) -> None:
        """End the file."""
        if self._out is not None:
            out, self._out = self._out, None
            self._guarded(out.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _open_at(self, us: int) -> None:
        if self._out is not None and us // _DAY_US <= self._day:
            return
        self.close()
        self._day = us // _DAY_US
        self._source = None
        self.path, file = self._guarded(lambda: _create(self._directory, us, self._compression))
        self._out = _ZstdCompressor(file) if self._compression == "zst" else _GzipCompressor(file)

    def _control(self, us: int, content: dict[str, Any]) -> None:
        self._write(b"%d %b\n" % (us * 1000, msgspec.json.encode({"tickhouse": content})))

    def _write(self, line: bytes) -> None:
        assert self._out is not None
        out = self._out
        self._guarded(lambda: out.write(line))

    def _guarded(self, write: Any) -> Any:
        try:
            return write()
        except OSError as error:
            where = self.path or self._directory
            raise FatalError(f"cannot record into {where}: {error}; free the disk, or run without --record") from error


def _is_line(payload: bytes) -> bool:
    """Say whether a reader of lines gets back exactly these bytes, and cannot take them for a line of ours."""
    if not payload or payload.startswith(_CONTROL) or b"\n" in payload or b"\r" in payload or payload != payload.strip():
        return False
    if payload.isascii():
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _create(directory: Path, us: int, suffix: str) -> tuple[Path, BinaryIO]:
    """Create a file named by its first instant; `-2`, `-3`, ... where two starts share a second."""
    stamp = datetime.fromtimestamp(us // 1_000_000, UTC).strftime("%Y%m%dT%H%M%S")
    for number in itertools.count(1):
        name = f"frames-{stamp}" if number == 1 else f"frames-{stamp}-{number}"
        path = directory / f"{name}.ndjson.{suffix}"
        try:
            return path, path.open("xb")
        except FileExistsError:
            continue
    raise AssertionError


class _Compressor(Protocol):
    def write(self, data: bytes) -> object: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class _ZstdCompressor:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._writer = zstandard.ZstdCompressor(level=_LEVEL).stream_writer(file, closefd=False)

    def write(self, data: bytes) -> object:
        return self._writer.write(data)

    def flush(self) -> None:
        # A flushed block can be read without the end of its frame, so that a cut file loses only what came after.
        self._writer.flush(zstandard.FLUSH_BLOCK)
        self._file.flush()

    def close(self) -> None:
        with self._file:
            self._writer.flush(zstandard.FLUSH_FRAME)


class _GzipCompressor:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._writer = gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_LEVEL)
        self._buffered = io.BufferedWriter(self._writer)

    def write(self, data: bytes) -> object:
        return self._buffered.write(data)

    def flush(self) -> None:
        self._buffered.flush()
        self._writer.flush()
        self._file.flush()

    def close(self) -> None:
        with self._file:
            self._buffered.close()  # and with it the compressor, which leaves the file open
