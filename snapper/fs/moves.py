"""Rename files and directories by descriptors of the directories they are in, so that no path is followed."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)

#: What a hard link fails with where the file system has none, or no more for this file.
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

#: What renaming a directory fails with if it has to stay where it is.
_UNMOVABLE = (errno.EXDEV, errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS)


class Entry(NamedTuple):
    """A name in an open directory."""

    directory: int
    name: str

    def exists(self) -> bool:
        """Return whether there is something of that name, a dangling link included. May raise OSError."""
        try:
            os.lstat(self.name, dir_fd=self.directory)
        except FileNotFoundError:
            return False
        return True

    def is_open_as(self, descriptor: int) -> bool:
        """Return whether the descriptor is of what has that name, without following a link. May raise OSError."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self.name, dir_fd=self.directory))
        except FileNotFoundError:
            return False


def exchange(first: Entry, second: Entry) -> bool:
    """Swap two entries in one step; return False if the system or the file system cannot. May raise OSError."""
    return _renameat2(first, second, _RENAME_EXCHANGE)


def move(source: Entry, target: Entry) -> None:
    """Rename an entry to a name that nothing has; raise FileExistsError if something has it. May raise OSError.

    Where the file system cannot check and rename in one step, a file gets its new name before it loses the old one. A
    directory is renamed after a check; only an empty directory that is created after the check could be replaced.
    """
    if _renameat2(source, target, _RENAME_NOREPLACE):
        return
    directories = {"src_dir_fd": source.directory, "dst_dir_fd": target.directory}
    try:
        os.link(source.name, target.name, follow_symlinks=False, **directories)
    except FileExistsError:
        raise
    except OSError:  # a directory, or a file system without hard links
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target.name) from None
        os.rename(source.name, target.name, **directories)
    else:
        os.unlink(source.name, dir_fd=source.directory)


def is_renamable(directory: Entry, occupied: Entry) -> bool:
    """Return whether a directory can be renamed; nothing happens to it. May raise OSError.

    It cannot if something is mounted there, if it is part of a container image, or without permission. `occupied` is a
    directory beside it that is not empty: systems look at that last, and refuse to replace it.
    """
    directories = {"src_dir_fd": directory.directory, "dst_dir_fd": occupied.directory}
    try:
        os.rename(directory.name, occupied.name, **directories)
    except OSError as error:
        if error.errno in _UNMOVABLE:
            return False
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            return True
        raise
    move(occupied, directory)
    return True


def _renameat2(source: Entry, target: Entry, flags: int) -> bool:
    """Call renameat2(2); return False where that or the flag is not supported."""
    import ctypes  # noqa: PLC0415 - slow to import, and not needed by most commands

    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    names = os.fsencode(source.name), os.fsencode(target.name)
    if function(source.directory, names[0], target.directory, names[1], flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), target.name)
