"""Advisory locks on files (flock), which the kernel releases when their holder dies.

A lock belongs to an open file, not to a path: after locking a file that others may replace or remove, check that the
path still names it. NFS shares locks between machines if they are on files, not on directories,
and the file is open for writing.
"""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
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


def is_open_file(descriptor: int, path: str | Path) -> bool:
    """Return whether the path names the open file, without following a link."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def is_locked(path: str | Path, dir_fd: int | None = None) -> bool:
    """Return whether a process holds a lock on the file. Raise FileNotFoundError, or another OSError if unknown."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked_file(path: Path) -> Iterator[io.FileIO | None]:
    """Lock the file at the path and yield it; yield None if there is no such file.

    Files that are replaced by renaming are opened again until the one that is locked is the one at the path.
    """
    while True:
        try:
            descriptor = _open_to_lock(path)
        except FileNotFoundError:
            yield None
            return
        with open(descriptor, "rb", buffering=0) as file:
            lock(file.fileno())
            if _is_at(file.fileno(), path):
                yield file
                return


@contextmanager
def locked_directory(path: Path) -> Iterator[None]:
    """Lock a directory for processes of this machine, waiting for other holders."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _open_to_lock(path: Path) -> int:
    """Open for writing, as NFS requires; where the user may not write, local file systems grant a lock anyway."""
    try:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether the path leads to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
