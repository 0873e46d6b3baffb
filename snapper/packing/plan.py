"""Which file of an environment belongs to which layers."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from snapper.environment import pip
from snapper.environment.changes import PackageSet
from snapper.environment.conda import PathEntry, Record, read_records
from snapper.environment.tree import File, Tree
from snapper.errors import ChangedWhilePacking
from snapper.format import bytecode
from snapper.format.model import LAYER_SIZE, Deviation, Kind, PipPackage, path_bytes
from snapper.packing.collect import FileGroup, PackItem, RelocatedFacts

#: Directories of this mode are made as members need them; only others, and empty ones, are members themselves.
USUAL_DIRECTORY_MODE = 0o755


@dataclass(frozen=True)
class OwnerFiles:
    """The files of one owner. Files larger than a layer stand apart, in `large`.

    `records` are the package's, of which there is one unless somebody copied it: they come last, when all that they
    describe is known; `facts` is what is known before.
    """

    kind: Kind
    owner: str
    items: tuple[PackItem, ...]
    large: tuple[PackItem, ...]
    records: tuple[PackItem, ...] = ()
    facts: Mapping[str, RelocatedFacts] = field(default_factory=dict)

    @property
    def files(self) -> tuple[PackItem, ...]:
        """All of them."""
        return (*self.items, *self.large, *self.records)

    def groups(self) -> Iterator[FileGroup]:
        """The items in runs that fill a layer each, cut where the same package is cut everywhere."""
        run: list[PackItem] = []
        size = number = 0
        for item in self.items:
            expected = _expected_size(item)
            if run and size + expected > LAYER_SIZE:
                yield FileGroup(self.kind, self.owner, number, tuple(run))
                run, size, number = [], 0, number + 1
            run.append(item)
            size += expected
        run += self.records
        if run:
            records = frozenset(item.file.path for item in self.records)
            yield FileGroup(self.kind, self.owner, number, tuple(run), records, self.facts)


@dataclass(frozen=True)
class PackPlan:
    """Everything that is to be packed, and what the packages installed that is gone.

    An owner has one share of a kind: what two of the same name installed, as in a virtual environment inside of the
    environment, is together in it.
    """

    packages: tuple[OwnerFiles, ...]
    links: tuple[OwnerFiles, ...]
    others: tuple[OwnerFiles, ...]
    missing: tuple[Deviation, ...]
    pip: tuple[PipPackage, ...]


def make_plan(prefix: Path, tree: Tree, records: list[Record]) -> PackPlan:
    """Gives every file of the tree to the package that installed it, to pip's, or to nobody.

    Raises ChangedWhilePacking where the tree does not have a record, PermissionDenied.
    """
    found = {file.path: file for file in tree.files}
    free = {file.path: file for file in members(tree)}
    relocated = {
        entry.path: found.get(entry.path) for each in records for entry in each.entries if entry.placeholder
    }
    own, late, kept, missing = defaultdict(list), defaultdict(list), defaultdict(list), []
    for record in records:
        dist = record.package.dist
        owned, lost = _owned(record, found, free)
        for file, entry in owned:
            if _vouched(file, entry) and bytecode.source_of(file.path) not in relocated:
                own[dist].append(PackItem(file, entry))
            else:
                late[dist].append(_at_link(file, entry, relocated))
        file_of_record = free.pop(_physical(record.file, found), None)
        if file_of_record is None:
            raise ChangedWhilePacking(f"{prefix}/{record.file}")
        kept[dist].append(PackItem(file_of_record, made_at_link=True))
        if lost:
            missing.append(Deviation(dist, tuple(lost)))
    installed = pip.distributions(prefix, free)
    piped: dict[str, list[PackItem]] = defaultdict(list)
    for each in installed:
        piped[each.owner] += [PackItem(free.pop(path)) for path in each.files if path in free]
    others = [_share("pip", owner, items) for owner, items in piped.items()]
    loose = [PackItem(file, source_mtime=_source_mtime(file, relocated)) for file in free.values()]
    others.append(_share("files", "", loose))
    return PackPlan(
        tuple(_share("package", dist, own[dist]) for dist in kept),
        tuple(replace(_share("link", dist, late[dist]), records=tuple(kept[dist])) for dist in kept),
        tuple(share for share in others if share.items or share.large),
        tuple(missing),
        tuple(each.package for each in installed),
    )


def installed_packages(prefix: Path, tree: Tree) -> PackageSet:
    """What is installed in an environment on disk; raises as `make_plan` does, and FileOperationFailed."""
    records = read_records(prefix)
    return PackageSet(tuple(record.package for record in records), make_plan(prefix, tree, records).pip)


def link_time_files(
    planned: OwnerFiles, unproved: Iterable[PackItem], facts: Mapping[str, RelocatedFacts]
) -> OwnerFiles:
    """A package's link-time share with what reading the package has shown."""
    share = _share(planned.kind, planned.owner, [*planned.items, *planned.large, *unproved])
    return replace(share, records=planned.records, facts=facts)


