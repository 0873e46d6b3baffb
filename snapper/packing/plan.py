"""Decide which file of an environment goes into which layers."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from snapper.environment import pip
from snapper.environment.changes import PackageSet
from snapper.environment.conda import PathEntry, Record
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.tree import File, Tree, obstacle
from snapper.errors import ChangedWhilePacking, FileOperationFailed, TooManyDirectories, TooManyFiles
from snapper.format import bytecode
from snapper.format.constraints import path_bytes
from snapper.format.member import MOST_KEPT, kept_size, most_implied_directories
from snapper.format.model import LAYER_SIZE, Deviation, Kind, PipPackage
from snapper.fs.pinned import PinnedDirectory
from snapper.packing.items import FileGroup, PackItem, RelocatedFacts
from snapper.packing.members import cached_sources, members
from snapper.packing.splitting import EarlierLayers, split

_NO_DIRECTORY = "it is not a directory, so nothing can be packed below it"
_MAKE_DIRECTORY = "Replace it by a directory."


@dataclass(frozen=True)
class OwnerFiles:
    """The files of one owner. Files larger than a layer are separate, in `large`.

    `records` are the package's records, usually one. They come last, when everything that they describe is known;
    `facts` is what is known before.
    """

    kind: Kind
    owner: str
    items: tuple[PackItem, ...]
    large: tuple[PackItem, ...]
    records: tuple[PackItem, ...] = ()
    facts: Mapping[str, RelocatedFacts] = field(default_factory=dict)

    @property
    def files(self) -> tuple[PackItem, ...]:
        """All files."""
        return (*self.items, *self.large, *self.records)

    def groups(self, earlier: EarlierLayers) -> Iterator[FileGroup]:
        """Yield the items in groups of a layer each."""
        groups = split(self.kind, self.owner, self.items, self.records, earlier)
        if self.records:
            *groups, last = groups or [[]]
            groups.append([*last, *self.records])
        records = frozenset(item.file.path for item in self.records)
        for number, group in enumerate(groups):
            is_last = number == len(groups) - 1
            described = (records, self.facts) if is_last else (frozenset(), {})
            yield FileGroup(self.kind, self.owner, number, tuple(group), *described)


@dataclass(frozen=True)
class PackPlan:
    """All files to pack, by owner, and files of packages that are missing.

    `packages` and `links`, the files that were created when these were installed, are parallel. Owners of the same
    name and kind, as in a virtual environment inside of the environment, are one owner.
    """

    packages: tuple[OwnerFiles, ...]
    links: tuple[OwnerFiles, ...]
    others: tuple[OwnerFiles, ...]
    missing: tuple[Deviation, ...]
    pip: tuple[PipPackage, ...]


def make_plan(prefix: Path | PinnedDirectory, tree: Tree, records: Sequence[Record]) -> PackPlan:
    """Assign each file of the tree to the conda package that installed it, to a pip distribution, or to no owner.

    Raise ChangedWhilePacking if the tree lacks a record, PermissionDenied, TooManyFiles, TooManyDirectories,
    FileOperationFailed if there are files below something that is not a directory.
    """
    files = tree.by_path
    unowned = {file.path: file for file in members(tree)}
    _check_restorable(prefix, files, unowned)
    _check_parents(prefix, tree)
    retimed = _retimed_sources(records, files)
    cached = cached_sources(files)
    from_package: dict[str, list[PackItem]] = defaultdict(list)
    from_link: dict[str, list[PackItem]] = defaultdict(list)
    record_items: dict[str, list[PackItem]] = defaultdict(list)
    missing: list[Deviation] = []
    for record in records:
        dist = record.package.dist
        claim = _claim_files(record, files, unowned)
        for file, entry in claim.owned:
            if _is_provable(file, entry) and bytecode.source_of(file.path) not in retimed:
                item = PackItem(file, entry)
                from_package[dist].append(item._replace(exact_time=True) if file.path in cached else item)
            else:
                made_at_link = _is_made_at_link(file, record, files)
                source_mtime = _source_mtime(file, retimed)
                from_link[dist].append(
                    PackItem(file, entry, made_at_link=made_at_link, source_mtime=source_mtime)
                )
        record_file = unowned.pop(_physical_path(record.file, files), None)
        if record_file is None:
            raise ChangedWhilePacking(f"{prefix}/{record.file}")
        record_items[dist].append(PackItem(record_file, made_at_link=True))
        if claim.missing:
            missing.append(Deviation(dist, claim.missing))
    distributions = pip.distributions(prefix, unowned)
    others = _pip_files(distributions, unowned)
    rest = [PackItem(file, source_mtime=_source_mtime(file, retimed)) for file in unowned.values()]
    others.append(_owner_files("files", "", rest))
    return PackPlan(
        tuple(_owner_files("package", dist, from_package[dist]) for dist in record_items),
        tuple(
            replace(_owner_files("link", dist, from_link[dist]), records=tuple(items))
            for dist, items in record_items.items()
        ),
        tuple(owner_files for owner_files in others if owner_files.items or owner_files.large),
        tuple(missing),
        tuple(distribution.package for distribution in distributions),
    )


def installed_packages(environment: InstalledEnvironment) -> PackageSet:
    """Return what is installed in an environment; raise as `make_plan` does, and FileOperationFailed."""
    records = environment.records
    plan = make_plan(environment.directory, environment.tree, records)
    return PackageSet(tuple(record.package for record in records), plan.pip)


def link_time_files(
    planned: OwnerFiles, unproved: Iterable[PackItem], facts: Mapping[str, RelocatedFacts]
) -> OwnerFiles:
    """Add to a package's link-time files what could not be proved to be the package's.

    Files that were changed after they were relocated keep their times, so modules compiled from them stay as they are.
    """
    changed = {item.file.path for item in unproved if not item.made_at_link}
    items = [
        item._replace(source_mtime=None)
        if item.source_mtime is not None and bytecode.source_of(item.file.path) in changed
        else item
        for item in (*planned.items, *planned.large)
    ]
    owner_files = _owner_files(planned.kind, planned.owner, [*items, *unproved])
    return replace(owner_files, records=planned.records, facts=facts)


def _check_restorable(
    prefix: Path | PinnedDirectory, files: Mapping[str, File], members: Mapping[str, File]
) -> None:
    """Raise TooManyFiles or TooManyDirectories if a restore would refuse so many links or directories."""
    kept = [file for file in members.values() if file.type != "file"]
    if sum(kept_size(file.path, file.target) for file in kept) > MOST_KEPT:
        raise TooManyFiles(str(prefix), "links and directories", MOST_KEPT)
    most = most_implied_directories(len(members))
    if len(files) - len(members) > most:
        raise TooManyDirectories(str(prefix), most)


def _check_parents(prefix: Path | PinnedDirectory, tree: Tree) -> None:
    """Raise FileOperationFailed if a file is below something that is not a directory, which a restore would refuse."""
    files = tree.by_path
    for parent in tree.parents:
        found = files.get(parent)
        if found is None or found.type != "directory":
            in_the_way = obstacle(files, f"{parent}/")
            if in_the_way is not None:
                raise FileOperationFailed(f"{prefix}/{in_the_way.path}", _NO_DIRECTORY, _MAKE_DIRECTORY)


class _Claim(NamedTuple):
    """The files of a record, and the paths that are missing, sorted."""

    owned: list[tuple[File, PathEntry]]
    missing: tuple[str, ...]


def _claim_files(record: Record, files: Mapping[str, File], unowned: dict[str, File]) -> _Claim:
    """Take the record's files out of `unowned`, except those that an earlier record has."""
    owned: list[tuple[File, PathEntry]] = []
    missing: list[str] = []
    for entry in record.entries:
        path = entry.path if entry.path in files else _physical_path(entry.path, files)
        file = files.get(path)
        if file is None:
            if not entry.path.endswith(".pyc"):
                missing.append(entry.path)
        elif path in unowned and file.type != "directory":
            owned.append((unowned.pop(path), entry))
    return _Claim(owned, tuple(sorted(missing, key=path_bytes)))


