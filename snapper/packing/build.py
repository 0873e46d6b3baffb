"""Builds the layers of a plan with worker processes; those that are as they were, it takes as they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from snapper.format.model import Deviation, Kind, path_bytes
from snapper.packing.collect import (
    CollectedGroup,
    FileGroup,
    PackContext,
    PackItem,
    RelocatedFacts,
    collect_group,
)
from snapper.packing.large import Piece, Scan, collect_piece, scan
from snapper.packing.plan import OwnerFiles, PackPlan, link_time_files
from snapper.packing.reuse import PackedLayer, PreviousPack
from snapper.process.pool import WorkerPool
from snapper.process.progress import Progress

#: In which order a snapshot's layers stand, so that links come after what they link to.
_ORDER: dict[Kind, int] = {"package": 0, "link": 1, "pip": 2, "files": 3}


#: How many files' descriptions workers get by the fork; those of others are sent.
_MOST_SHARED = 50_000


class _Job(NamedTuple):
    """What is to be done with an owner's share: `order` is where its layers stand among the owner's."""

    share: OwnerFiles
    order: int
    function: Any
    argument: PackItem | FileGroup | Piece
    size: int


@dataclass(frozen=True)
class BuildResult:
    """A snapshot's layers in their order, the files that packages have otherwise, and the paths that hold a prefix
    for good; `added` has the sizes in bytes, by their digests, of the layers that were not in the store.
    """

    parts: tuple[PackedLayer, ...]
    altered: tuple[Deviation, ...]
    unrelocated: tuple[str, ...]
    added: Mapping[str, int]


@dataclass
class LayerBuild:
    """The layers of a plan as they come to be. What holds of the last snapshot (`kept`) is there from the start."""

    plan: PackPlan
    kept: PreviousPack | None
    _parts: dict[tuple[int, str, int, int], PackedLayer] = field(default_factory=dict)
    _altered: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _unrelocated: list[str] = field(default_factory=list)
    _added: dict[str, int] = field(default_factory=dict)
    _ready: list[_Job] = field(default_factory=list)
    _late: dict[str, OwnerFiles] = field(default_factory=dict)
    _jobs: dict[int, _Job] = field(default_factory=dict)
    _pending: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _unproved: dict[str, list[PackItem]] = field(default_factory=lambda: defaultdict(list))
    _facts: dict[str, dict[str, RelocatedFacts]] = field(default_factory=lambda: defaultdict(dict))

    def __post_init__(self) -> None:
        for share, late in zip(self.plan.packages, self.plan.links, strict=True):
            if not self._keep_package(share, late):
                self._late[share.owner] = late
                self._prepare(share)
                self._prepare_late(share)
        for share in self.plan.others:
            self._prepare(share)

    @property
    def has_work(self) -> bool:
        """Whether anything is to be read."""
        return bool(self._ready or self._late)

    @property
    def ready(self) -> tuple[object, ...]:
        """What is to be done first, as workers are given it: of so many files that a copy of what describes them, which
        processes that share memory make when they touch it, is not large.
        """
        chosen: list[object] = []
        files = 0
        for job in self._ready:
            files += len(job.argument.items) if isinstance(job.argument, FileGroup) else 1
            if files > _MOST_SHARED:
                break
            chosen.append(job.argument)
        return tuple(chosen)

    @property
    def size(self) -> int:
        """What there is to read, in bytes."""
        late = sum(item.file.size for share in self._late.values() for item in (*share.items, *share.large))
        return sum(job.size for job in self._ready if job.share.kind != "link") + late

    def work(self, workers: WorkerPool[PackContext], progress: Progress) -> None:
        """Reads the files that are to be read, and stores their layers.

        A package's link-time files wait until the package itself has been read.
        """
        self._hand_out(workers)
        with closing(workers.results()) as results:
            for number, result in results:
                job = self._jobs.pop(number)
                if isinstance(result, Scan):
                    self._scanned(job, result)
                else:
                    self._collected(job, result)
                    progress.advance(job.size)
                self._pending[job.share.kind + job.share.owner] -= 1
                self._prepare_late(job.share)
                self._hand_out(workers)

    def built(self) -> BuildResult:
        """What has come of it; raises RuntimeError where that is not all that was planned."""
        shares = (*self.plan.packages, *self.plan.links, *self.plan.others)
        planned = sum(len(share.files) for share in shares)
        members = sum(part.layer.members for part in self._parts.values())
        if members != planned:
            raise RuntimeError(f"{planned} files were planned but the layers contain {members}")
        return BuildResult(
            tuple(self._parts[place] for place in sorted(self._parts)),
            tuple(
                Deviation(package, tuple(sorted(paths, key=path_bytes)))
                for package, paths in sorted(self._altered.items())
            ),
            tuple(sorted(self._unrelocated, key=path_bytes)),
            self._added,
        )

    def _keep_package(self, share: OwnerFiles, late: OwnerFiles) -> bool:
        """Takes over all layers of a package if all of its files are as they were."""
        items = (*share.files, *late.files)
        parts = self.kept and self.kept.parts(frozenset(("package", "link")), share.owner, items)
        if not parts:
            return False
        self._take_over(parts, share.owner, 0)
        return True

    def _keep_group(self, share: OwnerFiles, order: int, items: Iterable[PackItem]) -> bool:
        """Takes over the layers of a group if that does not depend on others and all of its files are as they were."""
        if share.kind in ("package", "link") or self.kept is None:
            return False
        parts = self.kept.parts(frozenset((share.kind,)), share.owner, tuple(items))
        if not parts:
            return False
        self._take_over(parts, share.owner, order)
        return True

    def _take_over(self, parts: list[PackedLayer], owner: str, order: int) -> None:
        assert self.kept is not None
        for number, part in enumerate(parts):
            self._parts[_ORDER[part.layer.kind], owner, order, number] = part
        paths = {path for part in parts for path in part.paths}
        self._unrelocated += paths.intersection(self.kept.index.moment.unrelocated)
        for deviation in self.kept.snapshot.altered:
            if deviation.package == owner:
                self._altered[owner] = list(deviation.paths)

    def _prepare(self, share: OwnerFiles) -> None:
        for order, item in enumerate(share.large):
            if not self._keep_group(share, order, [item]):
                self._add(_Job(share, order, scan, item, item.file.size))
        for order, group in enumerate(share.groups(), len(share.large)):
            if not self._keep_group(share, order, group.items):
                self._add(_Job(share, order, collect_group, group, group.size))

    def _add(self, job: _Job) -> None:
        self._pending[job.share.kind + job.share.owner] += 1
        self._ready.append(job)

    def _hand_out(self, workers: WorkerPool[PackContext]) -> None:
        for job in self._ready:
            self._jobs[workers.submit(job.function, job.argument, job.size)] = job
        self._ready.clear()

    def _prepare_late(self, share: OwnerFiles) -> None:
        """Prepares a package's link-time files once the last of its own is read."""
        if share.kind == "package" and not self._pending[share.kind + share.owner]:
            late = self._late.pop(share.owner, None)
            if late:
                self._prepare(link_time_files(late, self._unproved[share.owner], self._facts[share.owner]))

    def _scanned(self, job: _Job, result: Scan) -> None:
        share, path = job.share, result.item.file.path
        if share.kind == "package" and not result.proved:
            self._set_aside(share, result.item)
            return
        if result.unrelocated:
            self._unrelocated.append(path)
        if result.facts:
            self._facts[share.owner][path] = result.facts
        for number in range(len(result.cuts) - 1):
            piece = Piece(share.kind, share.owner, result, number)
            self._add(_Job(share, job.order, collect_piece, piece, piece.size))

    def _collected(self, job: _Job, result: CollectedGroup) -> None:
        share, argument = job.share, job.argument
        first = argument.number if isinstance(argument, Piece) else 0
        paths = iter(_paths_in(argument, result))
        for number, layer in enumerate(result.layers, first):
            part = PackedLayer(layer, tuple(islice(paths, layer.members)))
            self._parts[_ORDER[share.kind], share.owner, job.order, number] = part
        for layer, size in zip(result.layers, result.added_sizes, strict=True):
            if size:
                self._added[layer.digest] = size
        self._unrelocated += result.unrelocated
        if share.kind == "package":
            self._facts[share.owner].update(result.facts)
        for item in result.unproved:
            self._set_aside(share, item)

    def _set_aside(self, share: OwnerFiles, item: PackItem) -> None:
        self._unproved[share.owner].append(item)
        if not (item.made_at_link or item.file.path.endswith(".pyc")):
            self._altered[share.owner].append(item.file.path)


def _paths_in(argument: PackItem | FileGroup | Piece, result: CollectedGroup) -> list[str]:
    """The paths of the members in the layers that came of a job, in their order."""
    if not isinstance(argument, FileGroup):
        return [argument.scan.item.file.path] if isinstance(argument, Piece) else []
    unproved = {item.file.path for item in result.unproved}
    return [item.file.path for item in argument.items if item.file.path not in unproved]
