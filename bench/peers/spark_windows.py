"""The peer of the Spark engine: Spark's own way from the same topic to one-minute bars, and no Tickhouse code.

from_json, a watermark, deduplication by id and windows, nothing written. Told is the rate of the micro-batches after the
first one, which pays for starting.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile

import pyspark
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812  as everybody calls it

_MESSAGE = "venue string, symbol string, ts long, price double, size double, trade_id long"


def main() -> None:
    """Work a topic off and say how fast."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("servers")
    parser.add_argument("topic")
    parser.add_argument("--max-records", type=int, required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--jars", required=True, help="Spark's own Kafka source")
    given = parser.parse_args()
    conf = {
        "spark.jars": given.jars, "spark.sql.shuffle.partitions": str(given.partitions), "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1",
    }  # fmt: skip
    builder = SparkSession.builder.master("local[2]")
    for name, value in conf.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    source = spark.readStream.format("kafka").option("kafka.bootstrap.servers", given.servers).option("subscribe", given.topic)
    source = source.option("startingOffsets", "earliest").option("maxOffsetsPerTrigger", given.max_records)
    read = source.load().select(F.from_json(F.col("value").cast("string"), _MESSAGE).alias("m")).select("m.*")
    trades = read.where("price IS NOT NULL").withColumn("at", F.timestamp_micros("ts")).withWatermark("at", "10 seconds")
    bars = (
        trades.dropDuplicates(["venue", "symbol", "trade_id", "at"])
        .groupBy(F.window("at", "1 minute"), "venue", "symbol")
        .agg(F.min_by("price", "ts"), F.max("price"), F.min("price"), F.max_by("price", "ts"), F.sum("size"), F.count("*"))
    )
    with tempfile.TemporaryDirectory() as folder:
        writer = bars.writeStream.format("noop").outputMode("append").option("checkpointLocation", folder)
        query = writer.trigger(availableNow=True).start()
        query.awaitTermination()
        done = [each for each in query.recentProgress if each.numInputRows][1:]
        spark.stop()
    seconds = sum(each.durationMs["triggerExecution"] for each in done) / 1e3
    json.dump({"rows": sum(each.numInputRows for each in done), "seconds": seconds, "version": pyspark.__version__}, sys.stdout)


if __name__ == "__main__":
    main()
