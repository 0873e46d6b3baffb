"""Writing below a directory and nowhere else: by descriptors, component by component, following no link."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snapper.environment.index import IndexEntry
from snapper.errors import Corrupted, FileOperationFailed, InsufficientSpace, PermissionDenied
from snapper.format.segment import InvalidSegment

_MOST_DESCRIPTORS = 128
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryTree:
    """Descriptors of a tree's directories, which are made as they are asked for unless `make` is false."""

    def __init__(self, top: str, *, make: bool = True) -> None:
        self._make = make
        self._open = {"": os.open(top, _DIRECTORY)}

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def __getitem__(self, path: str) -> int:
        found = self._open.get(path)
        if found is not None:
            return found
        parent, _, name = path.rpartition("/")
        above = self[parent]
        try:
            descriptor = os.open(name, _DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            if not self._make:
                raise
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=above)
            descriptor = os.open(name, _DIRECTORY, dir_fd=above)
        if len(self._open) > _MOST_DESCRIPTORS:
            self._forget(parent)
        self._open[path] = descriptor
        return descriptor

    def _forget(self, kept: str) -> None:
        """Closes what is open but the top and the way to `kept`."""
        for path in list(self._open):
            if path and path != kept and not kept.startswith(path + "/"):
                os.close(self._open.pop(path))


@contextmanager
def without_umask() -> Iterator[None]:
    """Lets files and directories be made with the modes that are asked for, whatever the umask."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def index_entry_at(directory: int, path: str) -> IndexEntry:
    """What the index says of the path, whose directory is open."""
    status = os.stat(path.rpartition("/")[2], dir_fd=directory, follow_symlinks=False)
    return (
        path,
        status.st_size,
        status.st_mode & 0o7777,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
    )


def write_all(descriptor: int, data: memoryview | bytes) -> None:
    """Writes all of the data."""
    written = os.write(descriptor, data) if data else 0
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


@contextmanager
def unpack_errors(what: str, prefix: str) -> Iterator[None]:
    """Turns what reading a layer and writing its files can raise into errors for the user."""
    try:
        yield
    except (InvalidSegment, ValueError) as error:
        raise Corrupted(what, str(error)) from None
    except OSError as error:
        place = str(Path(prefix).parent)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InsufficientSpace(place) from None
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOENT):
            raise Corrupted(what, f"its members contradict each other ({error.strerror})") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise PermissionDenied(place, "write in") from None
        raise FileOperationFailed(place, error.strerror or str(error)) from None
