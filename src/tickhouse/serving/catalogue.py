"""The indicators of a house as something to draw: titles, outputs with their columns, and which pane they belong in."""

from __future__ import annotations

from typing import Any

from tickhouse.indicators.specs import catalogue as functions
from tickhouse.indicators.specs import parse_spec
from tickhouse.rules import Rules
from tickhouse.serving.rows import wide_name

__all__ = ["catalogue"]


def catalogue(rules: Rules) -> list[dict[str, Any]]:
    """Return the indicators that the rules name, in their order."""
    known = {entry.name: entry for entry in functions()}
    found = []
    for text in rules.indicators:
        spec = parse_spec(text)
        entry = known[spec.name.partition("(")[0]]
        found.append({
            "indicator": spec.name,
            "title": f"{entry.title} {spec.name.partition('(')[2].rstrip(')')}".strip(),
            "intervals": list(rules.indicator_intervals),
            "outputs": [{"output": output, "column": wide_name(spec.name, output)} for output in spec.outputs],
            "pane": "price" if entry.overlays_price else "own",
        })  # fmt: skip
    return found
