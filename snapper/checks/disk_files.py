"""Read files of an environment on disk without following links, component by component from its own descriptor."""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType

from snapper.errors import SnapperError
from snapper.fs.directories import DirectoryTree
from snapper.fs.errors import map_os_error

_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class DiskFiles:
    """The files below a directory, by their relative paths."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
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

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes | None:
        """Return up to `size` bytes of a regular file from the offset on; None if there is no regular file."""
        status = self.status(path)
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        parent, _, name = path.rpartition("/")
        try:
            descriptor = os.open(name, _READ_FLAGS, dir_fd=self._directories[parent])
        except OSError as error:
            raise self._failure(path, error) from None
        with open(descriptor, "rb", buffering=0) as file:
            try:
                file.seek(offset)
                return file.read(status.st_size if size is None else size)
            except OSError as error:
                raise self._failure(path, error) from None

    def _failure(self, path: str, error: OSError) -> SnapperError:
        return map_os_error(error, f"{self._directory}/{path}", "read")
