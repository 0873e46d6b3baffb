"""Read files of an environment on disk without following links, component by component from its own descriptor."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from types import TracebackType

from snapper.environment.conda import FileFacts
from snapper.errors import SnapperError
from snapper.format.model import LARGEST_LAYER
from snapper.fs.beneath import open_own_path
from snapper.fs.directories import DirectoryTree, closing_descriptor
from snapper.fs.errors import map_os_error
from snapper.fs.pinned import PinnedDirectory

_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHUNK = 1024 * 1024

#: The largest file that is read as a whole, in bytes. Files that a layer has as a whole are smaller, also when they are
#: relocated; others may be sparse, and larger than memory.
_LARGEST = 2 * LARGEST_LAYER


class DiskFiles:
    """The files below a directory, by their relative paths.

    In place of links at the paths in `followed`, these are the files to which they lead, by absolute paths.
    """

    def __init__(self, directory: str | PinnedDirectory, followed: Mapping[str, str]) -> None:
        self._directory, self._followed = directory, followed
        self._directories = DirectoryTree(directory, make=False)

    def __enter__(self) -> DiskFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directories.close()

    def status(self, path: str) -> os.stat_result | None:
        """Return the status; None if nothing is there, or if a parent is not a directory."""
        parent, _, name = path.rpartition("/")
        try:
            if path in self._followed:
                with closing_descriptor(open_own_path(self._followed[path])) as file:
                    return os.fstat(file)
            return os.stat(name, dir_fd=self._directories[parent], follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise self._failure(path, error) from None

    def target(self, path: str) -> str:
        """Return the target of a symbolic link."""
        parent, _, name = path.rpartition("/")
        return os.readlink(name, dir_fd=self._directories[parent])

    def read(self, path: str, offset: int = 0, size: int = _LARGEST) -> bytes | None:
        """Return up to `size` bytes of a regular file from the offset on; None if there is no regular file.

        Return None, too, if all of a file is to be read that is too large to be one of a layer's.
        """
        status = self.status(path)
        if status is None or not stat.S_ISREG(status.st_mode) or (size == _LARGEST < status.st_size):
            return None
        with self._opened(path) as file:
            file.seek(offset)
            return file.read(min(size, status.st_size))

    def facts(self, path: str) -> FileFacts | None:
        """Return checksum and size of a regular file of any size; None if there is no regular file."""
        status = self.status(path)
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        digest, size = hashlib.sha256(), 0
        with self._opened(path) as file:
            while size < status.st_size and (data := file.read(_CHUNK)):
                digest.update(data)
                size += len(data)
        return FileFacts(digest.hexdigest(), size)

    @contextmanager
    def _opened(self, path: str) -> Iterator[FileIO]:
        parent, _, name = path.rpartition("/")
        try:
            if path in self._followed:
                descriptor = open_own_path(self._followed[path])
            else:
                descriptor = os.open(name, _READ_FLAGS, dir_fd=self._directories[parent])
            with open(descriptor, "rb", buffering=0) as file:
                yield file
        except OSError as error:
            raise self._failure(path, error) from None

    def _failure(self, path: str, error: OSError) -> SnapperError:
        return map_os_error(error, f"{self._directory}/{path}", "read")
