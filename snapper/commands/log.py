"""Log: an environment's history, and what each step of it changed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from snapper.environment import changes
from snapper.environment.changes import PackageChanges, PackageSet
from snapper.errors import SnapperError
from snapper.format.manifest import SnapshotDecoder
from snapper.format.model import HistoryEntry
from snapper.repository.refs import read_ref
from snapper.repository.snapshots import read_snapshot
from snapper.repository.specs import check_environment_name
from snapper.store import Store


@dataclass(frozen=True)
class LogEntry:
    """One step of the history. `changes` are against the step before; None for the first, and where a snapshot
    cannot be read, which `error` says.
    """

    entry: HistoryEntry
    tags: tuple[str, ...]
    current: bool
    changes: PackageChanges | None
    error: SnapperError | None = None


def read_log(store: Store, name: str, limit: int | None = None) -> tuple[LogEntry, ...]:
    """The latest steps, newest first, all of them without a `limit`; raises NotInStore, Corrupted,
    UnsupportedFormat.
    """
    found = read_ref(store, check_environment_name(name)).ref

    decoder = SnapshotDecoder()

    @cache
    def packages(snapshot_id: str) -> PackageSet:
        snapshot = read_snapshot(store, snapshot_id, decoder)
        return PackageSet(snapshot.packages, snapshot.pip)

    def step(number: int) -> LogEntry:
        entry = found.history[number]
        tags = tuple(sorted(tag for tag, snapshot_id in found.tags.items() if snapshot_id == entry.snapshot))
        changed, failure = None, None
        if number:
            try:
                before, after = packages(found.history[number - 1].snapshot), packages(entry.snapshot)
                changed = changes.diff_packages(before, after)
            except SnapperError as error:
                failure = error
        return LogEntry(entry, tags, entry.snapshot == found.current, changed, failure)

    numbers = range(len(found.history))[::-1]
    return tuple(step(number) for number in numbers[:limit])
