"""Read files, and make sure that they are still what the walk of the tree has seen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from snapper.environment.tree import File
from snapper.errors import ChangedWhilePacking
from snapper.fs.errors import is_access_denied, map_os_error

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def open_checked(path: str, file: File) -> Iterator[int]:
    """Open the file, and check before and after use that it is what the walk has seen; yield its descriptor.

    Raise ChangedWhilePacking, PermissionDenied, FileOperationFailed.
    """
    descriptor = _open(path)
    try:
        _check_unchanged(path, file, descriptor)
        yield descriptor
        _check_unchanged(path, file, descriptor)
    finally:
        os.close(descriptor)


def read_into(path: str, file: File, view: memoryview) -> None:
    """Read the whole file into a buffer of its size; raise what `open_checked` raises."""
    descriptor = _open(path)  # not by `open_checked`: this is called for each file
    try:
        _check_unchanged(path, file, descriptor)
        read_range_into(descriptor, 0, view, path)
        _check_unchanged(path, file, descriptor)
    finally:
        os.close(descriptor)


def read_file(path: str, file: File) -> bytes:
    """Return the whole file; raise what `open_checked` raises."""
    buffer = bytearray(file.size)
    read_into(path, file, memoryview(buffer))
    return bytes(buffer)


def read_range_into(descriptor: int, offset: int, view: memoryview, path: str) -> None:
    """Fill the buffer from an offset on; raise ChangedWhilePacking if the file ends before, FileOperationFailed."""
    done, size = 0, len(view)
    while done < size:
        try:
            count = os.preadv(descriptor, [view[done:] if done else view], offset + done)
        except OSError as error:
            raise map_os_error(error, path, "read") from None
        if not count:
            raise ChangedWhilePacking(path)
        done += count


def read_range(descriptor: int, offset: int, size: int, path: str) -> bytes:
    """Return `size` bytes at an offset; raise ChangedWhilePacking if the file ends before, FileOperationFailed."""
    try:
        data = os.pread(descriptor, size, offset)
    except OSError as error:
        raise map_os_error(error, path, "read") from None
    if len(data) < size:
        raise ChangedWhilePacking(path)
    return data


def _open(path: str) -> int:
    try:
        return os.open(path, _FLAGS)
    except OSError as error:
        if is_access_denied(error) or (os.path.lexists(path) and not os.path.islink(path)):
            raise map_os_error(error, path, "read") from None
        raise ChangedWhilePacking(path) from None


def _check_unchanged(path: str, file: File, descriptor: int) -> None:
    status = os.fstat(descriptor)
    if status.st_mtime_ns != file.mtime_ns or status.st_size != file.size or status.st_ino != file.inode:
        raise ChangedWhilePacking(path)
