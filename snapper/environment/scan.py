"""Which files below a prefix belong to the environment."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from snapper.environment import conda
from snapper.environment.tree import Tree, walk
from snapper.errors import NotAnEnvironment
from snapper.format.model import SHARED_DIRECTORIES, STATE_DIRECTORY, check_path
from snapper.fs.directories import closing_descriptor, open_if_directory, opened_directory
from snapper.fs.errors import os_errors
from snapper.fs.ownership import is_own, owner_name

#: Paths up to this length, in characters, cannot be too deep for a snapshot, so their depth is not checked.
_NEVER_TOO_DEEP = 500

_STAGING = re.compile(r"(.*/)?\.[^/]+\.snapper\Z", re.S)


def scan(prefix: Path) -> Tree:
    """List the environment's files, without nested environments, package caches, trash, and snapper's state.

    Raise NotAnEnvironment, PermissionDenied, FileOperationFailed.
    """
    if not conda.is_environment(prefix):
        raise NotAnEnvironment(str(prefix))
    with os_errors(prefix, "read"), opened_directory(prefix) as directory:
        return walk(prefix, _exclusion(directory))


def foreign_paths(directory: int) -> list[str]:
    """List the paths in an open environment that are not part of it and must survive its replacement.

    These are other environments, their staging directories, and the package cache, or links to directories with these.
    May raise OSError.
    """
    exclude = _exclusion(directory)
    paths = (*SHARED_DIRECTORIES, *(f"envs/{name}" for name in names_in("envs", directory)))
    return [path for path in paths if exclude(path) is not None]


def names_in(path: str, directory: int) -> list[str]:
    """Return the sorted names in a directory in an open one; none if there is no such directory. May raise OSError."""
    opened = open_if_directory(path, directory)
    if opened is None:
        return []
    with closing_descriptor(opened):
        return sorted(os.listdir(opened))


def _exclusion(directory: int) -> Callable[[str], str | None]:
    """Return a function that says why a path in the open environment is not part of it, for `walk`."""
    has_packages = bool(names_in("pkgs", directory))

    def exclude(path: str) -> str | None:
        # Most paths need not be checked in full, which takes longer than to list them.
        if "/" in path and path[4:5] != "/" and "/." not in path and len(path) <= _NEVER_TOO_DEEP:
            return None
        if path in (STATE_DIRECTORY, ".condatmp"):
            return ""
        if path == "pkgs" and has_packages:
            return "conda keeps its package cache in the directory of this name"
        if path.casefold() in SHARED_DIRECTORIES:
            is_directory = _type_of(path, directory, follow=False) in (stat.S_IFDIR, None)
            return None if is_directory else "it is a link or a file in place of a directory"
        if path.startswith("envs/") and path.count("/") == 1:
            return _exclude_nested(path, directory)
        return _exclude_invalid(path)

    return exclude


def _exclude_nested(path: str, directory: int) -> str | None:
    if _STAGING.match(path):
        return ""
    if _type_of(f"{path}/{conda.META}", directory) == stat.S_IFDIR:
        return "it is another environment"
    return _exclude_invalid(path) or _exclude_of_others(path, directory)


def _exclude_of_others(path: str, directory: int) -> str | None:
    """Exclude what neither this user nor the environment's owner has put into `envs`, where others may create names."""
    try:
        status = os.stat(path, dir_fd=directory, follow_symlinks=False)
    except (OSError, ValueError):
        return None
    if is_own(status) or status.st_uid == os.fstat(directory).st_uid:
        return None
    return f"it belongs to the user {owner_name(status)}"


def _type_of(path: str, directory: int, *, follow: bool = True) -> int | None:
    """Return the type of what is at the path in an open directory, None if nothing is there."""
    try:
        return stat.S_IFMT(os.stat(path, dir_fd=directory, follow_symlinks=follow).st_mode)
    except (OSError, ValueError):
        return None


def _exclude_invalid(path: str) -> str | None:
    try:
        check_path(path)
    except ValueError as error:
        return str(error)
    return None
