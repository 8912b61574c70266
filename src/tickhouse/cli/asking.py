"""Commands that read the tables: `query`, `verify`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tickhouse.cli.options import DEFAULT_HOUSE, AsJson, HouseDir, day_of, reading
from tickhouse.cli.support import print_json, progress
from tickhouse.errors import ConfigError

__all__ = ["query", "verify"]


def query(
    sql: Annotated[str, typer.Argument(help='e.g. "select * from gold.bars order by start desc limit 10"')],
    house: HouseDir = DEFAULT_HOUSE,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write all rows: .csv, .json, .parquet or .arrow.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows to show on the screen.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Ask the tables: bronze.trades, .rejected, .events, silver.trades, gold.bars, .indicators, .anomalies, .gaps.

    Also gold.bars_latest (newest revision of each bar) and gold.indicators_wide (one column an output).
    """
    import polars as pl

    from tickhouse.cli import screen

    data = reading(house).sql(sql)
    if output is not None:
        writers: dict[str, Callable[[Path], object]] = {
            ".csv": data.write_csv, ".json": data.write_json, ".parquet": data.write_parquet, ".arrow": data.write_ipc,
        }  # fmt: skip
        if output.suffix not in writers:
            raise ConfigError(f"--output {output}: the suffix says the format; use {', '.join(writers)}")
        try:
            writers[output.suffix](output)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ConfigError(f"--output {output} cannot be written ({error}); name another file or format") from error
        screen.errors.print(f"{len(data):,} rows written to {output}", highlight=False)
    elif as_json:
        print(data.write_json())
    else:
        screen.console.print(screen.frame(data, limit))


def verify(
    house: HouseDir = DEFAULT_HOUSE,
    day: Annotated[str | None, typer.Option(help="Compare only this UTC day, YYYY-MM-DD.")] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute silver and gold from what was received, by a second reading of the rules, and compare byte for byte.

    Exit code 1 and the first differing row where anything differs.
    """
    from tickhouse.cli import screen

    with progress("verifying", shown=not as_json) as show:
        report = reading(house).verify(show, day_of(day))
    data = report.to_json()
    if as_json:
        print_json(data)
    else:
        screen.console.print(screen.verify_table(report))
        for item in data["differences"][:3]:
            screen.console.print(f"first difference: {json.dumps(item, default=str)}", style="red", highlight=False)
        balance = data["balance"]
        screen.console.print(
            ", ".join(f"{key} {value:,}" for key, value in balance.items() if isinstance(value, int)), highlight=False
        )
    if not data["ok"]:
        raise typer.Exit(1)
