"""Private directories for what is only needed while a command runs. What killed commands left of theirs goes with
the next one that is made.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snapper.process.signals import defer_signals
from snapper.restoring.staging import remove_tree

_PREFIX = "snapper-scratch-"
_LOCK = "lock"

#: Younger ones may be without a lock because it is about to be made, in seconds.
_YOUNG = 60


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """An empty directory below the one for temporary files (`TMPDIR`), which is gone at the end; may raise OSError."""
    top = Path(tempfile.gettempdir())
    _sweep(top)
    holder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=top))
    lock = os.open(holder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        inner = holder / "work"
        inner.mkdir(mode=0o700)
        yield inner
    finally:
        with defer_signals():
            remove_tree(holder)
            os.close(lock)


def _sweep(top: Path) -> None:
    """Removes directories of this user that nobody holds any more."""
    for holder in top.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            status = holder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and _is_left(holder):
                remove_tree(holder)


def _is_left(holder: Path) -> bool:
    try:
        lock = os.open(holder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - holder.lstat().st_mtime > _YOUNG
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
