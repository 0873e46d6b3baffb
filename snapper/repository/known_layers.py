"""Find the layers that a store has already, so that a pack does not write equal ones.

They are those of the current snapshots of all environments. Others publish these, and can describe any number of layers
in them, on any number of pages, so that only so much is read: the environment that is packed comes first, then the
smallest ones. What is beyond that is stored again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
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

#: How many bytes of entries, manifests, and pages are read: those of some 20 environments with 100,000 files each,
#: or of some 100 small ones.
_MOST_DATA = 64 * 1024 * 1024


#: What each object counts at least, in bytes: a request takes as long as some kilobytes.
_LEAST_CHARGE = 8 * 1024


def known_layers(store: Store, name: str) -> dict[str, StoredLayer]:
    """Return the layers of current snapshots in the store, by diff_id; of equal ones, the smallest.

    The environment `name` is the one to pack. What cannot be read is skipped.
    """
    budget = _Budget(_MOST_DATA)
    pages = _WantedPages(_find_pages(store, name, budget), budget)
    known: dict[str, StoredLayer] = {}
    for page, layers in iter_layer_pages(store, pages):
        if isinstance(layers, SnapperError):
            pages.give_up(page)
            continue
        for layer in islice(layers, _MOST_LAYERS - len(known)):
            if layer.diff_id not in known or layer.size < known[layer.diff_id].size:
                known[layer.diff_id] = StoredLayer(layer.digest, layer.size)
    return known


class _Budget:
    """How many bytes may still be read."""

    def __init__(self, size: int) -> None:
        self._left = size

    def allows(self, size: int) -> bool:
        """Return whether an object of this size may be read, too; if so, count it."""
        charge = max(size, _LEAST_CHARGE)
        if charge > self._left:
            return False
        self._left -= charge
        return True


class _WantedPages:
    """Iterate over the pages of snapshots, each once, as far as the budget allows; the first snapshots come first."""

    def __init__(self, snapshots: Mapping[str, tuple[Page, ...]], budget: _Budget) -> None:
        self._snapshots = snapshots
        self._budget = budget
        self._chosen: dict[Page, str] = {}
        self._damaged: set[str] = set()

    def __iter__(self) -> Iterator[Page]:
        for snapshot, pages in self._snapshots.items():
            for page in pages:
                if snapshot in self._damaged:
                    break
                if page not in self._chosen and self._budget.allows(page.size):
                    self._chosen[page] = snapshot
                    yield page

    def give_up(self, page: Page) -> None:
        """Skip the rest of the snapshot that the page was chosen for: the page could not be read."""
        self._damaged.add(self._chosen[page])


def _find_pages(store: Store, name: str, budget: _Budget) -> dict[str, tuple[Page, ...]]:
    """Return the pages of layers of current snapshots by key, as far as the budget allows, in the order to read them.

    No more is read of an entry or a manifest than the store has stated.
    """
    entries = _entry_sizes(store)
    names = _in_order(entries, name)[:_MOST_ENVIRONMENTS]
    names = [each for each in names if budget.allows(entries[each])]
    found = map_concurrently(lambda each: _current_snapshot(store, each, entries[each]), names)
    current = dict(zip(names, found, strict=True))
    snapshots = {Layout.snapshot(digest): digest for digest in current.values() if digest}
    first = Layout.snapshot(current.get(name) or "")
    sizes: dict[str, int] = {}
    with suppress(SnapperError):
        sizes = store.sizes(Layout.SNAPSHOTS, snapshots)
    keys = [key for key in _in_order(sizes, first) if budget.allows(sizes[key])]
    listed = map_concurrently(lambda key: _layer_pages(store, snapshots[key], sizes[key]), keys)
    pages = dict(zip(keys, listed, strict=True))
    order = _in_order({key: sum(page.size for page in each) for key, each in pages.items()}, first)
    return {key: pages[key] for key in order}


def _in_order(sizes: Mapping[str, int], first: str) -> list[str]:
    """Return `first`, if it is among them, then the others by size."""
    return sorted(sizes, key=lambda each: (each != first, sizes[each]))


def _entry_sizes(store: Store) -> dict[str, int]:
    parsed = ((Layout.parse(info.key), info.size) for info in store.list_objects(Layout.REFS))
    return {key.name: size for key, size in parsed if key and key.kind is ObjectKind.REF}


def _current_snapshot(store: Store, name: str, size: int) -> str | None:
    try:
        return read_ref(store, name, size).ref.current
    except SnapperError:
        return None


def _layer_pages(store: Store, snapshot_id: str, size: int) -> tuple[Page, ...]:
    try:
        return read_manifest(store, snapshot_id, size).layers
    except SnapperError:
        return ()