def _owned(
    record: Record, found: dict[str, File], free: dict[str, File]
) -> tuple[list[tuple[File, PathEntry]], list[str]]:
    """The record's files that are there and not taken by an earlier record, and the paths that are gone."""
    owned, lost = [], []
    for entry in record.entries:
        path = entry.path if entry.path in found else _physical(entry.path, found)
        file = found.get(path)
        if file is None:
            if not entry.path.endswith(".pyc"):
                lost.append(entry.path)
        elif path in free and file.type != "directory":
            owned.append((free.pop(path), entry))
    return owned, sorted(lost, key=path_bytes)


def _physical(path: str, found: dict[str, File]) -> str:
    """The path with symlinked directories of the tree followed, as far as they stay inside it."""
    done = ""
    for part in path.split("/"):
        done = f"{done}/{part}" if done else part
        file = found.get(done)
        if file is not None and file.type == "symlink" and done != path:
            followed = posixpath.normpath(posixpath.join(posixpath.dirname(done), file.target))
            if followed in found:
                done = followed
    return done


def _vouched(file: File, entry: PathEntry) -> bool:
    """Whether the package's record can prove this file to be the package's."""
    if file.type == "symlink":
        return entry.type == "softlink"
    return entry.type == "hardlink" and len(entry.sha256) == 64


def _at_link(file: File, entry: PathEntry, relocated: Mapping[str, File | None]) -> PackItem:
    """A file made at installation. Modules compiled then know their source's time, which packing changes."""
    return PackItem(file, entry, made_at_link=True, source_mtime=_source_mtime(file, relocated))


def _source_mtime(file: File, relocated: Mapping[str, File | None]) -> int | None:
    """The time of the relocated source that the file was compiled from, if it was."""
    source = relocated.get(bytecode.source_of(file.path) or "")
    return source.mtime if source else None


def members(tree: Tree) -> list[File]:
    """What is to be in a layer: all but the directories that come of themselves."""
    filled = {file.path.rpartition("/")[0] for file in tree.files}
    return [
        file
        for file in tree.files
        if file.type != "directory" or file.mode & 0o777 != USUAL_DIRECTORY_MODE or file.path not in filled
    ]


def _share(kind: Kind, owner: str, items: list[PackItem]) -> OwnerFiles:
    ordered = _hard_links(kind, sorted(items, key=lambda item: path_bytes(item.file.path)))
    small: list[PackItem] = []
    large: list[PackItem] = []
    for item in ordered:
        is_large = item.file.type == "file" and item.file.size > LAYER_SIZE and not item.linked
        (large if is_large else small).append(item)
    return OwnerFiles(kind, owner, tuple(small), tuple(large))


def _hard_links(kind: Kind, items: list[PackItem]) -> Iterator[PackItem]:
    """The items in their order, those with an inode that came before marked as links of its first path. A package's
    are so where it installed one file under both names, and are no larger than a layer: which of them is proved to be
    the package's is not known yet.
    """
    first: dict[object, str] = {}
    shared = Counter((item.file.device, item.file.inode) for item in items if item.file.type == "file")
    for item in items:
        file, entry = item.file, item.entry
        linked = ""
        if file.type == "file" and shared[file.device, file.inode] > 1:
            own = (entry.sha256, entry.placeholder) if kind == "package" and entry else None
            if not (own and file.size > LAYER_SIZE):
                before = first.setdefault((file.device, file.inode, own), file.path)
                linked = "" if before == file.path else before
        yield item if item.linked == linked else item._replace(linked=linked)


def _expected_size(item: PackItem) -> int:
    """The size that counts for cutting: the same wherever the environment is, so relocated text has none."""
    if item.entry and item.entry.placeholder and item.entry.mode == "text":
        return 0
    if item.linked and item.file.size > LAYER_SIZE:
        return 0
    return item.file.size
