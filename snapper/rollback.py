"""Rollback: an earlier snapshot becomes an environment's current one again, for all who use the store."""

from __future__ import annotations

from dataclasses import dataclass, replace

from snapper import catalog
from snapper.catalog import Reference
from snapper.errors import NothingBefore
from snapper.format.model import Environment, Move
from snapper.machine.identity import host, now, user
from snapper.store import Store


@dataclass(frozen=True)
class Target:
    """Where an environment is to go back to: the step of its history that made `snapshot_id` current."""

    seen: tuple[Environment, str]
    snapshot_id: str
    step: Move

    @property
    def environment(self) -> str:
        return self.seen[0].name

    @property
    def unchanged(self) -> bool:
        return self.snapshot_id == self.seen[0].current


@dataclass(frozen=True)
class RolledBack:
    """What the environment was at, and what it is at now."""

    environment: str
    before: str
    snapshot_id: str
    unchanged: bool


def target(store: Store, reference: Reference) -> Target:
    """What the reference means, or without a snapshot in it, the one before the current.

    Raises NothingBefore, NotInStore, Damaged.
    """
    seen = catalog.read_environment(store, reference.environment)
    named = bool(reference.snapshot)
    snapshot_id = catalog.resolve_in(seen[0], reference, store) if named else _before(seen[0])
    snapshot = catalog.read_snapshot(store, snapshot_id)
    step = catalog.packed(seen[0], snapshot_id) or replace(
        seen[0].latest,
        snapshot=snapshot_id,
        packages=len(snapshot.packages) + len(snapshot.pip),
        size=snapshot.size,
        stored_size=snapshot.stored_size,
    )
    return Target(seen, snapshot_id, step)


def rollback(store: Store, back: Target, *, message: str = "") -> RolledBack:
    """Makes it the current snapshot, as a further step of the history; raises Moved."""
    before = back.seen[0].current
    if not back.unchanged:
        step = replace(
            back.step,
            action=catalog.ROLLBACK,
            time=now(),
            user=user(),
            host=host(),
            message=message,
            added_size=0,
        )
        catalog.move(store, back.environment, step, back.seen)
    return RolledBack(back.environment, before, back.snapshot_id, back.unchanged)


def _before(environment: Environment) -> str:
    """The snapshot that the current one came after: what `~1` means."""
    line = catalog.line(environment)
    if len(line) < 2:
        raise NothingBefore(environment.name, environment.current)
    return line[-2]
