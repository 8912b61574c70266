"""A real Spark cluster, of a master and a worker: executors are processes that somebody else started."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest

from tests.faults.processes import configured, process, reached, said, wait_until
from tests.kafka_topics import ends, fresh
from tests.parity.ways import digests
from tests.services.kafka import Broker
from tests.services.spark import SparkCluster
from tests.test_cli import tickhouse

pytestmark = [pytest.mark.timeout(1_800), pytest.mark.campaign]
MARKET = (3_000, 12, 7)
KILLS = 20
CONF = """
[spark]
trigger = "availableNow"
max_records = {max_records}
[spark.conf]
"spark.driver.memory" = "640m"
"spark.driver.host" = "127.0.0.1"
"spark.executor.memory" = "640m"
"spark.executor.cores" = "1"
"spark.ui.enabled" = "false"
"spark.task.maxFailures" = "20"
"""


def test_a_job_submitted_to_a_master_gives_the_same_tables(
    market: Path, expected: dict[str, str], broker: Broker, tmp_path: Path
) -> None:
    settings = fresh(broker)
    options = configured(tmp_path, settings)
    tickhouse("replay", market, "--to", "kafka", *options)
    with (tmp_path / "t.toml").open("a") as file:
        file.write(CONF.format(max_records=ends(settings) // 2))
    with SparkCluster(tmp_path / "spark") as cluster:
        told = json.loads(tickhouse("spark", "--master", cluster.master, "--json", *options))
        (ran,) = cluster.state()["completedapps"]
    assert told["received"] == MARKET[0]
    assert told["seconds"] > 0
    assert (ran["name"], ran["state"]) == ("tickhouse", "FINISHED")
    assert digests(tmp_path / "house") == expected


def test_killed_executors(market: Path, expected: dict[str, str], broker: Broker, tmp_path: Path) -> None:
    """Kill all executors at random moments: the worker starts others, and Spark runs in them what these had not finished."""
    settings = fresh(broker)
    options = configured(tmp_path, settings)
    tickhouse("replay", market, "--to", "kafka", *options)
    whole = ends(settings)
    with (tmp_path / "t.toml").open("a") as file:
        file.write(CONF.format(max_records=whole // (3 * KILLS)))
    rng, kills = random.Random(6), 0
    with SparkCluster(tmp_path / "spark") as cluster, process("spark", "--master", cluster.master, *options) as child:
        for moment in sorted(rng.randrange(1, whole * 9 // 10) for _ in range(KILLS)):
            assert wait_until(lambda: reached(tmp_path / "house"), moment, child), said(child)
            assert wait_until(lambda: len(cluster.executors()), 1, child), said(child)
            for pid in cluster.executors():
                os.kill(pid, signal.SIGKILL)
                kills += 1
        assert child.wait(300) == 0, said(child)
    assert kills >= KILLS
    assert digests(tmp_path / "house") == expected
