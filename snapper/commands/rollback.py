"""Rollback: an earlier snapshot becomes an environment's current one again, for all who use the store."""

from __future__ import annotations

from dataclasses import dataclass, replace

from snapper.errors import NoEarlierSnapshot
from snapper.format.model import HistoryEntry, Ref
from snapper.process.identity import current_user, hostname, utc_now
from snapper.repository.refs import ROLLBACK, VersionedRef, advance_ref, lineage, origin_entry, read_ref
from snapper.repository.snapshots import read_snapshot
from snapper.repository.specs import SnapshotSpec, resolve_in_ref
from snapper.store import Store


@dataclass(frozen=True)
class RollbackPlan:
    """Where an environment is to go back to: the step of its history that made `snapshot_id` current."""

    seen: VersionedRef
    snapshot_id: str
    step: HistoryEntry

    @property
    def environment(self) -> str:
        return self.seen.ref.name

    @property
    def unchanged(self) -> bool:
        return self.snapshot_id == self.seen.ref.current


@dataclass(frozen=True)
class RollbackResult:
    """What the environment was at, and what it is at now."""

    environment: str
    before: str
    snapshot_id: str
    unchanged: bool


def plan_rollback(store: Store, reference: SnapshotSpec) -> RollbackPlan:
    """What the reference means, or without a snapshot in it, the one before the current.

    Raises NoEarlierSnapshot, NotInStore, Corrupted.
    """
    seen = read_ref(store, reference.environment)
    named = bool(reference.snapshot)
    snapshot_id = resolve_in_ref(seen.ref, reference, store) if named else _before(seen.ref)
    snapshot = read_snapshot(store, snapshot_id)
    step = origin_entry(seen.ref, snapshot_id) or replace(
        seen.ref.latest,
        snapshot=snapshot_id,
        packages=len(snapshot.packages) + len(snapshot.pip),
        size=snapshot.size,
        stored_size=snapshot.stored_size,
    )
    return RollbackPlan(seen, snapshot_id, step)


def rollback(store: Store, back: RollbackPlan, *, message: str = "") -> RollbackResult:
    """Makes it the current snapshot, as a further step of the history; raises ConcurrentUpdate."""
    before = back.seen.ref.current
    if not back.unchanged:
        step = replace(
            back.step,
            action=ROLLBACK,
            time=utc_now(),
            user=current_user(),
            host=hostname(),
            message=message,
            added_size=0,
        )
        advance_ref(store, back.environment, step, back.seen)
    return RollbackResult(back.environment, before, back.snapshot_id, back.unchanged)


def _before(environment: Ref) -> str:
    """The snapshot that the current one came after: what `~1` means."""
    line = lineage(environment)
    if len(line) < 2:
        raise NoEarlierSnapshot(environment.name, environment.current)
    return line[-2]
