"""Tell what may have come from a store: the files of managed environments, which snapper has packed or restored.

Whoever published such an environment has chosen its files. They are for whoever starts its programs, and decide nothing
else: not where environments are found or restored, what snapper and other environments run, or how kernels are named.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from snapper.environment import conda
from snapper.environment.lookup import Lookup
from snapper.environment.state import STATE_FILE
from snapper.errors import UsageError
from snapper.format.constraints import SHARED_DIRECTORIES, STATE_DIRECTORY, check_path, is_foreign
from snapper.settings.directories import home_directory


def managed_environments(path: Path) -> frozenset[str]:
    """Return the real paths of the managed environments that the absolute path is, or that it may be part of.

    This includes those that links on the path are in or lead through. Nothing in `envs` and `pkgs` of an environment is
    part of it.
    """
    homes = _homes()
    return frozenset(
        os.path.realpath(prefix)
        for spelling in filter(None, dict.fromkeys(Lookup().spellings(str(path))))
        for prefix in _environments_with(spelling, homes)
    )


def find_program(name: str) -> str | None:
    """Return the path of a program in PATH that is not in a managed environment, None if there is none."""
    directories = os.environ.get("PATH", os.defpath).split(os.pathsep)
    own = (path for path in directories if not managed_environments(Path(os.path.abspath(path))))
    return shutil.which(name, path=os.pathsep.join(own))


def is_inside_managed(path: Path) -> bool:
    """Return whether the path may be part of a managed environment; one that is not in another is not."""
    return not managed_environments(path) <= {os.path.realpath(path)}


def _homes() -> frozenset[str]:
    """Return the path of this user's home directory and its real path; nothing if there is none."""
    try:
        home = str(home_directory())
    except UsageError:
        return frozenset()
    return frozenset({home, os.path.realpath(home)})


def _environments_with(path: str, homes: frozenset[str]) -> Iterator[str]:
    """Yield the managed environments that the path, without following links, is or may be part of.

    Neither the home directory nor what is above it is one for the paths below it.
    """
    prefix, inside = path, ""
    while prefix not in homes:
        if _may_be_part(inside) and _is_managed(prefix):
            yield prefix
        parent, name = os.path.split(prefix)
        if parent == prefix:
            return
        prefix, inside = parent, f"{name}/{inside}" if inside else name


def _is_managed(prefix: str) -> bool:
    """Return whether there is snapper's state of an environment; other things of snapper are in such directories, too.

    A published environment need not have `conda-meta`.
    """
    signs = (os.path.join(STATE_DIRECTORY, STATE_FILE), conda.META)
    return os.path.lexists(os.path.join(prefix, STATE_DIRECTORY)) and any(
        os.path.lexists(os.path.join(prefix, sign)) for sign in signs
    )


def _may_be_part(inside: str) -> bool:
    """Return whether a snapshot can have something at this path of the environment; an empty one is itself."""
    path = os.path.normpath(inside)
    if path == ".":
        return True
    try:
        return path not in SHARED_DIRECTORIES and not is_foreign(check_path(path))
    except ValueError:
        return False
