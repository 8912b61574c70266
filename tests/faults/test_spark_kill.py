"""Ctrl-C and kill -9 of Spark's driver, kill -9 of its executors' workers: the tables come out as if nothing had happened.

One kill of each by `make test`, twenty by `make campaign`. Moments are chosen by how far the tables have come.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.processes import configured, process, reached, spark_configured, wait_until, workers
from tests.kafka_topics import ends, fresh
from tests.parity.ways import digests
from tests.services.kafka import Broker
from tests.test_cli import tickhouse

pytestmark = [pytest.mark.timeout(3_600), pytest.mark.slow]
MARKET = (12_000, 20, 5)
MANY = 20


def begun(market: Path, broker: Broker, folder: Path, batches: int) -> tuple[list[str | Path], int]:
    """Send the recording; return the command that works it off in so many micro-batches, and how much there is."""
    settings = fresh(broker)
    options = configured(folder, settings)
    tickhouse("replay", market, "--to", "kafka", *options)
    whole = ends(settings)
    return ["spark", *spark_configured(folder, settings, whole // batches)], whole


def kill_driver(market: Path, expected: dict[str, str], broker: Broker, folder: Path, kills: int) -> None:
    """Interrupt the driver once, then kill it again and again, right after the tables have moved.

    A kill then often falls between their commit and Spark's own; an interrupt waits for both.
    """
    command, whole = begun(market, broker, folder, max(8, 2 * kills + 2))
    rng, killed = random.Random(4), 0
    for end in (signal.SIGINT, *[signal.SIGKILL] * kills):
        before = reached(folder / "house")
        with process(*command, end=end) as child:
            killed += wait_until(lambda: reached(folder / "house"), before + 1, child)
            if end == signal.SIGKILL:
                time.sleep(rng.choice((0, 0, 0.3 * rng.random())))
        if end == signal.SIGINT:
            assert child.returncode == 0
    assert killed, "never killed in the middle: the test shows nothing"
    assert reached(folder / "house") < whole
    tickhouse(*command)
    assert digests(folder / "house") == expected


def kill_workers(market: Path, expected: dict[str, str], broker: Broker, folder: Path, kills: int) -> None:
    """Kill workers at random moments: Spark runs their tasks again, in others."""
    command, whole = begun(market, broker, folder, 3 * kills + 3)
    rng, killed = random.Random(5), 0
    with process(*command) as child:
        for moment in sorted(rng.randrange(whole // 4, whole * 3 // 4) for _ in range(kills)):
            if not wait_until(lambda: reached(folder / "house"), moment, child):
                break
            for pid in workers(child.pid):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    assert child.returncode == 0
    assert killed, "never killed in the middle: the test shows nothing"
    assert digests(folder / "house") == expected


def test_interrupted_and_killed_driver(market: Path, expected: dict[str, str], broker: Broker, tmp_path: Path) -> None:
    kill_driver(market, expected, broker, tmp_path, 1)


def test_killed_workers(market: Path, expected: dict[str, str], broker: Broker, tmp_path: Path) -> None:
    kill_workers(market, expected, broker, tmp_path, 1)


@pytest.mark.campaign
def test_killed_driver_many_times(market: Path, expected: dict[str, str], broker: Broker, tmp_path: Path) -> None:
    kill_driver(market, expected, broker, tmp_path, MANY)


@pytest.mark.campaign
def test_killed_workers_many_times(market: Path, expected: dict[str, str], broker: Broker, tmp_path: Path) -> None:
    kill_workers(market, expected, broker, tmp_path, MANY)
