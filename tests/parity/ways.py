"""Every way in which records become tables: each journal, each form, each engine. A new way is one entry.

A way is given the recorded files, an empty house and the servers, and fills the house.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.test_cli import tickhouse
from tickhouse.quality.digest import DigestBuilder
from tickhouse.sinks.lake import LakeTables
from tickhouse.tables import TABLES

__all__ = ["WAYS", "Servers", "configured", "digests", "send"]

_NUMBERS = itertools.count()


class Servers(NamedTuple):
    """What a way may use."""

    kafka: str
    registry: str


Way = Callable[[Sequence[Path], Path, Servers], None]


def digests(house: Path) -> dict[str, str]:
    """Return the digest of every table as it is stored, without the cause columns."""
    lake = LakeTables(house / "lake")
    found = {}
    for name, table in TABLES.items():
        builder = DigestBuilder(table)
        builder.update(lake.table(name))
        found[name] = builder.hexdigest()
    return found


def configured(house: Path, servers: Servers, form: str, partitions: int) -> list[str | Path]:
    """Write a configuration with a topic of its own beside the house; return the options that name both."""
    house.parent.mkdir(parents=True, exist_ok=True)
    file = house.parent / f"{house.name}.toml"
    if not file.exists():
        file.write_text(
            f'[journal]\nkind = "kafka"\n[kafka]\nservers = "{servers.kafka}"\ntopic = "parity-{next(_NUMBERS)}"\n'
            f'form = "{form}"\npartitions = {partitions}\nregistry = "{servers.registry}"\n',
            "utf-8",
        )
    return ["--house", house, "--config", file]


def send(files: Sequence[Path], house: Path, servers: Servers, form: str, partitions: int) -> list[str | Path]:
    """Send recordings to a topic; return the options of the house that reads it."""
    options = configured(house, servers, form, partitions)
    tickhouse("replay", *files, "--to", "kafka", *options)
    return options


def _recording(files: Sequence[Path], house: Path, _servers: Servers) -> None:
    tickhouse("replay", *files, "--house", house)


def _sqlite(files: Sequence[Path], house: Path, _servers: Servers) -> None:
    tickhouse("replay", *files, "--to", "sqlite", "--house", house)


def _kafka(form: str, partitions: int) -> Way:
    def run(files: Sequence[Path], house: Path, servers: Servers) -> None:
        tickhouse("work", "--until-drained", *send(files, house, servers, form, partitions))

    return run


def _spark(form: str, partitions: int) -> Way:
    def run(files: Sequence[Path], house: Path, servers: Servers) -> None:
        options = send(files, house, servers, form, partitions)
        tickhouse("spark", "--trigger", "availableNow", "--master", "local[2,4]", "--max-records", "200000", *options)

    return run


WAYS: dict[str, Way] = {
    "recording": _recording,
    "sqlite": _sqlite,
    "kafka-json-1": _kafka("json", 1),
    "kafka-json-4": _kafka("json", 4),
    "kafka-avro-4": _kafka("avro", 4),
    "kafka-arrow-4": _kafka("arrow", 4),
    "spark-json-4": _spark("json", 4),
    "spark-arrow-4": _spark("arrow", 4),
}
"""By name. The first is what the others are compared with."""
