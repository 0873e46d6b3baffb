"""Which log messages the command line shows.

Messages of the loggers `snapper.*` go to stderr: warnings by default, errors only with --quiet, information with -v,
everything with -vv. SNAPPER_LOG names a level and overrides the options.
"""

from __future__ import annotations

import logging
import os
from typing import ClassVar

from snapper.errors import InvalidSettings, UsageError
from snapper.process.logs import configure_logging

VARIABLE = "SNAPPER_LOG"
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class Verbosity:
    """What the command line asks for: the number of -v options, and whether --quiet is given."""

    verbose: ClassVar[int] = 0
    quiet: ClassVar[bool] = False


def reset() -> None:
    """Forget the options of an earlier command line, and configure logging without any."""
    Verbosity.verbose, Verbosity.quiet = 0, False
    configure_logging(level())


def set_up(verbose: int, quiet: bool) -> None:
    """Configure logging for these options of a command, or of a group of commands and then one of the group.

    Raise UsageError if both are given, and InvalidSettings if SNAPPER_LOG names no level.
    """
    Verbosity.verbose += verbose
    Verbosity.quiet |= quiet
    if Verbosity.verbose and Verbosity.quiet:
        raise UsageError("--verbose and --quiet cannot be combined", "Choose one of them.")
    configure_logging(level())


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
