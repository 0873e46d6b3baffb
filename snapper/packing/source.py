"""The environment to pack, read once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from snapper.environment import clock, editable
from snapper.environment.editable import OpenedSource
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.outside_links import FollowedLinks, leads_outside
from snapper.environment.outside_paths import Surroundings
from snapper.environment.prefixes import ForeignPrefix, spellings
from snapper.environment.state import EnvironmentState, PreviousSnapshot
from snapper.environment.tree import Tree
from snapper.environment.user_packages import ignores_user_site, user_sites
from snapper.environment.variables import environment_variables
from snapper.errors import EditableInstallsFound
from snapper.format.times import LATEST
from snapper.fs.ownership import is_own, owner_name
from snapper.fs.pinned import PinnedDirectory
from snapper.packing.renamed import with_renamed

if TYPE_CHECKING:
    from snapper.environment.user_site import OpenedSite

#: What to do about packages whose code is outside of the environment: refuse to pack, include it, or keep the links.
EditablePolicy = Literal["refuse", "include", "ignore"]

#: What to do about packages in the user site: report them, or include them.
UserSitePolicy = Literal["report", "include"]


@dataclass(frozen=True)
class PackSource:
    """An environment as it is on disk when it is packed. With a `foreign_prefix`, what snapper recorded is ignored.

    `read_at` is the time of its file system, in nanoseconds, before it was read; 0 if unknown. `tree` has the files of
    the environment, of the sources of `editables`, and of the user `sites`. `followed` has the places of files that are
    not where their path says: those of user sites, and those that links into a package cache lead to.
    `nothing_included` says of what nothing was included although that was asked for, and why.
    """

    installed: InstalledEnvironment
    foreign_prefix: ForeignPrefix | None
    read_at: int
    editables: tuple[OpenedSource, ...]
    tree: Tree
    sites: tuple[OpenedSite, ...] = ()
    followed: Mapping[str, str] = field(default_factory=dict)
    nothing_included: tuple[str, ...] = ()

    @property
    def has_included(self) -> bool:
        """Whether something outside of the environment is packed with it."""
        return bool(self.editables or self.sites)

    @cached_property
    def from_elsewhere(self) -> frozenset[str]:
        """The paths at which something else is packed than the environment has there."""
        if self.tree is self.installed.tree:
            return frozenset()
        own = self.installed.tree.by_path
        return frozenset(path for path, file in self.tree.by_path.items() if own.get(path) != file)

    @property
    def included(self) -> tuple[str, ...]:
        """The directories outside of the environment that are packed with it."""
        sources = (str(opened.directory) for opened in self.editables)
        return (*sources, *(str(opened.site.path) for opened in self.sites))

    @property
    def prefix(self) -> Path:
        return self.installed.prefix

    @property
    def directory(self) -> PinnedDirectory:
        return self.installed.directory

    @property
    def owner(self) -> str:
        """The other user whom the environment belongs to, empty if it is this user or root."""
        status = self.directory.status
        return "" if is_own(status) else owner_name(status)

    @property
    def origin(self) -> str:
        """The prefix that the history names: empty for imported environments."""
        return "" if self.foreign_prefix else str(self.prefix)

    @property
    def prefix_in_files(self) -> str:
        return self.prefixes_in_files[0]

    @property
    def prefixes_in_files(self) -> tuple[str, ...]:
        """The paths of the environment that files may contain; most contain the first."""
        return (self.foreign_prefix.prefix,) if self.foreign_prefix else self.installed.prefixes_in_files

    def remaining_prefixes(self, contained: Set[str]) -> tuple[str, ...]:
        """Return the prefixes that files may contain, of which those that they do contain besides the first are known.

        Former prefixes that no file contains any more do not remain.
        """
        first, *rest = self.prefixes_in_files
        remaining = contained | {*spellings(self.prefix)}
        return (first, *(prefix for prefix in rest if prefix in remaining))

    def found_prefixes(self, contained: Set[str]) -> tuple[str, ...]:
        """Return the prefixes that files contain, if there is one in which the environment is not.

        What they are known to contain only counts if snapper has recorded it: the user may spell paths in several ways.
        """
        if self.foreign_prefix:
            return ()
        found = self.installed.embedded.found
        former = contained & {*self.installed.recorded_prefixes} - {*spellings(self.prefix)}
        found = (*found, *sorted(former - {*found}))
        return () if set(found) <= {str(self.prefix)} else found

    @property
    def state(self) -> EnvironmentState | None:
        return None if self.foreign_prefix else self.installed.state

    @property
    def previous(self) -> PreviousSnapshot | None:
        return None if self.foreign_prefix else self.installed.previous

    @property
    def placeholders(self) -> Mapping[str, str]:
        """The placeholders that an earlier snapshot, or the imported archive, had in files, by path."""
        if self.foreign_prefix:
            return self.foreign_prefix.placeholders
        previous = with_renamed(self.previous.placeholders(), self.installed) if self.previous else {}
        return {**self.installed.embedded.placeholders, **previous}

    @property
    def clamped_times(self) -> tuple[str, ...]:
        """The files with times that layers cannot hold."""
        outside = [file for file in self.tree.files if not 0 <= file.mtime_ns <= LATEST]
        return tuple(sorted(file.path for file in outside if file.type == "file"))

    @property
    def kept_prefixes(self) -> Mapping[str, str]:
        """The prefixes that files of an earlier snapshot contained and that could not be replaced, by path."""
        if self.foreign_prefix:
            return self.foreign_prefix.kept
        return with_renamed(self.previous.kept_prefixes(), self.installed) if self.previous else {}

    def links_outside(self, prefixes: Collection[str]) -> tuple[str, ...]:
        """Return the symlinks that lead out of the environment, whose path in them is one of the prefixes."""
        return tuple(sorted(link.path for link in self.tree.symlinks if leads_outside(link, prefixes)))


def read_source(
    installed: InstalledEnvironment,
    policy: EditablePolicy,
    foreign_prefix: ForeignPrefix | None,
    user_site: UserSitePolicy = "report",
) -> PackSource:
    """Read what packing needs of the environment.

    Raise NotAnEnvironment, EditableInstallsFound, FileOperationFailed, PermissionDenied.
    """
    read_at = 0 if foreign_prefix else _time_of(installed.directory, clock.now)
    editables = _find_editables(installed, policy)
    sites = _open_sites(installed, policy) if user_site == "include" and not foreign_prefix else ()
    followed = FollowedLinks(installed.tree) if foreign_prefix else installed.followed
    tree, targets = followed.tree, followed.targets
    if editables or sites:  # the prefix in files is only known once all package records are read
        from snapper.environment.user_site import merge_sites  # noqa: PLC0415 - rarely needed

        prefix_in_files = foreign_prefix.prefix if foreign_prefix else installed.prefix_in_files
        tree = editable.include(tree, editables, prefix_in_files)
        merged = merge_sites(installed.directory, tree, sites, prefix_in_files)
        tree, targets = merged.tree, {**targets, **merged.targets}
    if read_at and any(file.ctime_ns >= read_at for file in installed.tree.files):
        # What is written to these files while they are packed must give them another time.
        read_at = _time_of(installed.directory, partial(clock.next_tick, longest=clock.LONGEST_TICK))
    nothing = (
        *(
            ["no editable install was included: there is none"]
            if policy == "include" and not editables
            else []
        ),
        *([_why_no_site(installed)] if user_site == "include" and not sites else []),
    )
    return PackSource(installed, foreign_prefix, read_at, editables, tree, sites, targets, nothing)


def _open_sites(installed: InstalledEnvironment, policy: EditablePolicy) -> tuple[OpenedSite, ...]:
    """Open the user sites of the environment's Python that the user has determined.

    Raise EditableInstallsFound if there are any in them.
    """
    from snapper.environment.user_site import open_site  # noqa: PLC0415 - rarely needed

    variables = environment_variables(installed.directory)
    found_sites = user_sites(Surroundings(installed.directory), variables)
    sites = tuple(open_site(site) for site in found_sites if site.by_user)
    for opened in sites:
        found = editable.find(opened.directory, opened.tree) if policy != "ignore" else ()
        if found:
            raise EditableInstallsFound(tuple(f"{install.name} ({install.source})" for install in found))
    return sites


def _why_no_site(installed: InstalledEnvironment) -> str:
    """Say why nothing of a user site is included."""
    reason = "its Python uses none that you have chosen"
    if ignores_user_site(environment_variables(installed.directory)):
        reason = "the environment sets PYTHONNOUSERSITE, so that its Python does not use it"
    return f"nothing of a user site was included: {reason}"


def _time_of(environment: PinnedDirectory, read: Callable[[PinnedDirectory], int]) -> int:
    """Return a time of the environment's file system; 0 if nothing can be written into the environment."""
    try:
        return read(environment)
    except OSError:
        return 0


def _find_editables(installed: InstalledEnvironment, policy: EditablePolicy) -> tuple[OpenedSource, ...]:
    """Return the editable installs whose sources are to be included; raise EditableInstallsFound to refuse them."""
    if policy == "ignore":
        return ()
    editables = editable.find(installed.directory, installed.followed.tree)
    if editables and policy == "refuse":
        raise EditableInstallsFound(tuple(f"{install.name} ({install.source})" for install in editables))
    return tuple(editable.open_source(install, installed.prefix) for install in editables)
