"""An environment on disk that is read once and asked often."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from snapper.environment import conda, state
from snapper.environment.conda import Record
from snapper.environment.drift import Drift, find_drift, is_touched
from snapper.environment.former_prefixes import (
    OtherEnvironments,
    by_file,
    find_other_environments,
    is_other_environment,
)
from snapper.environment.index import Index
from snapper.environment.outside_links import FollowedLinks, leads_outside
from snapper.environment.prefixes import is_acceptable
from snapper.environment.scan import scan
from snapper.environment.state import EnvironmentState, PreviousSnapshot
from snapper.environment.tree import Tree
from snapper.errors import SnapperError
from snapper.fs.errors import read_errors
from snapper.fs.pinned import PinnedDirectory

if TYPE_CHECKING:
    from snapper.environment.embedded import EmbeddedPrefixes

T = TypeVar("T")


class InstalledEnvironment:
    """A conda environment at a prefix. It is opened once, and everything is read on first use, and at most once.

    What it returns is what the disk held then; create another instance to look again.
    """

    def __init__(self, prefix: Path | PinnedDirectory) -> None:
        self.prefix = prefix.path if isinstance(prefix, PinnedDirectory) else prefix
        self._opened = prefix
        self.problem = ""

    @cached_property
    def directory(self) -> PinnedDirectory:
        """The directory of the environment; raises NotAnEnvironment, PermissionDenied, FileOperationFailed."""
        return conda.pin_environment(self._opened)

    @cached_property
    def tree(self) -> Tree:
        """The environment's own files; raises NotAnEnvironment, PermissionDenied, FileOperationFailed."""
        return scan(self.directory)

    @cached_property
    def followed(self) -> FollowedLinks:
        """The tree with links of packages into a package cache followed; raises what `tree` and `records` raise."""
        own = (os.path.abspath(self.prefix), os.path.realpath(self.prefix))
        links = [link for link in self.tree.symlinks if leads_outside(link, own)]
        if not links:
            return FollowedLinks(self.tree)
        from snapper.environment.cached_links import follow  # noqa: PLC0415 - rarely needed

        with read_errors():
            return follow(self.directory, self.tree, links, self.records)

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """conda's package records; raises NotAnEnvironment, PermissionDenied, FileOperationFailed."""
        return tuple(conda.read_records(self.directory))

    @cached_property
    def state(self) -> EnvironmentState | None:
        """Which environment and snapshot this was when it was last packed or restored, if known."""
        return self._recorded(state.read)

    @cached_property
    def previous(self) -> PreviousSnapshot | None:
        """The snapshot that this was last packed as or restored from, if known."""
        return self._recorded(state.read_previous)

    @cached_property
    def index(self) -> Index | None:
        """What the last pack or restore saw of each file, if known. It need not be of `previous`.

        None if it was that of another version, which may have packed or restored files in another way.
        """
        recorded = self.recorded_index
        return recorded if recorded and recorded.header.is_of_this_version else None

    @cached_property
    def embedded(self) -> EmbeddedPrefixes:
        """The prefixes that were found in the environment's files; raises what `records` and `tree` raise."""
        from snapper.environment.embedded import find_prefixes  # noqa: PLC0415 - slow to import, and often not needed

        return find_prefixes(self.directory, self.records, self.tree.files, self._abandoned_prefixes)

    @cached_property
    def prefixes_in_files(self) -> tuple[str, ...]:
        """All paths of the environment that its files may contain; raises what `embedded` raises.

        The first is the one that most of them contain.
        """
        likely = self.embedded.with_paths_of(self.prefix, self._abandoned_prefixes)
        return tuple(dict.fromkeys((*likely, *self.recorded_prefixes)))

    @cached_property
    def other_environments(self) -> OtherEnvironments:
        """The environments that are now where this one was earlier; raises what `embedded` raises."""
        return find_other_environments(self.directory, self.prefixes_in_files, self.index)

    def others_named_in(self, snapshot: str) -> dict[str, tuple[str, ...]]:
        """Return the other environments at former prefixes that files name if they are as the snapshot has them."""
        header = self.index.header if self.index else None
        return by_file(header.other_environments) if header and header.snapshot == snapshot else {}

    def prefixes_as_in(self, snapshot: str) -> tuple[str, ...]:
        """Return all paths of the environment that files contain if they are as the snapshot has them.

        If it was packed as or restored from this snapshot, these are known: a file with another path has changed. The
        first is the one that most of them contain. Raise what `embedded` raises.
        """
        header = self.index.header if self.index else None
        if header is None or header.snapshot != snapshot or not header.prefixes:
            return self.prefixes_in_files
        return tuple(
            dict.fromkeys((*header.prefixes, os.path.abspath(self.prefix), os.path.realpath(self.prefix)))
        )

    @property
    def prefix_in_files(self) -> str:
        """The prefix that most of the environment's files contain; raises what `embedded` raises."""
        return self.prefixes_in_files[0]

    def drift(self) -> Drift | None:
        """Return what differs from the snapshot in `state` as far as its index tells, or None without that index.

        Raise what `tree` raises.
        """
        return self._drift

    def settle(self, drift: Drift, index: Index, problem: str) -> None:
        """Use the drift that comparing contents has found, and the index that was written then.

        `problem` is why the contents of those of its files that were `modified` could not be compared.
        """
        self.__dict__.pop("index", None)
        self.__dict__.update(_drift=drift, recorded_index=index)
        self.problem = problem

    def is_touched(self) -> bool:
        """Return whether packages may have been installed or removed since the index was written (see `drift`)."""
        return is_touched(self.prefix)

    @cached_property
    def recorded_prefixes(self) -> tuple[str, ...]:
        """The environment's prefixes that files may have contained when the index was written.

        The most frequent is the first.
        """
        header = self.index.header if self.index else None
        recorded = dict.fromkeys((header.prefix, *header.prefixes)) if header else ()
        return tuple(prefix for prefix in recorded if is_acceptable(prefix, self.prefix))

    @cached_property
    def _abandoned_prefixes(self) -> tuple[str, ...]:
        """The recorded prefixes at which there is no other environment now."""
        return tuple(
            path for path in self.recorded_prefixes if not is_other_environment(path, self.directory)
        )

    def _recorded(self, read: Callable[[PinnedDirectory], T | None]) -> T | None:
        """Return what snapper has recorded, None if the environment cannot be opened."""
        try:
            return read(self.directory)
        except SnapperError:
            return None

    @cached_property
    def recorded_index(self) -> Index | None:
        """The same as `index`, but also that of another version, which only tells what has changed."""
        return self._recorded(state.read_index)

    @cached_property
    def _drift(self) -> Drift | None:
        index = self.recorded_index
        if self.state is None or index is None or index.header.snapshot != self.state.snapshot:
            return None
        return find_drift(self.tree, index, self.directory.stat)
