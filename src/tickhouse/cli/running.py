"""Commands that move trades: `run`, `ingest`, `work`, `spark`, `replay`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tickhouse.cli.options import (
    DEFAULT_DASHBOARD_PORT,
    DEFAULT_HOUSE,
    AsChild,
    AsJson,
    ConfigFile,
    DashboardPort,
    Duration,
    Host,
    HouseDir,
    JournalKind,
    Lateness,
    NoDashboard,
    NoServe,
    Port,
    RecordDir,
    SourceNames,
    SymbolNames,
    house_at,
    seconds,
    settings_of,
)
from tickhouse.cli.support import childs_settings, print_json, progress, serving, stop_on_signals, watch
from tickhouse.errors import ConfigError

__all__ = ["ingest", "repartition", "replay", "run", "spark", "work"]


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
    no_serve: NoServe = False,
    dashboard_port: DashboardPort = DEFAULT_DASHBOARD_PORT,
    no_dashboard: NoDashboard = False,
    as_json: AsJson = False,
) -> None:
    """Take live trades and turn them into bars, indicators and anomalies, serve and show them, until Ctrl-C.

    Without a configuration: Binance's public stream where it can be reached, else the built-in synthetic market.
    """
    stop = stop_on_signals()  # first of all: a Ctrl-C while modules are loaded can get lost in them

    from tickhouse import runs

    settings = settings_of(config, {**_asked(lateness, journal, source), "serve.host": host, "serve.port": port})
    live = runs.LiveRun(house_at(house), settings, symbols.split(",") if symbols else None, record, stop)
    beside = None if no_serve else serving(house, settings, None if no_dashboard else dashboard_port, as_json=as_json)
    watch(live, stop, duration, beside, as_json=as_json)


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
    stop = stop_on_signals()

    from tickhouse import runs

    settings = childs_settings(stop) if as_child else settings_of(config, _asked(lateness, journal, source))
    receiving = runs.IngestRun(house_at(house), settings, symbols.split(",") if symbols else None, record, stop)
    lasts_s = seconds(duration)
    with receiving:
        print(receiving.headline, flush=True)
        until = time.monotonic() + lasts_s
        while not stop.wait(0.25) and receiving.running and time.monotonic() < until:
            pass


def work(
    house: HouseDir = DEFAULT_HOUSE,
    config: ConfigFile = None,
    duration: Duration = None,
    journal: JournalKind = None,
    lateness: Lateness = None,
    until_drained: Annotated[
        bool, typer.Option(help="End when the journal has nothing more at the moment; nothing is served meanwhile.")
    ] = False,
    host: Host = None,
    port: Port = None,
    no_serve: NoServe = False,
    dashboard_port: DashboardPort = DEFAULT_DASHBOARD_PORT,
    no_dashboard: NoDashboard = False,
    as_json: AsJson = False,
) -> None:
    """Only compute: journal -> bars, indicators, anomalies in the lake, served and shown, until Ctrl-C.

    `tickhouse ingest` fills the journal, from here or, where it is a topic, from anywhere.
    """
    stop = stop_on_signals()

    from tickhouse import runs

    given = {"rules.lateness": lateness, "journal.kind": journal}
    settings = settings_of(config, {**given, "serve.host": host, "serve.port": port})
    working = runs.WorkRun(house_at(house), settings, stop, until_drained=until_drained)
    beside = None
    if not (no_serve or until_drained):
        beside = serving(house, settings, None if no_dashboard else dashboard_port, as_json=as_json)
    watch(working, stop, duration, beside, as_json=as_json)


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
    stop = stop_on_signals()

    try:
        from tickhouse.runs.spark import SparkRun
    except ImportError as error:
        raise ConfigError(f"Spark cannot be used here ({error}): pip install 'tickhouse[spark]'") from error

    given = {"spark.master": master, "spark.trigger": trigger, "spark.max_records": max_records, "rules.lateness": lateness}
    run = SparkRun(house_at(house), settings_of(config, given), stop, from_beginning=from_beginning)
    watch(run, stop, duration, as_json=as_json)


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
    stop = stop_on_signals()

    from tickhouse import runs
    from tickhouse.cli import screen

    settings = settings_of(config, {"rules.lateness": lateness})
    say = (lambda line: screen.errors.print(line, style="dim", highlight=False)) if not as_json else (lambda _line: None)
    work = runs.ReplayRun(
        house_at(house), settings, files,
        {"columns": columns, "ts_unit": ts_unit, "venue": venue, "symbol": symbol, "identity": identity},
        speed=speed, to=to, say=say,
    )  # fmt: skip
    started = time.monotonic()
    with progress("replaying", shown=not as_json) as show:
        result = work.run(stop, show)
    seconds = time.monotonic() - started
    if as_json:
        print_json({**result, "seconds": round(seconds, 3), "interrupted": stop.is_set()})
    elif to == "kafka":
        screen.console.print(f"{result['journal']}; {result['lines']:,} lines sent in {seconds:,.1f} s", highlight=False)
        screen.console.print(f"`tickhouse work --house {house}` makes the tables of them", highlight=False)
    else:
        screen.console.print(screen.counts_table(work.counts))
        rate = work.received_now / seconds if seconds else 0
        screen.console.print(f"{work.received_now:,} records in {seconds:,.1f} s ({rate:,.0f}/s) into {house}", highlight=False)
        if stop.is_set():
            screen.console.print("interrupted; the same command goes on from here")


def repartition(
    origin: Annotated[str, typer.Argument(help="The topic to read; [kafka] topic names the one to fill.")],
    house: HouseDir = DEFAULT_HOUSE,
    config: ConfigFile = None,
    partitions: Annotated[int | None, typer.Option(help="Of the topic to fill, where it is new.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fill a topic with another number of partitions from an old one, for a new house: its tables will be the same.

    Stop `tickhouse ingest` first. Ctrl-C or a kill loses nothing; the same command goes on.
    """
    stop = stop_on_signals()

    from tickhouse.cli import screen
    from tickhouse.runs.repartition import repartition as fill

    settings = settings_of(config, {"kafka.partitions": partitions})
    with progress("sending", shown=not as_json) as show:
        result = fill(house_at(house), settings, origin, stop, show)
    if as_json:
        print_json({**result, "interrupted": stop.is_set()})
        return
    told = (
        "interrupted; the same command goes on from here"
        if stop.is_set()
        else f"`tickhouse work --house {house}` makes the tables"
    )
    screen.console.print(f"{result['journal']}; {told}", highlight=False)


def _asked(lateness: str | None, journal: str | None, source: list[str] | None) -> dict[str, Any]:
    """Return what the options of a live command say of its settings; None = nothing."""
    return {"rules.lateness": lateness, "journal.kind": journal, "sources.enabled": tuple(source) if source else None}
