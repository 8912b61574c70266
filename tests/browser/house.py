"""A real house with its API and its dashboard, as processes on free ports of loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

__all__ = ["House", "free_port"]

_STARTS_WITHIN_S = 150.0
"""The first start of a checkout compiles the kernel."""


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class House:
    """One house in a folder, and the processes that were started for it; a context manager that ends them all.

    Args:
        folder: For the house and the logs of its processes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.api = f"http://127.0.0.1:{free_port()}"
        self.dashboard = f"http://127.0.0.1:{free_port()}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, intervals: tuple[str, ...] = ("1m", "5m", "15m", "1h", "1d"), **synthetic: float) -> None:
        """Start the synthetic market into the house."""
        file = self.folder / "tickhouse.toml"
        lines = [
            "[rules]", 'lateness = "2s"', f"intervals = {json.dumps(intervals)}", f"indicator_intervals = ['{intervals[0]}']",
            "[sources.options.synthetic]",
        ]  # fmt: skip
        file.write_text("\n".join([*lines, *(f"{name} = {value}" for name, value in synthetic.items())]))
        self._start("run", "--no-serve", "--source", "synthetic", "--config", str(file), *self._house)

    def replay(self, file: Path) -> None:
        """Put a recording into the house and wait until it is in."""
        command = [sys.executable, "-m", "tickhouse", "replay", str(file), *self._house, "--json"]
        subprocess.run(command, check=True, capture_output=True, timeout=_STARTS_WITHIN_S)

    def serve(self) -> None:
        """Start the API, always on the same port."""
        self._start("serve", "--port", self.api.rpartition(":")[2], *self._house)
        self.wait(f"{self.api}/v1/health")

    def show(self) -> None:
        """Start the dashboard, always on the same port."""
        self._start("dashboard", "--api", self.api, "--port", self.dashboard.rpartition(":")[2])
        self.wait(f"{self.dashboard}/_stcore/health")

    def stop(self, name: str) -> None:
        """End one of the processes: `run`, `serve` or `dashboard`."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def ask(self, path: str) -> Any:
        """Return the API's answer to `GET /v1/<path>`."""
        with urllib.request.urlopen(f"{self.api}/v1/{path}", timeout=20) as answer:
            return json.loads(answer.read())

    def wait(self, address: str, is_there: Any = lambda _body: True) -> None:
        """Wait until an address answers as wanted."""
        until = time.monotonic() + _STARTS_WITHIN_S
        said = "nothing"
        while time.monotonic() < until:
            for name, process in self._processes.items():
                assert process.poll() is None, f"{name} ended: {self.log(name)}"
            try:
                with urllib.request.urlopen(address, timeout=5) as answer:
                    said = answer.read().decode()
                if is_there(said):
                    return
            except (urllib.error.URLError, TimeoutError, OSError) as error:
                said = str(error)
            time.sleep(0.1)
        raise AssertionError(
            f"{address} did not answer as wanted: {said[:500]}; {[self.log(name) for name in self._processes]}"
        )

    def wait_for_trades(self, symbols: int = 12) -> None:
        """Wait until the API has seen trades of so many symbols."""
        self.wait(f"{self.api}/v1/symbols", lambda body: len(json.loads(body)["rows"]) >= symbols)

    def log(self, name: str) -> str:
        """Return what a process wrote."""
        return (self.folder / f"{name}.log").read_text("utf-8", "replace")[-2000:]

    @property
    def _house(self) -> tuple[str, str]:
        return ("--house", str(self.folder / "house"))

    def _start(self, command: str, *options: str) -> None:
        with (self.folder / f"{command}.log").open("ab") as log:
            self._processes[command] = subprocess.Popen(
                [sys.executable, "-m", "tickhouse", command, *options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONFAULTHANDLER": "1"},  # a crash of somebody's C is told in the log
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._processes):
            self.stop(name)
