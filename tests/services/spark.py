"""Spark's own cluster on the loopback, from the jars that pyspark brings: one master, one worker."""

from __future__ import annotations

import json
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyspark

from tests.services.server import Server, free_port

__all__ = ["SparkCluster"]

_CLASS = Path(pyspark.__file__).parent / "bin" / "spark-class"
_SMALL = ("env", "SPARK_DAEMON_MEMORY=256m", "SPARK_DAEMON_JAVA_OPTS=-XX:+UseSerialGC -XX:TieredStopAtLevel=1")


class SparkCluster:
    """A standalone master with one worker; a context manager that starts and stops both.

    Args:
        folder: For logs and the worker's files; made where it is missing.
        cores: Of the worker.
        memory: Of the worker, as Spark spells it.
    """

    def __init__(self, folder: Path, cores: int = 2, memory: str = "2g") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._work = (folder / "work").resolve()
        port, self._screen = free_port(), free_port()
        self.master = f"spark://127.0.0.1:{port}"
        """For `--master`."""
        here = ("--host", "127.0.0.1")
        daemons = "org.apache.spark.deploy"
        master = [
            *_SMALL,
            str(_CLASS),
            f"{daemons}.master.Master",
            *here,
            "--port",
            str(port),
            "--webui-port",
            str(self._screen),
        ]
        worker = [*_SMALL, str(_CLASS), f"{daemons}.worker.Worker", *here, "--webui-port", str(free_port())]
        worker += ["--cores", str(cores), "--memory", memory, "--work-dir", str(self._work), self.master]
        self._servers = [
            Server("spark-master", master, folder, lambda: self.state()["status"] == "ALIVE"),
            Server("spark-worker", worker, folder, lambda: self.state()["aliveworkers"] == 1),
        ]
        self._stack = ExitStack()

    def state(self) -> dict[str, Any]:
        """Return what the master tells about itself, its workers and applications."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._screen}/json/", timeout=5) as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    def executors(self) -> list[int]:
        """Return the ids of the processes that the worker started and that work for an application now."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                is_ours = (entry / "cwd").readlink().is_relative_to(self._work)
                if is_ours and b"CoarseGrainedExecutorBackend" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def __enter__(self) -> Self:
        with self._stack as stack:
            for server in self._servers:
                stack.enter_context(server)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
