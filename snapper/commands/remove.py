"""Remove: an environment's entry out of a store. What it named goes when the store is pruned."""

from __future__ import annotations

from dataclasses import dataclass

from snapper.errors import SnapperError
from snapper.repository.refs import delete_ref, read_ref, ref_version
from snapper.repository.specs import check_environment_name
from snapper.store import Store


@dataclass(frozen=True)
class RemovalPlan:
    """An environment as it was seen: with so many snapshots, the latest of this id; unknown if it is damaged."""

    name: str
    version: str
    snapshots: int
    latest: str


def plan_removal(store: Store, name: str) -> RemovalPlan:
    """The environment that is to be removed, which may be damaged; raises NotInStore."""
    version = ref_version(store, check_environment_name(name))
    try:
        current = read_ref(store, name)
    except SnapperError:
        return RemovalPlan(name, version, 0, "")
    snapshots = len({entry.snapshot for entry in current.ref.history})
    return RemovalPlan(name, current.version, snapshots, current.ref.current)


def remove_environment(store: Store, seen: RemovalPlan) -> None:
    """Removes the entry; raises ConcurrentUpdate if it is not as it was seen, NotInStore, StoreRefused."""
    delete_ref(store, seen.name, seen.version)
