"""The Spark engine on a topic of four partitions, from JSON and from Arrow, against Spark's own aggregation of the same topic.

Three figures each. `ranges`: what an executor does, in this process and without Spark, in CPU time a trade, which other work on
the machine does not change. `engine`: trades a second from the second micro-batch on, lake included. `Spark's own`: from_json,
watermark, deduplication and one-minute bars, nothing written. Start-up and each first micro-batch are left out.

`python bench/spark.py --n 1000000`; --part ranges needs no Java besides the broker's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import standard_work
from engines import dense
from rich.console import Console
from run import KEPT, machine

sys.path.insert(0, str(Path(__file__).parents[1]))

from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812  as everybody calls it
from tests.engines.clusters import Cluster
from tests.parity.ways import Servers, send
from tests.services.kafka import Broker
from tests.services.spark_kafka import jars

from tickhouse.engines.ranges import RangeResult
from tickhouse.engines.spark_session import spark_session
from tickhouse.house import House
from tickhouse.runs.spark import SparkRun
from tickhouse.settings import SparkSettings, load

_OWN = "venue string, symbol string, ts long, price double, size double, trade_id long"
Figures = dict[str, object]


def ranges(file: Path, folder: Path, servers: Servers, form: str, partitions: int, steps: int = 4) -> Figures:
    """Work a recording off range by range in this process; CPU time from the second micro-batch on."""
    cluster = Cluster(file, folder / f"ranges-{form}-{partitions}", servers, form, partitions)
    first, *others = cluster.ranges(steps)
    results, cluster.states = cluster.execute(first)
    cluster.commit(results)
    before, began = sum(result.counts.received for result in results), time.process_time()
    committing = 0.0
    for batch in others:
        results, cluster.states = cluster.execute(batch)
        paused = time.process_time()
        cluster.commit(results)
        committing += time.process_time() - paused
    used = time.process_time() - began
    trades = sum(result.counts.received for result in results) - before
    state = sum(len(state.snapshot) for state in cluster.states if state is not None)
    return {
        "what": "ranges", "form": form, "partitions": partitions, "trades": trades,
        "cpu_us_a_trade": round(1e6 * (used - committing) / trades, 3),
        "driver_ms_a_batch": round(1e3 * committing / len(others), 1), "state_bytes": state,
    }  # fmt: skip


class _Timed(SparkRun):
    """Notes when each micro-batch was committed."""

    def _commit(self, results: Sequence[RangeResult]) -> None:
        super()._commit(results)
        self.times = [*getattr(self, "times", []), (time.monotonic(), self.counts.received)]


def engine(file: Path, folder: Path, servers: Servers, form: str, partitions: int, batches: int = 4) -> Figures:
    """Work a recording off on Spark."""
    house = folder / f"engine-{form}"
    options = send([file], house, servers, form, partitions)
    config = Path(options[-1])
    run = _Timed(House(house), load(config, {"spark.trigger": "availableNow", "spark.max_records": _share(config, batches)})[0])
    with run:
        while run.running:
            time.sleep(0.02)
    (began, before), *_, (ended, received) = run.times
    return {
        "what": "engine", "form": form, "partitions": partitions, "batches": len(run.times),
        "trades_a_second": round((received - before) / (ended - began)),
    }  # fmt: skip


def _share(config: Path, batches: int) -> int:
    from tickhouse.journal.kafka.topic import KafkaTopic

    topic = KafkaTopic.open(load(config)[0].kafka)
    whole = sum(topic.ends(partition).high for partition in range(topic.partitions))
    topic.close()
    return -(-whole // batches)


def sparks_own(spark: SparkSession, folder: Path, config: Path, batches: int = 4) -> Figures:
    """Aggregate the topic of a house with what Spark brings."""
    kafka = load(config)[0].kafka
    source = spark.readStream.format("kafka").option("kafka.bootstrap.servers", kafka.servers).option("subscribe", kafka.topic)
    source = source.option("startingOffsets", "earliest").option("maxOffsetsPerTrigger", _share(config, batches))
    read = source.load().select(F.from_json(F.col("value").cast("string"), _OWN).alias("m")).select("m.*")
    trades = read.where("price IS NOT NULL").withColumn("at", F.timestamp_micros("ts")).withWatermark("at", "10 seconds")
    bars = (
        trades.dropDuplicates(["venue", "symbol", "trade_id", "at"])
        .groupBy(F.window("at", "1 minute"), "venue", "symbol")
        .agg(F.min_by("price", "ts"), F.max("price"), F.min("price"), F.max_by("price", "ts"), F.sum("size"), F.count("*"))
    )
    writer = bars.writeStream.format("noop").outputMode("append").option("checkpointLocation", str(folder / "own"))
    query = writer.trigger(availableNow=True).start()
    query.awaitTermination()
    done = [each for each in query.recentProgress if each.numInputRows]
    rows = sum(each.numInputRows for each in done[1:])
    seconds = sum(each.durationMs["triggerExecution"] for each in done[1:]) / 1e3
    return {"what": "Spark's own", "form": "json", "messages_a_second": round(rows / seconds), "batches": len(done)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--dense", type=int, default=1_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--part", choices=["all", "ranges", "engine"], default="all")
    given = parser.parse_args()
    console = Console()
    KEPT.mkdir(exist_ok=True)
    file = KEPT / f"standard_{given.n}_{given.symbols}_1.ndjson"
    if not file.exists():
        standard_work.write(file, given.n, given.symbols, 1)
    if given.dense > 1:
        file = dense(file, given.dense)
    scratch = KEPT / "spark"
    shutil.rmtree(scratch, ignore_errors=True)
    found: list[Figures] = []

    def note(figures: Figures) -> None:
        found.append(figures)
        console.print(json.dumps(figures), highlight=False, soft_wrap=True)

    with Broker(scratch / "kafka") as broker:
        servers = Servers(broker.servers, "")
        if given.part in {"all", "ranges"}:
            for form in ("json", "arrow"):
                note(ranges(file, scratch, servers, form, given.partitions))
        if given.part in {"all", "engine"}:
            conf = {"spark.jars": jars(), "spark.sql.shuffle.partitions": str(given.partitions)}
            with spark_session(SparkSettings(master="local[2,4]", conf=conf), scratch) as spark:
                for form in ("json", "arrow"):
                    note(engine(file, scratch, servers, form, given.partitions))
                note(sparks_own(spark, scratch, scratch / "engine-json.toml"))
    (KEPT / "spark.json").write_text(
        json.dumps({"machine": machine(), "given": vars(given), "found": found}, indent=1), "utf-8"
    )


if __name__ == "__main__":
    main()
