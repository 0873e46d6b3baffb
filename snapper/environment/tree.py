"""Walk a directory tree and describe its files as `lstat` does."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from snapper.fs.directories import DirectoryTree
from snapper.fs.errors import map_os_error, os_errors
from snapper.fs.pinned import PinnedDirectory

Type = Literal["file", "symlink", "directory"]

#: Say why a path, or what has a status, is to be skipped; None to include it.
Exclude = Callable[[str], str | None]
Refuse = Callable[[os.stat_result], str | None]

_TYPES: dict[int, Type] = {stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFDIR: "directory"}

#: Why a directory is skipped that is on another file system than the one above it.
MOUNTED = "another file system is mounted there"

#: Why something is skipped that no data is lost with.
WITHOUT_DATA = "it is a socket, a pipe or a device"


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

    @cached_property
    def by_path(self) -> Mapping[str, File]:
        """The files by their paths."""
        return {file.path: file for file in self.files}

    @cached_property
    def parents(self) -> frozenset[str]:
        """The paths of the directories that any of the files are in."""
        return frozenset([file.path.rpartition("/")[0] for file in self.files])

    @cached_property
    def symlinks(self) -> tuple[File, ...]:
        """The files that are symlinks."""
        return tuple([file for file in self.files if file.type == "symlink"])


def walk(
    top: Path | PinnedDirectory,
    exclude: Exclude = lambda _: None,
    refuse: Refuse = lambda _: None,
) -> Tree:
    """Describe everything below `top`, which may be a symlink, without following others or entering other file systems.

    `exclude` returns why a path is to be skipped, or None to include it; paths with an empty reason are skipped
    without being reported. `refuse` does that for a status. Raise PermissionDenied, FileOperationFailed.
    """
    files: list[File] = []
    skipped: list[SkippedPath] = []
    pending = [""]
    opened = top if isinstance(top, PinnedDirectory) else os.path.realpath(top)
    with os_errors(str(top), "read"), closing(DirectoryTree(opened, make=False)) as directories:
        device = os.fstat(directories[""]).st_dev
        while pending:
            for item in _read_directory(top, directories, pending.pop(), exclude, refuse):
                if isinstance(item, SkippedPath):
                    if item.reason:
                        skipped.append(item)
                elif item.type != "directory":
                    files.append(item)
                elif item.device == device:
                    files.append(item)
                    pending.append(item.path)
                else:
                    skipped.append(SkippedPath(item.path, MOUNTED))
    return Tree(tuple(files), tuple(sorted(skipped)))


def _read_directory(
    top: Path | PinnedDirectory,
    directories: DirectoryTree,
    directory: str,
    exclude: Exclude,
    refuse: Refuse,
) -> list[File | SkippedPath]:
    parent = path = f"{directory}/" if directory else ""
    try:
        descriptor = directories[directory]
        with os.scandir(descriptor) as entries:
            return [
                _describe(path := parent + entry.name, entry, descriptor, exclude, refuse)
                for entry in entries
            ]
    except OSError as error:
        raise map_os_error(error, f"{top}/{path}".rstrip("/"), "read") from None


def _describe(
    path: str,
    entry: os.DirEntry[str],
    directory: int,
    exclude: Exclude,
    refuse: Refuse,
) -> File | SkippedPath:
    reason = exclude(path)
    if reason is not None:
        return SkippedPath(path, reason)
    status = entry.stat(follow_symlinks=False)
    mode = status.st_mode
    type_ = _TYPES.get(stat.S_IFMT(mode))
    if type_ is None:
        return SkippedPath(path, WITHOUT_DATA)
    reason = refuse(status)
    if reason is not None:
        return SkippedPath(path, reason)
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
        os.readlink(entry.name, dir_fd=directory) if type_ == "symlink" else "",
    )
