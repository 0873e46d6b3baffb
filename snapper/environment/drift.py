"""What has changed in an environment since its index was written."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Collection, Container, Iterable, Set
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from snapper.environment import conda
from snapper.environment.foreign import is_foreign
from snapper.environment.index import ANY_CTIME, FOLLOWED, NO_LAYER, Index
from snapper.environment.state import read_index_header
from snapper.environment.tool_caches import NEEDED, cache_check
from snapper.environment.tree import WITHOUT_DATA, File, Tree
from snapper.format.constraints import USUAL_DIRECTORY_MODE, directory_mode
from snapper.format.times import clamped

#: Return the status of what is at a path of the environment, or what a link there leads to; None if there is nothing.
StatusOf = Callable[[str], os.stat_result | None]

#: Later than all times that an index can have.
_NEVER = sys.maxsize


@dataclass(frozen=True)
class Drift:
    """The paths that differ from the index, sorted.

    Data would be lost with files that were `added` or have `changed`, and those that were `removed` would come back.
    Those that were `modified` have their size, but another mtime, and only their contents tell whether they have
    changed; those that were `touched` have another inode or ctime only, as after a backup was put back, and have
    changed only if somebody has set back their mtime. `modes` are of files and directories whose permissions differ,
    and `caches` those that tools have written (`tool_caches`).

    Among the added paths are those that no snapshot can have, and directories with nothing in them. The paths of
    directories end in `/`. What is moved along when the environment is replaced does not count.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    modified: tuple[str, ...] = ()
    touched: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()

    @property
    def paths(self) -> list[str]:
        """All that may have changed, unless somebody has hidden that."""
        return sorted((*self.added, *self.removed, *self.changed, *self.modified))


class LocalChanges(NamedTuple):
    """What differs from an environment's snapshot after contents were compared.

    Those of files that were `modified` could not be compared, for the reason in `problem`.
    """

    drift: Drift
    problem: str = ""


def find_drift(tree: Tree, index: Index, status_of: StatusOf) -> Drift:
    """Compare the files on disk with the index; raise InvalidSettings.

    Where a link was packed as the file that it leads to, `status_of` tells whether that is there and has its size.
    """
    rows = index.rows
    files = [file for file in tree.files if file[1] != "directory"]  # faster than by name
    present = {file[0] for file in files}
    drift = _compare(files, index, status_of)
    drift.modes += _directories_with_other_modes(tree, index)
    drift.added += (path for path in map("{}/".format, tree.empty) if path not in rows)
    drift.added += (path for path, reason in tree.skipped if reason != WITHOUT_DATA and not is_foreign(path))
    drift.removed += (path for path in rows if path not in present and not path.endswith("/"))
    return drift.without_caches(_KnownPaths(present, rows))


@dataclass(frozen=True)
class _KnownPaths:
    """The paths that an environment has, and those that it had."""

    now: Set[str]
    before: Collection[str]

    def __contains__(self, path: object) -> bool:
        return path in self.now or path in self.before


@dataclass
class _Differences:
    """The lists of a Drift."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    modified: list[str] = field(default_factory=list)
    touched: list[str] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)

    def without_caches(self, known: Container[str]) -> Drift:
        """Return the drift, with caches apart; it does not matter whether these were touched."""
        lists = (self.added, self.removed, self.changed, self.modified, self.touched)
        if not any(lists):
            return Drift((), (), (), modes=tuple(sorted(self.modes)))
        is_cache = cache_check(known)
        caches = {path for paths in lists for path in paths if is_cache(path)}
        caches.difference_update(path for path in self.removed if path.endswith(NEEDED))
        added, removed, changed, modified, touched = (
            tuple(sorted(path for path in paths if path not in caches)) for paths in lists
        )
        different = caches.difference(self.touched)
        return Drift(
            added, removed, changed, modified, touched, tuple(sorted(self.modes)), tuple(sorted(different))
        )


def _compare(files: Iterable[File], index: Index, status_of: StatusOf) -> _Differences:
    """Compare what is not a directory with the index. It is one loop, since this is done for each file.

    A file that was written when the index was taken, or later, may have been written again in the same tick of the file
    system's clock, so it counts as modified.
    """
    found = _Differences()
    rows, vouched = index.rows, index.header.taken
    taken = vouched or _NEVER
    for path, _, size, mode, mtime, ctime, inode, _, _, _ in files:
        row = rows.get(path)
        if row is None:
            found.added.append(path)
            continue
        seen_size, seen_mode, seen_mtime, seen_ctime, seen_inode, layer = row
        if seen_mode == mode | FOLLOWED:
            if seen_mtime != clamped(mtime) or not _is_file(status_of(path), seen_size):
                found.changed.append(path)
            continue
        if seen_mode != mode:
            found.modes.append(path)
        if seen_size != size:
            found.changed.append(path)
        elif (seen_mtime != mtime and seen_mtime != clamped(mtime)) or taken <= seen_mtime <= seen_ctime:
            found.modified.append(path)
        elif layer != NO_LAYER and not (
            seen_inode in (0, inode) and seen_ctime in (ctime, ANY_CTIME) and ctime < vouched
        ):
            found.touched.append(path)
    return found


def _directories_with_other_modes(tree: Tree, index: Index) -> list[str]:
    """Return the directories whose mode is not that in the index, or not the usual one if they are not in it."""
    rows = index.rows
    found, unusual = [], []
    for file in tree.files:
        if file[1] == "directory":
            row = rows.get(f"{file[0]}/")
            if row is not None and row[1] != file[3]:
                found.append(f"{file[0]}/")
            elif row is None and directory_mode(file[0], file[3]) != USUAL_DIRECTORY_MODE:
                unusual.append(file[0])
    if unusual:
        known = {str(parent) for path in rows for parent in PurePosixPath(path).parents}
        found += [f"{path}/" for path in unusual if path in known]
    return found


def _is_file(status: os.stat_result | None, size: int) -> bool:
    return status is not None and stat.S_ISREG(status.st_mode) and status.st_size == size


def is_touched(prefix: Path) -> bool:
    """Return whether common directories, or what they contain, have changed since all files were last looked at.

    These are directories that installing or removing a package changes, and so does setting modes or owners everywhere.
    Return True also if that is unknown. This takes a few stat calls, where `find_drift` needs the whole tree.
    """
    header = read_index_header(prefix)
    if header is None:
        return True
    try:
        directories = [
            *(prefix / name for name in (conda.META, "bin", "lib", "include", "share", "etc")),
            *prefix.glob("lib/python*/site-packages"),
        ]
        since = max(header.taken, header.scanned)
        return any(directory.stat().st_ctime_ns >= since for directory in directories if directory.exists())
    except OSError:
        return True
