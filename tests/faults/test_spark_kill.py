"""kill -9 of Spark's driver and of its executors' workers: the tables come out as if nothing had happened.

One kill of each by `make test`, twenty by `make campaign`. Moments are chosen by how far the tables have come.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from bench.standard_work import write

from tests.faults.test_kafka_kill import configured, ends, process, reached, wait_until
from tests.kafka_topics import fresh
from tests.parity.ways import digests
from tests.services.kafka import Broker
from tests.test_cli import tickhouse

pytestmark = [pytest.mark.timeout(3_600), pytest.mark.slow]
LINES = 12_000
MANY = 20
JVM = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording with all disorder."""
    file = tmp_path_factory.mktemp("market") / "market.ndjson"
    write(file, LINES, 20, 5)
    return file


@pytest.fixture(scope="module")
def expected(market: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of an undisturbed replay."""
    house = tmp_path_factory.mktemp("expected") / "house"
    tickhouse("replay", market, "--house", house)
    return digests(house)


def begun(market: Path, broker: Broker, folder: Path, batches: int) -> tuple[list[str | Path], int]:
    """Send the recording; return the command that works it off in so many micro-batches, and how much there is."""
    settings = fresh(broker)
    options = configured(folder, settings)
    tickhouse("replay", market, "--to", "kafka", *options)
    whole = ends(settings)
    with (folder / "t.toml").open("a") as file:
        file.write(f'[spark]\nmaster = "local[2,9]"\ntrigger = "availableNow"\nmax_records = {whole // batches}\n')
        file.write(f'[spark.conf]\n"spark.driver.memory" = "640m"\n"spark.driver.extraJavaOptions" = "{JVM}"\n')
    return ["spark", *options], whole


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


def kill_driver(market: Path, expected: dict[str, str], broker: Broker, folder: Path, kills: int) -> None:
    """Kill the driver again and again, right after the tables have moved: often between their commit and Spark's own."""
    command, whole = begun(market, broker, folder, max(6, 2 * kills))
    rng, killed = random.Random(4), 0
    for _ in range(kills):
        before = reached(folder / "house")
        with process(*command, end=signal.SIGKILL) as child:
            killed += wait_until(lambda: reached(folder / "house"), before + 1, child)
            time.sleep(rng.choice((0, 0, 0.3 * rng.random())))
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


def test_killed_driver(market: Path, expected: dict[str, str], broker: Broker, tmp_path: Path) -> None:
    kill_driver(market, expected, broker, tmp_path, 1)


def test_killed_workers(market: Path, expected: dict[str, str], broker: Broker, tmp_path: Path) -> None:
    kill_workers(market, expected, broker, tmp_path, 1)


@pytest.mark.campaign
def test_killed_driver_many_times(market: Path, expected: dict[str, str], broker: Broker, tmp_path: Path) -> None:
    kill_driver(market, expected, broker, tmp_path, MANY)


@pytest.mark.campaign
def test_killed_workers_many_times(market: Path, expected: dict[str, str], broker: Broker, tmp_path: Path) -> None:
    kill_workers(market, expected, broker, tmp_path, MANY)