def _pip_files(distributions: Iterable[pip.Distribution], unowned: dict[str, File]) -> list[OwnerFiles]:
    """Take the distributions' files out of `unowned`."""
    items: dict[str, list[PackItem]] = defaultdict(list)
    for distribution in distributions:
        paths = [path for path in distribution.files if path in unowned]
        prebuilt = distribution.prebuilt
        items[distribution.owner] += [PackItem(unowned.pop(path), prebuilt=prebuilt) for path in paths]
    return [_owner_files("pip", owner, owned) for owner, owned in items.items()]


def _physical_path(path: str, files: Mapping[str, File]) -> str:
    """Return the path with symlinked directories resolved, as far as they lead to files of the tree."""
    resolved = ""
    for name in path.split("/"):
        resolved = f"{resolved}/{name}" if resolved else name
        file = files.get(resolved)
        if file is not None and file.type == "symlink" and resolved != path:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(resolved), file.target))
            if target in files:
                resolved = target
    return resolved


def _is_provable(file: File, entry: PathEntry) -> bool:
    """Return whether the package's record can prove that the file is the package's."""
    if file.type == "symlink":
        return entry.type == "softlink"
    return entry.type == "hardlink" and len(entry.sha256) == 64


def _is_made_at_link(file: File, record: Record, files: Mapping[str, File]) -> bool:
    """Return whether a file without a checksum may be as its package's installation left it.

    Records are written last, so what was written later has been changed since. Only Python writes compiled modules.
    """
    record_file = files.get(record.file)
    return file.path.endswith(".pyc") or (record_file is not None and file.mtime_ns <= record_file.mtime_ns)


