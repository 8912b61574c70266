"""Spark's own Kafka source and Avro functions, as jars: for tests that read our topics with no Tickhouse code."""

from __future__ import annotations

from pathlib import Path

from tests.services.maven import fetch

__all__ = ["jars"]

_POM = Path(__file__).parent / "spark-kafka-pom.xml"


def jars() -> str:
    """Return them for `spark.jars`, fetching them where they are not cached."""
    return ",".join(str(file) for file in sorted(fetch(_POM).glob("*.jar")))
