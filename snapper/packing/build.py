"""Build the layers of a plan with worker processes, and reuse those that are unchanged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from snapper.format.constraints import path_bytes
from snapper.format.model import Deviation, Kind, Layer
from snapper.format.owners import OwnedPaths, order_by_owner
from snapper.packing.collect import collect_group
from snapper.packing.context import PackContext
from snapper.packing.items import CollectedGroup, FileGroup, FoundPrefixes, PackItem, RelocatedFacts
from snapper.packing.large import LargeFileScan, Piece, collect_piece, scan_large_file
from snapper.packing.plan import OwnerFiles, PackPlan, link_time_files
from snapper.packing.reuse import PackedLayer, PreviousPack
from snapper.packing.splitting import EarlierLayers
from snapper.process.pool import WorkerPool
from snapper.process.progress import Progress

#: The order of a snapshot's layers by kind: links come after what they link to.
_KIND_ORDER: dict[Kind, int] = {"package": 0, "link": 1, "pip": 2, "files": 3}

#: How many files' descriptions workers inherit through the fork; the others are sent.
_MAX_INHERITED_FILES = 50_000


class _Job(NamedTuple):
    """A task for a worker. `order` is where its layers are among those of the owner."""

    owner_files: OwnerFiles
    order: int
    function: Any
    argument: PackItem | FileGroup | Piece
    size: int


class _LayerKey(NamedTuple):
    """Where a layer is in its snapshot: by kind, owner, the order of its job, and its number among the job's."""

    kind_order: int
    owner: str
    order: int
    number: int


class AddedLayer(NamedTuple):
    """The size in bytes of a layer that was added to the store, and its identity there."""

    size: int
    identity: str


@dataclass(frozen=True)
class BuildResult:
    """A snapshot's layers in order, and what was learned about its files.

    `altered` are files that differ from what their packages installed, `unrelocated` paths with a prefix that cannot be
    relocated. `prefixes` are those in files besides the usual one. `added` are the layers that were not in the store,
    by digest. `checked` are those whose content was built or compared now, and not taken from the previous pack.
    """

    layers: tuple[PackedLayer, ...]
    altered: tuple[Deviation, ...]
    unrelocated: OwnedPaths
    added: Mapping[str, AddedLayer]
    checked: tuple[Layer, ...]
    prefixes: FoundPrefixes


@dataclass
class _OpenPackage:
    """A package whose own files are being read: the number of jobs to wait for, and what they have shown.

    Its link-time files, `links`, are packed with the `unproved` ones when there are no more jobs.
    """

    links: OwnerFiles
    jobs: int = 0
    unproved: list[PackItem] = field(default_factory=list)
    facts: dict[str, RelocatedFacts] = field(default_factory=dict)


