"""Split the files of an owner into groups that become a layer each.

The sizes of files from pip and of the user's depend on where the environment is: compiled modules and texts contain the
prefix. So their groups end where layers of the previous snapshot did, except where files were added or removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from snapper.environment.index import NO_LAYER, IndexRow, layer_number
from snapper.format.model import LAYER_SIZE, Kind, Layer
from snapper.packing.items import PackItem


@dataclass(frozen=True)
class EarlierLayers:
    """The layers of the previous snapshot, and the rows of its index, which say what was in them."""

    layers: Sequence[Layer] = ()
    rows: Mapping[str, IndexRow] = field(default_factory=dict)

    def number_of(self, item: PackItem, kind: Kind, owner: str) -> int | None:
        """Return the number of the layer that had the file, None unless it was one of this kind and owner."""
        file = item.file
        row = self.rows.get(f"{file.path}/" if file.type == "directory" else file.path)
        number = NO_LAYER if row is None else layer_number(row[5])
        if not 0 <= number < len(self.layers):
            return None
        layer = self.layers[number]
        return number if (layer.kind, layer.owner) == (kind, owner) else None


def split(
    kind: Kind, owner: str, items: Sequence[PackItem], records: Sequence[PackItem], earlier: EarlierLayers
) -> list[list[PackItem]]:
    """Return the items in groups of a layer each; the `records` come last, and may be in the last group's layer.

    Files of packages are split the same way wherever the package is packed.
    """
    if kind == "package" or not earlier.rows:
        return list(_fill_layers(items))
    groups: list[list[PackItem]] = []
    changed: list[PackItem] = []
    numbers = _with_neighbors([earlier.number_of(item, kind, owner) for item in items])
    of_records = [earlier.number_of(item, kind, owner) for item in records]
    for number, pairs in groupby(zip(numbers, items, strict=True), key=lambda pair: pair[0]):
        group = [item for _, item in pairs]
        if number is not None and len(group) + of_records.count(number) == earlier.layers[number].members:
            groups += [*_fill_layers(changed), group]
            changed = []
        else:
            changed += group
    return [*groups, *_fill_layers(changed)]


def _with_neighbors(numbers: Sequence[int | None]) -> Iterator[int | None]:
    """Yield the numbers; that of the item before for those that have none, or else of the first one that has one."""
    last = next((number for number in numbers if number is not None), None)
    for number in numbers:
        last = last if number is None else number
        yield last


def _fill_layers(items: Sequence[PackItem]) -> Iterator[list[PackItem]]:
    """Yield the items in groups that are as large as a layer."""
    group: list[PackItem] = []
    size = 0
    for item in items:
        expected = _expected_size(item)
        if group and size + expected > LAYER_SIZE:
            yield group
            group, size = [], 0
        group.append(item)
        size += expected
    if group:
        yield group


def _expected_size(item: PackItem) -> int:
    """Return the size that decides where groups end.

    For files of packages, it must not depend on where the environment is, so relocated text counts as empty.
    """
    if item.entry and item.entry.placeholder and item.entry.mode == "text":
        return 0
    if item.linked and item.file.size > LAYER_SIZE:
        return 0
    return item.file.size
