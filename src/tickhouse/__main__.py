"""`python -m tickhouse`, and the `tickhouse` command: the command line."""

from __future__ import annotations

import gc
import os
import signal
import sys

__all__ = ["main"]

_WITHOUT_FRAMES = frozenset({"run", "ingest", "work", "replay", "repartition", "serve", "query", "verify"})


def main() -> None:
    """Run the command line; a Ctrl-C while its modules load just ends it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's; they would only take turns looking for work
    if _WITHOUT_FRAMES.intersection(sys.argv[1:2]):
        _load_without_frames()

    from tickhouse.cli import main as command_line

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command_line()
    finally:
        if "_duckdb" not in sys.modules:  # which tells of everything that it is not asked to give back
            gc.freeze()  # Python's last collections would go through all that was loaded: 0.4 s


class _NoFrames:
    """Finds neither pandas nor polars, as if they were not installed."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name in ("pandas", "polars"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _load_without_frames() -> None:
    """Load what would load pandas and polars, where they are installed: a third of a second and 60 MB, for nothing here.

    Arrow looks for pandas once, at its first array; who works with polars loads it later.
    """
    sys.meta_path.insert(0, _NoFrames)
    try:
        import pyarrow as pa
        import talib  # noqa: F401  (loaded, not used)

        pa.array([])
    finally:
        sys.meta_path.remove(_NoFrames)


if __name__ == "__main__":
    main()
