"""Link the files of an environment that its replacement shares, instead of writing them again (rsync's --link-dest).

A layer that both snapshots have is linked if the index vouches for all of its files and they are as restoring would
write them; an environment that was never restored has other times in files that were made when its packages were
installed. A package is linked completely or not at all, with what was made when it was installed, because its record
describes its files; the same holds for the layers that share one large file. Layers that belong to no package are not
linked if files of one are hard links to files of another, because the data of such files is in the other layer.

Adding and removing links changes a file's ctime. The index therefore notes that the file was vouched for
(`ANY_CTIME`), and vouches for it as long as its ctime is older than the end of the restore.
"""

from __future__ import annotations

import os
import stat
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from snapper.environment import state
from snapper.environment.index import (
    ANY_CTIME,
    EntryFields,
    Index,
    block_entries,
    directory_entry,
    encode_block,
)
from snapper.format import bytecode
from snapper.format.constraints import directory_mode, file_mode
from snapper.format.member import Member
from snapper.format.model import RECORD_MODES, Layer, Snapshot
from snapper.format.times import NANOSECONDS, RESTORED_LINK_TIME, is_kept
from snapper.fs.access_times import mark_as_accessed
from snapper.fs.directories import DirectoryTree, without_umask
from snapper.fs.handles import DirectoryHandle
from snapper.fs.ownership import own_users
from snapper.process.pool import WorkerPool
from snapper.restoring.layer_writer import ExtractedLayer
from snapper.store import Store

#: The least size of a batch, in bytes of index blocks: so small that all workers end at about the same time.
_BATCH_SIZE = 256 * 1024

#: What restored files have that were created when their package was installed.
_LINK_TIME = RESTORED_LINK_TIME * NANOSECONDS

#: How long a time of access is recent, in nanoseconds: file systems do not update it more often either (`relatime`).
_RECENT = 24 * 60 * 60 * NANOSECONDS

_DIRECTORY, _REGULAR, _LINK = stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK

#: Layers that are linked together: an index block with the entries of each, by its number in the new snapshot.
_Unit = dict[int, bytes]


class _Batch(NamedTuple):
    """Units for one job, and the size of their blocks in bytes."""

    units: tuple[_Unit, ...]
    size: int


@dataclass(frozen=True)
class _LinkJob:
    """Units to link from the environment at `old` to `directory`; `taken` is the time of its index."""

    old: str
    directory: DirectoryHandle
    taken: int
    units: tuple[_Unit, ...]


class Linked(NamedTuple):
    """The results of linked layers, by number, and the inodes of their files."""

    layers: dict[int, ExtractedLayer]
    inodes: frozenset[int]


def link_unchanged(
    old: Path, layers: Sequence[Layer], directory: DirectoryHandle, workers: WorkerPool[Store]
) -> Linked:
    """Make links below `directory` to the files of layers that the environment at `old` has.

    Layers that cannot be linked, for whatever reason, are left out. The workers must be idle.
    """
    nothing = Linked({}, frozenset())
    previous, index = state.read_previous(old), state.read_index(old)
    if previous is None or index is None:
        return nothing
    header = index.header
    is_as_restored = header.is_of_this_version and header.prefix == str(old)
    if header.snapshot != previous.encoded.digest or not is_as_restored:
        return nothing
    if directory.device != os.stat(old).st_dev:
        return nothing
    installed = _InstalledLayers(previous.snapshot, index)
    for batch in _batches(_units(installed, layers)):
        job = _LinkJob(str(old), directory, header.taken, batch.units)
        workers.submit(_link_batch, job, batch.size)
    with closing(workers.results()) as results:
        linked = {number: result for _, batch in results for number, result in batch.items()}
    return Linked(linked, installed.inodes(layers[number] for number in linked))


def _link_batch(_: object, job: _LinkJob) -> dict[int, ExtractedLayer]:
    """Link the units whose files are all as the index has them."""
    linked: dict[int, ExtractedLayer] = {}
    with (
        suppress(OSError),
        # Where others could replace files, they could do so between a check and the link.
        closing(DirectoryTree(job.old, make=False, own=True)) as source,
        closing(DirectoryTree(job.directory.pin())) as target,
        without_umask(),
    ):
        linker = _Linker(source, target, os.fstat(source[""]).st_dev, job.taken)
        for unit in job.units:
            layers = {number: block_entries(block) for number, block in unit.items()}
            if all(map(linker.are_linkable, layers.values())):
                try:
                    linked.update({number: linker.link(number, layers[number]) for number in layers})
                except OSError:  # a file system without links, or files of other users
                    linker.remove(layers)
                    break
    return linked


