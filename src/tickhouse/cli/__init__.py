"""The command line over the house. Each command is a few lines: it reads options, calls, and shows what came back.

Heavy modules are imported by the command that needs them, so that `--help` answers at once.
"""

from __future__ import annotations

import gc
import os
import sys

import typer

from tickhouse.cli import asking, keeping, running, serving, tokens
from tickhouse.errors import TickhouseError

__all__ = ["app", "main"]

app = typer.Typer(
    name="tickhouse",
    help="A self-hosted market-data house: every trade kept, every number provable.\n\n"
    "Begin with `tickhouse run` (live) or `tickhouse replay FILES` (recorded); look with `tickhouse query`; "
    "prove with `tickhouse verify`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
token = typer.Typer(help="Tokens of those who may ask the API beyond loopback.", no_args_is_help=True)

app.command()(running.run)
app.command()(running.ingest)
app.command()(running.work)
app.command()(running.spark)
app.command()(running.replay)
app.command()(running.repartition)
app.command()(serving.serve)
app.command()(serving.dashboard)
app.command()(asking.query)
app.command()(asking.verify)
app.command()(keeping.compact)
app.command()(keeping.doctor)
app.command("config")(keeping.show_config)
app.command()(keeping.plugins)
app.add_typer(token, name="token")
token.command("add")(tokens.add)
token.command("list")(tokens.show)
token.command("remove")(tokens.remove)

_GC_THRESHOLDS = (20_000, 20, 100)
"""With Python's own, looking through all loaded modules again and again is a fifth of a start and a tenth of a replay."""


def main() -> None:
    """Run the command line; every error Tickhouse raises on purpose is one clear line and a code that is not 0."""
    from tickhouse.telemetry import configure_logging, own_metrics

    own_metrics()
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        configure_logging(os.environ.get("TICKHOUSE_LOG", "warning"))
        app()
    except TickhouseError as error:
        print(f"tickhouse: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        print(f"tickhouse: the operating system refused: {error}; mend that and start again", file=sys.stderr)
        sys.exit(2)
