"""A server as a direct child process: started, waited for until it answers, killed, started again, reaped."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["START_S", "Server", "ServerFailedError", "free_port"]

START_S = 600.0
"""How long a server may take to start: other work on the machine can leave it next to no processor for minutes."""

_STOP_S = 20.0
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT, _GIVEN_FROM = 10_000, 32_768


class ServerFailedError(RuntimeError):
    """A server that is installed did not start; the text holds the end of its log."""


def free_port() -> int:
    """Return a port of the loopback that nobody uses at the moment.

    It is below those that the system gives to whoever connects: a server that is away for a while finds it free again.
    """
    given_from = int(_RANGE.read_text("utf-8").split()[0]) if _RANGE.exists() else _GIVEN_FROM
    while True:
        port = random.SystemRandom().randrange(_FIRST_PORT, max(given_from, 2 * _FIRST_PORT))  # whatever a test's seed is
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    """One server process; a context manager that starts and stops it.

    Args:
        name: For messages.
        command: What to run.
        folder: Its working folder; the log is `<name>.log` in it.
        ready: Says whether it answers; an OSError counts as no.
        start_s: How long it may take to.
    """

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, ready: Callable[[], bool], start_s: float = START_S
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = list(command)
        self._folder = folder
        self._ready = ready
        self._start_s = start_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it and wait until it answers.

        Raises:
            ServerFailedError: it ended, or does not answer in time.
        """
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + self._start_s
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                told = self.log.read_bytes()[-800:].decode(errors="replace")
                raise ServerFailedError(f"{self.name} did not start (log {self.log}): {told}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """End it in good order; kill it where it takes too long."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it as a crash does, and reap it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Let it stand still."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            return self._ready()
        except OSError:
            return False
