"""Which files below a prefix belong to the environment."""

from __future__ import annotations

import os
from pathlib import Path

from snapper.environment import conda
from snapper.environment.tree import Tree, walk
from snapper.errors import NotAnEnvironment
from snapper.format.model import SHARED_DIRECTORIES, STATE_DIRECTORY, check_path
from snapper.fs.mounts import mount_points_below

#: Paths up to this length, in characters, cannot be too deep for a snapshot, so their depth is not checked.
_NEVER_TOO_DEEP = 500

_REASONS = {
    "envs": "other environments are in the directory of this name",
    "pkgs": "conda keeps its package cache in the directory of this name",
}


def scan(prefix: Path) -> Tree:
    """List the environment's files, without other environments, the package cache, trash, and snapper's state.

    Raise NotAnEnvironment, PermissionDenied, FileOperationFailed.
    """
    if not conda.is_environment(prefix):
        raise NotAnEnvironment(str(prefix))
    mounts = frozenset(mount_points_below(prefix))

    def exclude(path: str) -> str | None:
        return "another file system is mounted there" if path in mounts else _exclude(path)

    return walk(prefix, exclude if mounts else _exclude)


def foreign_names(directory: int) -> list[str]:
    """List the names in an open environment that are not part of it and must survive its replacement.

    These are the directory with other environments, and the package cache, or links to these. May raise OSError.
    """
    return sorted(name for name in os.listdir(directory) if name.casefold() in SHARED_DIRECTORIES)


def _exclude(path: str) -> str | None:
    """Return why a path is not part of the environment, for `walk`."""
    # Most paths need not be checked in full, which takes longer than to list them.
    if "/" in path and "/." not in path and len(path) <= _NEVER_TOO_DEEP:
        return None
    if path in (STATE_DIRECTORY, ".condatmp"):
        return ""
    if path.casefold() in SHARED_DIRECTORIES:
        return _REASONS[path.casefold()]
    try:
        check_path(path)
    except ValueError as error:
        return str(error)
    return None
