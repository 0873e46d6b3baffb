"""Where a target is staged: next to it, or inside of it if it has to stay where it is."""

from __future__ import annotations

import os
from pathlib import Path

from snapper.environment.foreign import is_foreign
from snapper.environment.staging_lock import INSIDE
from snapper.fs.mounts import is_mount_point, mount_points_below
from snapper.restoring.parent import existing_parent


def is_staged_inside(target: Path) -> bool:
    """Return whether there is a directory at the target for which nothing can be staged next to it.

    That is so if a file system is mounted at it, or at one of the directories in it that survive its replacement, or if
    nothing can be created next to it.
    """
    if target.is_symlink() or not target.is_dir():
        return False
    if is_mount_point(target) or not is_writable(target.parent):
        return True
    return any(map(is_foreign, mount_points_below(target)))


def is_spared(entry: os.DirEntry[str]) -> bool:
    """Return whether something in a target is not replaced: what is not part of it, or its staging directory."""
    return (is_foreign(entry.name) or entry.name == INSIDE) and entry.is_dir(follow_symlinks=False)


def staging_parent(target: Path) -> Path:
    """Return an existing directory on the file system that the target is staged on."""
    return target if is_staged_inside(target) else existing_parent(target)


def is_writable(directory: Path) -> bool:
    """Return whether this user can create something in the directory."""
    return os.access(directory, os.W_OK | os.X_OK)
