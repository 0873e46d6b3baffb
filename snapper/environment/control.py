"""Say how other users control a path, if they do; an empty text means that they do not."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from snapper.fs.ownership import Place, access_list, is_own, others_can_write, owner_name
from snapper.settings.directories import control_by_others, trusted_group

#: One of these bits is set where others may write, also if an access control list permits it.
_WRITABLE = stat.S_IWGRP | stat.S_IWOTH


def control_problem(path: Path) -> str:
    """Return how another user controls the path or could create it."""
    try:
        found = control_by_others(path)
        if found:
            return f"{found.path} {found.reason}"
        parent = _existing_parent(path)
        # In a sticky directory, others can create what does not exist, but not replace what does.
        if parent != path.parent and others_can_write(
            parent.stat(), parent, trusted_group=trusted_group(parent)
        ):
            return f"{parent} is writable by other users"
    except OSError as error:
        return f"{error.filename or path}: {error.strerror}"
    return ""


def others_may_write(path: Path, status: os.stat_result, place: Place) -> bool:
    """Return whether others may write to the file or directory of this status, which is at the path, or below it.

    See `trusted_group`. May raise OSError.
    """
    # Which group counts takes long to find out, and only matters if one may write.
    return bool(status.st_mode & _WRITABLE) and writers_check(path)(status, place)


def writers_check(path: Path) -> Callable[[os.stat_result, Place], bool]:
    """Return a function that does the same as `others_may_write` for many files below a path, and faster."""
    group = trusted_group(path)
    harmless: set[int] = set()

    def others_may_write(status: os.stat_result, place: Place) -> bool:
        has_list = bool(status.st_mode & stat.S_IWGRP and access_list(place))
        if status.st_gid in harmless and not (has_list or status.st_mode & stat.S_IWOTH):
            return False
        if others_can_write(status, place, trusted_group=group):
            return True
        if not has_list and status.st_mode & stat.S_IWGRP:
            harmless.add(status.st_gid)
        return False

    return others_may_write


def is_in_shared_directory(path: Path) -> bool:
    """Return whether others may have put what is at the path there: they may create and rename in a directory above it.

    In a sticky directory, they can do so if nothing was there.
    """
    return any(map(_others_can_create_in, {path.parent, Path(os.path.realpath(path)).parent}))


def owner_problem(path: Path) -> str:
    """Return whose the file or directory is if it belongs to another user."""
    try:
        status = os.lstat(path)
    except OSError:
        return ""
    return "" if is_own(status) else f"{path} belongs to the user {owner_name(status)}"


def _others_can_create_in(directory: Path) -> bool:
    if control_problem(directory):
        return True
    try:
        return others_may_write(directory, directory.stat(), directory)
    except OSError:
        return True


def _existing_parent(path: Path) -> Path:
    parent = path.parent
    while not os.path.lexists(parent):
        parent = parent.parent
    return parent
