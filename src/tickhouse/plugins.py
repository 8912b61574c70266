"""How sources and sinks are found: entry points, the built-in ones by the same door as anyone's plug-in.

A plug-in names its settings record by its constructor's first parameter (a pydantic model); `source()` builds it from the
`[sources.options.NAME]` section.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_type_hints

from pydantic import BaseModel, ValidationError

from tickhouse.errors import ConfigError

__all__ = ["SINKS", "SOURCES", "build", "load", "names"]

SOURCES = "tickhouse.sources"
SINKS = "tickhouse.sinks"


@cache  # looking through everything installed takes 50 ms
def names(group: str) -> Mapping[str, EntryPoint]:
    """Return the plug-ins of a group by name, loading none."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def load(group: str, name: str) -> Any:
    """Return the class that `name` stands for.

    Raises:
        ConfigError: there is no such plug-in (the nearest name is given), or it cannot be imported.
    """
    known = names(group)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.0)
        raise ConfigError(
            f"no {group.rpartition('.')[2].rstrip('s')} named {name!r}; did you mean {near[0] if near else '(none)'!r}?"
        )
    try:
        return known[name].load()
    except ImportError as error:
        raise ConfigError(f"plug-in {name!r} cannot be imported: {error}") from error


def build(group: str, name: str, options: dict[str, Any], **given: Any) -> Any:
    """Return an instance of plug-in `name` from its section of the settings.

    Args:
        group: SOURCES or SINKS.
        name: The plug-in.
        options: Its own settings, not yet checked.
        given: Further constructor arguments, passed where its constructor takes them.

    Raises:
        ConfigError: an option is unknown or out of its bounds.
    """
    cls = load(group, name)
    parameters = inspect.signature(cls.__init__).parameters
    hints = get_type_hints(cls.__init__)
    settings_name = next((key for key, kind in hints.items() if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    arguments = {key: value for key, value in given.items() if key in parameters}
    if settings_name is not None:
        try:
            arguments[settings_name] = hints[settings_name].model_validate(options)
        except ValidationError as error:
            first = error.errors()[0]
            hint = first["msg"]
            if first["type"] == "extra_forbidden":
                near = difflib.get_close_matches(str(first["loc"][-1]), hints[settings_name].model_fields, 1, 0.0)
                hint = f"there is no such option; did you mean {near[0] if near else '(none)'!r}?"
            raise ConfigError(f"{name}.{'.'.join(map(str, first['loc']))} = {first.get('input')!r}: {hint}") from error
    elif options:
        raise ConfigError(f"{name} takes no options, given {sorted(options)}")
    return cls(**arguments)
