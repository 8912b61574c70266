"""What a running house says of itself to those who operate it: structured logs on standard error."""

from __future__ import annotations

import logging
import sys

import structlog

from tickhouse.errors import ConfigError

__all__ = ["configure_logging"]

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
