"""Move what is inside of an environment without being part of it: environments below `envs/`, and the package cache.

During a swap, it is in the directory `kept` of the staging directory. Everything is moved by descriptors, to names that
are free. Links are moved, and not followed.

If others may write to `envs/`, they may not during a swap, so that they can neither make it take forever nor lose what
they create. The mode of `kept/envs` says meanwhile what they may do.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snapper.environment.scan import foreign_paths, names_in
from snapper.errors import TargetLocked, TargetOccupied
from snapper.format.model import SHARED_DIRECTORIES
from snapper.fs.beneath import LISTING, LOOKUP
from snapper.fs.directories import closing_descriptor, open_if_directory
from snapper.fs.moves import Entry, move
from snapper.fs.ownership import is_of_this_user, owner_name
from snapper.restoring.staging_lock import KEPT, is_in_use

#: Permission of others to write.
_SHARED = stat.S_IWGRP | stat.S_IWOTH

_MOVE_ELSEWHERE = "Move it elsewhere, then restore again."


def set_aside(old: int, new: int, staging: int, target: Path) -> None:
    """Move what is not part of the environment `old` to `kept`.

    `old` is at `target`, `new` is to replace it, and `staging` is the staging directory; all are open. Raise
    TargetOccupied if `new` has something at one of these paths or something cannot be moved, and TargetLocked if
    another process restores an environment inside the target.
    """
    _close_envs(old, staging)
    paths = foreign_paths(old)
    for path in paths:
        if not _is_free(new, path):
            reason = "it is not part of the environment, but the snapshot has a file at this path"
            raise TargetOccupied(str(target / path), reason, _MOVE_ELSEWHERE)
        if path.endswith(".snapper") and is_in_use(path, old):
            raise TargetLocked(str(target / path))
    if paths:
        with closing_descriptor(_open_kept(staging)) as kept:
            for path in paths:
                _move(path, old, kept, target)


def names_in_envs(environment: int) -> frozenset[str]:
    """Return the names in `envs/` of an open environment. May raise OSError."""
    return frozenset(names_in("envs", environment))


def nested_environments(environment: int) -> list[str]:
    """Return the paths of the environments, and staging directories, in `envs/`. May raise OSError."""
    return [path for path in foreign_paths(environment) if path.startswith("envs/")]


def rescue(replaced: int, environment: int, target: Path, known: frozenset[str] | None = None) -> None:
    """Move environments that others have created in `envs/` of a replaced one to the one at `target`.

    With `known`, all names but these are moved, since what is not an environment may become one. Raise TargetOccupied,
    OSError.
    """
    paths = nested_environments(replaced)
    if known is not None:
        paths += [f"envs/{name}" for name in names_in_envs(replaced) - known]
    for path in dict.fromkeys(paths):
        _move(path, replaced, environment, target)


def put_back(staging: int, environment: int, target: Path) -> None:
    """Move what is in `kept` to the environment, which is at `target`, and let others write to its `envs/` again.

    Raise TargetOccupied, OSError.
    """
    kept = open_if_directory(KEPT, staging)
    if kept is None:
        return
    with closing_descriptor(kept):
        for path in _paths_in(kept):
            _move(path, kept, environment, target)
        _open_envs(kept, environment)
        with suppress(OSError):
            os.rmdir("envs", dir_fd=kept)
    with suppress(OSError):
        os.rmdir(KEPT, dir_fd=staging)


def make_writable(directory: int) -> int:
    """Make an open directory writable, which it must be to be moved; return the mode that it had."""
    mode = stat.S_IMODE(os.fstat(directory).st_mode)
    if not mode & stat.S_IWUSR:
        os.fchmod(directory, mode | stat.S_IWUSR)
    return mode


def _open_kept(staging: int) -> int:
    with suppress(FileExistsError):
        os.mkdir(KEPT, 0o700, dir_fd=staging)
    return os.open(KEPT, LISTING, dir_fd=staging)


def _close_envs(environment: int, staging: int) -> None:
    """Let only this user write to `envs/`, if it is this user's and others may."""
    envs = open_if_directory("envs", environment)
    if envs is None:
        return
    with closing_descriptor(envs):
        status = os.fstat(envs)
        if not status.st_mode & _SHARED or not is_of_this_user(status):
            return
        with closing_descriptor(_open_kept(staging)) as kept:
            os.close(_open_or_make("envs", kept, envs))
        os.fchmod(envs, stat.S_IMODE(status.st_mode) & ~_SHARED)


