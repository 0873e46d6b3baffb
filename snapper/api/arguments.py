"""Arguments that several functions of the API take."""

from __future__ import annotations

from pathlib import Path

from snapper.environment import conda
from snapper.environment.locations import find_environment, pin_own_environment
from snapper.fs.pinned import PinnedDirectory
from snapper.settings.directories import absolute_directory
from snapper.settings.resolution import resolve_envs_dir


def find_prefix(environment: str | Path) -> Path:
    """Return the prefix of an environment, given by its conda name or its directory (a Path)."""
    return absolute_directory(environment) if isinstance(environment, Path) else find_environment(environment)


def pin_environment(environment: str | Path) -> PinnedDirectory:
    """Open an environment, given by its conda name, if it is this user's or root's, or by its directory (a Path)."""
    if isinstance(environment, Path):
        return conda.pin_environment(absolute_directory(environment))
    return pin_own_environment(environment)


def optional_prefix(prefix: str | Path | None) -> Path | None:
    """Return the absolute path of a prefix, if given."""
    return absolute_directory(prefix) if prefix is not None else None


def optional_envs_dir(directory: str | Path | None) -> Path | None:
    """Return the directory to restore environments into: the given one, or that of the settings, if any."""
    return resolve_envs_dir(directory)
