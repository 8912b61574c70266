"""What a running house says of itself to those who operate it: structured logs on standard error, and metrics.

The processes that write a house keep their metrics in files of its folder `metrics`, which the one that serves reads: counted
once a batch, never once a trade. Without prometheus_client (the extra `serve`) nothing is counted.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import structlog

from tickhouse.errors import ConfigError

__all__ = [
    "CONTENT_TYPE",
    "METRICS",
    "TIMERS",
    "Counter",
    "Timer",
    "configure_logging",
    "counter",
    "exposition",
    "own_metrics",
    "share_metrics",
    "timer",
]

_LEVELS = ("debug", "info", "warning", "error", "critical")


def configure_logging(level: str = "warning") -> None:
    """Send structured logs to standard error; normal running is silent.

    Raises:
        ConfigError: there is no such level.
    """
    if level.lower() not in _LEVELS:
        raise ConfigError(f"TICKHOUSE_LOG = {level!r}: use {', '.join(_LEVELS)}")
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback),
        ],
    )


CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "tickhouse_ingest_frames": ("Payloads received.", ("source",)),
    "tickhouse_ingest_trades": ("Trades read from payloads.", ("source",)),
    "tickhouse_ingest_rejected": ("Payloads that became no trade.", ("source",)),
    "tickhouse_ingest_ignored": ("Documented messages that are not taken.", ("source",)),
    "tickhouse_trades_accepted": ("Trades that count.", ()),
    "tickhouse_trades_duplicate": ("Trades whose id was seen before.", ()),
    "tickhouse_trades_late": ("Trades that came after their bar was final.", ()),
    "tickhouse_rejected": ("Payloads and trades refused.", ("reason",)),
    "tickhouse_bars": ("Bars and revisions issued.", ()),
    "tickhouse_revisions": ("Bars issued again.", ()),
    "tickhouse_anomalies": ("Trades flagged.", ()),
}
"""The counters: what each counts, and by what."""
TIMERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "tickhouse_journal_flush_seconds": ("How long it takes to make a group of records durable.", ()),
    "tickhouse_lake_commit_seconds": ("How long a commit of all tables takes.", ()),
    "tickhouse_latency_seconds": (
        "From receiving the newest trade of a group to its being durable (`journal`), or worked off (`kernel`).",
        ("to",),
    ),
    "tickhouse_serve_latency_seconds": (
        "Of the newest trade of a batch: from the venue's stamp to receiving it (`received`), from there on (`hub`).",
        ("to",),
    ),
}
"""The histograms."""
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SHARED = "PROMETHEUS_MULTIPROC_DIR"

Counter = Callable[..., None]
"""Adds to a counter: `count(5)`, or `count(5, "price")` where it counts by something."""
Timer = Callable[..., None]
"""Notes a duration in seconds, in the same way."""


def share_metrics(house: Path) -> None:
    """Keep this process's metrics in the house; called by a process that writes it, before anything is counted.

    What processes that have ended left there is removed: a counter begins at 0 with its process.
    """
    folder = house / "metrics"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("*_*.db"):
            number = file.stem.rpartition("_")[2]
            if number.isdigit() and not Path(f"/proc/{number}").exists():
                file.unlink(missing_ok=True)
    except OSError:
        return  # whatever the folder's trouble is, the house itself will tell of it
    os.environ[_SHARED] = str(folder.resolve())


def own_metrics() -> None:
    """Keep this process's metrics in its memory: so each process begins, whatever its parent does, and a reader stays.

    A process that counts already goes on as it began: the library looks once, when it is loaded.
    """
    if "prometheus_client" not in sys.modules:
        os.environ.pop(_SHARED, None)


@cache
def _library() -> Any:
    try:
        import prometheus_client
    except ImportError:
        return None
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    return prometheus_client


@cache
def counter(name: str) -> Counter:
    """Return what adds to one of `METRICS`."""
    return _made(name, METRICS[name], "Counter", "inc")


@cache
def timer(name: str) -> Timer:
    """Return what notes a duration in one of `TIMERS`."""
    return _made(name, TIMERS[name], "Histogram", "observe")


def _made(name: str, about: tuple[str, tuple[str, ...]], kind: str, verb: str) -> Counter:
    library = _library()
    if library is None:
        return lambda *_: None
    more = {"buckets": _BUCKETS} if kind == "Histogram" else {}
    try:
        metric = getattr(library, kind)(name, about[0], about[1], **more)
    except OSError as error:  # the folder went, the disk is full: no reason to lose a trade
        structlog.get_logger().warning("metric_not_kept", metric=name, reason=str(error))
        return lambda *_: None

    def note(value: float, *labels: str) -> None:
        with suppress(OSError):
            getattr(metric.labels(*labels) if labels else metric, verb)(value)

    return note


def exposition(house: Path, gauges: Mapping[str, tuple[str, float | None]]) -> bytes:
    """Return all metrics of a house in Prometheus' text form: of the processes that write it, and of this one.

    Args:
        house: Its folder.
        gauges: Name -> (help, value); those without a value are left out.
    """
    library = _library()
    if library is None:
        return b""
    from prometheus_client import multiprocess

    shared = library.CollectorRegistry()
    if (house / "metrics").is_dir():
        multiprocess.MultiProcessCollector(shared, path=str(house / "metrics"))  # type: ignore[no-untyped-call]
    for name, (about, value) in gauges.items():
        if value is not None:
            library.Gauge(name, about, registry=shared).set(value)
    found: bytes = library.generate_latest(shared) + library.generate_latest(library.REGISTRY)
    return found
