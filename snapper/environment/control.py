"""Say how other users control a path, if they do; an empty text means that they do not."""

from __future__ import annotations

import os
from pathlib import Path

from snapper.errors import UsageError
from snapper.fs.ownership import is_own, others_can_write, owner_name, untrusted_component
from snapper.settings.directories import home_directory


def control_problem(path: Path, *, trust_group: bool = False) -> str:
    """Return how another user controls the path or could create it; `trust_group` as for `others_can_write`."""
    try:
        found = untrusted_component(path, trust_group=trust_group)
        if found:
            return f"{found.path} {found.reason}"
        parent = _existing_parent(path)
        # In a sticky directory, others can create what does not exist, but not replace what does.
        if parent != path.parent and others_can_write(parent.stat(), parent, trust_group=trust_group):
            return f"{parent} is writable by other users"
    except OSError as error:
        return f"{error.filename or path}: {error.strerror}"
    return ""


def control_problem_in_home(path: Path) -> str:
    """Return how another user controls the path; in the user's home, what the group may write is the user's own.

    With some umasks, that is everything.
    """
    return control_problem(path, trust_group=_is_in_home(path))


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
    if control_problem_in_home(directory):
        return True
    try:
        status = directory.stat()
    except OSError:
        return True
    is_own_group = _is_in_home(directory) and status.st_gid == os.getegid()
    return others_can_write(status, directory, trust_group=is_own_group)


def _is_in_home(path: Path) -> bool:
    try:
        home = home_directory()
    except UsageError:
        return False
    return path.is_relative_to(home) or path.is_relative_to(os.path.realpath(home))


def _existing_parent(path: Path) -> Path:
    parent = path.parent
    while not os.path.lexists(parent):
        parent = parent.parent
    return parent
