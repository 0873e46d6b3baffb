"""Directories that a restore has kept beside an environment, or in it, because they may have what would be lost.

They are there for the user to look at and remove, and are no environments of their own.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from snapper.environment import conda, state
from snapper.format.constraints import kept_of
from snapper.fs.ownership import is_own

#: How many bytes of the name of the environment the name can have.
_LONGEST = 200


def kept_name(name: str) -> str:
    """Return a new name for what is kept of the environment in the directory of that name."""
    return f"{_shortened(name)}.replaced-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def is_kept(path: Path) -> bool:
    """Return whether a restore has kept this: by its name, unless an environment was packed or restored there."""
    return kept_of(path.name) is not None and state.read(path) is None


def kept_beside(prefix: Path) -> tuple[str, ...]:
    """Return the paths of what was kept of the environment at a prefix, sorted: beside it, and in it."""
    name = _shortened(prefix.name)
    found = [*kept_in(prefix.parent), *kept_in(prefix)]
    return tuple(sorted(str(path) for path in found if kept_of(path.name) == name))


def kept_in(directory: Path) -> list[Path]:
    """Return what this user's restores have kept in a directory, sorted."""
    try:
        paths = [directory / name for name in os.listdir(directory) if kept_of(name)]
    except OSError:
        return []
    return sorted(path for path in paths if _is_own_directory(path) and is_kept(path))


def environments_in(kept: Path) -> list[Path]:
    """Return the environments that a restore has kept: the directory itself, and those below its `envs`, sorted."""
    found = [kept]
    with suppress(OSError):
        found += sorted((kept / "envs").iterdir())
    return [path for path in found if conda.is_environment(path) and _is_own_directory(path)]


def _shortened(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:_LONGEST])


def _is_own_directory(path: Path) -> bool:
    try:
        return is_own(os.lstat(path)) and path.is_dir() and not path.is_symlink()
    except OSError:
        return False
