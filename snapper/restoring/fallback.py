"""Choose another snapshot to restore when the store is offline and its cache lacks the current one.

This module only chooses: the snapshot is then restored like any other, and results name the one that it replaces.
"""

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
    """Return the spec of the snapshot to restore: the requested one unless the cache of an offline store lacks it.

    Only a request for the current snapshot is changed: to the snapshot that is at the prefix, if the environment's
    history or tags have it, or else to the latest earlier one that is completely cached. If there is none, return
    `spec` as it is; restoring that raises StoreUnreachable.
    """
    if spec.snapshot or store.stale_since() is None:
        return spec
    state_at_prefix = state.read(prefix)
    installed = state_at_prefix.snapshot if state_at_prefix else None
    if installed == ref.current or _is_cached(store, ref.current):
        return spec
    if installed in referenced_snapshots(ref):
        return SnapshotSpec(ref.name, installed)
    for snapshot_id in lineage(ref)[-2::-1]:
        if _is_cached(store, snapshot_id):
            return SnapshotSpec(ref.name, snapshot_id)
    return spec


def _is_cached(store: Store, snapshot_id: str) -> bool:
    try:
        require_layers(store, read_snapshot(store, snapshot_id).layers)
    except SnapperError:
        return False
    return True
