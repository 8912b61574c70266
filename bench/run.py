"""How fast: the standard work by Tickhouse and by its peers, in turn on one machine, as ratios (`make bench`).

Each contender is a process of its own, run `--repeat` times in turn with the others, so that a busy machine is unfair to
nobody; the median counts. `lines/s` is over the work, from opening the file to the last commit; `process` is everything from
the call to the exit, with starting Python and loading libraries. Peers write bars, indicators, anomalies and trades;
Tickhouse also writes every message as received, 5m to 1d bars, revisions, coverage of its ids and snapshots, and can prove
and continue what it wrote.

Results are also written to .bench/results.json. `--check` compares everyone's tables with the oracle afterwards (slow,
exact).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import standard_work
from check import compare
from rich.console import Console
from rich.table import Table

__all__ = ["KEPT", "Contender", "Run", "cpu_s", "machine"]

HERE = Path(__file__).parent
KEPT = HERE.parent / ".bench"
TICKHOUSE = "tickhouse"
TIMEOUT_S = 1800


class Contender(NamedTuple):
    """Someone who does the standard work."""

    name: str
    needs: str
    """The distribution that must be installed."""
    semantics: str


class Run(NamedTuple):
    """One run of one contender."""

    seconds: float
    """Of the work."""
    process_s: float
    peak_rss_mb: float
    version: str


CONTENDERS = (
    Contender(TICKHOUSE, "tickhouse", "every rule"),
    Contender("python_dicts", "msgspec", "the same bars"),
    Contender("polars_batch", "polars", "the same bars, not incremental"),
    Contender("duckdb_batch", "duckdb", "the same bars, not incremental"),
    Contender("bytewax_flow", "bytewax", "lateness by symbol, so some bars differ"),
)


def _command(contender: Contender, file: Path, out: Path) -> list[str]:
    if contender.name == TICKHOUSE:
        return [sys.executable, "-m", "tickhouse", "replay", str(file), "--house", str(out), "--json"]
    return [sys.executable, str(HERE / "peers" / f"{contender.name}.py"), str(file), "--out", str(out)]


def _run(contender: Contender, file: Path, out: Path) -> Run:
    """Run a contender once in a fresh folder.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        began = time.perf_counter()
        # Bytecode is cached as anywhere: without it every start would compile its libraries anew.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        process = subprocess.Popen(_command(contender, file, out), stdout=said, stderr=complained, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        complained.seek(0)
        if process.returncode:
            raise RuntimeError(
                f"{contender.name} ended with {process.returncode}: {complained.read().decode(errors='replace')[-800:]}"
            )
        told = json.loads(said.read().decode().strip())
    spelled = told.get("version") or f"Tickhouse {version('tickhouse')}"
    peak = usage.ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))
    return Run(told["seconds"], process_s, peak, spelled)


def _missing(contender: Contender) -> str | None:
    try:
        version(contender.needs)
    except PackageNotFoundError:
        return f"{contender.needs} is not installed (pip install '.[bench]')"
    return None


