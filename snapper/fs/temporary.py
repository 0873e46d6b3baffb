"""Private temporary directories that outlive no command: the next one removes what a killed command left."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snapper.fs.locks import is_locked, lock
from snapper.fs.removal import remove_tree
from snapper.process.signals import defer_signals

_PREFIX = "snapper-scratch-"
_LOCK = "lock"

#: A directory younger than this may not have its lock yet, in seconds.
_LOCK_GRACE = 60


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Yield an empty directory below that for temporary files (`TMPDIR`); remove it at the end. May raise OSError."""
    top = Path(tempfile.gettempdir())
    _remove_leftovers(top)
    holder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=top))
    descriptor = os.open(holder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        lock(descriptor)
        directory = holder / "work"
        directory.mkdir(mode=0o700)
        yield directory
    finally:
        with defer_signals():
            remove_tree(holder)
            os.close(descriptor)


def _remove_leftovers(top: Path) -> None:
    """Remove this user's directories whose commands have ended."""
    for holder in top.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            status = holder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and _is_leftover(holder):
                remove_tree(holder)


def _is_leftover(holder: Path) -> bool:
    try:
        return not is_locked(holder / _LOCK)
    except FileNotFoundError:
        return time.time() - holder.lstat().st_mtime > _LOCK_GRACE
