"""Build a directory next to its target, and swap it in whole.

What replaces `PARENT/NAME` is built in the staging directory `PARENT/.NAME.snapper`, which is locked while a process
works on NAME (`staging_lock`). If the lock is free, whatever is in the staging directory is a leftover of a killed
process, and is removed.

What is inside of an environment without being part of it, such as other environments below `envs/` of a base
environment, is moved to the new one right after the swap (`nested`), by the next process if need be. It is never
removed. A directory that has been at the target is only removed once it has been checked, or if it has not changed
since snapper wrote it, and without what was written to it since (`replaced`); else it gets a name of its own next to
the target.

Everything happens by descriptors: of the directory that holds the target, which is opened once, of the staging
directory, and of the tree that is built. Whoever may write to directories above can therefore not direct it elsewhere.
Workers get handles of these directories.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snapper.environment import conda
from snapper.environment.staging_lock import (
    CHECKING,
    CREATED,
    KEEP_ALL,
    KEPT,
    OLD,
    TREE,
    UNCHECKED,
    lock_staging,
    replaced_name,
    staging_path,
)
from snapper.errors import TargetOccupied
from snapper.fs.directories import closing_descriptor, open_if_directory, set_mode
from snapper.fs.errors import os_errors
from snapper.fs.moves import Entry, exchange, is_renamable, move
from snapper.fs.ownership import is_of_this_user
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.placement import make_writable
from snapper.fs.private import create_private_directory
from snapper.process.signals import defer_signals
from snapper.restoring.errors import occupied_by_other
from snapper.restoring.nested import check_movable, merge, put_back, recover
from snapper.restoring.parent import open_parent
from snapper.restoring.remains import remove_remains
from snapper.restoring.replaced import (
    Check,
    KeepingPlace,
    Seen,
    next_tick,
    seen_by,
)
from snapper.restoring.staged_tree import AGAIN, StagedTree

if TYPE_CHECKING:
    pass

_ELSEWHERE = "Move it elsewhere, then restore again."


@dataclass(frozen=True)
class Staging(StagedTree):
    """A directory to build next to its target. The `descriptor` is of the new directory all the time."""

    def can_replace(self) -> bool:
        """Return whether the directory at the target can be replaced, if there is one. May raise OSError."""
        if not stat.S_ISDIR(_mode(self.entry)):
            return True
        return is_renamable(self.entry, Entry(self.entry.directory, staging_path(self.target).name))

    def swap(self, check: Check = lambda _: None, shared: frozenset[int] = frozenset()) -> PinnedDirectory:
        """Put the tree at the target, and return it there; in one step if the system can exchange directories.

        The target is opened and replaced if it is still the same directory. What is not part of it moves into the new
        one right after that. Then `check` inspects what was there by the descriptor, and returns what it has seen, or
        that all is to be kept: no program finds the directory by its path any more, and what is written to it in other
        ways will not be removed.
        If it raises an error, the target is put back. What was at the target is in the staging directory then. `shared`
        are the inodes of files at the target that are linked into the tree.

        Raise what `check` does, TargetOccupied if the target is not a directory of this user, if it was created or
        replaced in the meantime, or if something cannot be moved, and TargetLocked if another process restores an
        environment inside the target.
        """
        with _opened_target(self.target, self.entry) as old:
            mode = make_writable(self.descriptor)
            if old is None:
                self._move_in()
            else:
                self._replace(old, check, shared)
                merge(old, self.descriptor, self.directory)
            set_mode(self.descriptor, mode)
        return self.pin()

    def _replace(self, old: int, check: Check, shared: frozenset[int]) -> None:
        """Replace the open directory at the target; if that or the check fails, everything is as it was."""
        mode = make_writable(old)
        replaced = None
        try:
            check_movable(old, self.descriptor, self.target)
            replaced = Entry(self.directory, replaced_name(next_tick(self.directory)))
            checking = Entry(self.directory, CHECKING)
            with defer_signals():
                aside = self._exchange(old, replaced)
                put_back(old, self.descriptor, self.directory, self.target)
                move(aside, checking)
            seen = seen_by(check(old), shared)
            if seen.kept:
                replaced = Entry(self.directory, replaced_name(KEEP_ALL))
            move(checking, replaced)
            self.seen[replaced.name] = seen
        except BaseException:
            with defer_signals(), suppress(OSError, TargetOccupied):
                if replaced is not None:
                    self._undo(old, replaced)
                os.fchmod(old, mode)
            raise

    def _undo(self, old: int, replaced: Entry) -> None:
        """Put back the open directory that the tree has replaced, with what is not part of it.

        May raise TargetOccupied, OSError.
        """
        names = (Entry(self.directory, name) for name in (CHECKING, UNCHECKED, OLD))
        aside = next((entry for entry in names if entry.is_open_as(old)), None)
        if aside is None or not self.entry.is_open_as(self.descriptor):
            _fill_target(self.directory, self.entry)
            return
        found = self._exchange_back(aside)
        if aside.name == CHECKING:
            put_back(self.descriptor, old, self.directory, self.target)
        else:  # only some of it may have been moved, if any
            merge(self.descriptor, old, self.directory)
        self._rename_found(found, replaced)

    def _exchange(self, old: int, replaced: Entry) -> Entry:
        """Exchange the tree with the open directory, in two steps if necessary; return where that is now.

        If it was another directory, that is put back, and the tree gets the name `replaced`, because programs may have
        written to it while it was at the target. Raise TargetOccupied.
        """
        tree, aside = (Entry(self.directory, name) for name in (self.tree.name, UNCHECKED))
        other = TargetOccupied(str(self.target), "it was replaced while restoring", AGAIN)
        move(tree, aside)
        try:
            in_one_step = exchange(aside, self.entry)
        except OSError:
            move(aside, tree)
            raise
        if in_one_step:
            if aside.is_open_as(old):
                return aside
            if self.entry.is_open_as(self.descriptor):
                self._rename_found(self._exchange_back(aside), replaced)
            raise other
        move(aside, tree)
        aside = Entry(self.directory, OLD)
        move(self.entry, aside)
        if not aside.is_open_as(old):
            raise other
        with suppress(TargetOccupied):
            self._move_in()
            return aside
        _give_way(self.directory, self.entry)
        self._move_in()
        return aside

    def _exchange_back(self, aside: Entry) -> Entry:
        """Put back what the tree has replaced; return where is what was at the target instead. May raise OSError."""
        old, found = Entry(self.directory, OLD), Entry(self.directory, UNCHECKED)
        if aside != old:
            move(aside, old)
        if exchange(old, self.entry):
            return old
        move(self.entry, found)
        try:
            move(old, self.entry)
        except FileExistsError:
            _give_way(self.directory, self.entry)
            move(old, self.entry)
        return found

    def _rename_found(self, found: Entry, replaced: Entry) -> None:
        """Give what was at the target, and has given way to what the tree had replaced, the name `replaced`.

        If others have put something else there, that counts as unchecked.
        """
        is_tree = found.is_open_as(self.descriptor)
        move(found, replaced if is_tree else Entry(self.directory, CHECKING))

    def _move_in(self) -> None:
        """Rename the tree to the target, at which nothing must be."""
        try:
            move(Entry(self.directory, self.tree.name), self.entry)
        except FileExistsError:
            raise TargetOccupied(str(self.target), "it was created while restoring", _ELSEWHERE) from None


@contextmanager
def staging_directory(target: Path) -> Iterator[Staging]:
    """Lock the target, an absolute path, and yield an empty, private directory next to it.

    At the end, whatever is in the staging directory is removed: the new tree, or the replaced one after a swap.

    Raise TargetLocked if another process stages the same target, TargetOccupied, PermissionDenied, InsufficientSpace,
    FileOperationFailed.
    """
    with os_errors(target.parent, "write to"), closing_descriptor(open_parent(target)) as parent:
        entry = Entry(parent, target.name)
        locked = lock_staging(parent, staging_path(target), target)
        seen: dict[str, Seen] = {}
        try:
            _clean(locked.directory, target, entry, seen)
            name, descriptor = create_private_directory(TREE, locked.directory)
            with closing_descriptor(descriptor):
                yield Staging(target, staging_path(target) / name, descriptor, entry, locked.directory, seen)
        finally:
            with defer_signals():
                try:
                    _clean(locked.directory, target, entry, seen)
                finally:
                    locked.release()


def _clean(directory: int, target: Path, entry: Entry, seen: Mapping[str, Seen]) -> None:
    """Complete or undo an interrupted swap, and remove the rest; `seen` as for Staging.

    What cannot be removed, such as files that are open on NFS, is left. May raise OSError.
    """
    _fill_target(directory, entry)
    environment = _open_own(entry)
    if environment is not None:
        with closing_descriptor(environment):
            recover(directory, environment, target)
    spared = () if environment is not None else (KEPT,)
    remove_remains(directory, KeepingPlace(entry.directory, target.parent), target, seen, spared)


def _fill_target(directory: int, entry: Entry) -> None:
    """Put back what a swap has taken from the target, if nothing is there. May raise OSError.

    What was created there while it was empty between two steps gives way.
    """
    names = os.listdir(directory)
    if OLD in names and any(name.startswith((TREE, UNCHECKED)) for name in names):
        _give_way(directory, entry)
    for name in (OLD, CHECKING, UNCHECKED):
        with suppress(FileNotFoundError, FileExistsError):
            move(Entry(directory, name), entry)


def _give_way(directory: int, entry: Entry) -> None:
    """Move what programs have created at the target to the staging directory. May raise OSError.

    Only directories of this user give way, and no environments.
    """
    descriptor = _open_own(entry)
    if descriptor is not None:
        with closing_descriptor(descriptor):
            if not Entry(descriptor, conda.META).exists():
                move(entry, Entry(directory, f"{CREATED}{secrets.token_hex(8)}"))


@contextmanager
def _opened_target(target: Path, entry: Entry) -> Iterator[int | None]:
    """Open the directory at the target; yield None if none is there. Raise TargetOccupied if it is another user's."""
    try:
        status = os.lstat(entry.name, dir_fd=entry.directory)
    except FileNotFoundError:
        yield None
        return
    if not is_of_this_user(status):
        raise occupied_by_other(target, status)
    descriptor = _open_own(entry)
    if descriptor is None:
        yield None
        return
    with closing_descriptor(descriptor):
        yield descriptor


def _mode(entry: Entry) -> int:
    """Return the mode of what is there, 0 if nothing is. May raise OSError."""
    try:
        return os.lstat(entry.name, dir_fd=entry.directory).st_mode
    except FileNotFoundError:
        return 0


def _open_own(entry: Entry) -> int | None:
    """Open a directory that belongs to this user; return None if there is none. May raise OSError."""
    descriptor = open_if_directory(entry.name, entry.directory)
    if descriptor is None or is_of_this_user(os.fstat(descriptor)):
        return descriptor
    os.close(descriptor)
    return None