class _InstalledLayers:
    """The layers of the environment that is replaced, and their entries in its index."""

    def __init__(self, snapshot: Snapshot, index: Index) -> None:
        self.layers = snapshot.layers
        self.numbers = {layer: number for number, layer in reversed(list(enumerate(snapshot.layers)))}
        self.entries = index.entries_by_layer()
        self._interlinked = self._find_interlinked()
        self._index = index
        self._relocated = {
            path
            for layer in snapshot.layers
            for relocation in layer.relocations
            if relocation.mode not in (*RECORD_MODES, "link")  # these do not change data
            for path in relocation.paths
        }

    def has(self, layer: Layer) -> bool:
        """Return whether the index has all files of the layer, as restoring would write them."""
        number = self.numbers.get(layer)
        if number is None or number in self._interlinked or len(self.entries[number]) != layer.members:
            return False
        return self._are_as_restored(layer, self.entries[number])

    def inodes(self, layers: Iterable[Layer]) -> frozenset[int]:
        """Return the inodes of the files of layers that the index has, and 0, which directories have there."""
        return frozenset([entry[5] for layer in layers for entry in self.entries[self.numbers[layer]]])

    def _find_interlinked(self) -> set[int]:
        """Return the numbers of layers of no package that share a file with another layer by hard links."""
        holders: dict[tuple[object, int], set[int]] = defaultdict(set)
        for number, layer in enumerate(self.layers):
            if layer.owner_group[0] != "package":
                for path, *_, inode in self.entries[number]:
                    if not path.endswith("/"):
                        holders[layer.owner_group, inode].add(number)
        return {number for numbers in holders.values() if len(numbers) > 1 for number in numbers}

    def _are_as_restored(self, layer: Layer, entries: Iterable[EntryFields]) -> bool:
        is_link_layer, is_package = layer.kind == "link", layer.kind == "package"
        relocated = self._relocated
        for path, _, mode, mtime, _, inode in entries:
            if path.endswith("/"):
                continue
            at_link = is_link_layer or (is_package and path in relocated)
            if not inode or (at_link and mtime != _LINK_TIME) or not is_kept(mtime):
                return False
            if mtime % NANOSECONDS and is_package and mode == file_mode(mode):
                return False
            if path.endswith(".pyc") and not self._has_source_as_restored(path):
                return False
        return True

    def _has_source_as_restored(self, compiled: str) -> bool:
        source = bytecode.source_of(compiled)
        mtime = self._index.mtime_of(source) if source and source in self._relocated else None
        return mtime in (None, _LINK_TIME)


def _units(installed: _InstalledLayers, layers: Sequence[Layer]) -> Iterator[_Unit]:
    """Group the layers of the new snapshot into units; yield those that are installed completely."""
    groups: dict[object, list[int]] = defaultdict(list)
    first = 0
    for number, layer in enumerate(layers):
        first = first if layer.begins else number
        groups[layer.owner_group if layer.owner_group[0] == "package" else first].append(number)
    for numbers in groups.values():
        if all(installed.has(layers[number]) for number in numbers):
            yield {
                number: encode_block(number, installed.entries[installed.numbers[layers[number]]])
                for number in numbers
            }


def _batches(units: Iterator[_Unit]) -> Iterator[_Batch]:
    """Collect units into batches of about the same size."""
    batch: list[_Unit] = []
    size = 0
    for unit in units:
        batch.append(unit)
        size += sum(map(len, unit.values()))
        if size >= _BATCH_SIZE:
            yield _Batch(tuple(batch), size)
            batch, size = [], 0
    if batch:
        yield _Batch(tuple(batch), size)


@dataclass(frozen=True)
class _Linker:
    """Links files from the `source` tree, which is on a `device` and whose index was `taken` then, to the `target`.

    Files must belong to the `users`. `unused` collects the paths of files that have not been accessed recently.
    """

    source: DirectoryTree
    target: DirectoryTree
    device: int
    taken: int
    users: frozenset[int] = field(default_factory=own_users)
    began: int = field(default_factory=time.time_ns)
    unused: set[str] = field(default_factory=set)

    def are_linkable(self, entries: Sequence[EntryFields]) -> bool:
        """Return whether the index vouches for all files, and their mode, mtime and owner are as restoring sets them.

        Entries of one directory follow each other, so it is looked up once.
        """
        opened, directory = None, -1
        for path, size, mode, mtime, ctime, inode in entries:
            parent, _, name = path.removesuffix("/").rpartition("/")
            try:
                if parent != opened:
                    opened, directory = parent, self.source[parent]
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except OSError:
                return False
            changed, st_mode = status.st_ctime_ns, status.st_mode
            if path.endswith("/"):
                if st_mode != _DIRECTORY | mode:
                    return False
                continue
            if not (
                status.st_size == size
                and status.st_mtime_ns == mtime
                and status.st_ino == inode
                and ctime in (changed, ANY_CTIME)
                and changed < self.taken
                and status.st_dev == self.device
                and status.st_uid in self.users
                and (st_mode == _LINK | mode or (st_mode == _REGULAR | mode and mode == file_mode(mode)))
            ):
                return False
            if status.st_atime_ns < self.began - _RECENT:
                self.unused.add(path)
        return True

    def link(self, number: int, entries: Sequence[EntryFields]) -> ExtractedLayer:
        """Link the files of one layer and make its directories; may raise OSError."""
        result = ExtractedLayer(linked=True)
        index: list[EntryFields] = []
        opened, source, target = None, -1, -1
        for path, size, mode, mtime, _, inode in entries:
            parent, _, name = path.rpartition("/")
            if not name:
                opened = None  # making a directory may close another one
                self.target[parent]
                result.directories.append(Member(parent, "directory", mode, 0))
                index.append(directory_entry(parent, directory_mode(parent, mode)))
                continue
            if parent != opened:
                opened, source, target = parent, self.source[parent], self.target[parent]
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            if path in self.unused:
                mark_as_accessed(name, target)
            index.append((path, size, mode, mtime, ANY_CTIME, inode))
        result.index = encode_block(number, index)
        return result

    def remove(self, layers: Mapping[int, Sequence[EntryFields]]) -> None:
        """Remove the links that were made to files of these layers."""
        for entries in layers.values():
            for path, *_ in entries:
                parent, _, name = path.rpartition("/")
                if name:
                    with suppress(OSError):
                        os.unlink(name, dir_fd=self.target[parent])
