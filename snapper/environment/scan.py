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
from snapper.format.model import STATE_DIRECTORY, check_path
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
    return walk(prefix, _exclusion(lambda path: os.stat(prefix / path)))


def foreign_paths(directory: int) -> list[str]:
    """List the paths in an open environment that are not part of it and must survive its replacement.

    These are other environments, their staging directories, and the package cache. May raise OSError.
    """
    names: list[str] = []
    envs = open_if_directory("envs", directory)
    if envs is not None:
        with closing_descriptor(envs):
            names = sorted(os.listdir(envs))
    exclude = _exclusion(lambda path: os.stat(path, dir_fd=directory))
    return [path for path in ("pkgs", *(f"envs/{name}" for name in names)) if exclude(path) is not None]


def _exclusion(status: Callable[[str], os.stat_result]) -> Callable[[str], str | None]:
    """Return a function that says why a path is not part of the environment, for `walk`.

    `status` returns what `stat` does for a path of the environment, or raises OSError.
    """
    has_package_cache = any(_has_type(status, f"pkgs/{name}", stat.S_IFREG) for name in ("urls.txt", "urls"))

    def exclude(path: str) -> str | None:
        if path in (STATE_DIRECTORY, ".condatmp"):
            return ""
        if path == "pkgs" and has_package_cache:
            return "it is the package cache"
        if path.startswith("envs/") and path.count("/") == 1:
            return _exclude_nested(status, path)
        if "/" not in path or len(path) > _NEVER_TOO_DEEP:
            return _exclude_invalid(path)
        return None

    return exclude


def _exclude_nested(status: Callable[[str], os.stat_result], path: str) -> str | None:
    if _STAGING.match(path):
        return ""
    return "it is another environment" if _has_type(status, f"{path}/{conda.META}", stat.S_IFDIR) else None


def _has_type(status: Callable[[str], os.stat_result], path: str, type_: int) -> bool:
    try:
        return stat.S_IFMT(status(path).st_mode) == type_
    except (OSError, ValueError):
        return False


def _exclude_invalid(path: str) -> str | None:
    try:
        check_path(path)
    except ValueError as error:
        return str(error)
    return None
