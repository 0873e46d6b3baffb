"""Walk a directory tree and describe its files as `lstat` does."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from snapper.fs.errors import map_os_error

Type = Literal["file", "symlink", "directory"]

_TYPES: dict[int, Type] = {stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFDIR: "directory"}


class File(NamedTuple):
    """A file, symlink or directory of a tree; times in nanoseconds, `target` for symlinks only."""

    path: str
    type: Type
    size: int
    mode: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    links: int
    target: str = ""

    @property
    def mtime(self) -> int:
        return self.mtime_ns // 1_000_000_000


class SkippedPath(NamedTuple):
    """A path that is not packed, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Tree:
    """All files in no particular order, and the paths that were skipped, sorted."""

    files: tuple[File, ...]
    skipped: tuple[SkippedPath, ...]


def walk(top: Path, exclude: Callable[[str], str | None] = lambda _: None) -> Tree:
    """Describe everything below `top` without following symlinks.

    `exclude` returns why a path is to be skipped, or None to include it; paths with an empty reason are skipped
    without being reported. Raise PermissionDenied, FileOperationFailed.
    """
    files: list[File] = []
    skipped: list[SkippedPath] = []
    pending = [""]
    try:
        while pending:
            directory = pending.pop()
            parent = f"{directory}/" if directory else ""
            with os.scandir(f"{top}/{directory}" if directory else top) as entries:
                for entry in entries:
                    path = parent + entry.name
                    reason = exclude(path)
                    if reason is None:
                        file = _describe(path, entry)
                        if file is None:
                            reason = "it is a socket, a pipe or a device"
                        else:
                            files.append(file)
                            if file.type == "directory":
                                pending.append(path)
                    if reason:
                        skipped.append(SkippedPath(path, reason))
    except OSError as error:
        raise map_os_error(error, error.filename, "read") from None
    return Tree(tuple(files), tuple(sorted(skipped)))


def _describe(path: str, entry: os.DirEntry[str]) -> File | None:
    """Return the file; None for a socket, a pipe or a device."""
    status = entry.stat(follow_symlinks=False)
    mode = status.st_mode
    type_ = _TYPES.get(stat.S_IFMT(mode))
    if type_ is None:
        return None
    return File(
        path,
        type_,
        status.st_size,
        stat.S_IMODE(mode),
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_dev,
        status.st_nlink,
        os.readlink(entry.path) if type_ == "symlink" else "",
    )
