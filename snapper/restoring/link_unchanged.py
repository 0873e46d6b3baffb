"""What a tree takes over from the one that it is to replace: hard links to files that are as it shall have them.

Of the layers that both snapshots have, those are taken over whose files the index all vouches for, and of which it
can be told that they are as restoring writes them: an environment that was never restored has other times in what
was made when its packages were installed. A package and what came about when it was installed go together, because
its record tells of its files; so do the layers that hold one large file. Of other layers, those with
hard links from one to another are left out, because what a link shows is in the other one.

Making and removing links changes a file's ctime. So what is known of it then is that it was vouched for, and that it
is to be so as long as its ctime is older than the moment in which all that was done.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from snapper.environment import state
from snapper.environment.index import (
    ANY_CTIME,
    Index,
    IndexEntry,
    block_entries,
    directory_entry,
    encode_block,
)
from snapper.format import bytecode
from snapper.format.member import Member
from snapper.format.model import RECORD_MODES, Layer, Snapshot
from snapper.fs.directories import DirectoryTree, without_umask
from snapper.packing.items import LINK_TIME
from snapper.process.pool import WorkerPool
from snapper.restoring.extract import NANOSECONDS, ExtractedLayer

#: How large the blocks are that a worker is given at a time, at least: so small that all end at about the same time.
_AT_ONCE = 256 * 1024

#: Layers that are taken over together: the entries of each, as a block of an index, by its order in the new snapshot.
_Unit = dict[int, bytes]


@dataclass(frozen=True)
class _Job:
    """Units to link from the environment at `old` to `directory`, as far as its index, taken then, vouches for them."""

    old: str
    directory: str
    taken: int
    units: tuple[_Unit, ...]


def link_unchanged(
    old: Path, layers: Sequence[Layer], directory: str, workers: WorkerPool[None]
) -> dict[int, ExtractedLayer]:
    """Has links made below `directory` to what the environment at `old` has of the layers; gives their results by
    order.

    What cannot be taken over is left out, whatever the reason. The workers must have nothing else to do.
    """
    previous, index = state.read_previous(old), state.read_index(old)
    if previous is None or index is None:
        return {}
    header = index.header
    if header.snapshot != previous.encoded.digest or header.prefix != str(old):
        return {}
    if os.stat(directory).st_dev != os.stat(old).st_dev:
        return {}
    for units, size in _batches(_units(_Old(previous.snapshot, index), layers)):
        workers.submit(_link, _Job(str(old), directory, header.taken, units), size)
    with closing(workers.results()) as results:
        return {order: part for _, done in results for order, part in done.items()}


def _link(_: object, job: _Job) -> dict[int, ExtractedLayer]:
    """Takes over those units that are as noted."""
    done: dict[int, ExtractedLayer] = {}
    with (
        suppress(OSError),
        closing(DirectoryTree(job.old, make=False)) as source,
        closing(DirectoryTree(job.directory)) as target,
        without_umask(),
    ):
        device = os.stat(job.old).st_dev
        for unit in job.units:
            entries = {order: block_entries(data) for order, data in unit.items()}
            if all(
                _is_as_noted(source, job.taken, device, entry) for each in entries.values() for entry in each
            ):
                try:
                    done.update(
                        {order: _linked(source, target, order, each) for order, each in entries.items()}
                    )
                except OSError:  # such as of file systems without links, and of others' files
                    _undo(target, entries)
                    break
    return done


class _Old:
    """The snapshot that there is, and the entries of its layers."""

    def __init__(self, snapshot: Snapshot, index: Index) -> None:
        self.layers = snapshot.layers
        self.numbers = {layer: number for number, layer in reversed(list(enumerate(snapshot.layers)))}
        self.entries = index.entries_by_layer()
        self._torn = self._layers_with_links_between()
        self._index = index
        self._relocated = {
            path
            for layer in snapshot.layers
            for relocation in layer.relocations
            if relocation.mode not in (*RECORD_MODES, "link")
            for path in relocation.paths
        }

    def has(self, layer: Layer) -> bool:
        """Whether all files of the layer are there as restoring it would write them."""
        number = self.numbers.get(layer)
        if number is None or number in self._torn or len(self.entries[number]) != layer.members:
            return False
        return all(self._is_as_restored(layer, entry) for entry in self.entries[number])

    def _layers_with_links_between(self) -> set[int]:
        """Those of no package that have a file in common with another one of their owner."""
        holders: dict[tuple[object, int], set[int]] = defaultdict(set)
        for number, layer in enumerate(self.layers):
            if layer.owner_group[0] != "package":
                for path, *_, inode in self.entries[number]:
                    if not path.endswith("/"):
                        holders[layer.owner_group, inode].add(number)
        return {number for numbers in holders.values() if len(numbers) > 1 for number in numbers}

    def _is_as_restored(self, layer: Layer, entry: IndexEntry) -> bool:
        path, _, _, mtime, _, inode = entry
        if path.endswith("/"):
            return True
        fixed = layer.kind == "link" or (layer.kind == "package" and path in self._relocated)
        if not inode or (fixed and mtime != LINK_TIME * NANOSECONDS):
            return False
        source = bytecode.source_of(path) if path.endswith(".pyc") else None
        source_mtime = self._index.mtime_of(source) if source in self._relocated and source else None
        return source_mtime in (None, LINK_TIME * NANOSECONDS)


def _units(old: _Old, layers: Sequence[Layer]) -> Iterator[_Unit]:
    """The layers of the new snapshot that the old one has too, in units of which all are there."""
    groups: dict[object, list[int]] = defaultdict(list)
    first = 0
    for order, layer in enumerate(layers):
        first = first if layer.begins else order
        groups[layer.owner_group if layer.owner_group[0] == "package" else first].append(order)
    for orders in groups.values():
        if all(old.has(layers[order]) for order in orders):
            yield {order: encode_block(order, old.entries[old.numbers[layers[order]]]) for order in orders}


def _batches(units: Iterator[_Unit]) -> Iterator[tuple[tuple[_Unit, ...], int]]:
    """The units, some at a time, and how large their blocks are."""
    batch: list[_Unit] = []
    size = 0
    for unit in units:
        batch.append(unit)
        size += sum(map(len, unit.values()))
        if size >= _AT_ONCE:
            yield tuple(batch), size
            batch, size = [], 0
    if batch:
        yield tuple(batch), size


def _undo(target: DirectoryTree, unit: Mapping[int, Sequence[IndexEntry]]) -> None:
    for entries in unit.values():
        for path, *_ in entries:
            above, _, name = path.rpartition("/")
            if name:
                with suppress(OSError):
                    os.unlink(name, dir_fd=target[above])


def _is_as_noted(source: DirectoryTree, taken: int, device: int, entry: IndexEntry) -> bool:
    """Whether the file is vouched for, and has such a mode, time and owner as restored files have."""
    path, size, mode, mtime, ctime, inode = entry
    above, _, name = path.rstrip("/").rpartition("/")
    try:
        found = os.stat(name, dir_fd=source[above], follow_symlinks=False)
    except OSError:
        return False
    if path.endswith("/"):
        return stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == mode
    return (
        (found.st_size, stat.S_IMODE(found.st_mode), found.st_mtime_ns, found.st_ino)
        == (size, mode, mtime, inode)
        and ctime in (found.st_ctime_ns, ANY_CTIME)
        and found.st_ctime_ns < taken
        and found.st_dev == device
        and found.st_uid == os.geteuid()
        and (stat.S_ISLNK(found.st_mode) or (mtime % NANOSECONDS == 0 and mode <= 0o777))
    )


def _linked(
    source: DirectoryTree, target: DirectoryTree, order: int, entries: Sequence[IndexEntry]
) -> ExtractedLayer:
    """Makes the links of one layer, and the directories that are members of it."""
    result = ExtractedLayer(inherited=True)
    noted: list[IndexEntry] = []
    for path, size, mode, mtime, _, inode in entries:
        if path.endswith("/"):
            target[path[:-1]]
            result.directories.append(Member(path[:-1], "directory", mode, 0))
            noted.append(directory_entry(path[:-1], mode))
        else:
            above, _, name = path.rpartition("/")
            beside = target[above]
            os.link(name, name, src_dir_fd=source[above], dst_dir_fd=beside, follow_symlinks=False)
            noted.append(IndexEntry(path, size, mode, mtime, ANY_CTIME, inode))
    result.index = encode_block(order, noted)
    return result
