"""Write files atomically: under its name, a file is always complete, and no existing file is ever written to.

Data is written to a locked temporary file beside the target, which is then renamed. The lock disappears with its
holder, so a temporary file that can be locked was left by a killed writer, and any process may remove it. Everything
happens by descriptor in one open directory, so it does not matter what others do to the path of that directory.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from snapper.fs.beneath import LISTING
from snapper.fs.directories import sync_directory, sync_names
from snapper.fs.locks import is_open_file, is_without_locks, try_lock
from snapper.fs.moves import Entry
from snapper.process.signals import defer_signals

_TEMPORARY = re.compile(r"\..{1,16}\.[0-9a-f]{16}\Z", re.S)

#: How long nothing has been written to an abandoned file where the file system has no locks, in seconds.
_ABANDONED_AFTER = 3600

#: Attempts to create a temporary file that no other process has locked or removed.
_ATTEMPTS = 20


def replace_entry(temporary: Entry, target: Entry) -> None:
    """Rename the file to the name of the target. May raise OSError."""
    os.rename(temporary.name, target.name, src_dir_fd=temporary.directory, dst_dir_fd=target.directory)


def write_entry(
    target: Entry,
    data: bytes | memoryview,
    place: Callable[[Entry, Entry], object] = replace_entry,
    *,
    durable: bool = True,
    mode: int = 0o666,
) -> os.stat_result:
    """Write a file in an open directory, and leave no temporary file behind; return its status. May raise OSError.

    `place` gives the temporary file the name of the target; by default, it replaces what has that name. If `durable`,
    the data is on the disk before the file gets its name, and the name is on return. `mode` is that of the file, less
    the umask, also if it replaces another.
    """
    remove_leftovers(target.directory)
    with defer_signals():
        temporary, descriptor = _create_temporary(target, mode)
        try:
            with open(descriptor, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                if durable:
                    os.fsync(descriptor)
                place(temporary, target)
                status = os.fstat(descriptor)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary.name, dir_fd=temporary.directory)
            raise
    if durable:
        sync_names(target.directory)
    return status


def remove_leftovers(directory: int | Path) -> int:
    """Remove the temporary files of killed writers from a directory; return how many there were. May raise OSError.

    The directory is open, or at a path that is no link.
    """
    if isinstance(directory, Path):
        descriptor = os.open(directory, LISTING)
        try:
            return remove_leftovers(descriptor)
        finally:
            os.close(descriptor)
    with os.scandir(directory) as entries:
        names = [
            entry.name
            for entry in entries
            if is_temporary(entry.name) and entry.is_file(follow_symlinks=False)
        ]
    count = 0
    for name in names:
        with suppress(OSError):
            count += _remove_unlocked(Entry(directory, name))
    return count


def is_temporary(name: str) -> bool:
    """Return whether a file of this name is a temporary one."""
    return _TEMPORARY.match(name) is not None


def temporary_name(target: str) -> str:
    """Return an unused name for a temporary file that will be renamed to `target`."""
    return f".{target[:16]}.{secrets.token_hex(8)}"


def make_directory(directory: Path, mode: int = 0o755) -> None:
    """Create the directory with this mode, less the umask, and its parents, to which only this user can write.

    Each is durable before anything is created in it. May raise OSError.
    """
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(mode, exist_ok=True)
        sync_directory(directory.parent)


def _create_temporary(target: Entry, mode: int) -> tuple[Entry, int]:
    """Return a new file beside the target, and a descriptor of it that holds a lock.

    Another process that may read the file can lock it first. That process is not waited for: it may be cleaning up, or
    it may never end.
    """
    for _ in range(_ATTEMPTS):
        temporary = Entry(target.directory, temporary_name(target.name))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary.name, flags, mode, dir_fd=temporary.directory)
        if _is_locked_by_us(descriptor) and is_open_file(descriptor, temporary.name, temporary.directory):
            return temporary, descriptor
        os.close(descriptor)
        with suppress(FileNotFoundError):
            os.unlink(temporary.name, dir_fd=temporary.directory)
    raise OSError(errno.EAGAIN, "another process locks or removes every temporary file there", target.name)


def _is_locked_by_us(descriptor: int) -> bool:
    try:
        return try_lock(descriptor)
    except OSError:  # leftovers are recognized by their age on this file system
        return True


def _is_abandoned(descriptor: int) -> bool:
    """Return whether the writer of a temporary file has ended. May raise OSError if that is unknown."""
    try:
        return try_lock(descriptor)
    except OSError as error:
        if not is_without_locks(error):
            raise
    return time.time() - os.fstat(descriptor).st_mtime > _ABANDONED_AFTER


def _remove_unlocked(file: Entry) -> bool:
    """Remove the file unless its writer is alive; return whether it was removed."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(file.name, flags, dir_fd=file.directory)
    try:
        if not _is_abandoned(descriptor):
            return False
        os.unlink(file.name, dir_fd=file.directory)
        return True
    finally:
        os.close(descriptor)
