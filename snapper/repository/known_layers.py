"""Find the layers that a store has already, so that a pack does not write equal ones.

They are those of the current snapshots of all environments. Others publish these, and can describe any number of layers
in them, so that only so much is read: the environment that is packed comes first, then the smallest ones. What is
beyond that is stored again.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from itertools import islice

from snapper.errors import SnapperError
from snapper.format.layout import Layout, ObjectKind
from snapper.format.model import Page, StoredLayer
from snapper.repository.objects import map_concurrently
from snapper.repository.refs import read_ref
from snapper.repository.snapshots import iter_layer_pages, read_manifest
from snapper.store import Store

#: In how many environments layers are looked for.
_MOST_ENVIRONMENTS = 1000

#: How many layers every process of a pack knows at most: it needs some 400 bytes for each.
_MOST_LAYERS = 100_000

#: How many bytes of entries, manifests, and pages are read: those of some 20 environments with 100,000 files each.
_MOST_DATA = 64 * 1024 * 1024


def known_layers(store: Store, name: str) -> dict[str, StoredLayer]:
    """Return the layers of current snapshots in the store, by diff_id; of equal ones, the smallest.

    The environment `name` is the one to pack. What cannot be read is skipped.
    """
    budget = _Budget(_MOST_DATA)
    known: dict[str, StoredLayer] = {}
    for _, layers in iter_layer_pages(store, _find_pages(store, name, budget)):
        found = () if isinstance(layers, SnapperError) else layers
        for layer in islice(found, _MOST_LAYERS - len(known)):
            if layer.diff_id not in known or layer.size < known[layer.diff_id].size:
                known[layer.diff_id] = StoredLayer(layer.digest, layer.size)
    return known


class _Budget:
    """How many bytes may still be read."""

    def __init__(self, size: int) -> None:
        self._left = size

    def allows(self, size: int) -> bool:
        """Return whether an object of this size may be read, too; if so, count it."""
        if size > self._left:
            return False
        self._left -= size
        return True


def _find_pages(store: Store, name: str, budget: _Budget) -> list[Page]:
    """Return the pages of layers of current snapshots, as far as the budget allows."""
    entries = _entry_sizes(store)
    names = _in_order(entries, name)[:_MOST_ENVIRONMENTS]
    names = [each for each in names if budget.allows(entries[each])]
    current = dict(zip(names, map_concurrently(partial(_current_snapshot, store), names), strict=True))
    snapshots = {Layout.snapshot(found): found for found in current.values() if found}
    first = Layout.snapshot(current.get(name) or "")
    sizes: dict[str, int] = {}
    with suppress(SnapperError):
        sizes = store.sizes(Layout.SNAPSHOTS, snapshots)
    keys = [key for key in _in_order(sizes, first) if budget.allows(sizes[key])]
    pages = dict(
        zip(keys, map_concurrently(lambda key: _layer_pages(store, snapshots[key]), keys), strict=True)
    )
    chosen: dict[Page, None] = {}
    for key in _in_order({key: sum(page.size for page in each) for key, each in pages.items()}, first):
        chosen |= dict.fromkeys(page for page in pages[key] if page in chosen or budget.allows(page.size))
    return list(chosen)


def _in_order(sizes: Mapping[str, int], first: str) -> list[str]:
    """Return `first`, if it is among them, then the others by size."""
    return sorted(sizes, key=lambda each: (each != first, sizes[each]))


def _entry_sizes(store: Store) -> dict[str, int]:
    parsed = ((Layout.parse(info.key), info.size) for info in store.list_objects(Layout.REFS))
    return {key.name: size for key, size in parsed if key and key.kind is ObjectKind.REF}


def _current_snapshot(store: Store, name: str) -> str | None:
    try:
        return read_ref(store, name).ref.current
    except SnapperError:
        return None


def _layer_pages(store: Store, snapshot_id: str) -> tuple[Page, ...]:
    try:
        return read_manifest(store, snapshot_id).layers
    except SnapperError:
        return ()
