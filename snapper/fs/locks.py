"""Advisory locks on files: flock, which the kernel releases when their holder dies, or else leases.

A lock belongs to an open file, not to a path: after locking a file that others may replace or remove, check that the
path still names it. NFS shares locks between machines if they are on files, not on directories,
and the file is open for writing. File systems without flock have leases instead: see `leases`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from snapper.fs.moves import Entry

if TYPE_CHECKING:
    from snapper.fs.leases import Holder, Lease

#: What flock fails with where there are no locks: Lustre without `-o flock`, NFS without a lock service, and others.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)

_PAUSE = 0.05


class HeldLock(NamedTuple):
    """A lock that this process holds on an open file, with a lease if the file system has no locks."""

    descriptor: int
    lease: Lease | None = None

    def release(self) -> None:
        """Release the lock, and close the file."""
        if self.lease:
            self.lease.end()
        os.close(self.descriptor)


def hold(file: Entry, descriptor: int) -> HeldLock | None:
    """Lock the file, which is open; return None if another process has locked it. May raise OSError."""
    try:
        return HeldLock(descriptor) if try_lock(descriptor) else None
    except OSError as error:
        if not is_without_locks(error):
            raise
    from snapper.fs import leases  # noqa: PLC0415 - seldom needed

    lease = leases.acquire(file)
    return HeldLock(descriptor, lease) if lease else None


def wait_for_lock(file: Entry, descriptor: int) -> HeldLock:
    """Lock the file, which is open, waiting for other holders. Close it if that fails. May raise OSError."""
    try:
        while (held := hold(file, descriptor)) is None:
            time.sleep(_PAUSE)
    except BaseException:
        os.close(descriptor)
        raise
    return held


def try_lock(descriptor: int) -> bool:
    """Lock the open file by flock unless another process has; return whether it is locked now.

    Closing the descriptor releases it. May raise OSError, also if the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_without_locks(error: OSError) -> bool:
    """Return whether this error of a lock says that the file system has none."""
    return error.errno in _NO_LOCKS


def lease_holder(file: Entry) -> Holder | None:
    """Return who holds a lease on the file, None if nobody does. May raise OSError."""
    from snapper.fs import leases  # noqa: PLC0415 - seldom needed

    return leases.find_holder(file)


def is_open_file(descriptor: int, path: str | Path, dir_fd: int | None = None) -> bool:
    """Return whether the path names the open file, without following a link."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path, dir_fd=dir_fd))
    except FileNotFoundError:
        return False


def is_locked(name: str, dir_fd: int) -> bool:
    """Return whether a process holds a lock on the file. Raise FileNotFoundError, or another OSError if unknown."""
    descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return not try_lock(descriptor)
    except OSError as error:
        if not is_without_locks(error):
            raise
        return lease_holder(Entry(dir_fd, name)) is not None
    finally:
        os.close(descriptor)
