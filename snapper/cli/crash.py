"""Report exceptions that are bugs: one line for the user, the traceback in the log file."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from pathlib import Path

from snapper.errors.redaction import redact
from snapper.process.logs import escape_controls, indent_lines


def report(error: Exception, *, as_json: bool) -> int:
    """Report an unexpected exception and return the exit code. Print the traceback if it cannot be logged."""
    text = redact(indent_lines("".join(traceback.format_exception(error))))
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
    """Append the traceback to the log file and return its path; raise OSError."""
    import platform

    from snapper.process.logs import LogFile
    from snapper.settings.directories import log_file
    from snapper.version import __version__

    with LogFile(log_file()) as log:
        log.write(f"unexpected error in: {escape_controls(' '.join(sys.argv))}\n")
        log.write(f"snapper {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
        log.write(text)
        if log.failed:
            raise log.failed
    return log.path
