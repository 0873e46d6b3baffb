"""Directories that only this user can enter, so that their contents must have been made by this user's processes.

Others who can write to the directory above can still rename such a directory, or put another one in its place. What is
open stays the same, so it is used by its descriptor, or by a path of that. Where other programs need a path and the
system has none of descriptors, what they use has a random name, which others can hardly know.

As others can also give it a name of snapper's, a signature in its lock shows that snapper has made it: nobody else can
put one there.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from snapper.fs.beneath import LISTING
from snapper.fs.lock_names import is_lease_name
from snapper.fs.ownership import is_of_this_user, owner_name
from snapper.process.identity import user_at_host, utc_now

_SIGNATURE = re.compile(rb"[^\n]+ \(process [0-9]+, since [0-9TZ:-]+\)\n")
_MAX_SIZE = 1024


def open_private_directory(name: str, dir_fd: int) -> int:
    """Open a directory that belongs to this user and that no one else may enter; links are not followed.

    Raise FileNotFoundError, or another OSError whose `strerror` says what is wrong with it: "it …".
    """
    status = os.lstat(name, dir_fd=dir_fd)
    _check_private(name, status)
    descriptor = os.open(name, LISTING, dir_fd=dir_fd)
    try:
        _check_private(name, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def create_private_directory(prefix: str, dir_fd: int) -> tuple[str, int]:
    """Create an empty directory with a random name that begins with `prefix`; return its name and open it.

    May raise OSError.
    """
    while True:
        name = f"{prefix}{secrets.token_hex(8)}"
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=dir_fd)
            break
    descriptor = open_private_directory(name, dir_fd)
    if os.listdir(descriptor):
        os.close(descriptor)
        raise OSError(errno.ENOTEMPTY, "another user has replaced it", name)
    return name, descriptor


def path_by_descriptor(descriptor: int, path: Path) -> Path:
    """Return a path of the open directory for other programs: everyone can see their arguments.

    It leads to the directory and nowhere else as long as it is open, where the system has such paths; else return
    `path`.
    """
    by_descriptor = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    return by_descriptor if by_descriptor.is_dir() else path


def sign(lock: int) -> None:
    """Write into an open lock file who holds it, unless the disk is full."""
    signature = f"{user_at_host()} (process {os.getpid()}, since {utc_now()})\n".encode()
    with suppress(OSError):
        os.pwrite(lock, signature, 0)
        os.ftruncate(lock, len(signature))


def read_signature(lock: int) -> str:
    """Return what an open lock file says of its holder. May raise OSError."""
    return os.pread(lock, _MAX_SIZE, 0).decode(errors="replace").strip()


def is_made_by_snapper(directory: int, lock: str) -> bool:
    """Return whether the lock in an open directory is signed, or there is nothing but an empty lock, or nothing at all.

    May raise OSError.
    """
    names = [name for name in os.listdir(directory) if not is_lease_name(name, lock)]
    if lock not in names:
        return not names
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(lock, flags, dir_fd=directory)
    try:
        text = os.pread(descriptor, _MAX_SIZE, 0)
    finally:
        os.close(descriptor)
    return _SIGNATURE.match(text) is not None or (not text and names == [lock])


def _check_private(name: str, status: os.stat_result) -> None:
    """Raise OSError unless this is the status of a directory that only this user can enter."""
    if not is_of_this_user(status):
        raise OSError(errno.EPERM, f"it belongs to the user {owner_name(status)}", name)
    if not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.ENOTDIR, "it is not a directory", name)
    if status.st_mode & 0o077:
        raise OSError(errno.EPERM, "other users may enter it", name)
