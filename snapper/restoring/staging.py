"""Build a directory next to its target, and swap it in whole.

What replaces `PARENT/NAME` is built in the staging directory `PARENT/.NAME.snapper`, which is locked while a process
works on NAME (`staging_lock`). If the lock is free, whatever is in the staging directory is a leftover of a killed
process, and is removed.

What is inside of an environment without being part of it, such as other environments below `envs/` of a base
environment, is moved to `kept` in the staging directory for the moment of the swap (`nested`). That is never removed,
but moved back, by the next process if need be. A directory that has been at the target is only removed once it has been
checked, or if it has not changed since snapper wrote it; else it gets a name of its own next to the target.

Everything happens by descriptors: of the directory that holds the target, which is opened once, of the staging
directory, and of the tree that is built. Whoever may write to directories above can therefore not direct it elsewhere.
Only the workers use the path of the tree: they find the tree or nothing there, since its name is random (`private`).
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from snapper.environment.installed import InstalledEnvironment
from snapper.errors import SnapperError, TargetOccupied
from snapper.fs.directories import DirectoryTree, closing_descriptor, open_if_directory
from snapper.fs.errors import os_errors
from snapper.fs.mounts import mount_points_below
from snapper.fs.moves import Entry, exchange, move
from snapper.fs.ownership import is_of_this_user
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.private import create_private_directory, path_by_descriptor
from snapper.fs.removal import remove_tree, remove_unmounted_tree
from snapper.process.signals import defer_signals
from snapper.restoring.errors import occupied_by_other
from snapper.restoring.nested import make_writable, put_back, rescue, set_aside
from snapper.restoring.parent import open_parent
from snapper.restoring.staging_lock import (
    KEPT,
    LOCK,
    OLD,
    REPLACED,
    TREE,
    UNCHECKED,
    lock_staging,
    staging_path,
)

if TYPE_CHECKING:
    from snapper.process.pool import WorkerPool
    from snapper.store import Store

logger = logging.getLogger(__name__)

#: The depth at which most directories of an environment are (`lib/python3.12/site-packages/NAME`).
_REMOVAL_DEPTH = 4

#: How many of those directories a worker removes at a time.
_REMOVAL_BATCH = 16

_AGAIN = "Find out what is there now, then restore again."
_ELSEWHERE = "Move it elsewhere, then restore again."
_NOT_IN_IMAGE = (
    "Remove it first (rm -r), then restore again; or restore elsewhere with --prefix or --envs-dir."
)


@dataclass(frozen=True)
class Staging:
    """A directory to build, and where it is swapped to.

    `tree` is the directory to build, and `descriptor` the same directory, open; `entry` is the target. After a swap,
    what was at `target` is next to where the tree was. The `descriptor` is of the new directory all the time.
    """

    target: Path
    tree: Path
    descriptor: int
    entry: Entry
    _directory: int

    def swap(self, check: Callable[[int], None] = lambda _: None) -> None:
        """Put the tree at the target, in one step if the system can exchange directories.

        The target is opened and replaced if it is still the same directory. Then `check` inspects what was there by the
        descriptor: no program finds it by its path any more, so nothing can be added to it after that without being
        noticed. If it raises an error, the target is put back. What was at the target is in the staging directory then,
        except for what is not part of the environment: that moves into the new one.

        Raise what `check` does, TargetOccupied if the target is not a directory of this user, if it was created or
        replaced in the meantime, or if something cannot be moved, and TargetLocked if another process restores an
        environment inside the target.
        """
        with _opened_target(self.target, self.entry) as old:
            mode = make_writable(self.descriptor)
            if old is None:
                self._move_in()
            else:
                self._replace(old, check)
                rescue(old, self.descriptor, self.target)
            os.fchmod(self.descriptor, mode)
            put_back(self._directory, self.descriptor, self.target)

    @property
    def path_by_descriptor(self) -> Path:
        """The path of the tree to give to other programs."""
        return path_by_descriptor(self.descriptor, self.tree)

    def pin(self) -> PinnedDirectory:
        """Return the tree, which stays open after the end of `staging_directory`, at its target."""
        return PinnedDirectory(self.target, os.dup(self.descriptor))

    @property
    def _replaced(self) -> Path:
        """Where the replaced directory is after a swap in one step."""
        return self.tree.with_name(self.tree.name.replace(TREE, REPLACED, 1))

    def remove_replaced(self, workers: WorkerPool[Store]) -> None:
        """Remove most of the directory that an exchange has replaced, with the workers, which must be idle.

        The end of `staging_directory` removes the rest.
        """
        replaced = str(self._replaced)
        paths = _directories_at_depth(replaced, _REMOVAL_DEPTH)
        for first in range(0, len(paths), _REMOVAL_BATCH):
            batch = paths[first : first + _REMOVAL_BATCH]
            workers.submit(_remove_directories, _RemovalJob(replaced, batch), 1)
        with suppress(SnapperError), closing(workers.results()) as results:
            for _ in results:
                pass

    def _replace(self, old: int, check: Callable[[int], None]) -> None:
        """Replace the open directory at the target; if that or the check fails, everything is as it was."""
        mode = make_writable(old)
        try:
            set_aside(old, self.descriptor, self._directory, self.target)
            aside = self._exchange(old)
            try:
                check(old)
            except BaseException:
                self._exchange_back(aside)
                raise
            move(aside, Entry(self._directory, self._replaced.name))
        except BaseException:
            with suppress(OSError, TargetOccupied):
                _fill_target(self._directory, self.entry)
                is_in_place = self.entry.is_open_as(self.descriptor)
                put_back(self._directory, self.descriptor if is_in_place else old, self.target)
                os.fchmod(old, mode)
            raise

    def _exchange(self, old: int) -> Entry:
        """Exchange the tree with the open directory, in two steps if necessary; return where that is now.

        Raise TargetOccupied.
        """
        tree, aside = (Entry(self._directory, name) for name in (self.tree.name, UNCHECKED))
        replaced = TargetOccupied(str(self.target), "it was replaced while restoring", _AGAIN)
        move(tree, aside)
        try:
            in_one_step = exchange(aside, self.entry)
        except OSError as error:
            move(aside, tree)
            if error.errno == errno.EXDEV:
                reason = "it is part of a container image, in which directories cannot be renamed"
                raise TargetOccupied(str(self.target), reason, _NOT_IN_IMAGE) from None
            raise
        if in_one_step:
            if not aside.is_open_as(old):
                self._exchange_back(aside)
                raise replaced
            return aside
        move(aside, tree)
        aside = Entry(self._directory, OLD)
        move(self.entry, aside)
        if not aside.is_open_as(old):
            raise replaced
        self._move_in()
        return aside

    def _exchange_back(self, aside: Entry) -> None:
        """Put back what the tree has replaced, as long as the tree is at the target. May raise OSError."""
        if not self.entry.is_open_as(self.descriptor):
            return
        if not exchange(aside, self.entry):
            move(self.entry, Entry(self._directory, UNCHECKED))
            move(aside, self.entry)

    def _move_in(self) -> None:
        """Rename the tree to the target, at which nothing must be."""
        try:
            move(Entry(self._directory, self.tree.name), self.entry)
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
        locked = lock_staging(parent, target)
        try:
            _clean(locked.directory, target, entry)
            name, descriptor = create_private_directory(TREE, locked.directory)
            with closing_descriptor(descriptor):
                yield Staging(target, staging_path(target) / name, descriptor, entry, locked.directory)
        finally:
            with defer_signals():
                try:
                    _clean(locked.directory, target, entry)
                finally:
                    locked.release(parent, target)


def remove_leftover_staging(target: Path) -> None:
    """Remove what a killed process left next to the target, unless another process works on it."""
    if os.path.lexists(staging_path(target)):
        with suppress(SnapperError), staging_directory(target):
            pass


def _clean(directory: int, target: Path, entry: Entry) -> None:
    """Complete or undo an interrupted swap, and remove the rest.

    What cannot be removed (another user's files, files that are open on NFS) is left. Raise TargetOccupied, OSError.
    """
    _fill_target(directory, entry)
    environment = _open_own(entry)
    try:
        if environment is not None:
            put_back(directory, environment, target)
        for name in os.listdir(directory):
            if name not in (LOCK, KEPT):
                with suppress(OSError, TargetOccupied):
                    _remove(name, directory, environment, target)
    finally:
        if environment is not None:
            os.close(environment)


def _fill_target(directory: int, entry: Entry) -> None:
    """Put back what a swap has taken from the target, if nothing is there. May raise OSError."""
    for name in (OLD, UNCHECKED):
        with suppress(FileNotFoundError, FileExistsError):
            move(Entry(directory, name), entry)


def _remove(name: str, directory: int, environment: int | None, target: Path) -> None:
    """Remove a tree, after what others have created in a replaced one was moved to the environment.

    What has been at the target without being checked is kept if it may have changed. Raise TargetOccupied, OSError.
    """
    tree = None if name.startswith(TREE) else open_if_directory(name, directory)
    if tree is not None:
        with closing_descriptor(tree):
            if name in (OLD, UNCHECKED) and not is_as_written(tree, target):
                _keep(Entry(directory, name), target)
                return
            if environment is not None:
                rescue(tree, environment, target)
    remove_tree(name, directory)


def is_as_written(directory: int, target: Path) -> bool:
    """Return whether an open directory is an environment that has not changed since it was packed or restored here."""
    try:
        environment = InstalledEnvironment(PinnedDirectory(target, os.dup(directory)))
        drift = environment.drift()
    except (SnapperError, OSError):
        return False
    return drift is not None and not drift.paths


def _keep(aside: Entry, target: Path) -> None:
    """Move a directory to a name of its own next to the target, and say so. May raise OSError."""
    name = f"{target.name}.replaced-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    with closing_descriptor(open_parent(target)) as parent:
        move(aside, Entry(parent, name))
    logger.warning(
        "%s was being replaced when it changed, or when snapper was killed; what may be lost of it is kept in %s",
        target,
        target.with_name(name),
    )


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


def _open_own(entry: Entry) -> int | None:
    """Open a directory that belongs to this user; return None if there is none. May raise OSError."""
    descriptor = open_if_directory(entry.name, entry.directory)
    if descriptor is None or is_of_this_user(os.fstat(descriptor)):
        return descriptor
    os.close(descriptor)
    return None


# --- removing ---------------------------------------------------------------------------------------------


class _RemovalJob(NamedTuple):
    """Directories to remove, by their paths below `top`."""

    top: str
    paths: list[str]


def _remove_directories(_: object, job: _RemovalJob) -> None:
    """Remove the directories as far as that is possible, if nothing is mounted below them."""
    if mount_points_below(job.top):
        return
    with suppress(OSError), closing(DirectoryTree(job.top, make=False)) as directories:
        for path in job.paths:
            parent, _, name = path.rpartition("/")
            with suppress(OSError):
                remove_unmounted_tree(name, directories[parent])


def _directories_at_depth(top: str, depth: int) -> list[str]:
    """Return the paths of the directories that many levels below `top`."""
    paths = [""]
    for _ in range(depth):
        parents, paths = paths, []
        for parent in parents:
            with suppress(OSError), os.scandir(os.path.join(top, parent)) as entries:
                paths += [
                    os.path.join(parent, entry.name)
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False)
                ]
    return paths
