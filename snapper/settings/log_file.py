"""The log file of background work and of tracebacks of exceptions that are bugs."""

from __future__ import annotations

import sys
from pathlib import Path

from snapper.fs.own_directory import own_directory
from snapper.process.logs import LogFile, crash_text, escape_controls
from snapper.settings.directories import log_file
from snapper.version import __version__

#: The size in bytes above which the file is renamed when it is opened.
_MAX_SIZE = 1024 * 1024


def open_log(path: Path) -> LogFile:
    """Open a log file in a directory of this user or root, and create both if necessary; raise OSError."""
    with own_directory(path.parent, make=True) as directory:
        return LogFile(path, directory.open_to_append(path.name, _MAX_SIZE))


def log_crash(error: Exception) -> Path:
    """Append the traceback to the log file and return the file's path; raise OSError."""
    import platform  # noqa: PLC0415 - slow to import, and rarely needed

    with open_log(log_file()) as log:
        log.write(f"unexpected error in: {escape_controls(' '.join(sys.argv))}\n")
        log.write(f"snapper {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
        log.write(crash_text(error))
        if log.failed:
            raise log.failed
    return log.path