@dataclass
class LayerBuild:
    """Builds the layers of a plan. Those of the previous pack that can be reused are there from the start.

    New ones end where the `earlier` layers did.
    """

    plan: PackPlan
    previous: PreviousPack | None
    earlier: EarlierLayers
    _layers: dict[_LayerKey, PackedLayer] = field(default_factory=dict)
    _altered: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _unrelocated: dict[str, Kind] = field(default_factory=dict)
    _added: dict[str, AddedLayer] = field(default_factory=dict)
    _checked: list[Layer] = field(default_factory=list)
    _prefixes: FoundPrefixes = field(default_factory=FoundPrefixes)
    _ready: list[_Job] = field(default_factory=list)
    _running: dict[int, _Job] = field(default_factory=dict)
    _open_packages: dict[str, _OpenPackage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for package, links in zip(self.plan.packages, self.plan.links, strict=True):
            if not self._reuse_package(package, links):
                self._open_packages[package.owner] = _OpenPackage(links)
                self._prepare(package)
                self._close_package(package.owner)
        for owner_files in self.plan.others:
            self._prepare(owner_files)

    @property
    def has_work(self) -> bool:
        """Whether any file has to be read."""
        return bool(self._ready or self._open_packages)

    @property
    def first_arguments(self) -> tuple[object, ...]:
        """The first jobs' arguments, which workers inherit through the fork.

        They are limited: touching them makes each process copy the memory that describes their files.
        """
        arguments: list[object] = []
        files = 0
        for job in self._ready:
            files += len(job.argument.items) if isinstance(job.argument, FileGroup) else 1
            if files > _MAX_INHERITED_FILES:
                break
            arguments.append(job.argument)
        return tuple(arguments)

    @property
    def size(self) -> int:
        """How many bytes have to be read."""
        waiting = [package.links for package in self._open_packages.values()]
        size = sum(item.file.size for links in waiting for item in (*links.items, *links.large))
        return size + sum(job.size for job in self._ready if job.owner_files.kind != "link")

    def run(self, workers: WorkerPool[PackContext], progress: Progress) -> None:
        """Read the files and store their layers.

        A package's link-time files wait until the package's own files have been read.
        """
        self._submit(workers)
        with closing(workers.results()) as results:
            for number, result in results:
                job = self._running.pop(number)
                if isinstance(result, LargeFileScan):
                    self._add_scan(job, result)
                else:
                    self._add_collected(job, result)
                    progress.advance(job.size)
                if job.owner_files.kind == "package":
                    self._open_packages[job.owner_files.owner].jobs -= 1
                    self._close_package(job.owner_files.owner)
                self._submit(workers)

    def result(self) -> BuildResult:
        """Return the layers; raise RuntimeError if they are not all that was planned."""
        owners = (*self.plan.packages, *self.plan.links, *self.plan.others)
        planned = sum(len(owner_files.files) for owner_files in owners)
        members = sum(packed.layer.members for packed in self._layers.values())
        if members != planned:
            raise RuntimeError(f"{planned} files were planned but the layers contain {members}")
        return BuildResult(
            tuple(self._layers[key] for key in sorted(self._layers)),
            tuple(
                Deviation(package, tuple(sorted(paths, key=path_bytes)))
                for package, paths in sorted(self._altered.items())
            ),
            order_by_owner(self._unrelocated),
            self._added,
            tuple(self._checked),
            self._prefixes,
        )

    def _reuse_package(self, package: OwnerFiles, links: OwnerFiles) -> bool:
        """Reuse all layers of a package if all of its files are unchanged."""
        items = (*package.files, *links.files)
        return self._reuse(frozenset(("package", "link")), package.owner, 0, items)

    def _reuse_group(self, owner_files: OwnerFiles, order: int, items: Iterable[PackItem]) -> bool:
        """Reuse the layers of a group if it does not depend on others and all of its files are unchanged."""
        if owner_files.kind in ("package", "link"):
            return False
        return self._reuse(frozenset((owner_files.kind,)), owner_files.owner, order, tuple(items))

    def _reuse(self, kinds: frozenset[Kind], owner: str, order: int, items: tuple[PackItem, ...]) -> bool:
        layers = self.previous.reusable_layers(kinds, owner, items) if self.previous else None
        if not layers:
            return False
        assert self.previous is not None
        for number, packed in enumerate(layers):
            self._layers[_LayerKey(_KIND_ORDER[packed.layer.kind], owner, order, number)] = packed
        if any(packed.rewritten for packed in layers):  # it is not known which prefixes these files contain
            self._prefixes.own.update(self.previous.prefixes)
        others = self.previous.others
        if others:
            paths = {item.file.path for item in items}
            self._prefixes.others |= {path: others[path] for path in paths & others.keys()}
        unrelocated = frozenset(self.previous.index.header.unrelocated)
        for packed in layers if unrelocated else ():
            self._unrelocated.update(dict.fromkeys(unrelocated.intersection(packed.paths), packed.layer.kind))
        for deviation in self.previous.snapshot.altered:
            if deviation.package == owner:
                self._altered[owner] = list(deviation.paths)
        return True

    def _prepare(self, owner_files: OwnerFiles) -> None:
        """Create the jobs for an owner's files, except those whose layers are reused."""
        for order, item in enumerate(owner_files.large):
            if not self._reuse_group(owner_files, order, [item]):
                self._add_job(_Job(owner_files, order, scan_large_file, item, item.file.size))
        for order, group in enumerate(owner_files.groups(self.earlier), len(owner_files.large)):
            if not self._reuse_group(owner_files, order, group.items):
                self._add_job(_Job(owner_files, order, collect_group, group, group.size))

    def _close_package(self, owner: str) -> None:
        """Create the jobs for a package's link-time files if its own files have been read."""
        package = self._open_packages[owner]
        if not package.jobs:
            del self._open_packages[owner]
            self._prepare(link_time_files(package.links, package.unproved, package.facts))

    def _add_job(self, job: _Job) -> None:
        if job.owner_files.kind == "package":
            self._open_packages[job.owner_files.owner].jobs += 1
        self._ready.append(job)

    def _submit(self, workers: WorkerPool[PackContext]) -> None:
        for job in self._ready:
            label = f"packing {job.owner_files.owner}"
            self._running[workers.submit(job.function, job.argument, job.size, label=label)] = job
        self._ready.clear()

    def _add_scan(self, job: _Job, scan: LargeFileScan) -> None:
        """Create the jobs for the pieces of a scanned file."""
        kind, owner, path = job.owner_files.kind, job.owner_files.owner, scan.item.file.path
        if kind == "package" and not scan.proved:
            self._defer_unproved(owner, scan.item)
            return
        if scan.unrelocated:
            self._unrelocated[path] = kind
        self._prefixes.update(scan.prefixes)
        if kind == "package" and scan.facts:
            self._open_packages[owner].facts[path] = scan.facts
        for number in range(len(scan.starts) - 1):
            piece = Piece(kind, owner, scan, number)
            self._add_job(_Job(job.owner_files, job.order, collect_piece, piece, piece.size))

    def _add_collected(self, job: _Job, result: CollectedGroup) -> None:
        """Take in the layers of a finished job."""
        kind, owner = job.owner_files.kind, job.owner_files.owner
        first = job.argument.number if isinstance(job.argument, Piece) else 0
        remaining = iter(_member_paths(job.argument, result))
        rewritten = frozenset(result.rewritten)
        for number, layer in enumerate(result.layers, first):
            paths = tuple(islice(remaining, layer.members))
            packed = PackedLayer(layer, paths, rewritten.intersection(paths) if rewritten else rewritten)
            self._layers[_LayerKey(_KIND_ORDER[kind], owner, job.order, number)] = packed
        self._checked += result.layers
        self._prefixes.update(result.prefixes)
        for layer, identity in zip(result.layers, result.written, strict=True):
            if identity:
                self._added[layer.digest] = AddedLayer(layer.size, identity)
        self._unrelocated.update(dict.fromkeys(result.unrelocated, kind))
        if kind == "package":
            self._open_packages[owner].facts.update(result.facts)
        for item in result.unproved:
            self._defer_unproved(owner, item)

    def _defer_unproved(self, owner: str, item: PackItem) -> None:
        """Pack a file with the package's link-time files, and note it as altered if it is not one of them."""
        self._open_packages[owner].unproved.append(item)
        if not (item.made_at_link or item.file.path.endswith(".pyc")):
            self._altered[owner].append(item.file.path)


def _member_paths(argument: PackItem | FileGroup | Piece, result: CollectedGroup) -> list[str]:
    """Return the paths of the members in a job's layers, in order."""
    if not isinstance(argument, FileGroup):
        return [argument.scan.item.file.path] if isinstance(argument, Piece) else []
    unproved = {item.file.path for item in result.unproved}
    return [item.file.path for item in argument.items if item.file.path not in unproved]
