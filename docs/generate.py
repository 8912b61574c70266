"""Refreshes what the documentation takes from the code: the tables, the settings, the picture of `tickhouse run`.

`make docs` runs it; the picture is made from a real run of the synthetic market.
"""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path

from rich.console import Console

from tickhouse.cli import screen
from tickhouse.house import House
from tickhouse.runs import LiveRun
from tickhouse.settings import Settings, explained, load
from tickhouse.tables import CAUSE, TABLES

DOCS = Path(__file__).parent


def tables() -> str:
    """Return the tables with their columns, key and date."""
    lines = [
        "# Tables",
        "",
        "Made from `tickhouse.tables` by `make docs`. Every table also has its cause: `partition`, `offset`, `row`.",
        "",
    ]
    for table in TABLES.values():
        lines += [
            f"## {table.name}",
            "",
            f"Key: {', '.join(table.key)}. Lake partition: the UTC date of `{table.date_from}`.",
            "",
        ]
        lines += ["| column | type | null |", "| --- | --- | --- |"]
        lines += [
            f"| {one.name} | {one.type} | {'yes' if one.nullable else ''} |" for one in table.schema if one.name not in CAUSE
        ]
        lines.append("")
    return "\n".join(lines)


def settings() -> str:
    """Return every setting with its default and help."""
    lines = [
        "# Settings",
        "",
        "Made from `tickhouse.settings` by `make docs`. Defaults < `tickhouse.toml` < environment < command line.",
        "",
    ]
    for section, info in Settings.model_fields.items():
        record = info.annotation
        lines += [f"## [{section}]", "", (record.__doc__ or "").strip(), "", "| key | default | what |", "| --- | --- | --- |"]
        told = explained(record)
        for key, one in record.model_fields.items():
            default = one.get_default(call_default_factory=True)
            lines.append(f"| `{key}` | `{default!r}` | {told[key]} |")
        lines += ["", f"In the environment: `TICKHOUSE_{section.upper()}__KEY`.", ""]
    return "\n".join(lines)


def picture(seconds: float = 75.0) -> str:
    """Return the live table of a synthetic run as SVG."""
    with tempfile.TemporaryDirectory() as folder:
        chosen, _ = load(None, {"sources.enabled": ("synthetic",)})
        live = LiveRun(House(Path(folder) / "house"), chosen)
        started = time.monotonic()
        with live:
            time.sleep(seconds)
            console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
            console.print("[bold]$ make run[/bold]")
            console.print(
                "synthetic -> house  (the built-in SYNTHETIC market, no real prices; Binance cannot be reached)",
                highlight=False,
            )
            console.print(screen.live_view(live.board, live.counts, started))
        return console.export_svg(title="tickhouse run")


def main() -> None:
    """Write them."""
    (DOCS / "tables.md").write_text(tables(), "utf-8")
    (DOCS / "settings.md").write_text(settings(), "utf-8")
    (DOCS / "images").mkdir(exist_ok=True)
    (DOCS / "images" / "run.svg").write_text(picture(), "utf-8")


if __name__ == "__main__":
    main()
