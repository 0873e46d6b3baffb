"""Find conda environments on this machine by name, and add them to conda's list of environments."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from snapper.environment import conda, state
from snapper.environment.conda_directories import configured_envs_dirs, envs_dirs, find_roots
from snapper.environment.control import control_problem, is_in_shared_directory, others_may_write
from snapper.environment.kept import is_kept
from snapper.environment.names import ROOT_NAMES
from snapper.errors import AmbiguousName, EnvironmentNotFound, EnvironmentOfOther, EnvironmentOfUnknownOrigin
from snapper.fs.atomic import make_directory
from snapper.fs.ownership import is_own, owner_name
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.small_files import read_file
from snapper.settings.directories import home_directory

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC


def find_environment(name: str) -> Path:
    """Return the prefix of the environment with that name.

    Like conda, prefer those in directories that its settings name, in their order. Raise EnvironmentNotFound, and
    AmbiguousName if there is more than one elsewhere: these may be of several installations.
    """
    return _only(name, _find(name))


def pin_own_environment(name: str) -> PinnedDirectory:
    """Open the environment with that name that belongs to this user or root.

    Where others may create names, an environment must not be published, and its code not be run, just because it has
    one. Raise EnvironmentNotFound, AmbiguousName, and if there are only those that others have put there, or may have,
    EnvironmentOfOther or EnvironmentOfUnknownOrigin.
    """
    environments = [conda.pin_environment(prefix) for prefix in _find(name)]
    own = [environment for environment in environments if is_own(environment.status)]
    if environments and not own:
        raise EnvironmentOfOther(str(environments[0]), owner_name(environments[0].status))
    reasons = [why_of_unknown_origin(environment) for environment in own]
    if own and all(reasons):
        raise EnvironmentOfUnknownOrigin(str(own[0]), reasons[0])
    known = {environment.path: environment for environment, why in zip(own, reasons, strict=True) if not why}
    return known[_only(name, list(known))]


def why_of_unknown_origin(environment: PinnedDirectory) -> str:
    """Return why others may have put a directory of this user where it is; an empty text if they have not.

    In a shared directory, they can move one there that they may write to, or another environment of this user, which
    may be one that they cannot read.
    """
    path, status = environment.path, environment.status
    if not is_in_shared_directory(path):
        return ""
    if others_may_write(path, status, environment.descriptor):
        return "they may write to it"
    recorded = state.read_of_any_prefix(environment)
    if recorded is None:
        is_private = not status.st_mode & (stat.S_IRGRP | stat.S_IROTH)
        return (
            "only you may read it, but they may rename it"
            if is_private and control_problem(path.parent)
            else ""
        )
    if os.path.realpath(recorded.prefix) != os.path.realpath(environment.path):
        return f"it was packed or restored at {recorded.prefix}"
    return ""


def _find(name: str) -> list[Path]:
    """Return the prefixes of all environments with that name, in conda's order."""
    if name in ROOT_NAMES:
        return _distinct_environments(find_roots())
    candidates = [directory / name for directory in envs_dirs()]
    candidates += [path for path in registered_prefixes() if path.name == name]
    return _distinct_environments(candidates)


def _only(name: str, prefixes: list[Path]) -> Path:
    if not prefixes:
        searched = tuple(str(path) for path in envs_dirs() if os.path.isdir(path))
        raise EnvironmentNotFound(name, searched, tuple(path.name for path in installed_environments()))
    if len(prefixes) > 1 and prefixes[0].parent not in configured_envs_dirs():
        raise AmbiguousName(name, tuple(sorted(map(str, prefixes))))
    return prefixes[0]


def installed_environments() -> list[Path]:
    """Return the prefixes of all environments on this machine that conda knows, each once, sorted."""
    candidates = registered_prefixes()
    for directory in envs_dirs():
        try:
            candidates += sorted(directory.iterdir())
        except OSError:
            continue
    candidates += find_roots()
    return sorted(_distinct_environments(candidates))


def _distinct_environments(candidates: list[Path]) -> list[Path]:
    """Return the candidates that are environments, and only the first of those that are the same directory.

    What a restore has kept of an environment is none.
    """
    by_real_path: dict[str, Path] = {}
    for path in candidates:
        if conda.is_environment(path) and not is_kept(path):
            by_real_path.setdefault(os.path.realpath(path), path)
    return list(by_real_path.values())


def registered_prefixes() -> list[Path]:
    """Return the prefixes in conda's environments.txt."""
    try:
        return [Path(line) for line in _read_environments_txt()]
    except OSError:
        return []


def register_with_conda(prefix: Path) -> None:
    """Add the environment to conda's environments.txt, unless it is in it or its prefix contains a line break.

    May raise OSError.
    """
    if str(prefix).splitlines() != [str(prefix)]:
        return
    file = _environments_txt()
    make_directory(file.parent)
    try:
        lines = _read_environments_txt()
        if str(prefix) in lines or prefix in map(Path, lines):
            return
        ends_with_newline = read_file(file)[-1:] in (b"", b"\n")
    except FileNotFoundError:
        ends_with_newline = True
    line = f"{'' if ends_with_newline else os.linesep}{prefix}\n"
    with open(os.open(file, _APPEND, 0o644), "ab") as out:
        out.write(os.fsencode(line))


def _read_environments_txt() -> list[str]:
    """Return the absolute paths in the file; raise OSError if it is unreadable or another user controls it."""
    file = _environments_txt()
    problem = control_problem(file)
    if problem:
        raise OSError(errno.EPERM, problem, str(file))
    lines = map(str.strip, os.fsdecode(read_file(file)).splitlines())
    return [line for line in lines if line.startswith("/")]


def _environments_txt() -> Path:
    return home_directory() / ".conda" / "environments.txt"
