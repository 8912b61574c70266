"""Answers questions in SQL that come from outside, in processes of their own that may be killed.

A question can ask DuckDB for more than its own limits see: one expression that makes a list of a billion numbers takes 16 GB,
and no interrupt stops it. So whoever serves others asks here. A worker has a bounded address space; one that is still busy when
its time is over is killed, one that a question left with little of that space ends, and the next question starts another.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import resource
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

import msgspec
import polars as pl

from tickhouse.errors import ConfigError, TickhouseError, TransientError
from tickhouse.processes import cores
from tickhouse.serving.queries import Queries

__all__ = ["Questions", "work"]

_COMMAND = "from tickhouse.serving.questions import work; work()"
_MORE_BYTES = 2 << 30
"""Of address space, beyond what a worker has when it begins: DuckDB's own limit is half of it."""
_SPENT_BYTES = _MORE_BYTES // 4
"""A worker that has grown by so much has had its last question: what allocators keep, others would miss."""
_MEMORY = "1GB"
_GRACE_S = 2.0
_STARTS_WITHIN_S = 60.0
_NICE = 19
"""Nothing of the house waits for a question."""
_LENGTH = struct.Struct("<Q")
_SPENT, _FRESH = b"1", b"0"
_TOO_MUCH = "the query needs more memory than it may have; ask for less, e.g. with WHERE date = ..."


class _Question(msgspec.Struct):
    lake: str
    sql: str
    as_of: datetime | None
    max_rows: int
    max_bytes: int
    timeout_s: float


class Questions:
    """Workers for one lake, started when they are needed.

    Args:
        lake: The lake's folder.
        at_once: How many questions are answered at a time; None = two, or one where that leaves no core to the house.
    """

    def __init__(self, lake: Path, at_once: int | None = None) -> None:
        self._lake = lake
        if at_once is None:
            at_once = min(2, max(1, cores() - 1))
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()  # the last one used is warm
        for _ in range(at_once):
            self._free.put(None)

    def ask(self, sql: str, *, as_of: datetime | None, max_rows: int, max_bytes: int, timeout_s: float) -> pl.DataFrame:
        """Answer one; see `Queries.sql`.

        Raises:
            ConfigError: the query is no single SELECT, is wrong, or wants too much time or memory.
            TransientError: too many are being answered; ask again.
        """
        question = _Question(str(self._lake.absolute()), sql, as_of, max_rows, max_bytes, timeout_s)
        with self._worker(timeout_s) as worker:
            return worker.ask(question)

    def close(self) -> None:
        """End the workers that are idle; a busy one ends when it has answered."""
        with contextlib.suppress(queue.Empty):
            while True:
                worker = self._free.get_nowait()
                if worker is not None:
                    worker.kill()

    @contextlib.contextmanager
    def _worker(self, wait_s: float) -> Iterator[_Worker]:
        try:
            worker = self._free.get(timeout=wait_s)
        except queue.Empty:
            raise TransientError("too many questions in SQL at once; ask again", retry_after_s=1.0) from None
        try:
            if worker is None or not worker.alive:
                worker = _Worker()
            yield worker
        finally:
            self._free.put(worker)


class _Worker:
    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603  (our own code)
            [sys.executable, "-c", _COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._is_new = True

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, question: _Question) -> pl.DataFrame:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()
        within_s = question.timeout_s + _GRACE_S + (_STARTS_WITHIN_S if self._is_new else 0.0)
        timer = threading.Timer(within_s, self._too_late, (late,))
        timer.daemon = True
        timer.start()
        try:
            _put(self._process.stdin, b"Q" + msgspec.msgpack.encode(question))
            kind, body = _get(self._process.stdout)
        except OSError as error:
            self.kill()
            told = (
                f"the query took longer than {question.timeout_s} s and was killed; ask for less"
                if late.is_set()
                else _TOO_MUCH
            )
            raise ConfigError(told) from error
        finally:
            timer.cancel()
        self._is_new = False
        if body[:1] == _SPENT:
            self.kill()
        if kind == b"E":
            raise ConfigError(body[1:].decode())
        return pl.read_ipc_stream(io.BytesIO(body[1:]))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _too_late(self, late: threading.Event) -> None:
        late.set()
        self._process.kill()


def work() -> None:
    """Answer what comes on standard input until it is closed: the whole life of a worker."""
    os.nice(_NICE)
    with contextlib.suppress(OSError):  # if memory runs out all the same, this process goes, not the house
        Path("/proc/self/oom_score_adj").write_text("800", "ascii")
    began = _address_space()
    resource.setrlimit(resource.RLIMIT_AS, (began + _MORE_BYTES, began + _MORE_BYTES))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints is not taken for an answer
    with contextlib.suppress(OSError, KeyboardInterrupt):
        _answer(
            _Question(os.devnull, "SELECT 1", None, 1, 1 << 20, _STARTS_WITHIN_S)
        )  # loads what the first one would wait for
        ready = _address_space()
        while True:
            question = msgspec.msgpack.decode(_get(sys.stdin.buffer)[1], type=_Question)
            kind, body = _answer(question)
            _put(answers, kind + (_SPENT if _address_space() > ready + _SPENT_BYTES else _FRESH) + body)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()


def _answer(question: _Question) -> tuple[bytes, bytes]:
    queries = Queries(Path(question.lake))
    queries.limit(threads=1, memory=_MEMORY)  # the other core is the engine's
    try:
        frame = queries.sql(
            question.sql, as_of=question.as_of, max_rows=question.max_rows, max_bytes=question.max_bytes,
            timeout_s=question.timeout_s,
        )  # fmt: skip
        stream = io.BytesIO()
        frame.write_ipc_stream(stream)
        return b"F", stream.getvalue()
    except TickhouseError as error:
        return b"E", str(error).encode()
    except MemoryError:
        return b"E", _TOO_MUCH.encode()


def _put(stream: IO[bytes], body: bytes) -> None:
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


def _get(stream: IO[bytes]) -> tuple[bytes, bytes]:
    """Return the first byte of a message, and the rest.

    Raises:
        OSError: the other side has gone.
    """
    head = stream.read(_LENGTH.size)
    body = stream.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    if len(head) < _LENGTH.size or len(body) < _LENGTH.unpack(head)[0]:
        raise OSError("the other side has gone")
    return body[:1], body[1:]
