"""Log records on standard error, and the log file of background work and unexpected errors."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from snapper.errors.redaction import redact
from snapper.process.characters import is_visible

if TYPE_CHECKING:
    _TextStreamHandler = logging.StreamHandler[TextIO]
else:
    _TextStreamHandler = logging.StreamHandler  # cannot be subscripted in Python 3.10

logger = logging.getLogger("snapper")

_WARNING = "snapper: warning: %(message)s"
_SHORT = "%(levelname)s %(name)s: %(message)s"
_LONG = "%(asctime)s.%(msecs)03dZ %(process)d %(levelname)s %(name)s: %(message)s"
_TIME = "%Y-%m-%dT%H:%M:%S"


class LogFile(io.TextIOBase):
    """A text stream that appends to an open log file, and puts the time (UTC) and the PID before every line.

    `path` is that of the file; `descriptor` is closed with the stream. Every write to the file is one or more whole
    lines, so lines of several processes and threads do not mix. An error of writing, such as a full disk, does not stop
    the work: it is kept in `failed`.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.failed: OSError | None = None
        self._descriptor = descriptor
        self._incomplete = threading.local()

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._descriptor

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write the complete lines; keep the rest until its line is complete."""
        *lines, rest = (getattr(self._incomplete, "text", "") + text).split("\n")
        self._incomplete.text = rest
        self._write_lines(lines)
        return len(text)

    def close(self) -> None:
        """Write an incomplete line and close the file."""
        if not self.closed:
            rest = getattr(self._incomplete, "text", "")
            self._write_lines([rest] if rest else [])
            with suppress(OSError):
                os.close(self._descriptor)
        super().close()

    def _write_lines(self, lines: list[str]) -> None:
        start = f"{time.strftime(_TIME, time.gmtime())}Z {os.getpid()} "
        data = "".join(f"{start}{escape_controls(redact(line))}\n" for line in lines).encode(
            "utf-8", "backslashreplace"
        )
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self.failed = error


def configure_logging(level: int) -> None:
    """Have snapper's loggers write records of this level and above to what `sys.stderr` is then.

    Replaces what an earlier call has set up.
    """
    logger.setLevel(level)
    logger.propagate = False
    for handler in [handler for handler in logger.handlers if isinstance(handler, _StderrHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(_StderrHandler())


def escape_controls(text: str) -> str:
    """Return the text with everything escaped that cannot be seen, such as terminal sequences."""
    if is_visible(text):
        return text
    return "".join(
        char if is_visible(char) else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )


def indent_lines(text: str) -> str:
    """Return the text with its lines escaped and indented, so that none of them looks like the first of a record.

    Messages and tracebacks contain names from stores and archives, which may contain line breaks.
    """
    return "\n".join(f"  {escape_controls(line)}" if line else "" for line in text.split("\n"))


def crash_text(error: Exception) -> str:
    """Return the traceback of an exception that is a bug, as it may be shown and logged."""
    return redact(indent_lines("".join(traceback.format_exception(error))))


class _StderrHandler(_TextStreamHandler):
    """Writes to the current `sys.stderr`: warnings as the command line reports problems, others with time and PID,
    unless this is a log file, which adds these itself.

    Errors, such as a full disk, are ignored.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self._warning = logging.Formatter(_WARNING)
        self._short = logging.Formatter(_SHORT)
        self._long = logging.Formatter(_LONG, _TIME)
        self._long.converter = time.gmtime

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(sys.stderr, LogFile):
            formatter = self._short
        else:
            formatter = self._warning if record.levelno == logging.WARNING else self._long
        first, separator, rest = redact(formatter.format(record)).partition("\n")
        return escape_controls(first) + separator + indent_lines(rest)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name that logging calls
        """Drop the record."""
