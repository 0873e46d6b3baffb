"""The clock of the file system that an environment is on, which files get their ctime from."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from pathlib import Path

from snapper.environment.state import make_state_directory
from snapper.fs.atomic import remove_leftovers

#: How long to wait at most for the clock to advance, in seconds.
_LONGEST_TICK = 0.05


def now(prefix: Path) -> int:
    """Return the file system's current time in nanoseconds; may raise OSError."""
    return _read(prefix, -1)


def next_tick(prefix: Path) -> int:
    """Wait until the clock has advanced, and return the time in nanoseconds; may raise OSError.

    The result is later than the ctime of everything written before, except on file systems with a coarse clock, for
    which it does not wait.
    """
    return _read(prefix, now(prefix))


def _read(prefix: Path, after: int) -> int:
    directory = make_state_directory(prefix)
    remove_leftovers(directory)
    probe = directory / f".now.{secrets.token_hex(8)}"
    started = time.monotonic()
    try:
        while True:
            probe.touch()
            ctime = probe.stat().st_ctime_ns
            probe.unlink()
            if ctime > after or time.monotonic() - started > _LONGEST_TICK:
                return ctime
            time.sleep(0.001)
    finally:
        with suppress(OSError):
            probe.parent.rmdir()  # removes it only if it was created for the probe
