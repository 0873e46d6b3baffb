"""Remove: an environment's entry out of a store. What it named goes when the store is pruned."""

from __future__ import annotations

from dataclasses import dataclass

from snapper import catalog
from snapper.errors import SnapperError
from snapper.store import Store


@dataclass(frozen=True)
class Removable:
    """An environment as it was seen: with so many snapshots, the latest of this id; unknown if it is damaged."""

    name: str
    version: str
    snapshots: int
    latest: str


def look(store: Store, name: str) -> Removable:
    """The environment that is to be removed, which may be damaged; raises NotInStore."""
    version = catalog.environment_version(store, catalog.check_name(name))
    try:
        found, version = catalog.read_environment(store, name)
    except SnapperError:
        return Removable(name, version, 0, "")
    return Removable(name, version, len({move.snapshot for move in found.history}), found.current)


def remove(store: Store, seen: Removable) -> None:
    """Removes the entry; raises Moved if it is not as it was seen, NotInStore, StoreRefused."""
    catalog.forget(store, seen.name, seen.version)
