"""A real Spark cluster, of a master and a worker: executors are processes that somebody else started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.processes import configured
from tests.kafka_topics import ends, fresh
from tests.parity.ways import digests
from tests.services.kafka import Broker
from tests.services.spark import SparkCluster
from tests.test_cli import tickhouse

pytestmark = [pytest.mark.timeout(1_800), pytest.mark.campaign]
MARKET = (3_000, 12, 7)
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
