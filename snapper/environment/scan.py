"""Which files below a prefix belong to the environment."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from snapper.environment import conda
from snapper.environment.control import writers_check
from snapper.environment.foreign import is_foreign, why_foreign
from snapper.environment.staging_lock import INSIDE
from snapper.environment.tree import MOUNTED, Refuse, SkippedPath, Tree, walk, why_impossible
from snapper.format.constraints import STATE_DIRECTORY, TRASH_DIRECTORY
from snapper.fs.mounts import mount_points_below
from snapper.fs.moves import Entry
from snapper.fs.ownership import ROOT, is_own, owner_name
from snapper.fs.pinned import PinnedDirectory

#: Paths up to this length, in characters, cannot be too deep for a snapshot, so their depth is not checked.
_NEVER_TOO_DEEP = 500

_NESTED = "it is another environment"

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

#: What every environment has.
_HISTORY = "/conda-meta/history"


def scan(prefix: Path | PinnedDirectory) -> Tree:
    """List the environment's files, without what is not part of it, trash, and what is snapper's own.

    Raise NotAnEnvironment, PermissionDenied, FileOperationFailed.
    """
    directory = conda.pin_environment(prefix)
    mounts = frozenset(path for path in mount_points_below(directory.descriptor) if not is_foreign(path))

    def exclude(path: str) -> str | None:
        return MOUNTED if path in mounts else _exclude(path)

    tree = walk(directory, exclude if mounts else _exclude, _refusal(directory))
    return _without_nested(tree, directory)


def _refusal(directory: PinnedDirectory) -> Refuse | None:
    """Return a function that says why what has a status is not part of the environment of another user, for `walk`.

    There, others' files may be hard links to what this user can read, but the owner of the environment cannot, or may
    have been moved there. So of root's, only what everyone may read is part of it.
    """
    owner = directory.status.st_uid

    def refuse(status: os.stat_result) -> str | None:
        if status.st_uid == owner or (status.st_uid == ROOT and _is_open_to_all(status.st_mode)):
            return None
        return f"it belongs to the user {owner_name(status)}"

    return None if is_own(directory.status) else refuse


def _is_open_to_all(mode: int) -> bool:
    needed = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
    return stat.S_ISLNK(mode) or mode & needed == needed


def nested_environments(tree: Tree) -> list[str]:
    """Return the paths of other environments inside of the scanned one that a replacement would not keep."""
    return [path for path, reason in tree.skipped if reason == _NESTED]


def find_shared_directory(directory: PinnedDirectory, tree: Tree) -> str | None:
    """Return the path of a directory in the scanned environment that others may write to, "" for its own; else None.

    They can have moved directories of this user there, with files that they may not remove. May raise OSError.
    """
    others_may_write = writers_check(directory.path)
    paths = (file.path for file in tree.files if file.type == "directory" and file.mode & _OTHERS_WRITE)
    for path in ("", *paths):
        status = directory.stat(path or ".", follow=False)
        if status and others_may_write(status, Entry(directory.descriptor, path or ".")):
            return path
    return None


def mounted_file_systems(tree: Tree) -> list[str]:
    """Return the paths in the scanned environment at which other file systems are mounted."""
    return [path for path, reason in tree.skipped if reason == MOUNTED]


def _without_nested(tree: Tree, directory: PinnedDirectory) -> Tree:
    """Skip the environments that are inside of the one in the directory, but not in `envs`.

    Packages from conda or pip may have a `conda-meta` of their own, such as data for tests, which is part of it.
    """
    found = [file.path for file in tree.files if file.path.endswith(_HISTORY)]
    found = [path for path in found if "/site-packages/" not in path]
    if found:
        owned = {entry.path for record in conda.read_records(directory) for entry in record.entries}
        found = [path for path in found if path not in owned]
    if not found:
        return tree
    tops = tuple(path.removesuffix(_HISTORY) + "/" for path in found)
    outermost = [top[:-1] for top in tops if not top[:-1].startswith(tops)]
    skipped = [item for item in tree.skipped if not item.path.startswith(tops)]
    skipped += (SkippedPath(path, _NESTED) for path in outermost)
    files = (file for file in tree.files if not f"{file.path}/".startswith(tops))
    empty = (path for path in tree.empty if not f"{path}/".startswith(tops))
    return Tree(tuple(files), tuple(sorted(skipped)), tuple(empty))


def _exclude(path: str) -> str | None:
    """Return why a path is not part of the environment, for `walk`."""
    # Most paths need not be checked in full, which takes longer than to list them.
    if "/" in path and "/." not in path and len(path) <= _NEVER_TOO_DEEP:
        return None
    if path in (STATE_DIRECTORY, TRASH_DIRECTORY, INSIDE):
        return ""
    reason = why_foreign(path)
    return why_impossible(path) if reason is None else reason
