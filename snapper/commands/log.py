"""Log: an environment's history, and the packages that each entry changed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

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
    """A history entry, the tags of its snapshot, and the changes since the entry before it.

    There are no changes for the first entry, nor if a snapshot cannot be read; then `error` says why.
    """

    entry: HistoryEntry
    tags: tuple[str, ...]
    current: bool
    changes: PackageChanges | None
    error: SnapperError | None = None


def read_log(store: Store, name: str, limit: int | None = None) -> tuple[LogEntry, ...]:
    """Return the latest entries of the history, newest first, or all without a `limit`.

    Raise NotInStore, Corrupted, UnsupportedFormat.
    """
    ref = read_ref(store, check_environment_name(name)).ref
    decoder = SnapshotDecoder()
    tags_of: defaultdict[str, list[str]] = defaultdict(list)
    for tag, tagged in sorted(ref.tags.items()):
        tags_of[tagged].append(tag)
    tags_by_snapshot = {tagged: tuple(tags) for tagged, tags in tags_of.items()}

    @lru_cache(maxsize=2)
    def read_packages(snapshot_id: str) -> PackageSet:
        snapshot = read_snapshot(store, snapshot_id, decoder)
        return PackageSet(snapshot.packages, snapshot.pip)

    def describe(number: int) -> LogEntry:
        entry = ref.history[number]
        tags, current = tags_by_snapshot.get(entry.snapshot, ()), entry.snapshot == ref.current
        if number == 0:
            return LogEntry(entry, tags, current, None)
        try:
            after, before = read_packages(entry.snapshot), read_packages(ref.history[number - 1].snapshot)
        except SnapperError as error:
            return LogEntry(entry, tags, current, None, error)
        return LogEntry(entry, tags, current, changes.diff_packages(before, after))

    newest_first = range(len(ref.history))[::-1]
    return tuple(describe(number) for number in newest_first[:limit])
