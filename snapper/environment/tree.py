"""The files of a directory tree, as the file system describes them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from snapper.errors import FileOperationFailed, PermissionDenied

Type = Literal["file", "symlink", "directory"]

_TYPES: dict[int, Type] = {stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFDIR: "directory"}


class File(NamedTuple):
    """One entry of a tree; times in nanoseconds, `target` for symlinks only."""

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


@dataclass(frozen=True)
class Tree:
    """All entries in no particular order, and what was passed over: path and why."""

    files: tuple[File, ...]
    skipped: tuple[tuple[str, str], ...]


def walk(top: Path, exclude: Callable[[str], str | None] = lambda _: None) -> Tree:
    """Describes everything below `top`, following no symlink.

    `exclude` says of a directory's or file's path why it is to be passed over, or None; an empty reason is
    passed over without a word. Raises PermissionDenied and FileOperationFailed.
    """
    files: list[File] = []
    skipped: list[tuple[str, str]] = []
    pending = [""]
    try:
        while pending:
            directory = pending.pop()
            above = f"{directory}/" if directory else ""
            with os.scandir(f"{top}/{directory}" if directory else top) as entries:
                for entry in entries:
                    path = above + entry.name
                    reason = exclude(path)
                    if reason is None:
                        found = _describe(path, entry)
                        if found is None:
                            reason = "it is a socket, a pipe or a device"
                        else:
                            files.append(found)
                            if found.type == "directory":
                                pending.append(path)
                    if reason:
                        skipped.append((path, reason))
    except PermissionError as error:
        raise PermissionDenied(str(error.filename), "read") from None
    except OSError as error:
        raise FileOperationFailed(str(error.filename), error.strerror or str(error)) from None
    return Tree(tuple(files), tuple(sorted(skipped)))


def _describe(path: str, entry: os.DirEntry[str]) -> File | None:
    status = entry.stat(follow_symlinks=False)
    mode = status.st_mode
    kind = _TYPES.get(stat.S_IFMT(mode))
    if kind is None:
        return None
    return File(
        path,
        kind,
        status.st_size,
        stat.S_IMODE(mode),
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_dev,
        status.st_nlink,
        os.readlink(entry.path) if kind == "symlink" else "",
    )
