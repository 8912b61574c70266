"""What the long commands do: a live run, a replay. The command line adds only what is painted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from tickhouse.clock import SystemClock
from tickhouse.engines.embedded import EmbeddedEngine
from tickhouse.errors import ConfigError, TickhouseError
from tickhouse.house import House, Work
from tickhouse.ingest import Ingest
from tickhouse.journal.base import Journal
from tickhouse.journal.frames import FrameRecorder
from tickhouse.journal.pace import PacedJournal
from tickhouse.journal.sqlite import SqliteJournal
from tickhouse.journal.transfer import transfer
from tickhouse.lines import FileOptions
from tickhouse.live import Board
from tickhouse.model import NO_TIME, Batch, Position
from tickhouse.pipeline import Counts
from tickhouse.plugins import SOURCES, build, load
from tickhouse.rules import Rules, parse_duration
from tickhouse.settings import HouseRules, Settings
from tickhouse.sinks.base import Outputs
from tickhouse.sources.base import Source

__all__ = ["LiveRun", "ReplayRun", "file_options", "house_rules", "summary"]

_REACHABLE_S = 5.0
_HINT_AFTER = 1_000
_HINT_SHARE = 0.01
_MAINTAIN_S = 5.0
_MINUTE_S = 60.0
_SHOW_S = 0.1

Progress = Callable[[float, float], None]

_log = structlog.get_logger(__name__)


def house_rules(house: House, settings: Settings) -> Rules:
    """Return the rules to run with: those asked for, else those the house has, else the defaults."""
    if settings.rules != HouseRules():
        return settings.rules.rules()
    return house.stored_rules() or Rules()


def summary(counts: Counts, position: Position) -> dict[str, Any]:
    """Return the balance and how far a run came, for `--json`."""
    return {
        "received": counts.received,
        "accepted": counts.accepted,
        "duplicate": counts.duplicate,
        "rejected": dict(sorted(counts.rejected.items())),
        "ignored": counts.ignored,
        "late": counts.late,
        "bars": counts.bars,
        "revisions": counts.revisions,
        "anomalies": counts.anomalies,
        "position": position.offset,
        "clock_us": None if position.clock == NO_TIME else position.clock,
    }


class LiveRun:
    """Sources -> journal -> engine -> lake, in threads of this process; a context manager that commits on leaving.

    Args:
        house: Where to.
        settings: All of them.
        symbols: Instead of those a source takes by itself.
        record: Also keep every frame here.
    """

    def __init__(
        self, house: House, settings: Settings, symbols: Sequence[str] | None = None, record: Path | None = None
    ) -> None:
        self._house = house
        self._settings = settings
        self._record = record
        self._sources, self.source_name, why = _choose(settings, symbols)
        self.headline = f"{self.source_name} -> {house.path}  ({why})"
        self.board = Board()
        self._stack = ExitStack()
        self._work: Work | None = None
        self._journal: SqliteJournal | None = None
        self._threads: list[threading.Thread] = []
        self._ingest: Ingest | None = None
        self._leaving = threading.Event()
        self._error: BaseException | None = None
        self.position = Position()

    @property
    def counts(self) -> Counts:
        """The balance since the house began."""
        return self._work.pipeline.counts if self._work else Counts()

    @property
    def running(self) -> bool:
        """False once something stopped the run by itself; leaving then raises it."""
        return self._error is None and self._ingest is not None and self._ingest.alive and self._ingest.error is None

    def __enter__(self) -> Self:
        with self._stack as stack:
            stack.enter_context(self._house.writing("sqlite"))
            rules = house_rules(self._house, self._settings)
            self._journal = journal = self._house.sqlite(rules, self._settings)
            stack.callback(journal.close)
            self._work = work = self._house.work(journal, rules, self._settings, self.board.update)
            stack.callback(work.close)
            if work.highest > journal.next_offset():
                # A power cut or a torn file: `verify` will name the rows that rest on records which are gone.
                _log.warning("journal_behind_tables", journal=journal.next_offset(), tables=work.highest)
            appender = journal.appender(at_least=work.highest)
            stack.callback(appender.close)
            recorder = stack.enter_context(FrameRecorder(self._record)) if self._record else None
            self._ingest = Ingest(self._sources, appender, SystemClock(), last_clock=journal.last_clock(), recorder=recorder)
            self._threads = [
                threading.Thread(target=self._guarded, args=(self._engine,), name="tickhouse-engine", daemon=True),
                threading.Thread(target=self._guarded, args=(self._maintain,), name="tickhouse-journal", daemon=True),
            ]
            self._ingest.start()
            for thread in self._threads:
                thread.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._ingest is not None
        assert self._work is not None
        with self._stack:
            try:
                self._ingest.stop()
                self._ingest.join()
            except TickhouseError as failed:
                self._error = failed
            finally:
                self._leaving.set()
                self._work.engine.stop()
                for thread in self._threads:
                    thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _guarded(self, part: Callable[[], None]) -> None:
        try:
            part()
        except BaseException as error:  # noqa: BLE001  the run's boundary: raised again on leaving
            self._error = self._error or error

    def _engine(self) -> None:
        assert self._work is not None
        self.position = self._work.engine.run(self._work.start)

    def _maintain(self) -> None:
        """Keep the journal small: its write-ahead log folded in, what every table has dropped by age."""
        assert self._journal is not None
        keep = parse_duration(self._settings.journal.keep)
        watch = _ClockWatch()
        while not self._leaving.wait(_MAINTAIN_S):
            watch.look(self.counts)
            self._journal.maintain()
            checkpoint = self._journal.checkpoint(0)
            if checkpoint is not None:
                self._journal.prune(checkpoint[0].offset, keep)


class _ClockWatch:
    """Rule R12: many trades from the future within a minute mean that the host's clock is behind; someone should look."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._received = self._future = 0

    def look(self, counts: Counts) -> None:
        received, future = counts.received, counts.rejected.get("future", 0)
        if time.monotonic() - self._since < _MINUTE_S:
            return
        fresh, early = received - self._received, future - self._future
        if early > _HINT_SHARE * fresh:
            _log.warning(
                "clock_behind",
                future=early,
                received=fresh,
                hint="the host's clock is behind the venue's: is time synchronised?",
            )
        self._since, self._received, self._future = time.monotonic(), received, future


