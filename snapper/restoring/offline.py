"""Which snapshot of an environment can be had of a store that cannot be reached."""

from __future__ import annotations

from pathlib import Path

from snapper.environment import state
from snapper.errors import SnapperError
from snapper.format.model import Ref
from snapper.repository.refs import lineage, referenced_snapshots
from snapper.repository.snapshots import read_snapshot, require_layers
from snapper.repository.specs import SnapshotSpec
from snapper.store import Store


def offline_snapshot(store: Store, found: Ref, wanted: SnapshotSpec, prefix: Path) -> SnapshotSpec:
    """What is wanted, unless that is the current snapshot of a store that cannot be reached, and not all of it is kept
    on this machine: then what is at the prefix, if it is of the environment's history, or else the latest before the
    current one that is all kept, if any is.
    """
    if wanted.snapshot or store.stale_since() is None:
        return wanted
    there = state.read(prefix)
    mine = there.snapshot if there and there.snapshot in referenced_snapshots(found) else ""
    if mine == found.current or _is_kept(store, found.current):
        return wanted
    earlier = mine or next((each for each in lineage(found)[-2::-1] if _is_kept(store, each)), "")
    return SnapshotSpec(found.name, earlier)


def _is_kept(store: Store, snapshot_id: str) -> bool:
    try:
        require_layers(store, read_snapshot(store, snapshot_id).layers)
    except SnapperError:
        return False
    return True
