"""Processes of the command line: started, watched by how far the work has come, and killed.

tests/faults and the tests of engines as whole processes share them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.engines.clusters import SMALL_JVM
from tickhouse.settings import KafkaSettings
from tickhouse.sinks.lake_tail import LakeTail

__all__ = ["configured", "finish", "process", "reached", "said", "spark_configured", "tickhouse", "wait_until", "workers"]


def configured(folder: Path, settings: KafkaSettings) -> list[str | Path]:
    """Write a configuration for a topic; return the options of a house."""
    (folder / "t.toml").write_text(
        f'[journal]\nkind = "kafka"\n[engine]\ncommit_every = "50ms"\nsnapshot_every = "200ms"\n'
        f'[kafka]\nservers = "{settings.servers}"\ntopic = "{settings.topic}"\npartitions = {settings.partitions}\n'
        "[sources.options.synthetic]\nsymbols = 5\nrate = 400\nmalformed = 0.02\nduplicates = 0.05\n",
        "utf-8",
    )
    return ["--house", folder / "house", "--config", folder / "t.toml"]


def tickhouse(*words: str | Path, env: Mapping[str, str], stderr: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """Start the command line in a process of its own.

    Args:
        words: What is typed.
        env: Beside the environment of this process.
        stderr: Where to.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "tickhouse", *map(str, words)],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


def finish(child: subprocess.Popen[bytes], timeout_s: float = 120) -> bytes:
    """Wait for a clean end and return what was printed."""
    out, err = child.communicate(timeout=timeout_s)
    assert child.returncode == 0, err.decode()
    return out


@contextmanager
def process(*words: str | Path, end: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command line as a process; at the end it gets a signal, or has ended by itself."""
    child = tickhouse(*words, env={"TICKHOUSE_LOG": "warning"}, stderr=subprocess.STDOUT)
    try:
        yield child
        if end is not None:
            child.send_signal(end)
        child.wait(300)
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def said(child: subprocess.Popen[bytes]) -> str:
    """Return what a process that has ended printed."""
    assert child.stdout is not None
    return child.stdout.read().decode(errors="replace")


def reached(house: Path) -> int:
    """Return how many messages the tables of a house have reached; cheap, for who asks fifty times a second."""
    tail = _tail(house / "lake")
    tail.look()
    return sum(tail.position("bronze.trades", partition).offset for partition in range(2))


@cache
def _tail(lake: Path) -> LakeTail:
    return LakeTail(lake, ("bronze.trades",), range(2))


def wait_until(come: Callable[[], int], amount: int, child: subprocess.Popen[bytes]) -> bool:
    """Wait until so much has been done; False where the process has ended before."""
    until = time.monotonic() + 300
    while come() < amount:
        if child.poll() is not None:
            return False
        assert time.monotonic() < until, "nothing moves"
        time.sleep(0.02)
    return True


def spark_configured(folder: Path, settings: KafkaSettings, max_records: int) -> list[str | Path]:
    """Write a configuration for Spark on this machine over a topic, small and until everything is done; return the options."""
    options = configured(folder, settings)
    conf = "".join(f'"{name}" = "{value}"\n' for name, value in SMALL_JVM.items())
    with (folder / "t.toml").open("a") as file:
        file.write(
            f'[spark]\nmaster = "local[2,9]"\ntrigger = "availableNow"\nmax_records = {max_records}\n[spark.conf]\n{conf}'
        )
    return options


def children(of: int) -> list[int]:
    """Return the ids of a process's children."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == of:
                found.append(int(entry.name))
    return found


def workers(driver: int) -> list[int]:
    """Return the ids of the Python workers below a driver: those that Spark's daemons forked."""
    (jvm,) = (pid for pid in children(driver) if b"java" in Path(f"/proc/{pid}/cmdline").read_bytes())
    daemons = [pid for pid in children(jvm) if b"pyspark.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return [pid for daemon in daemons for pid in children(daemon)]
