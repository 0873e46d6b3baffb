"""What still holds of the snapshot that an environment was last packed as or restored from.

Files that the index vouches for are not read again, and layers whose files are all so are taken as they are. What
a layer holds depends on more than the bytes of its files, and all of that is looked at too:

- which files they are: those planned for an owner, or a group, must be exactly those that its layers have;
- what the package's record says: the record is one of these files;
- for compiled modules, their sources: where another owner has the source, it must be vouched for too, and conda's
  records be all as they were;
- files that were found through a symlinked directory depend on that: groups with such are always read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from snapper.environment import conda, state
from snapper.environment.index import Index
from snapper.environment.tree import File, Tree
from snapper.format import bytecode
from snapper.format.manifest import EncodedSnapshot
from snapper.format.model import Kind, Layer, Snapshot
from snapper.packing.collect import PackItem
from snapper.packing.plan import members


@dataclass(frozen=True)
class PackedLayer:
    """A layer that is as it was, and the paths of the members that begin in it."""

    layer: Layer
    paths: tuple[str, ...]


@dataclass(frozen=True)
class PreviousPack:
    """The last snapshot, the index that goes with it, and the environment's files as they are now.

    `stored` are the digests of those layers that the store has.
    """

    manifest: EncodedSnapshot
    snapshot: Snapshot
    index: Index
    tree: Tree
    device: int
    stored: frozenset[str]

    @property
    def prefix(self) -> str:
        """The directory that the environment's files hold."""
        return self.index.moment.prefix

    def is_all(self) -> bool:
        """Whether all files are as the snapshot has them, and the store has all of its layers."""
        found = members(self.tree)
        return (
            len(found) == len(self.index.entries)
            and all(file.path in self._vouched for file in found)
            and all(layer.digest in self.stored for layer in self.snapshot.layers)
        )

    def parts(
        self, kinds: frozenset[Kind], owner: str, items: Sequence[PackItem]
    ) -> list[PackedLayer] | None:
        """The layers of these kinds and owner that hold the items, and nothing else; None where any is to be read."""
        paths: dict[int, list[str]] = {}
        own = {item.file.path for item in items}
        for item in items:
            path = item.file.path
            if (
                path not in self._vouched
                or not self._is_direct(item)
                or not self._has_known_source(path, own)
            ):
                return None
            paths.setdefault(self._layer_of(item.file), []).append(path)
        if not items or max(paths) >= len(self.snapshot.layers):
            return None
        parts = [part for number in sorted(paths) for part in self._with_rest(number, paths[number])]
        whole = sum(part.layer.members for part in parts) == len(own)
        same = all(part.layer.kind in kinds and part.layer.owner == owner for part in parts)
        return parts if whole and same and all(part.layer.digest in self.stored for part in parts) else None

    def _with_rest(self, number: int, paths: list[str]) -> list[PackedLayer]:
        """A layer, and those in which the data of its last file goes on."""
        layers = self.snapshot.layers
        parts = [PackedLayer(layers[number], tuple(paths))]
        while (number := number + 1) < len(layers) and layers[number].begins:
            parts.append(PackedLayer(layers[number], ()))
        return parts

    def _layer_of(self, file: File) -> int:
        return self.index.entries[file.path + "/" if file.type == "directory" else file.path][-1]

    @staticmethod
    def _is_direct(item: PackItem) -> bool:
        return item.entry is None or item.entry.path == item.file.path

    def _has_known_source(self, path: str, own: set[str]) -> bool:
        """Whether what the path was compiled from, if it was, is among its own or as it was."""
        if not path.endswith(".pyc"):
            return True
        source = bytecode.source_of(path)
        if source is None or source in own:
            return True
        known = source in self._vouched or (source not in self._paths and source not in self.index.entries)
        return known and self._has_same_records

    @cached_property
    def _has_same_records(self) -> bool:
        before = {path for path in self.index.entries if conda.is_record_path(path)}
        return (
            before == {path for path in self._paths if conda.is_record_path(path)} and before <= self._vouched
        )

    @cached_property
    def _paths(self) -> frozenset[str]:
        return frozenset(file.path for file in self.tree.files)

    @cached_property
    def _vouched(self) -> frozenset[str]:
        vouches, device = self.index.vouches, self.device
        return frozenset(file.path for file in self.tree.files if vouches(file, device))


def load_previous_pack(
    prefix: Path, tree: Tree, last: tuple[EncodedSnapshot, Snapshot], stored: frozenset[str]
) -> PreviousPack | None:
    """What is kept in the environment at `prefix` with its last snapshot; None where that does not go together, as
    when writing it was cut off.
    """
    found, index = state.read(prefix), state.read_index(prefix)
    if not found or not index or not found.snapshot == index.moment.snapshot == last[0].digest:
        return None
    return PreviousPack(*last, index, tree, os.stat(prefix).st_dev, stored)
