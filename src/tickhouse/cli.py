"""The command line over the house. Each command is a few lines: it reads options, calls, and shows what came back.

Heavy modules are imported by the command that needs them, so that `--help` answers at once.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from tickhouse.errors import ConfigError, TickhouseError

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
AsChild = Annotated[bool, typer.Option("--as-child", hidden=True)]
DEFAULT_HOUSE = Path("house")

_GC_THRESHOLDS = (20_000, 20, 100)
"""With Python's own, looking through all loaded modules again and again is a fifth of a start and a tenth of a replay."""


@app.command()
def run(
    house: HouseDir = DEFAULT_HOUSE,
    config: ConfigFile = None,
    source: SourceNames = None,
    symbols: SymbolNames = None,
    record: RecordDir = None,
    duration: Duration = None,
    journal: JournalKind = None,
    lateness: Lateness = None,
    host: Host = None,
    port: Port = None,
    no_serve: Annotated[bool, typer.Option("--no-serve", help="Without the API and the dashboard.")] = False,
    dashboard_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the dashboard.")] = 8501,
    no_dashboard: Annotated[bool, typer.Option("--no-dashboard", help="Without the dashboard.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take live trades and turn them into bars, indicators and anomalies, serve and show them, until Ctrl-C.

    Without a configuration: Binance's public stream where it can be reached, else the built-in synthetic market.
    """
    stop = _stop_on_signals()  # first of all: a Ctrl-C while modules are loaded can get lost in them

    from tickhouse import runs, screen

    given = {"rules.lateness": lateness, "sources.enabled": tuple(source) if source else None, "journal.kind": journal}
    settings = _settings(config, {**given, "serve.host": host, "serve.port": port})
    companions = [] if no_serve else [["serve", "--house", str(house)]]
    if companions and settings.serve.port and not no_dashboard:  # port 0: nobody knows yet where the API will be
        companions.append(["dashboard", "--port", str(dashboard_port)])
    say = (screen.errors if as_json else screen.console).print
    live = runs.LiveRun(
        _house(house), settings, symbols.split(",") if symbols else None, record, companions=companions,
        say=lambda line: say(line, highlight=False, soft_wrap=True),
    )  # fmt: skip
    _watch(live, stop, duration, as_json=as_json)


@app.command()
def ingest(
    house: HouseDir = DEFAULT_HOUSE,
    config: ConfigFile = None,
    source: SourceNames = None,
    symbols: SymbolNames = None,
    record: RecordDir = None,
    duration: Duration = None,
    journal: JournalKind = None,
    lateness: Lateness = None,
    as_child: AsChild = False,
) -> None:
    """Only receive: sources -> journal, until Ctrl-C. `tickhouse work` makes the tables of it, now or later."""
    stop = _stop_on_signals()

    from tickhouse import runs

    given = {"rules.lateness": lateness, "sources.enabled": tuple(source) if source else None, "journal.kind": journal}
    settings = _childs_settings(stop) if as_child else _settings(config, given)
    receiving = runs.IngestRun(_house(house), settings, symbols.split(",") if symbols else None, record, stop)
    lasts_s = _seconds(duration)
    with receiving:
        print(receiving.headline, flush=True)
        until = time.monotonic() + lasts_s
        while not stop.wait(0.25) and receiving.running and time.monotonic() < until:
            pass


@app.command()
def work(
    house: HouseDir = DEFAULT_HOUSE,
    config: ConfigFile = None,
    duration: Duration = None,
    journal: JournalKind = None,
    lateness: Lateness = None,
    until_drained: Annotated[bool, typer.Option(help="End when the journal has nothing more at the moment.")] = False,
    as_json: AsJson = False,
) -> None:
    """Only compute: journal -> bars, indicators, anomalies in the lake, until Ctrl-C. `tickhouse ingest` fills the journal."""
    stop = _stop_on_signals()

    from tickhouse import runs

    settings = _settings(config, {"rules.lateness": lateness, "journal.kind": journal})
    _watch(runs.WorkRun(_house(house), settings, stop, until_drained=until_drained), stop, duration, as_json=as_json)


@app.command()
def spark(
    house: HouseDir = DEFAULT_HOUSE,
    config: ConfigFile = None,
    master: Annotated[str | None, typer.Option(help="local[CORES,TRIES], or a cluster, e.g. spark://host:7077.")] = None,
    trigger: Annotated[
        str | None,
        typer.Option(help="How often a micro-batch begins, e.g. 5s; availableNow = take what is there, and end."),
    ] = None,
    max_records: Annotated[int | None, typer.Option(help="Messages a micro-batch takes at most.")] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Forget Spark's checkpoint: make the state anew from the topic.")
    ] = False,
    duration: Duration = None,
    lateness: Lateness = None,
    as_json: AsJson = False,
) -> None:
    """Compute on Spark: topic -> bars, indicators, anomalies in the lake, until Ctrl-C. The rows are those of `work`."""
    stop = _stop_on_signals()

    try:
        from tickhouse.runs.spark import SparkRun
    except ImportError as error:
        raise ConfigError(f"Spark cannot be used here ({error}): pip install 'tickhouse[spark]'") from error

    given = {"spark.master": master, "spark.trigger": trigger, "spark.max_records": max_records, "rules.lateness": lateness}
    run = SparkRun(_house(house), _settings(config, given), stop, from_beginning=from_beginning)
    _watch(run, stop, duration, as_json=as_json)


@app.command()
def replay(
    files: Annotated[
        list[Path], typer.Argument(help="Recorded frames, NDJSON, CSV or Parquet; .gz and .zst too; oldest first.")
    ],
    house: HouseDir = DEFAULT_HOUSE,
    config: ConfigFile = None,
    columns: Annotated[str | None, typer.Option(help="Our name=theirs, e.g. symbol=s,price=p,size=v,ts=t,trade_id=id.")] = None,
    ts_unit: Annotated[
        str | None, typer.Option(help="s, ms, us or ns; default: by the size of the first number, printed.")
    ] = None,
    venue: Annotated[str | None, typer.Option(help="For files that do not name one.")] = None,
    symbol: Annotated[str | None, typer.Option(help="For files that do not name one.")] = None,
    identity: Annotated[str | None, typer.Option(help="What the ids promise: contiguous, unique or none.")] = None,
    speed: Annotated[str, typer.Option(help="max, or a multiple of recorded time: 1, 10, ...")] = "max",
    lateness: Lateness = None,
    to: Annotated[
        str | None,
        typer.Option(help="Send the recording through this journal: sqlite, or only into it, for `tickhouse work`: kafka."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run recorded trades through the house, as if they were live.

    Well-known column names are recognised; others are mapped with --columns. Ctrl-C commits; the same command goes on.
    """
    stop = _stop_on_signals()

    from tickhouse import runs, screen

    settings = _settings(config, {"rules.lateness": lateness})
    say = (lambda line: screen.errors.print(line, style="dim", highlight=False)) if not as_json else (lambda _line: None)
    work = runs.ReplayRun(
        _house(house), settings, files,
        {"columns": columns, "ts_unit": ts_unit, "venue": venue, "symbol": symbol, "identity": identity},
        speed=speed, to=to, say=say,
    )  # fmt: skip
    started = time.monotonic()
    with _progress("replaying", shown=not as_json) as show:
        result = work.run(stop, show)
    seconds = time.monotonic() - started
    if as_json:
        _print_json({**result, "seconds": round(seconds, 3), "interrupted": stop.is_set()})
    elif to == "kafka":
        screen.console.print(f"{result['journal']}; {result['lines']:,} lines sent in {seconds:,.1f} s", highlight=False)
        screen.console.print(f"`tickhouse work --house {house}` makes the tables of them", highlight=False)
    else:
        screen.console.print(screen.counts_table(work.counts))
        rate = work.received_now / seconds if seconds else 0
        screen.console.print(f"{work.received_now:,} records in {seconds:,.1f} s ({rate:,.0f}/s) into {house}", highlight=False)
        if stop.is_set():
            screen.console.print("interrupted; the same command goes on from here")


@app.command()
def serve(
    house: HouseDir = DEFAULT_HOUSE,
    config: ConfigFile = None,
    host: Host = None,
    port: Port = None,
    as_child: AsChild = False,
) -> None:
    """Serve a house over HTTP and WebSocket, live, also while another process writes it.

    Reads only; the house need not exist yet. Documentation is at /docs.
    """
    stop = _stop_on_signals()

    from tickhouse.api.server import serve as run_server

    settings = _childs_settings(stop) if as_child else _settings(config, {"serve.host": host, "serve.port": port})
    run_server(_house(house), settings.serve, lambda line: print(line, flush=True), stop)


token_commands = typer.Typer(help="Tokens of those who may ask the API beyond loopback.", no_args_is_help=True)
app.add_typer(token_commands, name="token")


@token_commands.command("add")
def token_add(name: Annotated[str, typer.Argument(help="Who or what will use it.")], house: HouseDir = DEFAULT_HOUSE) -> None:
    """Make a token and print it; it cannot be shown again."""
    _reading(house)
    print(_tokens(house).add(name))


@token_commands.command("list")
def token_list(house: HouseDir = DEFAULT_HOUSE, as_json: AsJson = False) -> None:
    """List the tokens by name; the tokens themselves are not kept."""
    found = _tokens(house).all()
    if as_json:
        _print_json([token._asdict() for token in found])
    else:
        for token in found:
            print(f"{time.strftime('%Y-%m-%d', time.gmtime(token.made_at))}  {token.name}")


@token_commands.command("remove")
def token_remove(name: str, house: HouseDir = DEFAULT_HOUSE) -> None:
    """Forget a token: whoever uses it is refused from then on."""
    _tokens(house).remove(name)


@app.command()
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

    from tickhouse import screen

    data = _reading(house).sql(sql)
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


@app.command("verify")
def verify_command(
    house: HouseDir = DEFAULT_HOUSE,
    day: Annotated[str | None, typer.Option(help="Compare only this UTC day, YYYY-MM-DD.")] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute silver and gold from what was received, by a second reading of the rules, and compare byte for byte.

    Exit code 1 and the first differing row where anything differs.
    """
    from tickhouse import screen

    with _progress("verifying", shown=not as_json) as show:
        report = _reading(house).verify(show, _day(day))
    data = report.to_json()
    if as_json:
        _print_json(data)
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


@app.command()
def dashboard(
    api: Annotated[
        str | None, typer.Option(envvar="TICKHOUSE_API", help="The API of the house to show; default http://127.0.0.1:8000.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 = any free port.")] = 8501,
    host: Annotated[str, typer.Option(help="Where to listen; beyond loopback readers sign in with the token.")] = "127.0.0.1",
    token: Annotated[str | None, typer.Option(envvar="TICKHOUSE_TOKEN", help="The API's token, where it wants one.")] = None,
    as_child: AsChild = False,
) -> None:
    """Show a house in the browser, live, until Ctrl-C: markets, charts, feeds, history, SQL."""
    if as_child:
        stop = threading.Event()
        settings = _childs_settings(stop)
        api = api or _reached_at(settings.serve.host, settings.serve.port)
        threading.Thread(target=_end_when, args=(stop,), daemon=True).start()

    from tickhouse.serving.dashboard.server import serve

    serve(api or "http://127.0.0.1:8000", host, port, token, lambda line: print(line, flush=True))


@app.command()
def compact(
    house: HouseDir = DEFAULT_HOUSE,
    day: Annotated[str | None, typer.Option(help="Only this UTC day, YYYY-MM-DD; default: every day but the newest.")] = None,
    layout: Annotated[str | None, typer.Option(help="date, or date/symbol (a folder a symbol).")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Close days: rewrite their small files into large ones, sorted by symbol and time. No row changes."""
    from tickhouse import upkeep

    settings = _settings(config, {"lake.layout": layout})
    result = upkeep.compact(_house(house), settings, _day(day))
    if as_json:
        _print_json(result)
    else:
        for name, files in result.items():
            print(f"{name:18} {files['before']:>6,} -> {files['after']:,} files")


@app.command()
def doctor(house: HouseDir = DEFAULT_HOUSE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Check what the house needs: its folder, journal, lake, sources, compiler cache, clock."""
    from tickhouse import upkeep

    findings = upkeep.doctor(_house(house), _settings(config, {}))
    if as_json:
        _print_json([{"what": what, "ok": ok, "detail": detail} for what, ok, detail in findings])
    else:
        for what, ok, detail in findings:
            print(f"{'ok  ' if ok else 'FAIL'} {what:20} {detail}")
    if not all(ok for _, ok, _ in findings):
        raise typer.Exit(1)


@app.command("config")
def config_command(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show every setting in force and where it came from."""
    from tickhouse.settings import find_file, load

    settings, origin = load(find_file(config))
    found = [
        (f"{section}.{key}", value, origin.get(f"{section}.{key}", "default"))
        for section, record in settings.model_dump().items()
        for key, value in record.items()
    ]
    if as_json:
        _print_json({key: {"value": value, "from": where} for key, value, where in found})
        return
    for key, value, where in found:
        print(f"{key:28} {json.dumps(value, default=str):60} {where}")


@app.command()
def plugins(as_json: AsJson = False) -> None:
    """List the sources and sinks installed."""
    from tickhouse.plugins import SINKS, SOURCES, names

    found = {
        group.rpartition(".")[2]: {name: point.value for name, point in names(group).items()} for group in (SOURCES, SINKS)
    }
    if as_json:
        _print_json(found)
        return
    for kind, members in found.items():
        for name, target in members.items():
            print(f"{kind[:-1]:8} {name:14} {target}")


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


def _watch(live: Any, stop: threading.Event, duration: str | None, *, as_json: bool) -> None:
    """Show a run until it is stopped, and its balance at the end."""
    from rich.live import Live

    from tickhouse import runs, screen

    lasts_s = _seconds(duration)
    shown = screen.console.is_terminal and not as_json
    with live:
        started = time.monotonic()
        (screen.errors if as_json else screen.console).print(live.headline, highlight=False)
        with Live(console=screen.console, auto_refresh=False, transient=False) if shown else nullcontext() as view:
            while not stop.wait(0.25) and live.running and time.monotonic() < started + lasts_s:
                if view is not None:
                    view.update(screen.live_view(live.board, live.counts, started), refresh=True)
    if as_json:
        _print_json({**runs.summary(live.counts, live.positions), "seconds": round(live.seconds, 3)})
    else:
        screen.console.print("committed; the balance since the house began:")
        screen.console.print(screen.counts_table(live.counts))


def _seconds(duration: str | None) -> float:
    from tickhouse.rules import parse_duration

    return parse_duration(duration) / 1e6 if duration else float("inf")


def _childs_settings(stop: threading.Event) -> Any:
    """Return the settings of the parent, whose end ends this process too."""
    from tickhouse.processes import parents_settings, stop_with_parent

    settings = parents_settings()
    stop_with_parent(stop)
    return settings


def _reached_at(host: str, port: int) -> str:
    """Return the address by which this machine reaches what listens there."""
    name = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104  (compared, not listened on)
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


def _end_when(stop: threading.Event) -> None:
    stop.wait()
    os.kill(os.getpid(), signal.SIGTERM)


def _day(text: str | None) -> Any:
    import datetime as dt

    try:
        return None if text is None else dt.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--day {text}: write the day as YYYY-MM-DD") from None


def _house(path: Path) -> Any:
    from tickhouse.house import House

    return House(path)


def _tokens(path: Path) -> Any:
    from tickhouse.api.tokens import Tokens

    return Tokens(path)


def _reading(path: Path) -> Any:
    from tickhouse.house import open_house

    return open_house(path)


def _settings(config: Path | None, overrides: dict[str, Any]) -> Any:
    from tickhouse.settings import find_file, load

    return load(find_file(config), overrides)[0]


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, default=str))


def _stop_on_signals() -> threading.Event:
    """Return an event that Ctrl-C or a TERM sets; a second one leaves at once."""
    stop = threading.Event()

    def handle(signum: int, _frame: object) -> None:
        if stop.is_set():
            os._exit(128 + signum)
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return stop


class _progress:  # noqa: N801  (used like a function)
    """A progress bar on standard error; hands out a function (done, total) -> None."""

    def __init__(self, what: str, *, shown: bool) -> None:
        self._what = what
        self._shown = shown

    def __enter__(self) -> Callable[[float, float], None]:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        from tickhouse import screen

        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
            console=screen.errors, transient=True, disable=not (self._shown and screen.errors.is_terminal),
        )  # fmt: skip
        self._bar.start()
        task = self._bar.add_task(self._what, total=None)
        return lambda done, total: self._bar.update(task, completed=done, total=total or None)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


if __name__ == "__main__":
    main()
