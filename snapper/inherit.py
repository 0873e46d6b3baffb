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
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from snapper import bytecode, state
from snapper.collect import LINK_TIME
from snapper.descriptors import Directories, every_mode
from snapper.extract import SECOND, Extracted
from snapper.index import ANY_CTIME, Index, Stats, block
from snapper.model import RECORD_MODES, Layer, Snapshot
from snapper.segment import Member


@dataclass(frozen=True)
class _Unit:
    """Layers that are taken over together: their orders in the new snapshot, and the entries of each."""

    orders: tuple[int, ...]
    entries: tuple[tuple[Stats, ...], ...]


def inherit(old: Path, layers: Sequence[Layer], directory: str) -> dict[int, Extracted]:
    """Makes links below `directory` to what the environment at `old` has of the layers; gives their results by order.

    What cannot be taken over is left out, whatever the reason.
    """
    last, index = state.read_last(old), state.read_index(old)
    if not last or not index or index.moment.snapshot != last[0] or index.moment.prefix != str(old):
        return {}
    done: dict[int, Extracted] = {}
    device = os.stat(old).st_dev
    if os.stat(directory).st_dev != device:
        return {}
    with (
        closing(Directories(str(old), make=False)) as source,
        closing(Directories(directory)) as target,
        every_mode(),
    ):
        for unit in _units(_Old(last[1], index), layers):
            if all(_is_as_noted(source, index, device, entry) for each in unit.entries for entry in each):
                try:
                    done.update(
                        {
                            order: _linked(source, target, order, entries)
                            for order, entries in zip(unit.orders, unit.entries, strict=True)
                        }
                    )
                except OSError:  # such as of file systems without links, and of others' files
                    _undo(target, unit)
                    break
    return done


class _Old:
    """The snapshot that there is, and the entries of its layers."""

    def __init__(self, snapshot: Snapshot, index: Index) -> None:
        self.layers = snapshot.layers
        self.numbers = {layer: number for number, layer in reversed(list(enumerate(snapshot.layers)))}
        self.entries: dict[int, list[Stats]] = defaultdict(list)
        for path, (*stats, number) in index.entries.items():
            self.entries[number].append((path, *stats))  # type: ignore[arg-type]
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
            if layer.whose[0] != "package":
                for path, *_, inode in self.entries[number]:
                    if not path.endswith("/"):
                        holders[layer.whose, inode].add(number)
        return {number for numbers in holders.values() if len(numbers) > 1 for number in numbers}

    def _is_as_restored(self, layer: Layer, entry: Stats) -> bool:
        path, _, _, mtime, _, inode = entry
        if path.endswith("/"):
            return True
        fixed = layer.kind == "link" or (layer.kind == "package" and path in self._relocated)
        if not inode or (fixed and mtime != LINK_TIME * SECOND):
            return False
        source = bytecode.source_of(path) if path.endswith(".pyc") else None
        found = self._index.entries.get(source) if source in self._relocated and source else None
        return found is None or found[2] == LINK_TIME * SECOND


def _units(old: _Old, layers: Sequence[Layer]) -> Iterator[_Unit]:
    """The layers of the new snapshot that the old one has too, in units of which all are there."""
    groups: dict[object, list[int]] = defaultdict(list)
    first = 0
    for order, layer in enumerate(layers):
        first = first if layer.begins else order
        groups[layer.whose if layer.whose[0] == "package" else first].append(order)
    for orders in groups.values():
        if all(old.has(layers[order]) for order in orders):
            yield _Unit(
                tuple(orders), tuple(tuple(old.entries[old.numbers[layers[order]]]) for order in orders)
            )


def _undo(target: Directories, unit: _Unit) -> None:
    for entries in unit.entries:
        for path, *_ in entries:
            above, _, name = path.rpartition("/")
            if name:
                with suppress(OSError):
                    os.unlink(name, dir_fd=target[above])


def _is_as_noted(source: Directories, index: Index, device: int, entry: Stats) -> bool:
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
        and found.st_ctime_ns < index.moment.taken
        and found.st_dev == device
        and found.st_uid == os.geteuid()
        and (stat.S_ISLNK(found.st_mode) or (mtime % SECOND == 0 and mode <= 0o777))
    )


def _linked(source: Directories, target: Directories, order: int, entries: Sequence[Stats]) -> Extracted:
    """Makes the links of one layer, and the directories that are members of it."""
    result = Extracted(inherited=True)
    noted: list[Stats] = []
    for path, size, mode, mtime, _, inode in entries:
        if path.endswith("/"):
            target[path[:-1]]
            result.directories.append(Member(path[:-1], "directory", mode, 0))
            noted.append((path, 0, mode, 0, 0, 0))
        else:
            above, _, name = path.rpartition("/")
            beside = target[above]
            os.link(name, name, src_dir_fd=source[above], dst_dir_fd=beside, follow_symlinks=False)
            noted.append((path, size, mode, mtime, ANY_CTIME, inode))
    result.index = block(order, noted)
    return result
