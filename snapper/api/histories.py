"""Read and change what stores contain of one environment: its history, its snapshots, and their tags."""

from __future__ import annotations

from snapper.commands.log import LogEntry, read_log
from snapper.commands.remove import plan_removal, remove_environment
from snapper.commands.tag import TagResult, delete_tag, set_tag
from snapper.format.model import Snapshot
from snapper.repository.snapshots import read_snapshot as read_stored_snapshot
from snapper.repository.specs import SnapshotSpec, resolve_spec
from snapper.store import Store


def snapshots(store: Store, environment: str, *, limit: int | None = None) -> tuple[LogEntry, ...]:
    """Return the history of an environment, latest first, with the packages that each entry changed.

    Raise NotInStore, Corrupted, UnsupportedFormat.
    """
    return read_log(store, environment, limit)


def read_snapshot(store: Store, spec: str) -> Snapshot:
    """Return a snapshot: its packages, kernels, and layers. Raise NotInStore, Corrupted, UnsupportedFormat."""
    return read_stored_snapshot(store, resolve_spec(store, SnapshotSpec.parse(spec))[1])


def tag(store: Store, spec: str, name: str, *, move: bool = False) -> TagResult:
    """Give a snapshot a tag. Raise TagExists if it names another snapshot, unless `move`; NotInStore, UsageError."""
    return set_tag(store, SnapshotSpec.parse(spec), name, move=move)


def untag(store: Store, environment: str, name: str) -> TagResult:
    """Delete a tag of an environment. Raise NotInStore."""
    return delete_tag(store, environment, name)


def remove(store: Store, environment: str) -> None:
    """Remove an environment and its history from the store, for everyone; what is on disk stays. Raise NotInStore."""
    remove_environment(store, plan_removal(store, environment))
