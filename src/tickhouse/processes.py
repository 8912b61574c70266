"""Parts of a running house in processes of their own: `run` starts `ingest` and others as children of its process.

A child is the command line again, `python -m tickhouse COMMAND --as-child`. It gets its parent's settings as the first line of
its standard input, and ends when that is closed: on `stop`, and however its parent dies. What it has to say comes back line by
line: standard output to `first_line`, standard error to the parent's.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Self

from tickhouse.errors import FatalError
from tickhouse.settings import Settings

__all__ = ["Child", "cores", "parents_settings", "stop_with_parent"]

_STOP_S = 10.0
_KEPT_LINES = 20


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Child:
    """A process that serves this one; a context manager that stops it.

    Args:
        command: The command and its options, e.g. `["ingest", "--house", "house"]`; the process starts at once.
        settings: Handed over whole.
    """

    def __init__(self, command: Sequence[str], settings: Settings) -> None:
        self.name = command[0]
        self._process = subprocess.Popen(  # noqa: S603  (our own command line)
            [sys.executable, "-m", "tickhouse", *command, "--as-child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._said: list[str] = []
        assert self._process.stdin is not None
        self._send(settings.model_dump_json().encode() + b"\n", self._process.stdin)
        self._readers = [
            threading.Thread(target=read, args=(stream,), name=f"tickhouse-{self.name}-{read.__name__}", daemon=True)
            for read, stream in ((self._heard, self._process.stdout), (self._relay, self._process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def alive(self) -> bool:
        """True until the process has ended."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def first_line(self, timeout_s: float) -> str:
        """Return the next line that the child printed on standard output.

        Raises:
            FatalError: it ended, or said nothing in time; the text is the child's own.
        """
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            told = f"`tickhouse {self.name}` has said nothing for {timeout_s:g} s; start it by itself to see why"
            raise FatalError(told) from None
        if line is None:
            raise self.failure()
        return line

    def failure(self) -> FatalError:
        """Return what the child said when it ended, as an error."""
        self._process.wait()
        for reader in self._readers:
            reader.join(1.0)
        told = next((line for line in reversed(self._said) if line.startswith("tickhouse: ")), None)
        if told is not None:
            return FatalError(told.removeprefix("tickhouse: "))
        tail = self._said[-1] if self._said else "without a word"
        return FatalError(f"`tickhouse {self.name}` ended with code {self._process.returncode}: {tail}")

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """Ask the child to finish, wait until it has, and kill it where it takes too long."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self._send(b"", self._process.stdin, close=True)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader, stream in zip(self._readers, (self._process.stdout, self._process.stderr), strict=True):
            reader.join(1.0)
            assert stream is not None
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _send(self, data: bytes, stream: IO[bytes], *, close: bool = False) -> None:
        try:
            stream.write(data)
            stream.flush()
            if close:
                stream.close()
        except BrokenPipeError:
            pass  # it has ended already: `failure` says why

    def _heard(self, stream: IO[bytes]) -> None:
        for line in stream:
            self._lines.put(line.decode("utf-8", "replace").rstrip("\n"))
        self._lines.put(None)

    def _relay(self, stream: IO[bytes]) -> None:
        for raw in stream:
            line = raw.decode("utf-8", "replace").rstrip("\n")
            self._said = [*self._said[-_KEPT_LINES:], line]
            if not line.startswith("tickhouse: "):  # that one is raised in the parent
                sys.stderr.write(line + "\n")
                sys.stderr.flush()


def parents_settings() -> Settings:
    """Return what the parent of this child handed over; called once, before `stop_with_parent`."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 65_536)
        if not piece:
            break
        line += piece
    return Settings.model_validate_json(line)


def stop_with_parent(stop: threading.Event) -> None:
    """Set `stop` when the parent closes this child's standard input, or dies.

    A Ctrl-C in the terminal reaches the child too, as a TERM does that is sent to all of them; it is the parent's, which then
    stops its children in order.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)

    def watch() -> None:
        while os.read(0, 4_096):
            pass
        stop.set()

    threading.Thread(target=watch, name="tickhouse-parent", daemon=True).start()
