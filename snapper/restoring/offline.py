"""Choose the snapshot to restore when the store is offline and its cache is incomplete."""

from __future__ import annotations

from pathlib import Path

from snapper.environment import state
from snapper.errors import SnapperError
from snapper.format.model import Ref
from snapper.repository.refs import lineage, referenced_snapshots
from snapper.repository.snapshots import read_snapshot, require_layers
from snapper.repository.specs import SnapshotSpec
from snapper.store import Store


def available_snapshot(store: Store, ref: Ref, spec: SnapshotSpec, prefix: Path) -> SnapshotSpec:
    """Return the spec of the snapshot to restore, the requested one if it is available.

    If the current snapshot of an offline store is requested and is not completely cached, take the snapshot at the
    prefix if the environment's history has it, else the latest earlier one that is completely cached, if any.
    """
    if spec.snapshot or store.stale_since() is None:
        return spec
    state_at_prefix = state.read(prefix)
    installed = state_at_prefix.snapshot if state_at_prefix else ""
    if installed not in referenced_snapshots(ref):
        installed = ""
    if installed == ref.current or _is_cached(store, ref.current):
        return spec
    earlier = (snapshot_id for snapshot_id in lineage(ref)[-2::-1] if _is_cached(store, snapshot_id))
    return SnapshotSpec(ref.name, installed or next(earlier, ""))


def _is_cached(store: Store, snapshot_id: str) -> bool:
    try:
        require_layers(store, read_snapshot(store, snapshot_id).layers)
    except SnapperError:
        return False
    return True
