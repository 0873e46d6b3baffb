"""Unpack whole snapshots: hand their layers to workers (`layer_writer`), collect the results, finalize the tree."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from snapper.errors import InsufficientSpace, PrefixTooLong, TooManyDirectories, TooManyFiles
from snapper.format.member import MOST_KEPT, expected_implied_directories, most_implied_directories
from snapper.format.model import Layer
from snapper.format.owners import OwnedPaths, order_by_owner
from snapper.fs.handles import DirectoryHandle
from snapper.fs.space import free_space
from snapper.process.pool import WorkerPool
from snapper.process.progress import Progress
from snapper.process.worker import Prefetch
from snapper.restoring.finalize import finalize_tree
from snapper.restoring.layer_writer import ExtractedLayer, ExtractJob, extract_layer, fetch_layer
from snapper.restoring.link_unchanged import link_unchanged
from snapper.store import Store

#: How much memory the index of a snapshot and checksums of its relocated files may take, in bytes. The index of a
#: million files with paths of 100 bytes has 140 MB.
_MOST_DESCRIBED = 192 << 20

#: How much space must be left on the disk for more directories than were expected, in bytes.
_SPARE_SPACE = 1 << 30


@dataclass(frozen=True)
class UnpackResult:
    """A tree that is complete except for its state.

    `unrelocated` are the paths that still hold a placeholder because the prefix is too long for it, `index` the
    blocks of the index. `linked` are the inodes of the files that are shared with the tree that was there before.
    """

    unrelocated: OwnedPaths
    index: tuple[bytes, ...]
    linked: frozenset[int]


class SnapshotUnpacker:
    """Unpacks one snapshot into a directory; its layers go to workers one by one, in any order.

    `altered` are the paths that the snapshot records as differing from their packages.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        directory: DirectoryHandle,
        prefix: str,
        altered: frozenset[str] = frozenset(),
    ) -> None:
        self._altered = altered
        self._layers = tuple(layers)
        self._directory, self._prefix = directory, prefix
        self._jobs: dict[int, int] = {}
        members = sum(layer.members for layer in self._layers)
        self._most_implied = most_implied_directories(members)
        self._reserved_implied = expected_implied_directories(members)
        self._kept = self._described = self._implied = 0
        self._extracted: dict[int, ExtractedLayer] = {}
        self._linked: frozenset[int] = frozenset()

    @property
    def missing(self) -> frozenset[int]:
        """The numbers of the layers that are still to be written."""
        return frozenset(range(len(self._layers))) - self._extracted.keys()

    @property
    def all_written(self) -> bool:
        """Whether all layers are written or linked."""
        return len(self._extracted) == len(self._layers)

    @property
    def memory(self) -> int:
        """How many bytes the results of its layers take, approximately."""
        return self._kept + self._described

    @property
    def busy(self) -> bool:
        """Whether jobs are queued or running."""
        return bool(self._jobs)

    def link_unchanged(self, old: Path, workers: WorkerPool[Store]) -> int:
        """Link the files that the environment at `old` has already; return their size in bytes.

        The workers must be idle.
        """
        linked = link_unchanged(old, self._layers, self._directory, workers)
        self._extracted.update(linked.layers)
        self._linked = linked.inodes
        return sum(self._layers[number].diff_size for number in self._extracted)

    def submit(self, workers: WorkerPool[Store], number: int, weight: int) -> int:
        """Queue the layer of that number; return the number of its job."""
        task = ExtractJob(self._directory, self._prefix, self._layers[number], number)
        prefetch = Prefetch(fetch_layer, task.layer.size)
        job = workers.submit(extract_layer, task, weight, prefetch, label=f"extracting {task.layer.owner}")
        self._jobs[job] = number
        return job

    def drop(self, job: int) -> None:
        """Forget a job that has ended."""
        self._jobs.pop(job, None)

    def give_up(self, workers: WorkerPool[Store]) -> None:
        """Drop all results, and the queued jobs; those that run end later."""
        for number in workers.withdraw(self._jobs):
            del self._jobs[number]
        self._extracted.clear()
        self._kept = self._described = self._implied = 0

    def take(self, job: int, extracted: ExtractedLayer) -> int:
        """Keep the result of a job; return the unpacked size of its layer in bytes.

        Raise TooManyFiles if those of the snapshot take more memory than those of any environment, TooManyDirectories,
        and InsufficientSpace if there are more directories than space is reserved for, and little is left.
        """
        number = self._jobs.pop(job)
        self._kept += extracted.kept
        self._described += extracted.described
        self._implied += extracted.implied_directories
        name = f"the snapshot for {self._prefix}"
        if self._kept > MOST_KEPT:
            raise TooManyFiles(name, "links and directories", MOST_KEPT)
        if self._described > _MOST_DESCRIBED:
            raise TooManyFiles(name, "paths and checksums", _MOST_DESCRIBED)
        if self._implied > self._most_implied:
            raise TooManyDirectories(name, self._most_implied)
        if self._implied > self._reserved_implied:
            free = free_space(Path(self._directory.path)).size
            if free < _SPARE_SPACE:
                raise InsufficientSpace(self._directory.path, _SPARE_SPACE, free)
        self._extracted[number] = extracted
        return self._layers[number].diff_size

    def complete(self) -> UnpackResult:
        """Finalize the tree when all layers are written; raise Corrupted if split files do not join."""
        extracted = [self._extracted.pop(number) for number in range(len(self._layers))]
        self._kept = self._described = self._implied = 0
        last_blocks = finalize_tree(self._directory, self._prefix, self._layers, extracted, self._altered)
        return UnpackResult(
            order_by_owner(
                {
                    path: layer.kind
                    for layer, result in zip(self._layers, extracted, strict=True)
                    for path in result.unrelocated
                }
            ),
            (*(layer.index for layer in extracted), *last_blocks),
            self._linked,
        )


def unpack_layers(
    layers: Sequence[Layer],
    directory: DirectoryHandle,
    prefix: str,
    workers: WorkerPool[Store],
    progress: Progress,
    altered: frozenset[str] = frozenset(),
) -> UnpackResult:
    """Write the layers below the open `directory`, relocated to `prefix`; `altered` as for SnapshotUnpacker.

    Raise what `extract_layer` raises, and Corrupted if split files do not join.
    """
    unpacker = SnapshotUnpacker(layers, directory, prefix, altered)
    for number, layer in enumerate(layers):
        unpacker.submit(workers, number, layer.diff_size)
    with closing(workers.results()) as results:
        for job, extracted in results:
            progress.advance(unpacker.take(job, extracted))
    return unpacker.complete()


def check_prefix_length(prefix: str, layers: Sequence[Layer], advice: str = "") -> None:
    """Raise PrefixTooLong if the prefix does not fit into binaries of conda packages.

    Other binaries that it does not fit into are left unrelocated and reported.
    """
    length = len(os.fsencode(prefix))
    limits = [
        (len(relocation.placeholder.encode()), relocation.paths[0])
        for layer in layers
        for relocation in layer.relocations
        if relocation.mode == "binary" and relocation.paths and layer.kind == "package"
    ]
    if limits and min(limits)[0] < length:
        raise PrefixTooLong(prefix, length, *min(limits), advice)


def without_relocations(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the layers without relocations: unpacked, they keep their placeholders."""
    return tuple(replace(layer, relocations=()) for layer in layers)
