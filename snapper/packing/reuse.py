"""Which layers of the previous snapshot can be reused.

Files that the index vouches for are not read again, and layers all of whose files are vouched for are reused, also if
restoring them would write other files than there are (see `index.rewritten`). What a layer contains depends on more
than the bytes of its files, so all of this is checked, too:

- the prefixes that files may contain: no new ones, unless they are other paths of the environment's directory;
- which files they are: those planned for an owner, or a group, must be exactly those of its layers;
- the package's record, which is one of these files;
- whether a cache depends on the exact time of a package's file;
- the sources of compiled modules: a source that belongs to another owner must be vouched for, and all of conda's
  records must be unchanged;
- symlinked directories: groups with files that were found through one are always read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from snapper.environment import conda
from snapper.environment.former_prefixes import by_file
from snapper.environment.index import NO_LAYER, Index, layer_number
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.tree import Tree
from snapper.format import bytecode
from snapper.format.manifest import EncodedSnapshot
from snapper.format.model import Kind, Layer, Snapshot
from snapper.format.owners import OwnedPaths, order_by_owner
from snapper.packing.members import cached_sources, members

if TYPE_CHECKING:
    from snapper.packing.items import PackItem


@dataclass(frozen=True)
class PackedLayer:
    """A layer, the paths of the members that begin in it, and of those that restores write otherwise than they are."""

    layer: Layer
    paths: tuple[str, ...]
    rewritten: frozenset[str] = frozenset()


@dataclass(frozen=True)
class PreviousPack:
    """The previous snapshot of an environment with its index, and the files that are there now.

    `stored` are the digests of the snapshot's layers that the store has.
    """

    encoded: EncodedSnapshot
    snapshot: Snapshot
    index: Index
    tree: Tree
    device: int
    stored: frozenset[str]

    @property
    def unrelocated(self) -> OwnedPaths:
        """The files that could not be relocated when the snapshot was packed."""
        rows, layers = self.index.rows, self.snapshot.layers
        numbers = {path: layer_number(rows[path][5]) for path in self.index.header.unrelocated}
        return order_by_owner({path: layers[number].kind for path, number in numbers.items()})

    @property
    def prefix(self) -> str:
        """The prefix in the environment's files."""
        return self.index.header.prefix

    @property
    def prefixes(self) -> tuple[str, ...]:
        """All prefixes that the environment's files may contain, as far as they were recorded."""
        return self.index.header.prefixes or (self.prefix,)

    @cached_property
    def others(self) -> Mapping[str, tuple[str, ...]]:
        """The other environments at former prefixes that files name, by file."""
        return by_file(self.index.header.other_environments)

    def is_unchanged(self) -> bool:
        """Return whether all files are as the snapshot has them, and the store has all of its layers."""
        rows = len(self.index.rows)  # less than the members if some are not from the environment
        return (
            len(self.vouched) == rows == sum(layer.members for layer in self.snapshot.layers)
            and all(file.path in self.vouched for file in members(self.tree))
            and all(layer.digest in self.stored for layer in self.snapshot.layers)
        )

    def reusable_layers(
        self, kinds: frozenset[Kind], owner: str, items: Sequence[PackItem]
    ) -> list[PackedLayer] | None:
        """Return the layers of these kinds and owner that hold exactly the items; None if any has to be read."""
        paths: dict[int, list[str]] = {}
        own_paths = {item.file.path for item in items}
        for item in items:
            path = item.file.path
            if (
                path not in self.vouched
                or path in self._differently_cached
                or not self._is_direct(item)
                or not self._has_known_source(path, own_paths)
            ):
                return None
            paths.setdefault(self.index.layer_of(item.file), []).append(path)
        if not items or max(paths) >= len(self.snapshot.layers):
            return None
        layers = [layer for number in sorted(paths) for layer in self._with_rest(number, paths[number])]
        is_reusable = sum(packed.layer.members for packed in layers) == len(own_paths) and all(
            packed.layer.kind in kinds and packed.layer.owner == owner and packed.layer.digest in self.stored
            for packed in layers
        )
        return layers if is_reusable else None

    def _with_rest(self, number: int, paths: list[str]) -> list[PackedLayer]:
        """Return a layer, and those that continue the data of its last file."""
        layers = self.snapshot.layers
        packed = [PackedLayer(layers[number], tuple(paths), self._rewritten.intersection(paths))]
        while (number := number + 1) < len(layers) and layers[number].begins:
            packed.append(PackedLayer(layers[number], ()))
        return packed

    @staticmethod
    def _is_direct(item: PackItem) -> bool:
        """Return whether the file was found without following a symlinked directory."""
        return item.entry is None or item.entry.path == item.file.path

    def _has_known_source(self, path: str, own_paths: set[str]) -> bool:
        """Return whether the source of a compiled module is among `own_paths` or unchanged; True for other files."""
        if not path.endswith(".pyc"):
            return True
        source = bytecode.source_of(path)
        if source is None or source in own_paths:
            return True
        is_unchanged = source in self.vouched or (
            source not in self.tree.by_path and source not in self.index.rows
        )
        return is_unchanged and self._has_same_records

    @cached_property
    def _has_same_records(self) -> bool:
        before = {path for path in self.index.rows if conda.is_record_path(path)}
        now = {path for path in self.tree.by_path if conda.is_record_path(path)}
        return before == now and before <= self.vouched

    @cached_property
    def _rewritten(self) -> frozenset[str]:
        return frozenset(path for path, row in self.index.rows.items() if row[5] < NO_LAYER)

    @cached_property
    def _differently_cached(self) -> frozenset[str]:
        """The sources of which either there were caches before, or there are now."""
        return cached_sources(self.index.rows) ^ cached_sources(self.tree.by_path)

    @cached_property
    def vouched(self) -> frozenset[str]:
        """The paths of the files that are as they were when the snapshot was made of them, or restored."""
        vouches, device = self.index.vouches, self.device
        return frozenset([file.path for file in self.tree.files if vouches(file, device)])


def load_previous_pack(environment: InstalledEnvironment, stored: frozenset[str]) -> PreviousPack | None:
    """Return the environment's previous pack, of whose layers those are `stored`.

    Return None if state, snapshot and index do not belong together, as after an interrupted write.
    """
    state, previous, index = environment.state, environment.previous, environment.index
    if state is None or previous is None or index is None:
        return None
    if not state.snapshot == index.header.snapshot == previous.encoded.digest:
        return None
    return PreviousPack(*previous, index, environment.tree, environment.directory.status.st_dev, stored)
