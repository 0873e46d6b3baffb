"""Say how other users control a path, if they do; an empty text means that they do not."""

from __future__ import annotations

import os
from pathlib import Path

from snapper.fs.ownership import Place, is_own, others_can_write, owner_name
from snapper.settings.directories import control_by_others, trusts_group


def control_problem(path: Path) -> str:
    """Return how another user controls the path or could create it."""
    try:
        found = control_by_others(path)
        if found:
            return f"{found.path} {found.reason}"
        parent = _existing_parent(path)
        # In a sticky directory, others can create what does not exist, but not replace what does.
        if parent != path.parent and others_can_write(
            parent.stat(), parent, trust_group=trusts_group(parent)
        ):
            return f"{parent} is writable by other users"
    except OSError as error:
        return f"{error.filename or path}: {error.strerror}"
    return ""


def others_may_write(path: Path, status: os.stat_result, place: Place) -> bool:
    """Return whether others may write to the file or directory of this status, which is at the path, or below it.

    In the user's home, this process's group does not count as others. May raise OSError.
    """
    is_own_group = status.st_gid == os.getegid() and trusts_group(path)
    return others_can_write(status, place, trust_group=is_own_group)


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
