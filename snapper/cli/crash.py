"""Report exceptions that are bugs: one line for the user, the traceback in the log file."""

from __future__ import annotations

import sys
from contextlib import suppress

from snapper.process.logs import crash_text


def report(error: Exception, *, as_json: bool) -> int:
    """Report an unexpected exception and return the exit code. Print the traceback if it cannot be logged."""
    text, log = crash_text(error), ""
    try:
        from snapper.settings.log_file import log_crash

        log = str(log_crash(error))
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
