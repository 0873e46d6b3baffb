"""Advisory locks on files (flock), which the kernel releases when their holder dies.

A lock belongs to an open file, not to a path: after locking a file that others may replace or remove, check that the
path still names it. NFS shares locks between machines if they are on files, not on directories,
and the file is open for writing.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def lock(descriptor: int) -> None:
    """Lock the open file, waiting for other holders; closing the descriptor releases it. May raise OSError."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def try_lock(descriptor: int) -> bool:
    """Lock the open file unless another process has; return whether it is locked now. May raise OSError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_open_file(descriptor: int, path: str | Path, dir_fd: int | None = None) -> bool:
    """Return whether the path names the open file, without following a link."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path, dir_fd=dir_fd))
    except FileNotFoundError:
        return False


def is_locked(path: str | Path, dir_fd: int | None = None) -> bool:
    """Return whether a process holds a lock on the file. Raise FileNotFoundError, or another OSError if unknown."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)
