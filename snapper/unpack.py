"""Unpacks whole snapshots with worker processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from snapper.errors import PrefixTooLong
from snapper.extract import Extracted, Job, extract
from snapper.finish import finish
from snapper.model import Layer
from snapper.progress import Progress
from snapper.store import Store
from snapper.workers import Workers


@dataclass(frozen=True)
class Unpacked:
    """`unrelocated` are paths that hold a placeholder because the prefix does not fit, `index` lines for the state."""

    unrelocated: tuple[str, ...]
    index: tuple[str, ...]


def unpack(
    store: Store,
    layers: Sequence[Layer],
    directory: str,
    prefix: str,
    workers: Workers[None],
    progress: Progress,
) -> Unpacked:
    """Writes the layers below `directory`, relocated to `prefix`.

    Raises what `extract` raises, and Damaged where the layers do not join.
    """
    cut = frozenset(layer.begins.path for layer in layers if layer.begins)
    numbers = {
        workers.submit(extract, Job(store, directory, prefix, layer, cut), layer.diff_size): order
        for order, layer in enumerate(layers)
    }
    parts: dict[int, Extracted] = {}
    with closing(workers.results()) as results:
        for number, part in results:
            order = numbers[number]
            parts[order] = part
            progress.advance(layers[order].diff_size)
    ordered = [parts[order] for order in range(len(layers))]
    last = finish(directory, prefix, tuple(layers), ordered)
    return Unpacked(
        tuple(sorted(path for part in ordered for path in part.unrelocated)),
        (*(part.index for part in ordered), last),
    )


def check_length(prefix: str, layers: Sequence[Layer], advice: str = "") -> None:
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


def as_stored(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers as if nothing in them depended on a prefix: unpacked, they keep their placeholders."""
    return tuple(replace(layer, relocations=()) for layer in layers)
