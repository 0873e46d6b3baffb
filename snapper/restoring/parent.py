"""The directory that holds a target. It is not reached through links of other users: they could lead it elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from snapper.errors import TargetOccupied
from snapper.fs.beneath import LOOKUP, open_beneath
from snapper.fs.directories import closing_descriptor, open_below


def check_parent(target: Path) -> None:
    """Raise TargetOccupied if the path of the target contains a link of another user, or OSError."""
    os.close(_open_existing(existing_parent(target)))


def open_parent(target: Path) -> int:
    """Open the directory that holds the target, and create it if necessary; raise TargetOccupied, OSError.

    Others may write to new directories only if a group shares the existing one, and only that group.
    """
    existing = existing_parent(target)
    if existing == target.parent:
        return _open_existing(existing)
    missing = str(target.parent.relative_to(existing))
    with closing_descriptor(_open_existing(existing)) as directory:
        is_shared = os.fstat(directory).st_mode & stat.S_ISGID
        return open_below(directory, missing, mode=0o775 if is_shared else 0o755, durable=False)


def existing_parent(target: Path) -> Path:
    """Return the nearest existing directory above the target."""
    parent = target.parent
    while not os.path.lexists(parent):
        parent = parent.parent
    return parent


def _open_existing(directory: Path) -> int:
    try:
        return open_beneath("/", str(directory), LOOKUP, own_links=True)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        advice = "If you trust that user, give the directory that the link leads to, else another one."
        raise TargetOccupied(str(directory), error.strerror or str(error), advice) from None
