"""What has changed in an environment since its index was written."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from pathlib import Path

from snapper.environment import conda
from snapper.environment.foreign import is_foreign
from snapper.environment.index import ANY_CTIME, FOLLOWED, Index
from snapper.environment.state import read_index_header
from snapper.environment.tree import WITHOUT_DATA, Tree
from snapper.format import bytecode
from snapper.format.times import clamped

#: Return the status of what is at a path of the environment, or what a link there leads to; None if there is nothing.
StatusOf = Callable[[str], os.stat_result | None]

#: Later than all times that an index can have.
_NEVER = sys.maxsize


@dataclass(frozen=True)
class Drift:
    """The paths that differ from the index, sorted, without modules that Python compiled from other files.

    Among the added paths are those that no snapshot can have, and directories with nothing in them, whose paths end in
    `/`. What is moved along when the environment is replaced does not count.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def paths(self) -> list[str]:
        return sorted((*self.added, *self.removed, *self.changed))


def find_drift(tree: Tree, index: Index, status_of: StatusOf) -> Drift:
    """Compare the files on disk with the index: paths, sizes, modes, and mtimes.

    Where a link was packed as the file that it leads to, `status_of` tells whether that is there and has its size.

    A file that was written when the index was taken, or later, may have been written again in the same tick of the file
    system's clock, so it counts as changed.
    """
    added: list[str] = []
    changed: list[str] = []
    rows = index.rows
    taken = index.header.taken or _NEVER
    files = [file for file in tree.files if file[1] != "directory"]  # faster than by name
    present = {file[0] for file in files}
    for path, _, size, mode, mtime, _, _, _, _, _ in files:
        row = rows.get(path)
        if row is None:
            added.append(path)
            continue
        seen_size, seen_mode, seen_mtime, seen_ctime, _, _ = row
        if (
            seen_size != size
            or seen_mode != mode
            or (seen_mtime != mtime and seen_mtime != clamped(mtime))
            or taken <= seen_mtime <= seen_ctime
        ) and not (
            seen_mode == mode | FOLLOWED
            and seen_mtime == clamped(mtime)
            and _is_file(status_of(path), seen_size)
        ):
            changed.append(path)
    # Python leaves directories for compiled modules empty.
    empty = (f"{path}/" for path in tree.empty if not path.endswith("__pycache__"))
    added += (path for path in empty if path not in rows)
    added += (path for path, reason in tree.skipped if reason != WITHOUT_DATA and not is_foreign(path))
    removed = (path for path in rows if path not in present and not path.endswith("/"))

    def without_compiled(paths: Iterable[str]) -> tuple[str, ...]:
        sources = ((path, bytecode.probable_source_of(path)) for path in paths)
        return tuple(sorted(path for path, source in sources if not (source in present or source in rows)))

    return Drift(without_compiled(added), without_compiled(removed), without_compiled(changed))


def find_touched(tree: Tree, index: Index, shared: Set[int]) -> list[str]:
    """Return the files that `find_drift` takes for unchanged, but whose inode or ctime is not that in the index.

    Their contents may have changed if their mtime was set back, but usually only their owner or number of links has, or
    they were restored from a backup. Files with one of the inodes in `shared`, and compiled modules, are left out.
    """
    rows, taken = index.rows, index.header.taken
    touched = []
    for file in tree.files:
        if file[6] in shared or file[1] == "directory":  # faster than by name
            continue
        row = rows.get(file[0])
        if (
            row is not None
            and row[5] >= 0
            and not (row[4] in (0, file[6]) and row[3] in (file[5], ANY_CTIME) and file[5] < taken)
            and bytecode.probable_source_of(file[0]) not in rows
        ):
            touched.append(file[0])
    return touched


def _is_file(status: os.stat_result | None, size: int) -> bool:
    return status is not None and stat.S_ISREG(status.st_mode) and status.st_size == size


def is_touched(prefix: Path) -> bool:
    """Return whether entries were added to or removed from common directories since the index was written.

    These are directories that installing or removing a package changes. Return True also if that is unknown. This
    takes a few stat calls, where `find_drift` needs the whole tree.
    """
    header = read_index_header(prefix)
    if header is None:
        return True
    try:
        directories = [
            *(prefix / name for name in (conda.META, "bin", "lib", "include", "share", "etc")),
            *prefix.glob("lib/python*/site-packages"),
        ]
        return any(
            directory.stat().st_mtime_ns >= header.taken for directory in directories if directory.exists()
        )
    except OSError:
        return True
