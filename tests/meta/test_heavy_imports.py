"""Each heavy library has its place: nothing else imports it, so it can be changed in one place and loads only where needed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tickhouse

SOURCE = Path(tickhouse.__file__).parent
PLACES = {
    "aiohttp": ("sources", "dashboard/relay"),
    "confluent_kafka": ("journal/kafka",),
    "deltalake": ("sinks",),
    "fastavro": ("journal/kafka/avro",),
    "fastapi": ("api",),
    "prometheus_client": ("telemetry",),
    "starlette": ("api", "dashboard"),
    "uvicorn": ("api",),
    "duckdb": ("history", "serving"),
    "numba": (
        "kernel",
        "scanning",
        "journal/kafka/scan",
        "journal/kafka/fetch",
        "sources/files/scanner",
        "journal/recording/heartbeats",
        "upkeep",
    ),
    "streamlit": ("dashboard",),
    "talib": ("__main__", "indicators", "quality"),
    "pyspark": ("engines/spark",),
    "typer": ("cli",),
    "rich": ("cli",),
    "zstandard": ("sources", "journal/frames"),
}


@pytest.mark.parametrize("library", PLACES)
def test_a_heavy_library_is_imported_in_its_place_only(library: str) -> None:
    found = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            if any(name.split(".")[0] == library for name in names):
                found.add(file.relative_to(SOURCE).with_suffix("").as_posix())
    assert found, f"{library} is imported nowhere: take it out of PLACES"
    assert all(place.startswith(PLACES[library]) for place in found), found
