"""Remove what a swap, or an interrupted one, has left in a staging directory, or keep what would be lost with it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from snapper.environment.foreign import foreign_names
from snapper.environment.staging_lock import (
    CREATED,
    KEEP_ALL,
    KEPT,
    LOCK,
    TREE,
    has_random_name,
    replaced_name,
    time_in_name,
)
from snapper.format.constraints import CONDA_META, STATE_DIRECTORY
from snapper.fs.directories import closing_descriptor, open_if_directory
from snapper.fs.lock_names import is_lease_name
from snapper.fs.moves import Entry, move
from snapper.fs.removal import LONG_AGO, remove_older, remove_tree
from snapper.restoring.replaced import (
    KeepingPlace,
    Seen,
    files_left,
    is_as_written,
    is_rest_as_written,
    keep,
    next_tick,
    remove_unchanged,
)


def remove_remains(
    directory: int,
    place: KeepingPlace,
    target: Path,
    seen: Mapping[str, Seen],
    spared: Collection[str] = (),
) -> None:
    """Remove what is in an open staging directory, except for its lock and what is `spared`.

    What would be lost is moved to `place`. `seen` has what was seen in directories of these names. What cannot be
    removed, such as files that are open on NFS, is left. May raise OSError.
    """
    for name in os.listdir(directory):
        if name != LOCK and not is_lease_name(name, LOCK) and name not in spared:
            with suppress(OSError):
                if has_random_name(name):
                    remove_tree(name, directory)
                else:
                    _remove(name, directory, place, target, seen)


def _remove(name: str, directory: int, place: KeepingPlace, target: Path, seen: Mapping[str, Seen]) -> None:
    """Remove a directory, or keep it.

    It is kept if it has been at the target without being checked and may have changed, and if it has something that is
    not part of the environment. May raise OSError.
    """
    with suppress(OSError):
        os.rmdir(name, dir_fd=directory)
        return
    tree = open_if_directory(name, directory)
    if tree is None:
        return
    with closing_descriptor(tree):
        if name.startswith(TREE) and _is_environment(tree):
            remove_tree(name, directory)
            return
        if name == KEPT or name.startswith(CREATED):
            _remove_created(tree, Entry(directory, name), place, target)
            return
        reason = _why_kept(tree, name, seen)
        if reason:
            keep(Entry(directory, name), place, target, reason)
            return
        if name not in seen:
            checked = replaced_name(next_tick(directory))
            is_checked = time_in_name(name) is not None
            if is_rest_as_written(tree, target) if is_checked else is_as_written(tree, target):
                move(Entry(directory, name), Entry(directory, checked))
                name = checked
            elif not is_checked:
                keep(Entry(directory, name), place, target, "it changed, or snapper was killed")
                return
    remove_unchanged(name, directory, place, target, seen.get(name, Seen()))


def _why_kept(tree: int, name: str, seen: Mapping[str, Seen]) -> str:
    """Return why all of an open directory is kept, whatever is in it; empty if it is not. May raise OSError."""
    if time_in_name(name) == KEEP_ALL:
        return seen[name].kept if name in seen else "snapper was killed"
    nested = foreign_names(tree)
    return f"{nested[0]!r} could not be moved to the new directory" if nested else ""


def _is_environment(tree: int) -> bool:
    """Return whether an open directory is an environment or the beginning of one, unlike others with such a name."""
    return not {CONDA_META, STATE_DIRECTORY}.isdisjoint(os.listdir(tree))


def _remove_created(tree: int, entry: Entry, place: KeepingPlace, target: Path) -> None:
    """Remove a directory with what programs have created at the same time unless it has files. May raise OSError."""
    remove_older(tree, LONG_AGO)
    with suppress(OSError):
        os.rmdir(entry.name, dir_fd=entry.directory)
        return
    example = next(iter(files_left(tree, target)), "")
    keep(entry, place, target, f"something of the same name was created there (such as {example!r})")
