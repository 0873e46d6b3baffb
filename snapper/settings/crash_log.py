"""Tracebacks of exceptions that are bugs, in the log file."""

from __future__ import annotations

import sys
from pathlib import Path

from snapper.process.logs import LogFile, crash_text, escape_controls
from snapper.settings.directories import log_file
from snapper.version import __version__


def log_crash(error: Exception) -> Path:
    """Append the traceback to the log file and return the file's path; raise OSError."""
    import platform  # noqa: PLC0415 - slow to import, and rarely needed

    with LogFile(log_file()) as log:
        log.write(f"unexpected error in: {escape_controls(' '.join(sys.argv))}\n")
        log.write(f"snapper {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
        log.write(crash_text(error))
        if log.failed:
            raise log.failed
    return log.path
