"""Which snapshot of an environment can be had of a store that cannot be reached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from snapper import catalog
from snapper.catalog import Reference
from snapper.environment import state
from snapper.errors import SnapperError
from snapper.format.model import Environment
from snapper.store import Store, last_seen


def at_hand(store: Store, found: Environment, wanted: Reference, prefix: Path) -> Environment:
    """The environment as it is, unless the store cannot be reached, no snapshot is named, and the current one is not
    all kept on this machine: then as if the current one were that which is at the prefix, if it is one of its history,
    or else the latest before it that is all kept.
    """
    if wanted.snapshot or last_seen(store) is None:
        return found
    there = state.read(prefix)
    mine = there.snapshot if there and there.snapshot in catalog.named_by(found) else ""
    if mine == found.current or _is_kept(store, found.current):
        return found
    earlier = [mine] if mine else [each for each in catalog.line(found)[-2::-1] if _is_kept(store, each)]
    return replace(found, current=earlier[0]) if earlier else found


def _is_kept(store: Store, snapshot_id: str) -> bool:
    try:
        catalog.check_layers(store, catalog.read_snapshot(store, snapshot_id).layers)
    except SnapperError:
        return False
    return True
