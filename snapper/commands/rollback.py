"""Roll back: make an earlier snapshot current again, here and for everyone who uses the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from snapper.commands.restore import RestoreFailure, RestoreResult, complete_interrupted_swaps, restore
from snapper.errors import NoEarlierSnapshot, SnapperError
from snapper.format.model import HistoryEntry, Ref
from snapper.process.identity import current_user, hostname, utc_now
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.refs import ROLLBACK, VersionedRef, advance_ref, lineage, origin_entry, read_ref
from snapper.repository.snapshots import read_snapshot
from snapper.repository.specs import SnapshotSpec, resolve_in_ref
from snapper.restoring.requests import RestoreRequest
from snapper.store import Store


@dataclass(frozen=True)
class LocalRestore:
    """How to restore the snapshot on this machine; see RestoreRequest."""

    prefix: Path | None = None
    envs_dir: Path | None = None
    replace: bool = False
    jobs: int | None = None


@dataclass(frozen=True)
class RollbackResult:
    """The snapshots that were current in the store before and after the rollback, which may be the same."""

    environment: str
    before: str
    snapshot_id: str
    unchanged: bool


@dataclass(frozen=True)
class Rollback:
    """A rollback in the store, and the environment that was restored on this machine, if one was."""

    stored: RollbackResult
    restored: RestoreResult | None


@dataclass(frozen=True)
class _RollbackPlan:
    """The ref as it was read, and the history entry that once made `snapshot_id` current."""

    current: VersionedRef
    snapshot_id: str
    entry: HistoryEntry


def rollback(
    store: Store,
    spec: SnapshotSpec,
    *,
    message: str = "",
    local: LocalRestore | None = None,
    progress: Progress = NO_PROGRESS,
    on_not_moved: Callable[[RestoreResult], None] | None = None,
) -> Rollback:
    """Make a snapshot current again: the one that `spec` names, else the one before the current.

    With `local`, it is restored on this machine first, so that whatever prevents that is found before anything changes
    for others. `on_not_moved` is called if it has been restored, but the store could not be changed.

    Raise NoEarlierSnapshot, NotInStore, Corrupted, StoreUnreachable, ConcurrentUpdate, and what a restore fails with.
    """
    if local:
        complete_interrupted_swaps()
    store.require_online()
    plan = _plan(store, spec)
    restored = _restore(store, plan, local, progress) if local else None
    try:
        return Rollback(_move_ref(store, plan, message), restored)
    except SnapperError:
        if restored and on_not_moved:
            on_not_moved(restored)
        raise


def _plan(store: Store, spec: SnapshotSpec) -> _RollbackPlan:
    current = read_ref(store, spec.environment)
    ref = current.ref
    snapshot_id = resolve_in_ref(ref, spec, store) if spec.snapshot else _previous_snapshot(ref)
    snapshot = read_snapshot(store, snapshot_id)
    entry = origin_entry(ref, snapshot_id) or replace(
        ref.latest,
        snapshot=snapshot_id,
        packages=len(snapshot.packages) + len(snapshot.pip),
        size=snapshot.size,
        stored_size=snapshot.stored_size,
    )
    return _RollbackPlan(current, snapshot_id, entry)


def _restore(store: Store, plan: _RollbackPlan, local: LocalRestore, progress: Progress) -> RestoreResult:
    """Restore the snapshot on this machine; raise the error that it fails with."""
    request = RestoreRequest(
        SnapshotSpec(plan.current.ref.name, plan.snapshot_id),
        prefix=local.prefix,
        envs_dir=local.envs_dir,
        replace=local.replace,
    )
    (outcome,) = restore(store, [request], jobs=local.jobs, progress=progress)
    if isinstance(outcome, RestoreFailure):
        raise outcome.error
    return outcome


def _move_ref(store: Store, plan: _RollbackPlan, message: str) -> RollbackResult:
    """Make the snapshot current by a new history entry, unless it is current; raise ConcurrentUpdate."""
    ref = plan.current.ref
    unchanged = plan.snapshot_id == ref.current
    if not unchanged:
        entry = replace(
            plan.entry,
            action=ROLLBACK,
            time=utc_now(),
            user=current_user(),
            host=hostname(),
            message=message,
            added_size=0,
        )
        advance_ref(store, ref.name, entry, plan.current)
    return RollbackResult(ref.name, ref.current, plan.snapshot_id, unchanged)


def _previous_snapshot(ref: Ref) -> str:
    """Return the snapshot that `~1` means; raise NoEarlierSnapshot."""
    line = lineage(ref)
    if len(line) < 2:
        raise NoEarlierSnapshot(ref.name, ref.current)
    return line[-2]
