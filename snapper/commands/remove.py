"""Remove: delete an environment's ref from a store. The next prune deletes its snapshots."""

from __future__ import annotations

from dataclasses import dataclass

from snapper.errors import SnapperError
from snapper.repository.refs import delete_ref, read_ref, ref_version
from snapper.repository.specs import check_environment_name
from snapper.store import Store


@dataclass(frozen=True)
class RemovalPlan:
    """The environment to remove, at this version of its ref, with its number of snapshots and the id of the latest.

    These are 0 and empty if the ref is corrupted.
    """

    name: str
    version: str
    snapshots: int
    latest: str


def plan_removal(store: Store, name: str) -> RemovalPlan:
    """Look at the environment to remove, whose ref may be corrupted. Raise NotInStore, UsageError."""
    version = ref_version(store, check_environment_name(name))
    try:
        current = read_ref(store, name)
    except SnapperError:
        return RemovalPlan(name, version, 0, "")
    snapshots = len({entry.snapshot for entry in current.ref.history})
    return RemovalPlan(name, current.version, snapshots, current.ref.current)


def remove_environment(store: Store, plan: RemovalPlan) -> None:
    """Delete the ref. Raise ConcurrentUpdate if it has changed since it was planned; NotInStore, StoreRefused."""
    delete_ref(store, plan.name, plan.version)
