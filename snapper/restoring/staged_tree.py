"""A directory that is built, and then swapped into its target."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from snapper.fs.handles import DirectoryHandle, directory_handle
from snapper.fs.moves import Entry
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.private import path_by_descriptor
from snapper.restoring.replaced import Seen, remove_with_workers

if TYPE_CHECKING:
    from snapper.process.pool import WorkerPool
    from snapper.store import Store

#: What to do if something else was at the target than before.
AGAIN = "Find out what is there now, then restore again."


@dataclass(frozen=True)
class StagedTree:
    """A directory to build, and where it is swapped to.

    `tree` is the directory to build, and `descriptor` the same directory, open, in the open staging `directory`;
    `entry` is the target. After a swap, what was at `target` is next to where the tree was, and `seen` has its name
    there, and what was in it when it was checked.
    """

    target: Path
    tree: Path
    descriptor: int
    entry: Entry
    directory: int
    seen: dict[str, Seen]

    #: Whether a swap moves what is in the tree, rather than the tree as a whole.
    moves_entries: ClassVar[bool] = False

    @property
    def can_link(self) -> bool:
        """Whether unchanged files of the environment at the target can be linked into the tree."""
        return True

    @property
    def path_by_descriptor(self) -> Path:
        """The path of the tree to give to other programs."""
        return path_by_descriptor(self.descriptor, self.tree)

    @property
    def handle(self) -> DirectoryHandle:
        """A handle of the tree for workers."""
        return directory_handle(self.descriptor, self.tree)

    def pin(self) -> PinnedDirectory:
        """Return the tree, which stays open after the end of the staging, as if it were at its target."""
        return PinnedDirectory(self.target, os.dup(self.descriptor))

    def remove_replaced(self, workers: WorkerPool[Store]) -> None:
        """Remove most of the directory that was replaced, with the workers, which must be idle.

        The end of the staging removes the rest.
        """
        for name, seen in self.seen.items():
            remove_with_workers(Entry(self.directory, name), self.tree.with_name(name), seen, workers)
