"""Report exceptions that are bugs: one line for the user, the traceback in a file."""

from __future__ import annotations

import os
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

_KEPT_LOGS = 10


def report(error: Exception, *, as_json: bool) -> int:
    """Report an unexpected exception and return the exit code. Print the traceback if no file can be written."""
    text = "".join(traceback.format_exception(error))
    log = ""
    try:
        log = str(_write_log(text))
    except Exception:  # whatever fails here must not hide the original error
        with suppress(OSError):
            sys.stderr.write(text)
    try:
        from snapper.cli.render import output
        from snapper.errors import UnexpectedError

        reason = " ".join(str(error).split())
        unexpected = UnexpectedError(type(error).__name__, reason, log)
        output.print_error(unexpected, as_json)
        return int(unexpected.code)
    except Exception:
        with suppress(OSError):
            sys.stderr.write(f"snapper: unexpected error: {type(error).__name__}\n{text}")
        return 1


def _write_log(text: str) -> Path:
    """Write the traceback to a new file in the state directory and remove all but the latest of its kind."""
    import platform

    from snapper.settings.directories import state_directory
    from snapper.version import __version__

    directory = state_directory()
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / f"crash-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.log"
    versions = f"snapper {__version__}, Python {platform.python_version()}, {platform.platform()}"
    command = " ".join(sys.argv)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as out:
        out.write(f"{versions}\n{command}\n\n{text}")
    for old in sorted(directory.glob("crash-*.log"))[:-_KEPT_LOGS]:
        with suppress(OSError):
            old.unlink()
    return log