def _open_envs(kept: int, environment: int) -> None:
    """Undo that for the environment that is in place now."""
    pattern = open_if_directory("envs", kept)
    if pattern is None:
        return
    with closing_descriptor(pattern):
        status = os.fstat(pattern)
        if status.st_mode & _SHARED:
            with closing_descriptor(_open_or_make("envs", environment, pattern)) as envs:
                _set_access(envs, status)


def _paths_in(kept: int) -> list[str]:
    paths = [path for path in SHARED_DIRECTORIES if Entry(kept, path).exists()]
    envs = open_if_directory("envs", kept)
    if envs is not None:
        with closing_descriptor(envs):
            paths.remove("envs")
            paths += [f"envs/{name}" for name in os.listdir(envs)]
    return paths


def _is_free(top: int, path: str) -> bool:
    """Return whether something can be moved to the path, whose parent directory may not exist yet."""
    parent, _, name = path.rpartition("/")
    try:
        with closing_descriptor(os.open(parent or ".", LOOKUP, dir_fd=top)) as directory:
            return not Entry(directory, name).exists()
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _move(path: str, source: int, destination: int, target: Path) -> None:
    """Move what is at the path below one open directory to the same path below another; raise TargetOccupied.

    The directories may be read-only. `target` is the environment's path, for errors.
    """
    parent, _, name = path.rpartition("/")
    try:
        with (
            closing_descriptor(_open_own(parent, source)) as old,
            closing_descriptor(_open_or_make(parent, destination, old)) as new,
            _writable(old),
            _writable(new),
            _movable(name, old),
        ):
            move(Entry(old, name), Entry(new, name))
    except OSError as error:
        reason = f"it is not part of the environment and cannot be moved: {error.strerror}"
        raise TargetOccupied(str(target / path), reason, _MOVE_ELSEWHERE) from None


def _open_own(name: str, dir_fd: int) -> int:
    """Open a directory that belongs to this user: another one could change what is moved."""
    directory = os.open(name or ".", LISTING, dir_fd=dir_fd)
    status = os.fstat(directory)
    if is_of_this_user(status):
        return directory
    os.close(directory)
    raise OSError(errno.EPERM, f"the directory {name!r} belongs to the user {owner_name(status)}", name)


def _open_or_make(name: str, dir_fd: int, pattern: int) -> int:
    """Open a directory, or create it with the group and mode of `pattern`."""
    status = os.fstat(pattern)
    try:
        if name:
            os.mkdir(name, 0o700, dir_fd=dir_fd)
    except FileExistsError:
        return _open_own(name, dir_fd)
    directory = _open_own(name, dir_fd)
    if name:
        _set_access(directory, status)
    return directory


def _set_access(directory: int, status: os.stat_result) -> None:
    """Set the group and the mode of an open directory."""
    mode = stat.S_IMODE(status.st_mode)
    try:
        os.fchown(directory, -1, status.st_gid)
    except OSError:
        mode &= ~stat.S_IRWXG  # these permissions are for another group
    os.fchmod(directory, mode)


@contextmanager
def _movable(name: str, parent: int) -> Iterator[None]:
    """Make what is to be moved writable, as it must be if it is a directory of this user."""
    status = os.lstat(name, dir_fd=parent)
    if not stat.S_ISDIR(status.st_mode) or status.st_mode & stat.S_IWUSR or not is_of_this_user(status):
        yield
        return
    with closing_descriptor(os.open(name, LISTING, dir_fd=parent)) as directory, _writable(directory):
        yield


@contextmanager
def _writable(directory: int) -> Iterator[None]:
    mode = make_writable(directory)
    try:
        yield
    finally:
        if not mode & stat.S_IWUSR:
            os.fchmod(directory, mode)
