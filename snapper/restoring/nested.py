"""Move what is inside of an environment without being part of it: other environments, and the package cache.

These are in the directories `envs` and `pkgs`, or links have these names. Right after a swap, each is moved as a whole
from the replaced directory to the new one, so it is missing from its place only for a moment (`put_back`). What
programs create in its place during this moment gives way, and is merged into it: it moves to names that are free
(`merge`). What cannot be merged is set aside in the staging directory, from where it is moved next to the target.

Everything is moved by descriptors. Nothing is replaced, and no link is followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snapper.environment import conda
from snapper.environment.foreign import foreign_names
from snapper.environment.staging_lock import CREATED, KEPT, NOT_PUT_BACK, STAGING_NAME, TREE, is_in_use
from snapper.errors import TargetLocked, TargetOccupied
from snapper.format.constraints import SHARED_DIRECTORIES
from snapper.fs.directories import closing_descriptor, open_if_directory
from snapper.fs.moves import Entry
from snapper.fs.ownership import is_of_this_user, owner_name
from snapper.fs.placement import move_anyway, put_in_place, set_aside, writable

_MOVE_ELSEWHERE = "Move it elsewhere, then restore again."

#: The depth to which directories are merged. Each level takes two descriptors.
_MAX_DEPTH = 50


def check_movable(old: int, new: int, target: Path) -> None:
    """Check that what is not part of the environment `old` can be moved to `new`.

    `old` is at `target`, `new` is to replace it, and both are open. Raise what `check_free` does, TargetOccupied if
    something cannot be moved, and TargetLocked if another process restores an environment inside the target.
    """
    for name in foreign_names(old):
        _check_not_in_use(name, old, target)
        _check_permission(name, old, target)
    check_free(old, new, target)


def check_free(old: int, new: int, target: Path) -> None:
    """Check that nothing in `new` has the name of something in `old` that is not part of the environment.

    Empty directories in `new` make room. Raise TargetOccupied.
    """
    for name in foreign_names(old):
        _remove_empty(name, new, target)


def put_back(source: int, environment: int, staging: int, target: Path) -> None:
    """Move what is not part of the environment from `source` to the environment, where it was before.

    What has been created in its place gives way, and is merged into it. The environment is at `target`, and `staging`
    is the staging directory; all are open. Raise TargetOccupied for the first that cannot be moved, after all others
    have been moved. May raise OSError.
    """
    errors = []
    for name in foreign_names(source):
        try:
            put_in_place(Entry(source, name), Entry(environment, name), Entry(staging, CREATED))
        except OSError as error:
            errors.append(_not_movable(target / name, error.strerror or str(error)))
    for name in os.listdir(staging):
        if name.startswith(CREATED):
            with suppress(OSError):
                _merge_from(name, staging, environment)
    if errors:
        raise errors[0]


def merge(source: int, environment: int, staging: int) -> None:
    """Move what others have created in an open directory, and is not part of the environment, to the environment.

    Only what has a free name is moved there; the rest is set aside in the staging directory, or stays if it cannot be
    moved. May raise OSError.
    """
    _merge_nested(source, environment)
    for name in foreign_names(source):
        with suppress(OSError):
            set_aside(Entry(source, name), Entry(staging, CREATED))


def recover(staging: int, environment: int, target: Path) -> None:
    """Move all that is not part of the environment from a staging directory to the environment, as far as possible.

    What was there before an interrupted swap gets its name back. The arguments are those of `put_back`. May raise
    OSError.
    """
    for name in NOT_PUT_BACK:
        with suppress(OSError, TargetOccupied), _own_directory(Entry(staging, name)) as source:
            if source is not None:
                put_back(source, environment, staging, target)
    for name in os.listdir(staging):
        with suppress(OSError):
            if name == KEPT or name.startswith(CREATED):
                _merge_from(name, staging, environment)
            elif not name.startswith(TREE):
                with _own_directory(Entry(staging, name)) as source:
                    if source is not None:
                        merge(source, environment, staging)


def has_nested(leftover: Path) -> bool:
    """Return whether a staging directory has what was not part of an environment that was being replaced."""
    with suppress(OSError):
        directories = [name for name in os.listdir(leftover) if not name.startswith(TREE)]
        return any(
            os.path.lexists(leftover / name / inner) for name in directories for inner in SHARED_DIRECTORIES
        )
    return False


# --- checks before a swap ---------------------------------------------------------------------------------


def _check_not_in_use(name: str, environment: int, target: Path) -> None:
    """Raise TargetLocked if another process restores an environment in this directory."""
    directory = open_if_directory(name, environment)
    if directory is not None:
        with closing_descriptor(directory):
            for inner in os.listdir(directory):
                if STAGING_NAME.match(inner) and is_in_use(inner, directory):
                    raise TargetLocked(str(target / name / inner))


def _check_permission(name: str, environment: int, target: Path) -> None:
    """Raise TargetOccupied if it is a directory that this user may not move to another one."""
    status = os.lstat(name, dir_fd=environment)
    if not stat.S_ISDIR(status.st_mode) or is_of_this_user(status):
        return
    if not os.access(name, os.W_OK, dir_fd=environment, effective_ids=True):
        raise _not_movable(target / name, f"it belongs to the user {owner_name(status)}")


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


def _not_movable(path: Path, reason: str) -> TargetOccupied:
    reason = f"it is not part of the environment and cannot be moved: {reason}"
    return TargetOccupied(str(path), reason, _MOVE_ELSEWHERE)


# --- moving -----------------------------------------------------------------------------------------------


def _merge_from(name: str, staging: int, environment: int) -> None:
    """Merge what is in a directory of the staging directory into the environment; remove it once it is empty."""
    with _own_directory(Entry(staging, name)) as source:
        if source is not None:
            _merge_nested(source, environment)
    with suppress(OSError):
        os.rmdir(name, dir_fd=staging)


def _merge_nested(source: int, environment: int) -> None:
    for name in foreign_names(source):
        with suppress(OSError):
            os.rmdir(name, dir_fd=source)
        with suppress(OSError):
            _merge(Entry(source, name), Entry(environment, name))


def _merge(source: Entry, destination: Entry, depth: int = 0) -> None:
    """Move an entry, or what is in it if there is a directory of its name; leave what has the name of something else.

    Another environment is moved as a whole. May raise OSError.
    """
    with suppress(FileExistsError):
        move_anyway(source, destination)
        return
    with _own_directory(source) as inner, _own_directory(destination) as outer:
        if inner is None or outer is None or depth > _MAX_DEPTH or Entry(inner, conda.META).exists():
            return
        for name in os.listdir(inner):
            with suppress(OSError):
                _merge(Entry(inner, name), Entry(outer, name), depth + 1)
        with writable(source.directory):
            os.rmdir(source.name, dir_fd=source.directory)


@contextmanager
def _own_directory(entry: Entry) -> Iterator[int | None]:
    """Open a directory of this user; yield None if it is something else, or another user could change what is in it.

    May raise OSError.
    """
    directory = open_if_directory(entry.name, entry.directory)
    if directory is None:
        yield None
        return
    with closing_descriptor(directory):
        yield directory if is_of_this_user(os.fstat(directory)) else None