def _choose(settings: Settings, symbols: Sequence[str] | None) -> tuple[list[Source], str, str]:
    """Return the sources to run, their names, and why these."""
    for name in settings.sources.options:
        load(SOURCES, name)  # a mistyped section would be settings that nobody reads
    asked = settings.sources.enabled
    if asked:
        sources = [_source(name, settings, symbols) for name in asked]
        return sources, "+".join(asked), "as asked"
    binance = _source("binance", settings, symbols)
    try:
        asyncio.run(asyncio.wait_for(binance.check(), _REACHABLE_S))
    except (TickhouseError, TimeoutError) as error:
        reason = str(error) or f"no answer in {_REACHABLE_S:g} s"
        why = f"the built-in SYNTHETIC market, no real prices; Binance cannot be reached: {reason}"
        return [_source("synthetic", settings, None)], "synthetic", why
    return [binance], "binance", "Binance's public trade stream"


def _source(name: str, settings: Settings, symbols: Sequence[str] | None) -> Source:
    options = dict(settings.sources.options.get(name, {}))
    if symbols is not None:
        options["symbols"] = tuple(symbols)
    source: Source = build(SOURCES, name, options)
    return source


def file_options(given: Mapping[str, str | None]) -> FileOptions:
    """Return how files are to be read, from the command line's words.

    Raises:
        ConfigError: a word that is none of the allowed.
    """
    columns: dict[str, str] = {}
    for pair in (given.get("columns") or "").split(","):
        if pair.strip():
            ours, equals, theirs = pair.partition("=")
            if not equals or not theirs:
                raise ConfigError(f"--columns {pair!r}: write our name=theirs, e.g. symbol=s,price=p")
            if ours.strip() in columns:
                raise ConfigError(f"--columns names {ours.strip()!r} twice")
            columns[ours.strip()] = theirs.strip()
    for name, allowed in (("ts_unit", ("s", "ms", "us", "ns", "iso")), ("identity", ("contiguous", "unique", "none"))):
        value = given.get(name)
        if value is not None and value not in allowed:
            raise ConfigError(f"--{name.replace('_', '-')} {value!r}: use {', '.join(allowed)}")
    return FileOptions(
        columns=columns,
        ts_unit=given.get("ts_unit"),  # type: ignore[arg-type]
        venue=given.get("venue"),
        symbol=given.get("symbol"),
        identity=given.get("identity"),  # type: ignore[arg-type]
    )


