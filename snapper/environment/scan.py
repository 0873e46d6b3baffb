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
from snapper.fs.directories import closing_descriptor, open_if_directory

#: Paths up to this length, in characters, cannot be too deep for a snapshot, so their depth is not checked.
_NEVER_TOO_DEEP = 500

_STAGING = re.compile(r"(.*/)?\.[^/]+\.snapper\Z", re.S)


def scan(prefix: Path) -> Tree:
    """List the environment's files, without nested environments, package caches, trash, and snapper's state.

    Raise NotAnEnvironment, PermissionDenied, FileOperationFailed.
    """
    if not conda.is_environment(prefix):
        raise NotAnEnvironment(str(prefix))
    return walk(prefix, _exclusion(lambda path, follow: os.stat(prefix / path, follow_symlinks=follow)))


def foreign_paths(directory: int) -> list[str]:
    """List the paths in an open environment that are not part of it and must survive its replacement.

    These are other environments, their staging directories, and the package cache, or links to directories with these.
    May raise OSError.
    """
    names: list[str] = []
    envs = open_if_directory("envs", directory)
    if envs is not None:
        with closing_descriptor(envs):
            names = sorted(os.listdir(envs))
    exclude = _exclusion(lambda path, follow: os.stat(path, dir_fd=directory, follow_symlinks=follow))
    paths = (*SHARED_DIRECTORIES, *(f"envs/{name}" for name in names))
    return [path for path in paths if exclude(path) is not None]


#: Returns what `stat` does for a path of the environment, or raises OSError; follows links if the second is true.
_Status = Callable[[str, bool], os.stat_result]


def _exclusion(status: _Status) -> Callable[[str], str | None]:
    """Return a function that says why a path is not part of the environment, for `walk`."""
    has_package_cache = any(_type_of(status, f"pkgs/{name}") == stat.S_IFREG for name in ("urls.txt", "urls"))

    def exclude(path: str) -> str | None:
        if path in (STATE_DIRECTORY, ".condatmp"):
            return ""
        if path.casefold() in SHARED_DIRECTORIES:
            return _exclude_shared(status, path, has_package_cache=has_package_cache)
        if path.startswith("envs/") and path.count("/") == 1:
            return _exclude_nested(status, path)
        return _exclude_invalid(path) if _may_be_invalid(path) else None

    return exclude


def _may_be_invalid(path: str) -> bool:
    """Return whether the path has to be checked in full; that takes longer than to list it."""
    if "/" not in path or len(path) > _NEVER_TOO_DEEP or "/." in path:
        return True
    return path[4:5] == "/" and path[:4].casefold() in SHARED_DIRECTORIES


def _exclude_shared(status: _Status, path: str, *, has_package_cache: bool) -> str | None:
    if path == "pkgs" and has_package_cache:
        return "it is the package cache"
    is_directory = _type_of(status, path, follow=False) in (stat.S_IFDIR, None)
    return None if is_directory else "it is a link or a file in place of a directory"


def _exclude_nested(status: _Status, path: str) -> str | None:
    if _STAGING.match(path):
        return ""
    if _type_of(status, f"{path}/{conda.META}") == stat.S_IFDIR:
        return "it is another environment"
    return _exclude_invalid(path)


def _type_of(status: _Status, path: str, *, follow: bool = True) -> int | None:
    """Return the type of what is at the path, None if nothing is there."""
    try:
        return stat.S_IFMT(status(path, follow).st_mode)
    except (OSError, ValueError):
        return None


def _exclude_invalid(path: str) -> str | None:
    try:
        check_path(path)
    except ValueError as error:
        return str(error)
    return None
