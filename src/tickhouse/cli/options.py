"""The options that several commands share, and what their texts mean."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tickhouse.errors import ConfigError

if TYPE_CHECKING:
    from tickhouse.house import House
    from tickhouse.settings import Settings

__all__ = [
    "DEFAULT_DASHBOARD_PORT",
    "DEFAULT_HOUSE",
    "AsChild",
    "AsJson",
    "ConfigFile",
    "DashboardPort",
    "Duration",
    "Host",
    "HouseDir",
    "JournalKind",
    "Lateness",
    "NoDashboard",
    "NoServe",
    "Port",
    "RecordDir",
    "SourceNames",
    "SymbolNames",
    "day_of",
    "house_at",
    "reading",
    "seconds",
    "settings_of",
]

HouseDir = Annotated[Path, typer.Option("--house", envvar="TICKHOUSE_HOUSE", help="The folder of the house.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A configuration file; default ./tickhouse.toml where it exists.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable result on standard output.")]
Lateness = Annotated[str | None, typer.Option(help="How long a bar waits for stragglers, e.g. 10s (a new house keeps it).")]
SourceNames = Annotated[
    list[str] | None, typer.Option("--source", help="Take this source only (may be repeated); see `tickhouse plugins`.")
]
SymbolNames = Annotated[str | None, typer.Option("--symbols", help="Symbols, separated by commas, e.g. BTC-USDT,ETH-USDT.")]
RecordDir = Annotated[
    Path | None, typer.Option("--record", help="Also keep every frame as it came in this folder; `replay` reads it.")
]
Duration = Annotated[str | None, typer.Option(help="Stop after this long, e.g. 30s; default: until Ctrl-C.")]
JournalKind = Annotated[str | None, typer.Option("--journal", help="Of a new house: sqlite (a file in it) or kafka (a topic).")]
Host = Annotated[str | None, typer.Option(help="Where the API listens; beyond loopback every request needs a token.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port of the API; 0 = any free one.")]
NoServe = Annotated[bool, typer.Option("--no-serve", help="Without the API and the dashboard.")]
DashboardPort = Annotated[int, typer.Option(min=0, max=65535, help="Port of the dashboard; 0 = any free port.")]
NoDashboard = Annotated[bool, typer.Option("--no-dashboard", help="Without the dashboard.")]
AsChild = Annotated[bool, typer.Option("--as-child", hidden=True)]
DEFAULT_HOUSE = Path("house")
DEFAULT_DASHBOARD_PORT = 8501


def settings_of(config: Path | None, overrides: dict[str, Any]) -> Settings:
    """Return the settings in force: of the file, the environment, and the options of this command."""
    from tickhouse.settings import find_file, load

    return load(find_file(config), overrides)[0]


def house_at(path: Path, settings: Settings | None = None) -> House:
    """Return a house that need not exist yet; `settings` = where its topic is, to be followed."""
    from tickhouse.house import House

    return House(path, settings.kafka if settings is not None else None)


def reading(path: Path) -> House:
    """Return a house that must exist."""
    from tickhouse.house import open_house

    return open_house(path)


def seconds(duration: str | None) -> float:
    """Return a duration such as `30s` in seconds; without one, for ever."""
    from tickhouse.rules import parse_duration

    return parse_duration(duration) / 1e6 if duration else float("inf")


def day_of(text: str | None) -> dt.date | None:
    """Return a day written as YYYY-MM-DD."""
    try:
        return None if text is None else dt.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--day {text}: write the day as YYYY-MM-DD") from None
