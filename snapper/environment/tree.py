"""Walk a directory tree and describe its files as `lstat` does."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

from snapper.format.constraints import check_path
from snapper.fs.directories import DirectoryTree
from snapper.fs.errors import map_os_error, os_errors
from snapper.fs.pinned import PinnedDirectory

Type = Literal["file", "symlink", "directory"]

#: Say why a path, or what has a status, is to be skipped; None to include it.
Exclude = Callable[[str], str | None]
Refuse = Callable[[os.stat_result], str | None]

_TYPES: dict[int, Type] = {stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFDIR: "directory"}
#: What S_IFMT and S_IMODE return of a mode.
_TYPE_BITS, _PERMISSION_BITS = 0o170000, 0o7777

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
    """All files in no particular order, the paths that were skipped, sorted, and the directories that are empty."""

    files: tuple[File, ...]
    skipped: tuple[SkippedPath, ...]
    empty: tuple[str, ...] = ()

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


def why_impossible(path: str) -> str | None:
    """Return why no snapshot can have the path, for `walk`; None if one can."""
    try:
        check_path(path)
    except ValueError as error:
        return str(error)
    return None


def obstacle(files: Mapping[str, File], path: str) -> File | None:
    """Return the link or file that is where a directory must be for the path to exist, None if there is none."""
    found = (files.get(parent) for parent in _parents(path))
    return next((file for file in found if file is not None and file.type != "directory"), None)


def missing_directories(files: Mapping[str, File], path: str) -> dict[str, File]:
    """Return the directories above the path that are not among the files, by path."""
    missing = (parent for parent in _parents(path) if parent not in files)
    return {parent: File(parent, "directory", 0, 0o755, 0, 0, 0, 0, 1) for parent in missing}


def _parents(path: str) -> Iterator[str]:
    """Yield the paths of the directories above a path, the outermost first."""
    directory = posixpath.dirname(path)
    return accumulate(directory.split("/"), posixpath.join) if directory else iter(())


def walk(
    top: Path | PinnedDirectory,
    exclude: Exclude | None = None,
    refuse: Refuse | None = None,
) -> Tree:
    """Describe everything below `top`, which may be a symlink, without following others or entering other file systems.

    `exclude` returns why a path is to be skipped, or None to include it; paths with an empty reason are skipped
    without being reported. `refuse` does that for a status. Raise PermissionDenied, FileOperationFailed.
    """
    files: list[File] = []
    skipped: list[SkippedPath] = []
    empty: list[str] = []
    pending = [""]
    opened = top if isinstance(top, PinnedDirectory) else os.path.realpath(top)
    with os_errors(str(top), "read"), closing(DirectoryTree(opened, make=False)) as directories:
        device = os.fstat(directories[""]).st_dev
        while pending:
            directory = pending.pop()
            found = _read_directory(top, directories, directory, exclude, refuse)
            if not found and directory:
                empty.append(directory)
            for item in found:
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
    return Tree(tuple(files), tuple(sorted(skipped)), tuple(empty))


def _read_directory(
    top: Path | PinnedDirectory,
    directories: DirectoryTree,
    directory: str,
    exclude: Exclude | None,
    refuse: Refuse | None,
) -> list[File | SkippedPath]:
    """Describe what is in a directory. It is one loop, since this is done for each file of an environment."""
    found: list[File | SkippedPath] = []
    parent = path = f"{directory}/" if directory else ""
    new_file = tuple.__new__  # as File does, without a call of Python code
    try:
        descriptor = directories[directory]
        with os.scandir(descriptor) as entries:
            for entry in entries:
                path = parent + entry.name
                if exclude and (reason := exclude(path)) is not None:
                    found.append(SkippedPath(path, reason))
                    continue
                status = entry.stat(follow_symlinks=False)
                mode = status.st_mode
                type_ = _TYPES.get(mode & _TYPE_BITS)
                if type_ is None:
                    found.append(SkippedPath(path, WITHOUT_DATA))
                    continue
                if refuse and (reason := refuse(status)) is not None:
                    found.append(SkippedPath(path, reason))
                    continue
                fields = (
                    path,
                    type_,
                    status.st_size,
                    mode & _PERMISSION_BITS,
                    status.st_mtime_ns,
                    status.st_ctime_ns,
                    status.st_ino,
                    status.st_dev,
                    status.st_nlink,
                    os.readlink(entry.name, dir_fd=descriptor) if type_ == "symlink" else "",
                )
                found.append(new_file(File, fields))
    except OSError as error:
        raise map_os_error(error, f"{top}/{path}".rstrip("/"), "read") from None
    return found
