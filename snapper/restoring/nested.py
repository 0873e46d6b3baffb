"""Move what is inside of an environment without being part of it: other environments, and the package cache.

During a swap, their directories `envs` and `pkgs` are in the directory `kept` of the staging directory. Each is moved
as a whole, so nothing is lost that others create in it at the same time. Everything is moved by descriptors, to names
that are free; what has a name that somebody has created again gets another one beside it. Links are moved, and not
followed.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snapper.environment.kept import kept_name
from snapper.environment.scan import foreign_names
from snapper.errors import TargetLocked, TargetOccupied
from snapper.fs.beneath import LISTING
from snapper.fs.directories import closing_descriptor, open_if_directory
from snapper.fs.moves import Entry, move
from snapper.fs.ownership import is_of_this_user, owner_name
from snapper.restoring.staging_lock import KEPT, STAGING_NAME, is_in_use

logger = logging.getLogger(__name__)

_MOVE_ELSEWHERE = "Move it elsewhere, then restore again."


def set_aside(old: int, new: int, staging: int, target: Path) -> None:
    """Move what is not part of the environment `old` to `kept`.

    `old` is at `target`, `new` is to replace it, and `staging` is the staging directory; all are open. Raise
    TargetOccupied if something cannot be moved, and TargetLocked if another process restores an environment inside the
    target.
    """
    names = foreign_names(old)
    for name in names:
        _check_not_in_use(name, old, target)
        _remove_empty(name, new, target)
    if names:
        with suppress(FileExistsError):
            os.mkdir(KEPT, 0o700, dir_fd=staging)
        with closing_descriptor(os.open(KEPT, LISTING, dir_fd=staging)) as kept:
            for name in names:
                _move(Entry(old, name), Entry(kept, name), target / name)


def rescue(replaced: int, environment: int, target: Path) -> None:
    """Move what others have created in a replaced environment to the one at `target`; raise TargetOccupied, OSError."""
    _for_each(foreign_names(replaced), lambda name: _move_or_merge(name, replaced, environment, target))


def put_back(staging: int, environment: int, target: Path) -> None:
    """Move what is in `kept` to the environment, which is at `target`; raise TargetOccupied, OSError."""
    kept = open_if_directory(KEPT, staging)
    if kept is None:
        return
    with closing_descriptor(kept):
        _for_each(os.listdir(kept), lambda name: _move_or_merge(name, kept, environment, target))
    with suppress(OSError):
        os.rmdir(KEPT, dir_fd=staging)


def make_writable(directory: int) -> int:
    """Make an open directory writable, which it must be to be moved; return the mode that it had."""
    mode = stat.S_IMODE(os.fstat(directory).st_mode)
    if not mode & stat.S_IWUSR:
        os.fchmod(directory, mode | stat.S_IWUSR)
    return mode


def _check_not_in_use(name: str, environment: int, target: Path) -> None:
    """Raise TargetLocked if another process restores an environment in this directory."""
    directory = open_if_directory(name, environment)
    if directory is not None:
        with closing_descriptor(directory):
            for inner in os.listdir(directory):
                if STAGING_NAME.match(inner) and is_in_use(inner, directory):
                    raise TargetLocked(str(target / name / inner))


def _remove_empty(name: str, environment: int, target: Path) -> None:
    """Remove an empty directory of a new environment: snapshots of earlier versions may have one.

    Raise TargetOccupied if it has something else of this name.
    """
    try:
        os.rmdir(name, dir_fd=environment)
    except FileNotFoundError:
        pass
    except OSError:
        reason = "it is not part of the environment, but the snapshot has a file at this path"
        raise TargetOccupied(str(target / name), reason, _MOVE_ELSEWHERE) from None


def _move_or_merge(name: str, source: int, destination: int, target: Path) -> None:
    """Move the directory, or what is in it if another process has created one of this name; raise TargetOccupied."""
    with suppress(OSError):
        os.rmdir(name, dir_fd=destination)
    if not Entry(destination, name).exists():
        _move(Entry(source, name), Entry(destination, name), target / name)
        return
    with (
        closing_descriptor(_open_own(name, source)) as inner,
        closing_descriptor(_open_own(name, destination)) as directory,
    ):
        _for_each(os.listdir(inner), lambda child: _move_in(child, inner, directory, target / name))
    os.rmdir(name, dir_fd=source)


def _move_in(name: str, source: int, destination: int, directory: Path) -> None:
    """Move what has the name in one open directory to another, at the path `directory`; raise TargetOccupied.

    If something there has the name, it gets another one, and a warning says so.
    """
    moved = Entry(source, name)
    try:
        _move(moved, Entry(destination, name), directory / name)
    except TargetOccupied:
        if not Entry(destination, name).exists():
            raise
        beside = kept_name(name)
        _move(moved, Entry(destination, beside), directory / name)
        logger.warning(
            "%s was created again while snapper replaced the environment around it: what was there before is %s.",
            directory / name,
            beside,
        )


def _for_each(names: Iterable[str], move_one: Callable[[str], None]) -> None:
    """Move what has the names, also after one cannot be moved; raise TargetOccupied for the first of these."""
    errors: list[TargetOccupied] = []
    for name in names:
        try:
            move_one(name)
        except TargetOccupied as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _move(source: Entry, destination: Entry, target: Path) -> None:
    """Move an entry; raise TargetOccupied, with the path `target`. The directories may be read-only."""
    try:
        with (
            _writable(source.directory),
            _writable(destination.directory),
            _movable(source.name, source.directory),
        ):
            move(source, destination)
    except OSError as error:
        reason = f"it is not part of the environment and cannot be moved: {error.strerror}"
        raise TargetOccupied(str(target), reason, _MOVE_ELSEWHERE) from None


def _open_own(name: str, dir_fd: int) -> int:
    """Open a directory that belongs to this user: another one could change what is moved."""
    directory = os.open(name, LISTING, dir_fd=dir_fd)
    status = os.fstat(directory)
    if is_of_this_user(status):
        return directory
    os.close(directory)
    raise OSError(errno.EPERM, f"the directory {name!r} belongs to the user {owner_name(status)}", name)


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
