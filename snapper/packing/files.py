"""Read files, and make sure that they are still what the walk of the tree has seen.

The environment may belong to another user, who could put something else at its path, or a link in place of a directory
in it, while it is packed. Files are therefore opened component by component without following links, and must be the
very files that the walk has seen in the directory that it was given open.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from snapper.environment.tree import File
from snapper.errors import ChangedWhilePacking, SnapperError
from snapper.fs.directories import DirectoryTree, RecentTrees
from snapper.fs.errors import map_os_error

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: What opening a path reports if something else is there by now: nothing, a link, a file in place of a directory, or a
#: socket.
_REPLACED = (errno.ENOENT, errno.ELOOP, errno.EMLINK, errno.ENOTDIR, errno.ENXIO)


def _open_tree(top: str) -> DirectoryTree:
    return DirectoryTree(os.path.realpath(top), make=False)


_trees = RecentTrees(_open_tree)


class FilePlace(NamedTuple):
    """Where a file is read from: its path below a directory, which may be a link."""

    top: str
    path: str

    def __str__(self) -> str:
        return f"{self.top}/{self.path}"


@contextmanager
def open_checked(place: FilePlace, file: File) -> Iterator[int]:
    """Open the file, and check before and after use that it is what the walk has seen; yield its descriptor.

    Raise ChangedWhilePacking, PermissionDenied, FileOperationFailed.
    """
    descriptor = _open(place)
    try:
        _check_unchanged(place, file, descriptor)
        yield descriptor
        _check_unchanged(place, file, descriptor)
    finally:
        os.close(descriptor)


def read_into(place: FilePlace, file: File, view: memoryview) -> None:
    """Read the whole file into a buffer of its size; raise what `open_checked` raises."""
    descriptor = _open(place)  # not by `open_checked`: this is called for each file
    try:
        _check_unchanged(place, file, descriptor)
        read_range_into(descriptor, 0, view, place)
        _check_unchanged(place, file, descriptor)
    finally:
        os.close(descriptor)


def read_file(place: FilePlace, file: File) -> bytes:
    """Return the whole file; raise what `open_checked` raises."""
    buffer = bytearray(file.size)
    read_into(place, file, memoryview(buffer))
    return bytes(buffer)


def read_range_into(descriptor: int, offset: int, view: memoryview, place: FilePlace) -> None:
    """Fill the buffer from an offset on; raise ChangedWhilePacking if the file ends before, FileOperationFailed."""
    done, size = 0, len(view)
    while done < size:
        try:
            count = os.preadv(descriptor, [view[done:] if done else view], offset + done)
        except OSError as error:
            raise map_os_error(error, str(place), "read") from None
        if not count:
            raise ChangedWhilePacking(str(place))
        done += count


def read_range(descriptor: int, offset: int, size: int, place: FilePlace) -> bytes:
    """Return `size` bytes at an offset; raise ChangedWhilePacking if the file ends before, FileOperationFailed."""
    try:
        data = os.pread(descriptor, size, offset)
    except OSError as error:
        raise map_os_error(error, str(place), "read") from None
    if len(data) < size:
        raise ChangedWhilePacking(str(place))
    return data


def _open(place: FilePlace) -> int:
    top, path = place
    directory, _, name = path.rpartition("/")
    try:
        return os.open(name, _FLAGS, dir_fd=_trees[top][directory])
    except OSError as error:
        raise _open_error(error, str(place)) from None


def _open_error(error: OSError, path: str) -> SnapperError:
    return ChangedWhilePacking(path) if error.errno in _REPLACED else map_os_error(error, path, "read")


def _check_unchanged(place: FilePlace, file: File, descriptor: int) -> None:
    status = os.fstat(descriptor)
    if (
        status.st_mtime_ns != file.mtime_ns
        or status.st_size != file.size
        or status.st_ino != file.inode
        or status.st_dev != file.device
    ):
        raise ChangedWhilePacking(str(place))
