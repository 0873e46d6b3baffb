"""Log: an environment's history, and what each step of it changed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from snapper import catalog
from snapper.environment import changes
from snapper.environment.changes import Changes, Packages
from snapper.errors import SnapperError
from snapper.format.manifest import Decoder
from snapper.format.model import Move
from snapper.store import Store


@dataclass(frozen=True)
class Step:
    """One step of the history. `changes` are against the step before; None for the first, and where a snapshot
    cannot be read, which `error` says.
    """

    move: Move
    tags: tuple[str, ...]
    current: bool
    changes: Changes | None
    error: SnapperError | None = None


def log(store: Store, name: str, limit: int | None = None) -> tuple[Step, ...]:
    """The latest steps, newest first, all of them without a `limit`; raises NotInStore, Damaged, NewerFormat."""
    found, _ = catalog.read_environment(store, catalog.check_name(name))

    decoder = Decoder()

    @cache
    def packages(snapshot_id: str) -> Packages:
        snapshot = catalog.read_snapshot(store, snapshot_id, decoder)
        return Packages(snapshot.packages, snapshot.pip)

    def step(number: int) -> Step:
        move = found.history[number]
        tags = tuple(sorted(tag for tag, snapshot_id in found.tags.items() if snapshot_id == move.snapshot))
        changed, failure = None, None
        if number:
            try:
                before, after = packages(found.history[number - 1].snapshot), packages(move.snapshot)
                changed = changes.between(before, after)
            except SnapperError as error:
                failure = error
        return Step(move, tags, move.snapshot == found.current, changed, failure)

    numbers = range(len(found.history))[::-1]
    return tuple(step(number) for number in numbers[:limit])
