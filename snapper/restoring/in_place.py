"""Replace what is in a directory that cannot be replaced itself, such as one at which a file system is mounted.

It is staged inside of the directory, on its file system, and nothing is moved that is not part of the environment. See
`snapper.environment.contents` for how, and for what happens after a kill.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from snapper.environment.contents import complete, exchange_contents, unfinished
from snapper.environment.foreign import is_foreign
from snapper.environment.staging_lock import INSIDE, KEEP_ALL, TREE, lock_staging
from snapper.environment.tree import walk
from snapper.errors import TargetOccupied
from snapper.fs.directories import closing_descriptor, open_if_directory, set_mode
from snapper.fs.errors import os_errors
from snapper.fs.moves import Entry, is_renamable
from snapper.fs.ownership import is_of_this_user
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.placement import make_writable
from snapper.fs.private import create_private_directory
from snapper.process.signals import defer_signals
from snapper.restoring.errors import occupied_by_other
from snapper.restoring.nested import check_free
from snapper.restoring.parent import open_parent
from snapper.restoring.remains import remove_remains
from snapper.restoring.replaced import Check, KeepingPlace, Seen, next_tick, seen_by
from snapper.restoring.staged_tree import AGAIN, StagedTree


@dataclass(frozen=True)
class StagingInPlace(StagedTree):
    """A directory to build, whose contents replace those of the directory that it is in.

    `environment` is a descriptor of the directory at the target. If what is in it `is_in_image`, linking a file copies
    it, and can change the times of the original.
    """

    environment: int
    is_in_image: bool

    moves_entries: ClassVar[bool] = True

    @property
    def can_link(self) -> bool:
        return not self.is_in_image

    def swap(self, check: Check = lambda _: None, shared: frozenset[int] = frozenset()) -> PinnedDirectory:
        """Put the contents of the tree into the directory at the target, and return that.

        `check` inspects the directory by its descriptor before, and returns what it has seen, or that all is to be
        kept: what is written to it since will not be removed. If it raises an error, nothing has happened. `shared` are
        the inodes of files that are linked into the tree.

        Raise what `check` does, and TargetOccupied if the directory has been replaced, or if the tree has something in
        the place of what is not part of the environment.
        """
        if not self.entry.is_open_as(self.environment):
            raise TargetOccupied(str(self.target), "it was replaced while restoring", AGAIN)
        check_free(self.environment, self.descriptor, self.target)
        since = next_tick(self.directory)
        seen = seen_by(check(self.environment), shared)
        if seen.kept:
            since = KEEP_ALL
        replaced = exchange_contents(self.environment, self.directory, self.tree.name, since)
        self.seen[replaced] = seen
        return PinnedDirectory(self.target, os.dup(self.environment))


@contextmanager
def staging_in_place(target: Path) -> Iterator[StagingInPlace]:
    """Lock the existing directory at the target, an absolute path, and yield an empty, private directory inside of it.

    What an interrupted swap has left is completed first. At the end, whatever is in the staging directory is removed.
    Raise TargetLocked, TargetOccupied, PermissionDenied, InsufficientSpace, FileOperationFailed.
    """
    with (
        os_errors(target, "write to"),
        closing_descriptor(open_parent(target)) as parent,
        _opened_environment(Entry(parent, target.name), target) as environment,
    ):
        mode = make_writable(environment)
        locked = lock_staging(environment, target / INSIDE, target)
        place, seen = KeepingPlace(environment, target), dict[str, Seen]()
        try:
            complete(environment, locked.directory)
            remove_remains(locked.directory, place, target, seen)
            is_in_image = not _are_renamable(environment)
            _check_movable(environment, target, is_in_image=is_in_image)
            name, descriptor = create_private_directory(TREE, locked.directory)
            with closing_descriptor(descriptor):
                tree, entry = target / INSIDE / name, Entry(parent, target.name)
                common = (target, tree, descriptor, entry, locked.directory, seen)
                yield StagingInPlace(*common, environment, is_in_image)
        finally:
            with defer_signals():
                try:
                    with suppress(OSError):
                        complete(environment, locked.directory)
                    remove_remains(locked.directory, place, target, seen, unfinished(locked.directory))
                finally:
                    locked.release()
                    if not seen and not mode & stat.S_IWUSR:
                        set_mode(environment, mode)


def _are_renamable(environment: int) -> bool:
    """Return whether the directories in an open one can be renamed, which those of container images cannot."""
    staging = Entry(environment, INSIDE)
    return all(is_renamable(Entry(environment, name), staging) for name in _directories(environment))


def _directories(environment: int) -> list[str]:
    """Return the names of directories in an open one that are part of the environment."""
    names = [name for name in os.listdir(environment) if name != INSIDE and not is_foreign(name)]
    return [name for name in names if stat.S_ISDIR(os.lstat(name, dir_fd=environment).st_mode)]


def _check_movable(environment: int, target: Path, *, is_in_image: bool) -> None:
    """Raise TargetOccupied if something in an open directory is another user's, and this user may not move it.

    Of a directory in a container image, that is everything below it.
    """
    paths: Iterable[str] = _directories(environment)
    if is_in_image:
        files = walk(
            PinnedDirectory(target, os.dup(environment)), lambda path: "" if is_foreign(path) else None
        ).files
        paths = (file.path for file in files if file.type == "directory")
    for path in paths:
        status = os.lstat(path, dir_fd=environment)
        is_writable = os.access(path, os.W_OK | os.X_OK, dir_fd=environment, effective_ids=True)
        if not is_writable and not is_of_this_user(status):
            raise occupied_by_other(target / path, status)


@contextmanager
def _opened_environment(entry: Entry, target: Path) -> Iterator[int]:
    """Open the directory at the target; raise TargetOccupied if it is another user's, or no directory."""
    descriptor = open_if_directory(entry.name, entry.directory)
    if descriptor is None:
        raise TargetOccupied(str(target), "it was replaced while restoring", AGAIN)
    with closing_descriptor(descriptor):
        status = os.fstat(descriptor)
        if not is_of_this_user(status):
            raise occupied_by_other(target, status)
        yield descriptor