def machine() -> dict[str, str | int]:
    """Return what ran it: processor, cores, system, Python."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text("utf-8").splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"cpu": model, "cores": cores, "system": platform.platform(), "python": platform.python_version()}


def cpu_s(pid: int, *, with_children: bool = False) -> float:
    """Return the CPU seconds of a process; with all that descend from it: Spark has many."""
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = stat.read_text().rpartition(")")[2].split()
            number = int(stat.parent.name)
            parents[number], ticks[number] = int(fields[1]), int(fields[11]) + int(fields[12])
    counted = {pid}
    while with_children and (more := {child for child, parent in parents.items() if parent in counted} - counted):
        counted |= more
    return sum(ticks.get(number, 0) for number in counted) / os.sysconf("SC_CLK_TCK")


def _input(n: int, symbols: int, seed: int) -> Path:
    file = KEPT / f"standard_{n}_{symbols}_{seed}.ndjson"
    if not file.exists():
        KEPT.mkdir(exist_ok=True)
        standard_work.write(file, n, symbols, seed)
    return file


def _race(
    contenders: list[Contender], file: Path, repeat: int, console: Console
) -> tuple[dict[str, list[Run]], dict[str, str]]:
    runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    absent = {contender.name: reason for contender in contenders if (reason := _missing(contender))}
    warm_up = _input(2_000, 5, 1)
    for turn in range(repeat + 1):
        for contender in contenders:
            if contender.name in absent:
                continue
            console.print(f"{'warming up' if turn == 0 else f'turn {turn} of {repeat}'}: {contender.name}", style="dim")
            try:
                # The first turn is small and not counted: compilers fill their caches, files enter memory.
                run = _run(contender, file if turn else warm_up, KEPT / "out" / contender.name)
            except (RuntimeError, ValueError, KeyError) as error:
                absent[contender.name] = str(error)
                console.print(f"left out: {error}", style="red", markup=False)
                continue
            if turn:
                runs[contender.name].append(run)
    return runs, absent


def _median(runs: list[Run]) -> Run:
    return Run(
        statistics.median(run.seconds for run in runs),
        statistics.median(run.process_s for run in runs),
        statistics.median(run.peak_rss_mb for run in runs),
        runs[0].version,
    )


def _table(n: int, contenders: list[Contender], runs: dict[str, list[Run]], absent: dict[str, str], title: str) -> Table:
    table = Table(title=title, caption="ratio = its lines/s over Tickhouse's; process ratio = Tickhouse's seconds over its")
    for heading in ("contender", "version", "lines/s", "ratio", "process s", "process ratio", "peak MB", "semantics"):
        table.add_column(heading, justify="right" if heading[0] in "lrp" else "left")
    ours = _median(runs[TICKHOUSE]) if runs.get(TICKHOUSE) else None
    for contender in contenders:
        if not runs[contender.name]:
            table.add_row(contender.name, "", "", "", "", "", "", absent.get(contender.name, ""))
            continue
        run = _median(runs[contender.name])
        ratios = (f"{ours.seconds / run.seconds:.2f}", f"{ours.process_s / run.process_s:.2f}") if ours else ("", "")
        table.add_row(
            *(contender.name, run.version, f"{n / run.seconds:,.0f}", ratios[0], f"{run.process_s:.2f}", ratios[1]),
            *(f"{run.peak_rss_mb:,.0f}", contender.semantics),
        )
    return table


def _check(contenders: list[Contender], absent: dict[str, str], file: Path, console: Console) -> dict[str, dict[str, int]]:
    answer = file.with_suffix(".answer")
    if not answer.exists():
        subprocess.run([sys.executable, str(HERE / "oracle.py"), str(file), str(answer)], check=True, stdout=subprocess.DEVNULL)
    found = {}
    for contender in contenders:
        if contender.name not in absent:
            compared = compare(answer, KEPT / "out" / contender.name)
            found[contender.name] = compared
            differing = {name: count for name, count in compared.items() if count and name not in {"bars", "trades"}}
            console.print(f"{contender.name}: {differing or 'equal to the oracle'}", highlight=False)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=1_000_000, help="lines of the input")
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="", help="names, separated by commas: " + ", ".join(c.name for c in CONTENDERS))
    parser.add_argument("--check", action="store_true", help="compare the tables with the oracle afterwards")
    return parser.parse_args()


def main() -> None:
    """Race, print, and keep the results."""
    given, console = _arguments(), Console(stderr=True)
    wanted = {name for name in given.only.split(",") if name}
    if unknown := wanted - {contender.name for contender in CONTENDERS}:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(contender.name for contender in CONTENDERS)}")
    contenders = [contender for contender in CONTENDERS if not wanted or contender.name in wanted]
    file = _input(given.n, given.symbols, given.seed)
    runs, absent = _race(contenders, file, given.repeat, console)
    host, date = machine(), datetime.now(UTC).isoformat(timespec="seconds")
    title = (
        f"The standard work: {given.n:,} lines, {given.symbols:,} symbols, median of {given.repeat}\n"
        f"{host['cpu']}, {host['cores']} cores, {host['system']}, Python {host['python']}, {date}"
    )
    Console(width=None if sys.stdout.isatty() else 150).print(_table(given.n, contenders, runs, absent, title))
    results = {
        "date": date,
        "machine": host,
        "input": {"n": given.n, "symbols": given.symbols, "seed": given.seed},
        "absent": absent,
        "runs": {name: [run._asdict() for run in each] for name, each in runs.items()},
    }
    if given.check:
        results["differences"] = _check(contenders, absent, file, console)
    (KEPT / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if TICKHOUSE in absent:
        sys.exit(f"Tickhouse itself failed: {absent[TICKHOUSE]}")


if __name__ == "__main__":
    main()
