"""Keeping a house well: closing days, and checking everything a run needs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path

from tickhouse.errors import TickhouseError
from tickhouse.house import House
from tickhouse.plugins import SINKS, SOURCES, build, names
from tickhouse.settings import Settings
from tickhouse.sinks.lake import Lake, LakeTables
from tickhouse.sources.base import Source

__all__ = ["compact", "doctor"]

_REACHABLE_S = 5.0


def compact(house: House, settings: Settings, day: date | None) -> dict[str, dict[str, int]]:
    """Close days of the lake; return by table how many files there were and are."""
    house.must_exist()
    kind = house.kind
    assert kind is not None
    with house.writing(kind):
        return Lake(house.lake_path).compact(day, settings.lake.layout)


def doctor(house: House, settings: Settings) -> list[tuple[str, bool, str]]:
    """Check everything a run needs; return (what, whether it is well, what was found)."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("house", lambda: f"{house.path}: {house.kind or 'none yet'}"),
        ("compiler cache", _check_compiler),
        *((f"source {name}", lambda name=name: _check_source(name, settings)) for name in names(SOURCES)),
    ]
    if house.kind is not None:
        checks.append(("lake", lambda: Lake(house.lake_path).check()))
        checks.append(("tables", LakeTables(house.lake_path).check))
    checks.append(("sinks", lambda: ", ".join(names(SINKS))))
    findings = []
    for what, check in checks:
        try:
            findings.append((what, True, check()))
        except TickhouseError as error:
            findings.append((what, False, str(error)))
    return findings


def _check_source(name: str, settings: Settings) -> str:
    source: Source = build(SOURCES, name, settings.sources.options.get(name, {}))
    try:
        return asyncio.run(asyncio.wait_for(source.check(), _REACHABLE_S))
    except TimeoutError:
        raise TickhouseError(f"no answer in {_REACHABLE_S:g} s") from None


def _check_compiler() -> str:
    from numba import config

    folder = config.CACHE_DIR or str(Path(__file__).parent / "kernel" / "__pycache__")
    target = Path(folder)
    while not target.exists():
        target = target.parent
    if not os.access(target, os.W_OK):
        raise TickhouseError(
            f"{folder} is not writable: every start will compile again; set NUMBA_CACHE_DIR to a folder that is"
        )
    return folder
