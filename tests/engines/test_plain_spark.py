"""Whoever has Spark reads our topics with its own `from_json` and `from_avro`, without Tickhouse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from bench.standard_work import write

from tests.parity.ways import Servers, send
from tests.services.kafka import Broker
from tests.services.registry import Registry
from tests.services.spark_kafka import jars
from tests.test_cli import tickhouse
from tickhouse.house import open_house
from tickhouse.settings import load

SCRIPT = Path(__file__).with_name("plain_spark.py")


@pytest.mark.campaign
@pytest.mark.parametrize("form", ["json", "avro"])
def test_sparks_own_source_reads_every_trade(form: str, broker: Broker, registry: Registry, tmp_path: Path) -> None:
    write(tmp_path / "market.ndjson", 3_000, 12, 7)
    options = send([tmp_path / "market.ndjson"], tmp_path / "house", Servers(broker.servers, registry.url), form, 2)
    tickhouse("work", "--until-drained", *options)
    ours = open_house(tmp_path / "house").sql(
        "SELECT count(*) AS trades, sum(round(size * 1e6)::BIGINT)::BIGINT AS size, count(DISTINCT (venue, symbol)) AS symbols "
        "FROM (SELECT venue, symbol, size FROM bronze.trades)"
    )
    rejected = open_house(tmp_path / "house").sql("SELECT count(*) AS n FROM bronze.rejected WHERE reason IN ('future', 'ts')")
    assert rejected["n"].item() == 0  # else the topic would hold trades that the tables do not
    kafka = load(Path(options[-1]))[0].kafka
    words = [kafka.servers, kafka.topic, form, registry.url, jars()]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert json.loads(done.stdout.splitlines()[-1]) == list(ours.select(pl.all().cast(pl.Int64)).row(0))
