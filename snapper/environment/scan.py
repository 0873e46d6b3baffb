"""Which files below a prefix belong to the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from snapper.environment import conda
from snapper.environment.tree import Tree, walk
from snapper.errors import NotAnEnvironment
from snapper.format.model import STATE_DIRECTORY, check_path

#: Paths up to this length, in characters, cannot be too deep for a snapshot, so their depth is not checked.
_NEVER_TOO_DEEP = 500

_STAGING = re.compile(r"(.*/)?\.[^/]+\.snapper\Z", re.S)


def scan(prefix: Path) -> Tree:
    """List the environment's files, without nested environments, package caches, trash, and snapper's state.

    Raise NotAnEnvironment, PermissionDenied, FileOperationFailed.
    """
    if not conda.is_environment(prefix):
        raise NotAnEnvironment(str(prefix))
    return walk(prefix, _exclusion(prefix))


def foreign_paths(prefix: Path) -> list[str]:
    """List the paths below the prefix that are not part of the environment and must survive its replacement.

    These are other environments, their staging directories, and the package cache. May raise OSError.
    """
    envs = prefix / "envs"
    names = sorted(os.listdir(envs)) if envs.is_dir() and not envs.is_symlink() else []
    exclude = _exclusion(prefix)
    return [path for path in ("pkgs", *(f"envs/{name}" for name in names)) if exclude(path) is not None]


def _exclusion(prefix: Path) -> Callable[[str], str | None]:
    """Return a function that says why a path is not part of the environment, for `walk`."""
    has_package_cache = (prefix / "pkgs" / "urls.txt").is_file() or (prefix / "pkgs" / "urls").is_file()

    def exclude(path: str) -> str | None:
        if path in (STATE_DIRECTORY, ".condatmp"):
            return ""
        if path == "pkgs" and has_package_cache:
            return "it is the package cache"
        if path.startswith("envs/") and path.count("/") == 1:
            return _exclude_nested(prefix, path)
        if "/" not in path or len(path) > _NEVER_TOO_DEEP:
            return _exclude_invalid(path)
        return None

    return exclude


def _exclude_nested(prefix: Path, path: str) -> str | None:
    if _STAGING.match(path):
        return ""
    return "it is another environment" if (prefix / path / conda.META).is_dir() else None


def _exclude_invalid(path: str) -> str | None:
    try:
        check_path(path)
    except ValueError as error:
        return str(error)
    return None