class ReplayRun:
    """Recordings -> engine -> lake, as fast as possible or at a multiple of recorded time.

    Args:
        house: Where to.
        settings: All of them.
        files: Oldest first.
        given: The command line's words on how to read them; see `file_options`.
        speed: `max` or a number.
        to: `sqlite` = through that journal; None = the files are the journal.
        say: Told what was found out (units, skipped files), a line each.

    Raises:
        ConfigError: a file cannot be read, or a word is none of the allowed.
    """

    def __init__(
        self,
        house: House,
        settings: Settings,
        files: Sequence[Path],
        given: Mapping[str, str | None],
        *,
        speed: str = "max",
        to: str | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        if to not in (None, "sqlite"):
            raise ConfigError(f"--to {to!r}: use sqlite")
        for file in files:
            if not file.exists():
                raise ConfigError(f"{file}: no such file")
            if not file.is_file():
                raise ConfigError(f"{file} is no file; name the files themselves, e.g. {file}/*.ndjson, oldest first")
        self._multiple = _multiple(speed)
        self._house = house
        self._settings = settings
        self._files = [Path(file) for file in files]
        self._options = file_options(given)
        self._to = to
        self._say = say
        self.counts = Counts()
        self.received_now = 0

    def run(self, stop: threading.Event, progress: Progress | None = None) -> dict[str, Any]:
        """Replay until the end or until `stop`; return the summary.

        Raises:
            TickhouseError: what stopped it; everything committed stays, the same call goes on from there.
        """
        with ExitStack() as stack:
            stack.enter_context(self._house.writing("sqlite" if self._to else "recording"))
            rules = house_rules(self._house, self._settings)
            recording = self._house.recording(rules, beside=bool(self._to))
            stack.callback(recording.close)
            for file in recording.add_files(self._files, self._options):
                self._say(f"{file}: already in this house, not added again")
            for entry in recording.files()[-len(self._files) :]:
                if entry.options.ts_unit is not None:
                    self._say(f"{entry.path.name}: {entry.options.format}, times in {entry.options.ts_unit}")
            if self._to:
                journal = self._house.sqlite(rules, self._settings)
                stack.callback(journal.close)
                transfer(recording, journal, stop, progress)
                position = self._engine(journal, rules, stop, None, until_drained=True)
            else:
                paced = recording if self._multiple is None else PacedJournal(recording, self._multiple)
                position = self._engine(paced, rules, stop, progress)
        return summary(self.counts, position)

    def _engine(
        self, journal: Journal, rules: Rules, stop: threading.Event, progress: Progress | None, *, until_drained: bool = False
    ) -> Position:
        shown = 0.0

        def watch(_batch: Batch, _outputs: Outputs) -> None:
            nonlocal shown
            self._check_times()
            if progress is not None and time.monotonic() - shown > _SHOW_S:
                shown = time.monotonic()
                _show(progress, work.engine)

        work = self._house.work(journal, rules, self._settings, watch)
        self.counts = work.pipeline.counts
        before = self.counts.received
        threading.Thread(target=_stop_when, args=(stop, work.engine), daemon=True).start()
        try:
            return work.engine.run(work.start, until_drained=until_drained)
        finally:
            work.close()
            self.received_now = self.counts.received - before

    def _check_times(self) -> None:
        """Rule R12: many impossible times mean a wrong unit or time zone; stop before the house is full of rejections."""
        counts = self.counts
        wrong = counts.rejected.get("future", 0) + counts.rejected.get("ts", 0)
        if counts.received >= _HINT_AFTER and wrong > _HINT_SHARE * counts.received:
            raise ConfigError(
                f"{wrong:,} of the first {counts.received:,} trades lie in the future or outside 1990-2100: "
                "is the unit or the time zone of the times wrong? Give --ts-unit s|ms|us|ns and a new --house"
            )


def _stop_when(stop: threading.Event, engine: EmbeddedEngine) -> None:
    stop.wait()
    engine.stop()


def _show(progress: Progress, engine: EmbeddedEngine) -> None:
    come = getattr(engine.reader, "progress", None)
    if come is not None:
        progress(come.bytes_read, come.bytes_total)


def _multiple(speed: str) -> float | None:
    if speed == "max":
        return None
    try:
        multiple = float(speed.rstrip("x"))
    except ValueError:
        multiple = 0.0
    if not 0 < multiple < float("inf"):
        raise ConfigError(f"--speed {speed!r}: use max, or how many times recorded time, e.g. 1 or 10")
    return multiple
