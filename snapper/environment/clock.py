"""The clock of the file system that an environment is on, which files get their ctime from."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from snapper.environment.state import open_environment, state_directory
from snapper.format.constraints import STATE_DIRECTORY
from snapper.fs.atomic import remove_leftovers, temporary_name
from snapper.fs.directories import closing_descriptor
from snapper.fs.pinned import PinnedDirectory

#: How long to wait at most for the clock to advance, in seconds: usually, and for those with the coarsest times.
_SHORT_TICK = 0.05
LONGEST_TICK = 2.5


def now(top: Path | PinnedDirectory | int) -> int:
    """Return the time of the file system that an environment is on, in nanoseconds; may raise OSError."""
    return _read(top, -1)


def next_tick(top: Path | PinnedDirectory | int, longest: float = _SHORT_TICK) -> int:
    """Wait until the clock has advanced, and return the time in nanoseconds; may raise OSError.

    The result is later than the ctime of everything written before, except on file systems with a clock that takes
    longer than `longest`, in seconds, for which it does not wait.
    """
    return _read(top, now(top), longest)


def _read(top: Path | PinnedDirectory | int, after: int, longest: float = 0) -> int:
    with open_environment(top) as environment:
        try:
            with state_directory(environment, make=True) as directory:
                remove_leftovers(directory)
                return _wait(directory, after, longest)
        finally:
            with suppress(OSError):
                os.rmdir(STATE_DIRECTORY, dir_fd=environment)  # if it was created for the probe


def _wait(directory: int, after: int, longest: float) -> int:
    """Create files in the open directory until the time of one is later than `after`; return that time."""
    probe = temporary_name("now")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    started = time.monotonic()
    while True:
        is_last = (
            time.monotonic() - started > longest
        )  # before the file, after which this process may be interrupted
        with closing_descriptor(os.open(probe, flags, 0o600, dir_fd=directory)) as descriptor:
            ctime = os.fstat(descriptor).st_ctime_ns
        os.unlink(probe, dir_fd=directory)
        if ctime > after or is_last:
            return ctime
        time.sleep(0.001)
