"""Directories that this process keeps open, for worker processes to open.

A path is not enough where others may write to a directory above: they can rename it while a worker opens it, and learn
any name in it that a program of theirs has as its working directory. Nor is it enough to compare the inode: in a mount
namespace of their own, others can have the same directory with something else mounted below it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NamedTuple

from snapper.fs.beneath import LISTING, open_own_path
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.private import path_by_descriptor


class DirectoryHandle(NamedTuple):
    """A directory that the process which made the handle keeps open.

    `path` is where it was then, and `by_descriptor` a path of the open directory, empty if the system has none.
    """

    path: str
    by_descriptor: str
    device: int
    inode: int

    def pin(self) -> PinnedDirectory:
        """Open the directory; raise OSError, with ESTALE if only another one is found."""
        return PinnedDirectory(Path(self.path), self._open())

    def _open(self) -> int:
        descriptor = self._open_by_descriptor() or open_own_path(self.path, LISTING)
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) == (self.device, self.inode):
            return descriptor
        os.close(descriptor)
        raise OSError(errno.ESTALE, "it was replaced by another directory", self.path)

    def _open_by_descriptor(self) -> int | None:
        """Open the directory, unless its process shows its descriptors to no other, as after a change of its user."""
        if not self.by_descriptor:
            return None
        try:
            return os.open(f"{self.by_descriptor}/.", LISTING)
        except OSError:
            return None


def directory_handle(descriptor: int, path: str | Path) -> DirectoryHandle:
    """Return a handle of an open directory, which must stay open until workers have opened it. May raise OSError."""
    status = os.fstat(descriptor)
    found = path_by_descriptor(descriptor, Path(path))
    by_descriptor = "" if found == Path(path) else str(found)
    return DirectoryHandle(str(path), by_descriptor, status.st_dev, status.st_ino)
