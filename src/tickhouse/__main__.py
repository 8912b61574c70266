"""`python -m tickhouse`, and the `tickhouse` command: the command line."""

from __future__ import annotations

import signal

__all__ = ["main"]


def main() -> None:
    """Run the command line; a Ctrl-C while its modules load just ends it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    from tickhouse.cli import main as command_line

    signal.signal(signal.SIGINT, signal.default_int_handler)
    command_line()


if __name__ == "__main__":
    main()
