"""Logging of the command line.

Modules log to loggers named `snapper.*` (`logging.getLogger(__name__)`). Messages go to stderr: warnings by default,
errors only with --quiet, information with -v, everything with -vv. SNAPPER_LOG names a level and overrides the options.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import ClassVar

from snapper.cli.render.text import clean
from snapper.errors import InvalidSettings, UsageError

VARIABLE = "SNAPPER_LOG"
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_TIME_FORMAT = "%H:%M:%S"


class Verbosity:
    """What the command line asks for: the number of -v options, and whether --quiet is given."""

    verbose: ClassVar[int] = 0
    quiet: ClassVar[bool] = False


def set_up(verbose: int = 0, quiet: bool = False) -> None:
    """Configure the loggers `snapper.*`. Add to what earlier calls of the same process asked for.

    Raise UsageError if both are given, and InvalidSettings if SNAPPER_LOG names no level.
    """
    Verbosity.verbose += verbose
    Verbosity.quiet |= quiet
    if Verbosity.verbose and Verbosity.quiet:
        raise UsageError("--verbose and --quiet cannot be combined", "Choose one of them.")
    logger = logging.getLogger("snapper")
    logger.setLevel(level())
    logger.propagate = False
    if not logger.handlers:
        handler = _StderrHandler()
        handler.setFormatter(_Formatter(_FORMAT, _TIME_FORMAT))
        logger.addHandler(handler)


def level() -> int:
    """Return the level in force, as a number of `logging`."""
    name = os.environ.get(VARIABLE, "").lower()
    if name:
        if name not in LEVELS:
            raise InvalidSettings(VARIABLE, f"{name!r} is not a log level", f"Levels: {', '.join(LEVELS)}.")
        return LEVELS[name]
    if Verbosity.quiet:
        return logging.ERROR
    return (logging.WARNING, logging.INFO, logging.DEBUG)[min(Verbosity.verbose, 2)]


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Write to whatever sys.stderr is at the moment, so that redirections apply; ignore a full disk."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name that logging calls
        """Drop the record: logging must not end the work, nor clutter the output."""


class _Formatter(logging.Formatter):
    """Make control characters visible, except the line breaks of tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(clean(line) for line in super().format(record).split("\n"))
