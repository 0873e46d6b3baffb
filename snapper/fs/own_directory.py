"""Directories with files that snapper keeps for this user, such as registered kernels and its own state.

Others may be able to write to where such a directory is: Jupyter's data directory can be shared, and root may work with
the home directory of a user. Therefore everything happens by descriptors: a directory, or a link on the way to it, that
belongs to another user is neither used nor replaced, and files in it are replaced, not written to.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snapper.fs.atomic import replace_entry, write_entry
from snapper.fs.beneath import LISTING, open_own_path
from snapper.fs.directories import closing_descriptor
from snapper.fs.locks import is_open_file, try_lock, wait_for_lock
from snapper.fs.moves import Entry
from snapper.fs.ownership import is_own, others_can_write, owner_name
from snapper.fs.small_files import read_own_entry

#: The mode of files that may contain secrets, such as values of variables.
PRIVATE = 0o600
_PRIVATE_DIRECTORY = 0o700

#: Flags that open a file to append to it, without waiting for a reader, should it be a pipe.
_APPENDING = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OwnDirectory:
    """An open directory that belongs to this user or root."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def names(self) -> list[str]:
        """Return the names of the files."""
        return os.listdir(self._descriptor)

    def is_directory(self, name: str) -> bool:
        """Return whether there is a directory of that name, rather than a link to one."""
        return stat.S_ISDIR(os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_mode)

    def read(self, name: str) -> bytes:
        """Return the contents of a file that belongs to this user or root; may raise OSError."""
        return read_own_entry(Entry(self._descriptor, name))

    def write(self, name: str, data: bytes, mode: int = PRIVATE) -> None:
        """Replace the file atomically, unless it has these contents and no further permissions. May raise OSError."""
        with suppress(OSError):
            status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
            if not stat.S_IMODE(status.st_mode) & ~mode and self.read(name) == data:
                return
        write_entry(Entry(self._descriptor, name), data, durable=False, mode=mode)

    def open_to_append(self, name: str, largest: int) -> int:
        """Open a regular file of this user or root to append to it, and return a descriptor; create it if necessary.

        It must have no other name, which other programs may know. A file of more than `largest` bytes is renamed to
        `NAME.1` first. May raise OSError.
        """
        descriptor = self._open_to_append(name)
        if os.fstat(descriptor).st_size <= largest:
            return descriptor
        try:
            with suppress(OSError):  # a file system without locks, or without the file any more
                if try_lock(descriptor) and is_open_file(descriptor, name, self._descriptor):
                    replace_entry(Entry(self._descriptor, name), Entry(self._descriptor, f"{name}.1"))
            return self._open_to_append(name)
        finally:
            os.close(descriptor)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock on a file, which is created if necessary, waiting for other holders. May raise OSError."""
        held = wait_for_lock(Entry(self._descriptor, name), self._open_to_append(name))
        try:
            yield
        finally:
            held.release()

    def remove(self, name: str) -> None:
        """Remove the file if there is one; may raise OSError."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)

    def remove_if_empty(self) -> None:
        """Remove the directory if nothing is in it, and it is not elsewhere by now.

        A link to it stays. May raise OSError.
        """
        if not self.names():
            with suppress(FileNotFoundError, NotADirectoryError):
                os.rmdir(self.path)  # this can only remove an empty directory

    def _open_to_append(self, name: str) -> int:
        descriptor = os.open(name, _APPENDING, PRIVATE, dir_fd=self._descriptor)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and is_own(status) and status.st_nlink == 1:
            return descriptor
        os.close(descriptor)
        if not is_own(status):
            raise OSError(errno.EPERM, f"it belongs to the user {owner_name(status)}", name)
        raise OSError(errno.EINVAL, "it is not a regular file, or has another name as well", name)


@contextmanager
def own_directory(
    path: Path, *, make: bool = False, mode: int = _PRIVATE_DIRECTORY
) -> Iterator[OwnDirectory]:
    """Open a directory that belongs to this user or root.

    With `make`, create it, and its parents, with this mode if there is none. If others could write to it, let them no
    longer, and remove their files. Raise OSError: EPERM if it, or a link on the way to it, belongs to another user.
    """
    opened = open_or_make(str(path), mode) if make else open_own_path(str(path), LISTING)
    with closing_descriptor(opened) as descriptor:
        status = os.fstat(descriptor)
        if not is_own(status):
            raise OSError(errno.EPERM, f"it belongs to the user {owner_name(status)}", str(path))
        if make and others_can_write(status, descriptor):
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & ~0o022)
            _remove_files_of_others(descriptor)
        yield OwnDirectory(path, descriptor)


def open_or_make(path: str, mode: int = 0o755) -> int:
    """Open a directory, after creating it and its parents if necessary; links on the way must be this user's or root's.

    May raise OSError.
    """
    try:
        return open_own_path(path, LISTING)
    except FileNotFoundError:
        parent, name = os.path.split(os.path.abspath(path))
        directory = open_or_make(parent, mode)
    with closing_descriptor(directory), suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=directory)
    return open_own_path(path, LISTING)


def list_directory(path: Path) -> list[str]:
    """Return the sorted names in a directory, whoever owns it; none if there is no such directory."""
    try:
        descriptor = open_own_path(str(path), LISTING)
    except OSError:
        return []
    with closing_descriptor(descriptor):
        return sorted(os.listdir(descriptor))


def _remove_files_of_others(directory: int) -> None:
    for name in os.listdir(directory):
        with suppress(OSError):
            if not is_own(os.stat(name, dir_fd=directory, follow_symlinks=False)):
                os.unlink(name, dir_fd=directory)
