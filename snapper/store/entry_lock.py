"""The lock under which mutable objects of a directory store are replaced."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from snapper.fs.lock_file import locked
from snapper.fs.locks import is_open_file, try_lock
from snapper.fs.moves import Entry

#: How long to wait for a lock on the object itself, and how often to look, in seconds. 0.1.0 holds it for 14 ms to
#: replace an entry on a disk; for 0.4 s at most if 14 processes share two CPUs and the disk.
_PATIENCE = 1.0
_INTERVAL = 0.01

_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def locked_entry(entry: Entry, report: Callable[[str], object]) -> Iterator[None]:
    """Keep others from changing the entry, and those beside it. `report` and errors are those of `lock_file.locked`.

    snapper 0.1.0 locks the entry itself. So that is locked, too; but because everyone can do that who may read it, it
    is not waited for longer than 0.1.0 needs to replace an entry.
    """
    with locked(entry.directory, report):
        descriptor = _lock_as_0_1_0_does(entry)
        try:
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)


def _lock_as_0_1_0_does(entry: Entry) -> int | None:
    """Return a descriptor of the entry, locked if possible; None if it cannot be opened."""
    deadline = time.monotonic() + _PATIENCE
    while (descriptor := _open(entry)) is not None:
        try:
            if try_lock(descriptor) and is_open_file(descriptor, entry.name, entry.directory):
                break
        except OSError:  # this file system has no locks, so 0.1.0 cannot hold one
            break
        if time.monotonic() > deadline:
            break
        os.close(descriptor)
        time.sleep(_INTERVAL)
    return descriptor


def _open(entry: Entry) -> int | None:
    """Open the entry for writing, as NFS requires; if this user may not, for reading."""
    for access in (os.O_RDWR, os.O_RDONLY):
        with suppress(OSError):
            return os.open(entry.name, access | _FLAGS, dir_fd=entry.directory)
    return None