def _retimed_sources(records: Iterable[Record], files: Mapping[str, File]) -> dict[str, File | None]:
    """Return the Python modules of packages that get another time when they are packed: relocated ones and those made
    at installation. What is missing is None.

    Which of the relocated ones have been changed since, and keep their times, is only known when they are read.
    """
    sources: dict[str, File | None] = {}
    for record in records:
        for entry in record.entries:
            if not entry.path.endswith(".py"):
                continue
            file = files.get(entry.path)
            if file is None or _is_provable(file, entry):
                is_retimed = bool(entry.placeholder)
            else:
                is_retimed = _is_made_at_link(file, record, files)
            if is_retimed:
                sources[entry.path] = file
    return sources


def _source_mtime(file: File, retimed: Mapping[str, File | None]) -> int | None:
    """Return the mtime of the source of a compiled module, which contains it, if packing may change both."""
    source = retimed.get(bytecode.source_of(file.path) or "")
    return source.mtime if source else None


def _owner_files(kind: Kind, owner: str, items: list[PackItem]) -> OwnerFiles:
    small: list[PackItem] = []
    large: list[PackItem] = []
    for item in _mark_hard_links(kind, sorted(items, key=lambda item: path_bytes(item.file.path))):
        is_large = item.file.type == "file" and item.file.size > LAYER_SIZE and not item.linked
        (large if is_large else small).append(item)
    return OwnerFiles(kind, owner, tuple(small), tuple(large))


def _mark_hard_links(kind: Kind, items: list[PackItem]) -> Iterator[PackItem]:
    """Yield the items in order, with files whose inode occurred before marked as links to its first path."""
    counts = Counter(item.file.inode for item in items if item.file.type == "file")
    first_paths: dict[_LinkIdentity, str] = {}
    for item in items:
        path, linked = item.file.path, ""
        identity = _link_identity(kind, item) if counts[item.file.inode] > 1 else None
        if identity:
            first = first_paths.setdefault(identity, path)
            linked = "" if first == path else first
        yield item if item.linked == linked else item._replace(linked=linked)


class _LinkIdentity(NamedTuple):
    """What names of one file have in common."""

    device: int
    inode: int
    content: tuple[str, str] | None


def _link_identity(kind: Kind, item: PackItem) -> _LinkIdentity | None:
    """Return what the item shares with links to the same file; None if it is to be packed on its own.

    Files of a package are links only if the package installed one file under both names, and they are not larger than
    a layer: it is not known yet which of them can be proved.
    """
    file, entry = item.file, item.entry
    if file.type != "file":
        return None
    if kind != "package" or entry is None:
        return _LinkIdentity(file.device, file.inode, None)
    if file.size > LAYER_SIZE:
        return None
    return _LinkIdentity(file.device, file.inode, (entry.sha256, entry.placeholder))
