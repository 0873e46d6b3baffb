"""A lock on a directory that only those can hold who may write to the directory.

Anyone who may open a file for reading can lock it, and so keep others waiting. The lock is therefore on the file
`.lock` in the directory, which only those may open who may write to the directory. It is opened for writing, so NFS
shares the lock between machines. It is empty and is not removed; if someone does, a new one is made.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snapper.fs.locks import HeldLock, hold, lease_holder
from snapper.fs.moves import Entry
from snapper.fs.ownership import access_list, is_of_this_user, owner_name

LOCK_FILE = ".lock"

#: How long to wait for other holders before that is reported, and before giving up, in seconds.
_REPORT_AFTER = 5.0
_GIVE_UP_AFTER = 60.0

#: The permissions that the file's owner always has.
_OWN = 0o600

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.1

_FLAGS = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LockTimeout(Exception):
    """Another process has held the lock for too long; the message says which one."""


@contextmanager
def locked(directory: int, report: Callable[[str], object]) -> Iterator[None]:
    """Hold the lock of an open directory. Raise LockTimeout, and OSError such as EACCES or ELOOP.

    If another process holds it for long, `report` is called once with what is known about that process.
    """
    started, pause, reported = time.monotonic(), _FIRST_PAUSE, False
    while (held := _try_to_lock(directory)) is None:
        waited = time.monotonic() - started
        if waited > _GIVE_UP_AFTER:
            raise LockTimeout(_holder(directory))
        if waited > _REPORT_AFTER and not reported:
            report(_holder(directory))
            reported = True
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    try:
        yield
    finally:
        held.release()


def _try_to_lock(directory: int) -> HeldLock | None:
    """Return the lock, or None if another process holds it or the file must be created again."""
    try:
        descriptor = _open_existing(directory)
        is_complete = _is_complete(descriptor, directory)
    except FileNotFoundError:
        created = _create(directory)
        if created is None:
            return None
        descriptor, is_complete = created, True
    file = Entry(directory, LOCK_FILE)
    try:
        held = hold(file, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    if held is None:
        os.close(descriptor)
        return None
    try:
        if file.is_open_as(descriptor):
            if is_complete:
                return held
            os.unlink(LOCK_FILE, dir_fd=directory)
    except BaseException:
        held.release()
        raise
    held.release()
    return None


def _open_existing(directory: int) -> int:
    """Open the file. Whoever owns the directory removes one that it may not open, and raises FileNotFoundError."""
    try:
        descriptor = os.open(LOCK_FILE, _FLAGS, dir_fd=directory)
    except PermissionError as error:
        if is_of_this_user(os.fstat(directory)):
            with suppress(PermissionError):
                os.unlink(LOCK_FILE, dir_fd=directory)
                raise FileNotFoundError(errno.ENOENT, "it was replaced", LOCK_FILE) from None
        owner = owner_name(os.lstat(LOCK_FILE, dir_fd=directory))
        reason = f"{LOCK_FILE} there belongs to {owner}, and this user may not write to it"
        raise OSError(error.errno, reason, LOCK_FILE) from None
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and not status.st_size:
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is not an empty regular file, so it is not a lock", LOCK_FILE)


def _create(directory: int) -> int | None:
    """Create the file, and let those read and write it who may write to the directory; return None if there is one.

    The permissions of a file that is there already are never changed: someone can have moved another file of this user
    there to be given access to it.
    """
    try:
        descriptor = os.open(LOCK_FILE, _FLAGS | os.O_CREAT | os.O_EXCL, _OWN, dir_fd=directory)
    except FileExistsError:
        return None
    try:
        _set_permissions(descriptor, directory)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_complete(descriptor: int, directory: int) -> bool:
    """Return whether the file is another user's, or has the permissions that it is given when it is created.

    It has others if its creator was killed, or if those of the directory have changed since.
    """
    file, parent = os.fstat(descriptor), os.fstat(directory)
    has_all = (stat.S_IMODE(file.st_mode), file.st_gid) == (_mode(parent), parent.st_gid)
    return has_all or not is_of_this_user(file)


def _mode(directory: os.stat_result) -> int:
    """Return the mode of the file: reading only lets those who may write copy the directory without an error."""
    mode = directory.st_mode & 0o222
    return mode | mode << 1 | _OWN


def _set_permissions(descriptor: int, directory: int) -> None:
    parent = os.fstat(directory)
    mode = _mode(parent)
    owner = parent.st_uid if os.geteuid() == 0 else -1  # what root makes must not keep the owner from writing
    try:
        os.fchown(descriptor, owner, parent.st_gid)
    except OSError:  # the group is one that this user is not in
        if not access_list(descriptor):  # where the bits of the group limit what the list grants
            mode &= ~(stat.S_IRGRP | stat.S_IWGRP)
    with suppress(OSError):  # a file system without modes
        os.fchmod(descriptor, mode)


def _holder(directory: int) -> str:
    """Describe the process that holds the lock, as far as this system knows it."""
    with suppress(OSError):
        if holder := lease_holder(Entry(directory, LOCK_FILE)):
            return str(holder)
    with suppress(OSError, ValueError, IndexError):
        inode = os.lstat(LOCK_FILE, dir_fd=directory).st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            _, kind, *_, process, file, _, _ = line.split()
            if kind != "->" and file.rpartition(":")[2] == str(inode):
                return _describe(int(process))
    return "a process that this machine does not know"


def _describe(process: int) -> str:
    with suppress(OSError):
        return f"process {process} of {owner_name(os.stat(f'/proc/{process}'))}"
    return f"process {process}"
