"""Reads a topic of trades with Spark's own source and nothing of Tickhouse, as any reader of docs/kafka.md may.

    plain_spark.py SERVERS TOPIC json|avro REGISTRY JARS

Prints the number of trades, the sum of their sizes in millionths, and how many symbols there are, as JSON.
"""

from __future__ import annotations

import json
import sys
import urllib.request

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  as everybody calls it
from pyspark.sql.avro.functions import from_avro

_FIELDS = "type string, venue string, symbol string, ts long, price double, size double"


def _avro_schema(messages: DataFrame, registry: str) -> str:
    """Return the schema that the first message names: a zero byte, then its number in the registry."""
    (first,) = messages.limit(1).collect()
    with urllib.request.urlopen(f"{registry}/schemas/ids/{int.from_bytes(first['value'][1:5])}", timeout=30) as answer:
        schema: str = json.load(answer)["schema"]
        return schema


def main(servers: str, topic: str, form: str, registry: str, jars: str) -> None:
    """Read everything there is and print what it comes to."""
    quiet = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
    builder = SparkSession.builder.master("local[2]").config("spark.jars", jars).config("spark.driver.extraJavaOptions", quiet)
    for name in ("spark.driver.host", "spark.driver.bindAddress"):
        builder = builder.config(name, "127.0.0.1")
    spark = builder.config("spark.ui.enabled", "false").config("spark.sql.shuffle.partitions", 2).getOrCreate()
    source = spark.read.format("kafka").option("kafka.bootstrap.servers", servers).option("subscribe", topic)
    messages = source.option("startingOffsets", "earliest").load()
    value: Column
    if form == "json":
        value = F.from_json(F.col("value").cast("string"), _FIELDS)
    else:
        value = from_avro(F.expr("substring(value, 6)"), _avro_schema(messages, registry))
    trades = messages.select(value.alias("m")).select("m.*").where("price IS NOT NULL")
    found = trades.agg(
        F.count("*"), F.sum(F.round(F.col("size") * 1e6).cast("long")), F.countDistinct("venue", "symbol")
    ).first()
    print(json.dumps(list(found or ())))
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
