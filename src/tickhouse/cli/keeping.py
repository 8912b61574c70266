"""Commands that keep a house: `compact`, `doctor`, `config`, `plugins`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tickhouse.cli.options import DEFAULT_HOUSE, AsJson, ConfigFile, HouseDir, day_of, house_at, settings_of
from tickhouse.cli.support import print_json

__all__ = ["compact", "doctor", "plugins", "show_config"]


def compact(
    house: HouseDir = DEFAULT_HOUSE,
    day: Annotated[str | None, typer.Option(help="Only this UTC day, YYYY-MM-DD; default: every day but the newest.")] = None,
    layout: Annotated[str | None, typer.Option(help="date, or date/symbol (a folder a symbol).")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Close days: rewrite their small files into large ones, sorted by symbol and time. No row changes."""
    from tickhouse import upkeep

    settings = settings_of(config, {"lake.layout": layout})
    result = upkeep.compact(house_at(house), settings, day_of(day))
    if as_json:
        print_json(result)
    else:
        for name, files in result.items():
            print(f"{name:18} {files['before']:>6,} -> {files['after']:,} files")


def doctor(house: HouseDir = DEFAULT_HOUSE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Check what the house needs: its folder, journal, lake, sources, compiler cache, clock."""
    from tickhouse import upkeep

    findings = upkeep.doctor(house_at(house), settings_of(config, {}))
    if as_json:
        print_json([{"what": what, "ok": ok, "detail": detail} for what, ok, detail in findings])
    else:
        for what, ok, detail in findings:
            print(f"{'ok  ' if ok else 'FAIL'} {what:20} {detail}")
    if not all(ok for _, ok, _ in findings):
        raise typer.Exit(1)


def show_config(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show every setting in force and where it came from."""
    from tickhouse.settings import find_file, load

    settings, origin = load(find_file(config))
    found = [
        (f"{section}.{key}", value, origin.get(f"{section}.{key}", "default"))
        for section, record in settings.model_dump().items()
        for key, value in record.items()
    ]
    if as_json:
        print_json({key: {"value": value, "from": where} for key, value, where in found})
        return
    for key, value, where in found:
        print(f"{key:28} {json.dumps(value, default=str):60} {where}")


def plugins(as_json: AsJson = False) -> None:
    """List the sources and sinks installed."""
    from tickhouse.plugins import SINKS, SOURCES, names

    found = {
        group.rpartition(".")[2]: {name: point.value for name, point in names(group).items()} for group in (SOURCES, SINKS)
    }
    if as_json:
        print_json(found)
        return
    for kind, members in found.items():
        for name, target in members.items():
            print(f"{kind[:-1]:8} {name:14} {target}")
