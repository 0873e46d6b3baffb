"""Unpacks whole snapshots with worker processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from snapper.errors import PrefixTooLong
from snapper.format.model import Layer
from snapper.process.pool import WorkerPool
from snapper.process.progress import Progress
from snapper.process.worker import Prefetch
from snapper.restoring.extract import ExtractedLayer, ExtractJob, extract_layer, fetch_layer
from snapper.restoring.finish import finish
from snapper.restoring.link_unchanged import link_unchanged
from snapper.store import Store


@dataclass(frozen=True)
class UnpackResult:
    """`unrelocated` are paths that hold a placeholder because the prefix does not fit, `index` blocks for the state.

    `inherited` says whether any file was taken over from the tree that was there.
    """

    unrelocated: tuple[str, ...]
    index: tuple[bytes, ...]
    inherited: bool


class SnapshotUnpacker:
    """One snapshot on its way into a directory: its layers go to workers one by one, in any order.

    `altered` are the paths that the snapshot says are not as their packages have them.
    """

    def __init__(
        self,
        store: Store,
        layers: Sequence[Layer],
        directory: str,
        prefix: str,
        altered: frozenset[str] = frozenset(),
    ) -> None:
        self._store = store
        self._altered = altered
        self._layers = tuple(layers)
        self._directory, self._prefix = directory, prefix
        self._cut = frozenset(layer.begins.path for layer in layers if layer.begins)
        self._numbers: dict[int, int] = {}
        self._parts: dict[int, ExtractedLayer] = {}

    @property
    def missing(self) -> tuple[int, ...]:
        """The orders of the layers that are still to be written."""
        return tuple(order for order in range(len(self._layers)) if order not in self._parts)

    def inherit(self, old: Path, workers: WorkerPool[None]) -> int:
        """Takes over from the environment at `old` what it has already; returns how much that is, in bytes.

        The workers must have nothing else to do.
        """
        self._parts.update(link_unchanged(old, self._layers, self._directory, workers))
        return sum(self._layers[order].diff_size for order in self._parts)

    @property
    def complete(self) -> bool:
        """Whether all layers are written."""
        return len(self._parts) == len(self._layers)

    @property
    def at_work(self) -> bool:
        """Whether jobs are waiting or under way."""
        return bool(self._numbers)

    def submit(self, workers: WorkerPool[None], order: int, weight: int) -> int:
        """Queues the layer of that order; returns the number of its job."""
        job = ExtractJob(self._store, self._directory, self._prefix, self._layers[order], self._cut, order)
        number = workers.submit(extract_layer, job, weight, Prefetch(fetch_layer, job.layer.size))
        self._numbers[number] = order
        return number

    def give_up(self, workers: WorkerPool[None], number: int) -> None:
        """Drops a job that has failed and those that have not been begun; what is under way comes to its end."""
        for each in (number, *workers.withdraw(self._numbers)):
            self._numbers.pop(each, None)

    def take(self, number: int, part: ExtractedLayer) -> int:
        """Keeps the result of a job; returns its layer's unpacked size in bytes."""
        order = self._numbers.pop(number)
        self._parts[order] = part
        return self._layers[order].diff_size

    def finish(self) -> UnpackResult:
        """Makes links and what else comes last; raises Corrupted where the layers do not join."""
        ordered = [self._parts[order] for order in range(len(self._layers))]
        last = finish(self._directory, self._prefix, self._layers, ordered, self._altered)
        return UnpackResult(
            tuple(sorted(path for part in ordered for path in part.unrelocated)),
            (*(part.index for part in ordered), *last),
            any(part.inherited for part in ordered),
        )


def unpack_layers(
    store: Store,
    layers: Sequence[Layer],
    directory: str,
    prefix: str,
    workers: WorkerPool[None],
    progress: Progress,
    altered: frozenset[str] = frozenset(),
) -> UnpackResult:
    """Writes the layers below `directory`, relocated to `prefix`; `altered` as `Unpacking` has it.

    Raises what `extract` raises, and Corrupted where the layers do not join.
    """
    unpacking = SnapshotUnpacker(store, layers, directory, prefix, altered)
    for order, layer in enumerate(layers):
        unpacking.submit(workers, order, layer.diff_size)
    with closing(workers.results()) as results:
        for number, part in results:
            progress.advance(unpacking.take(number, part))
    return unpacking.finish()


def check_prefix_length(prefix: str, layers: Sequence[Layer], advice: str = "") -> None:
    """Raises PrefixTooLong unless conda's own binaries take the prefix; for others it is reported afterwards."""
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
    """The layers as if nothing in them depended on a prefix: unpacked, they keep their placeholders."""
    return tuple(replace(layer, relocations=()) for layer in layers)
