"""Choose where to restore environments for which neither --prefix nor an envs directory is given.

A store says where each environment was packed. That is only a hint, because a publisher can state any directory: it is
followed to places where this user or conda keeps environments, and nowhere else. Until it is known to be such a place,
nothing at that path is accessed. Wherever an environment goes, no other user may control the directories above it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from snapper.environment import conda, state
from snapper.environment.conda_directories import (
    EnvsDirectory,
    envs_dirs_to_restore_into,
    find_roots,
    trusted_roots,
    user_envs_dir,
    usual_roots,
)
from snapper.environment.control import control_problem
from snapper.environment.locations import registered_prefixes
from snapper.environment.names import can_be_in_envs_dir
from snapper.environment.own_locations import own_locations
from snapper.errors import NoTargetDirectory, ReservedName
from snapper.restoring.place import is_staged_inside, is_writable

_BASE = "base"


@dataclass(frozen=True)
class UnusedLocation:
    """Where an environment was packed, and why it is not restored there."""

    prefix: str
    reason: str


class Destination(NamedTuple):
    """Where to restore an environment, and where it was packed if that is elsewhere."""

    prefix: Path
    unused: UnusedLocation | None = None


class _Unusable(Exception):
    """An environment is not restored where it was packed; the message says why."""


class Destinations:
    """The destinations of the environments that one command restores: none of them gets that of an earlier one."""

    def __init__(self) -> None:
        self._taken: list[Path] = []

    def choose(self, name: str, packed_at: str) -> Destination:
        """Choose where to restore an environment that was packed at `packed_at`, "" if it was imported.

        Raise NoTargetDirectory, and ReservedName if that would be in an envs directory, where it cannot be.
        """
        try:
            destination = self._follow(name, packed_at)
        except _Unusable as error:
            destination = self._default(name, packed_at, str(error))
        self._taken.append(destination.prefix)
        if name == _BASE:  # other environments may have been packed inside of it
            self._envs_dirs.append(EnvsDirectory(destination.prefix / "envs", is_chosen=False))
        return destination

    def _follow(self, name: str, packed_at: str) -> Destination:
        """Return the destination that the hint leads to; raise _Unusable."""
        if not _is_normal(packed_at):
            raise _Unusable("that is not a normal path")
        origin = Path(packed_at)
        if self._holds(origin, name):
            return Destination(origin)
        directory = self._envs_dir_of(origin, name)
        if directory:
            destination, problem = _by_name(directory.path / name, origin), directory.problem_at(name)
        elif packed_at in own_locations(name):
            destination = self._near(origin, name)
            problem = control_problem(destination.prefix)
        elif name == _BASE and self._can_be_root(origin):
            destination, problem = Destination(origin), control_problem(origin)
        else:
            raise _Unusable("that is not in one of your envs directories")
        problem = problem or self._write_problem(destination.prefix)
        if problem:
            raise _Unusable(problem)
        return destination

    def _default(self, name: str, packed_at: str, reason: str) -> Destination:
        """Return a destination in the first usable envs directory; `reason` is why it is not `packed_at`."""
        if not can_be_in_envs_dir(name):
            raise ReservedName(name, packed_at, reason)
        tried = [f"{packed_at} ({reason})"] if packed_at else []
        for directory in self._envs_dirs:
            prefix = directory.path / name
            problem = directory.problem_at(name) or _creation_problem(directory.path, prefix)
            if not problem:
                is_elsewhere = packed_at not in ("", str(prefix))
                return Destination(prefix, UnusedLocation(packed_at, reason) if is_elsewhere else None)
            tried.append(f"{directory.path} ({problem})")
        raise NoTargetDirectory(name, tuple(tried))

    # --- what a hint may lead to ------------------------------------------------------------------------------

    def _holds(self, origin: Path, name: str) -> bool:
        """Return whether the environment is there, in a directory where this user or conda keeps environments."""
        directory = self._envs_dir_of(origin, name)
        if directory and not origin.name.startswith("."):
            problem = directory.problem_at(origin.name)
        elif origin in self._roots:
            problem = ""
        elif origin in self._registered or str(origin) in own_locations(name):
            problem = control_problem(origin)
        else:
            return False
        current = None if problem else state.read(origin)
        return current is not None and current.environment == name

    def _envs_dir_of(self, origin: Path, name: str) -> EnvsDirectory | None:
        """Return the envs directory that the path is directly in, if there is one and the environment can be there."""
        for directory in self._envs_dirs if can_be_in_envs_dir(name) else ():
            if str(origin.parent) in (str(directory.path), os.path.realpath(directory.path)):
                return directory
        return None

    def _near(self, origin: Path, name: str) -> Destination:
        """Return a place that this user chose, or one beside it that is named for the environment if it is in use.

        A base environment is only restored in place.
        """
        if name in (origin.name, _BASE):
            return Destination(origin)
        if origin.parent.name == "envs":
            return _by_name(origin.parent / name, origin)
        if origin in self._taken or os.path.lexists(origin):
            return Destination(origin.parent / name, UnusedLocation(str(origin), "something else is there"))
        return Destination(origin)

    def _can_be_root(self, origin: Path) -> bool:
        """Return whether conda's root prefix is there, or usually is there and nowhere else yet."""
        if origin in self._roots:
            return True
        return origin in usual_roots() and not any(map(conda.is_environment, find_roots()))

    def _write_problem(self, prefix: Path) -> str:
        """Return why nothing can be restored there, "" if it can, or if it will be inside of an environment."""
        if any(above in self._taken for above in prefix.parents):
            return ""
        directory = prefix if is_staged_inside(prefix) else prefix.parent
        return "" if _is_writable(directory) else f"{directory} is not a directory that you can write to"

    # --- what this user and conda have ------------------------------------------------------------------------

    @cached_property
    def _envs_dirs(self) -> list[EnvsDirectory]:
        return envs_dirs_to_restore_into()

    @cached_property
    def _roots(self) -> list[Path]:
        return trusted_roots()

    @cached_property
    def _registered(self) -> frozenset[Path]:
        return frozenset(registered_prefixes())


def _by_name(prefix: Path, origin: Path) -> Destination:
    """Return the prefix in an envs directory, where conda knows an environment by the name of its directory."""
    reason = "in an envs directory, an environment has its own name"
    return Destination(prefix, None if prefix.name == origin.name else UnusedLocation(str(origin), reason))


def _is_normal(path: str) -> bool:
    return path.startswith("/") and not path.startswith("//") and os.path.normpath(path) == path


def _creation_problem(directory: Path, prefix: Path) -> str:
    """Return why nothing can be restored at a prefix in an envs directory; the one in the home need not exist yet."""
    existing = prefix if is_staged_inside(prefix) else directory
    while directory == user_envs_dir() and not os.path.lexists(existing):
        existing = existing.parent
    return "" if _is_writable(existing) else "it is not a directory that you can write to"


def _is_writable(directory: Path) -> bool:
    return os.path.isdir(directory) and is_writable(directory)
