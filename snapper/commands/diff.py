"""Diff: what differs between two snapshots, or a snapshot and an environment on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from snapper.checks.compare import compare_environment
from snapper.checks.contents import Content, list_contents
from snapper.environment import changes
from snapper.environment.changes import PackageChanges, PackageSet
from snapper.environment.installed import InstalledEnvironment
from snapper.format.manifest import SnapshotDecoder
from snapper.format.model import Deviation, Layer, Snapshot
from snapper.packing.plan import installed_packages
from snapper.process.pool import WorkerPool
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.snapshots import read_snapshot
from snapper.repository.specs import SnapshotSpec, resolve_spec
from snapper.store import Store


@dataclass(frozen=True)
class FileChanges:
    """Paths by what happened to them, in order."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True)
class SnapshotDiff:
    """From `before` to `after`: ids of snapshots, or the directory of an environment.

    `altered` are files of packages that are no longer, or not again, as these installed them, as far as the
    snapshots name them; `files` are all that differ, None if they were not asked for.
    """

    before: str
    after: str
    packages: PackageChanges
    altered: FileChanges
    files: FileChanges | None


def diff_snapshots(
    store: Store,
    before: SnapshotSpec,
    after: SnapshotSpec,
    *,
    files: bool = False,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> SnapshotDiff:
    """What differs between two snapshots. Manifests do not name every file: for `files`, the layers that only one
    has are read. Raises NotInStore, Corrupted, UsageError.
    """
    ids = [resolve_spec(store, reference)[1] for reference in (before, after)]
    decoder = SnapshotDecoder()
    one, other = (read_snapshot(store, snapshot_id, decoder) for snapshot_id in ids)
    found = None
    if files:
        found = _files_between(store, one, other, jobs, progress)
    altered = _altered(one), _altered(other)
    return SnapshotDiff(
        ids[0],
        ids[1],
        changes.diff_packages(PackageSet(one.packages, one.pip), PackageSet(other.packages, other.pip)),
        FileChanges(tuple(sorted(altered[1] - altered[0])), tuple(sorted(altered[0] - altered[1])), ()),
        found,
    )


def diff_installed(
    store: Store,
    before: SnapshotSpec,
    prefix: Path,
    *,
    files: bool = False,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> SnapshotDiff:
    """What differs on disk from a snapshot. For `files`, the index is asked where it vouches for that snapshot;
    else every byte is compared. Raises NotInStore, NotAnEnvironment, Corrupted, PermissionDenied, UsageError.
    """
    snapshot_id = resolve_spec(store, before)[1]
    snapshot = read_snapshot(store, snapshot_id)
    installed = InstalledEnvironment(prefix)
    found = _files_on_disk(store, snapshot_id, snapshot, installed, jobs, progress) if files else None
    return SnapshotDiff(
        snapshot_id,
        str(prefix),
        changes.diff_packages(PackageSet(snapshot.packages, snapshot.pip), installed_packages(installed)),
        FileChanges((), (), ()),
        found,
    )


def _altered(snapshot: Snapshot) -> set[str]:
    deviations: tuple[Deviation, ...] = (*snapshot.altered, *snapshot.missing)
    return {path for each in deviations for path in each.paths}


def _files_between(
    store: Store, one: Snapshot, other: Snapshot, jobs: int | None, progress: Progress
) -> FileChanges:
    known = [{_identity(layer): layer for layer in each.layers} for each in (one, other)]
    alone = [[layer for key, layer in known[side].items() if key not in known[1 - side]] for side in (0, 1)]
    with WorkerPool(store, jobs) as workers:
        progress.start("Reading layers", sum(layer.diff_size for side in alone for layer in side))
        before, after = (list_contents(side, workers, progress) for side in alone)
    progress.done()
    cut = _cut(one) & _cut(other)
    return _sorted_out(before, after, cut)


def _identity(layer: Layer) -> object:
    return layer.digest, layer.relocations, layer.begins


def _cut(snapshot: Snapshot) -> set[str]:
    """The files that are in several layers, of which not all need differ."""
    return {layer.begins.path for layer in snapshot.layers if layer.begins}


def _sorted_out(
    before: Mapping[str, frozenset[Content]], after: Mapping[str, frozenset[Content]], cut: set[str]
) -> FileChanges:
    different = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    added = {path for path in different if path not in before and path not in cut}
    removed = {path for path in different if path not in after and path not in cut}
    return FileChanges(
        tuple(sorted(added)), tuple(sorted(removed)), tuple(sorted(different - added - removed))
    )


def _files_on_disk(
    store: Store,
    snapshot_id: str,
    snapshot: Snapshot,
    installed: InstalledEnvironment,
    jobs: int | None,
    progress: Progress,
) -> FileChanges:
    state = installed.state
    drift = installed.drift() if state and state.snapshot == snapshot_id else None
    if drift is not None:
        return FileChanges(drift.added, drift.removed, drift.changed)
    with WorkerPool(store, jobs) as workers:
        progress.start("Comparing files", snapshot.size)
        different = compare_environment(snapshot, installed, workers, progress)
    progress.done()
    return FileChanges(
        tuple(each.path for each in different if each.what == "extra"),
        tuple(each.path for each in different if each.what == "missing"),
        tuple(each.path for each in different if each.what not in ("extra", "missing", "checksums")),
    )
