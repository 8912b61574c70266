"""`python -m tickhouse`, and the `tickhouse` command: the command line."""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]

_WITHOUT_PANDAS = frozenset({"run", "ingest", "work", "replay", "repartition", "serve", "query", "verify"})


def main() -> None:
    """Run the command line; a Ctrl-C while its modules load just ends it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _WITHOUT_PANDAS.intersection(sys.argv[1:2]):
        _load_without_pandas()

    from tickhouse.cli import main as command_line

    signal.signal(signal.SIGINT, signal.default_int_handler)
    command_line()


class _NoPandas:
    """Finds no pandas, as if it were not installed."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=name)


def _load_without_pandas() -> None:
    """Load what would load pandas, where it is installed: a quarter of a second and 30 MB, for nothing here.

    Arrow looks for it once, at its first array.
    """
    sys.meta_path.insert(0, _NoPandas)
    try:
        import pyarrow as pa
        import talib  # noqa: F401  (loaded, not used)

        pa.array([])
    finally:
        sys.meta_path.remove(_NoPandas)


if __name__ == "__main__":
    main()
