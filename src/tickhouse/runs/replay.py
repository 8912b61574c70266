"""`tickhouse replay`: recorded files -> engine -> lake, as fast as possible or at a multiple of recorded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tickhouse.engines.embedded import EmbeddedEngine
from tickhouse.errors import ConfigError
from tickhouse.house import House
from tickhouse.house.journals import house_rules, open_appender, open_live, open_recording, open_sqlite
from tickhouse.house.work import load_code, open_work
from tickhouse.journal.base import Journal
from tickhouse.journal.recording import PacedJournal, Recording
from tickhouse.journal.transfer import transfer
from tickhouse.lines import FileOptions
from tickhouse.model import Batch, Position
from tickhouse.pipeline import Counts
from tickhouse.rules import Rules
from tickhouse.runs.work import summary
from tickhouse.settings import Settings
from tickhouse.sinks.base import Outputs

__all__ = ["ReplayRun", "file_options"]

_HINT_AFTER = 1_000
_HINT_SHARE = 0.01
_SHOW_S = 0.1

Progress = Callable[[float, float], None]


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
        to: `sqlite` = through that journal; `kafka` = into the topic, for `tickhouse work`; None = the files are the journal.
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
        if to not in (None, "sqlite", "kafka"):
            raise ConfigError(f"--to {to!r}: use sqlite or kafka")
        if to is not None and speed != "max":
            raise ConfigError(f"--to {to} sends as fast as it can: leave --speed out")
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
        if self._to == "kafka":
            return self._send(stop, progress)
        with ExitStack() as stack:
            stack.enter_context(self._house.writing("sqlite" if self._to else "recording"))
            if self._to:
                stack.enter_context(self._house.appending("sqlite"))
            rules = house_rules(self._house, self._settings)
            loading = threading.Thread(target=load_code, args=(self._house, rules), daemon=True)
            loading.start()
            stack.callback(loading.join)
            recording = self._opened(rules, stack)
            loading.join()
            if self._to:
                journal = open_sqlite(self._house, rules, self._settings)
                stack.callback(journal.close)
                transfer(recording, journal.appender(), stop, progress)
                positions = self._engine(journal, rules, stop, None, until_drained=True)
            else:
                paced = recording if self._multiple is None else PacedJournal(recording, self._multiple)
                positions = self._engine(paced, rules, stop, progress)
        return summary(self.counts, positions)

    def _send(self, stop: threading.Event, progress: Progress | None) -> dict[str, Any]:
        """Send the files to the topic of a Kafka house; nothing is computed here."""
        settings = self._settings.model_copy(update={"journal": self._settings.journal.model_copy(update={"kind": "kafka"})})
        with ExitStack() as stack:
            stack.enter_context(self._house.appending("kafka"))
            journal = open_live(self._house, settings, stop)
            stack.callback(journal.close)
            recording = self._opened(journal.rules(), stack)
            line = transfer(recording, open_appender(self._house, journal), stop, progress)
            return {"journal": journal.check(), "lines": line}

    def _opened(self, rules: Rules, stack: ExitStack) -> Recording:
        """Return the recording with the files in it."""
        recording = open_recording(self._house, rules, beside=bool(self._to))
        stack.callback(recording.close)
        for file in recording.add_files(self._files, self._options):
            self._say(f"{file}: already in this house, not added again")
        for entry in recording.files()[-len(self._files) :]:
            if entry.options.ts_unit is not None:
                self._say(f"{entry.path.name}: {entry.options.format}, times in {entry.options.ts_unit}")
        return recording

    def _engine(
        self, journal: Journal, rules: Rules, stop: threading.Event, progress: Progress | None, *, until_drained: bool = False
    ) -> list[Position]:
        shown = 0.0

        def watch(_batch: Batch, _outputs: Outputs) -> None:
            nonlocal shown
            self._check_times()
            if progress is not None and time.monotonic() - shown > _SHOW_S:
                shown = time.monotonic()
                _show(progress, work.engine)

        work = open_work(self._house, journal, rules, self._settings, watch)
        self.counts = work.pipelines[0].counts
        before = self.counts.received
        threading.Thread(target=_stop_when, args=(stop, work.engine), daemon=True).start()
        try:
            return work.engine.run(work.starts, until_drained=until_drained)
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
    come = getattr(engine.readers[0], "progress", None)
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
