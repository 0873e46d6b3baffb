"""Diff: compare two snapshots, or a snapshot with an environment on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from snapper.checks.compare import compare_environment
from snapper.checks.contents import Content, list_contents
from snapper.environment.changes import PackageChanges, PackageSet, diff_packages
from snapper.environment.installed import InstalledEnvironment
from snapper.format.manifest import SnapshotDecoder
from snapper.format.model import Layer, Snapshot
from snapper.packing.plan import installed_packages
from snapper.process.pool import WorkerPool
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.snapshots import read_snapshot
from snapper.repository.specs import SnapshotSpec, resolve_spec
from snapper.store import Store


@dataclass(frozen=True)
class FileChanges:
    """Sorted paths by what happened to them."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class SnapshotDiff:
    """The differences from `before` to `after`: ids of snapshots, or the directory of an environment.

    `altered` are package files whose changes or deletion only one of the snapshots records; `files` are all files that
    differ, None if these were not asked for.
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
    """Compare two snapshots; with `files`, also compare all files, by reading the layers that only one of them has.

    Raise NotInStore, Corrupted, UsageError.
    """
    old_id, new_id = (resolve_spec(store, spec)[1] for spec in (before, after))
    decoder = SnapshotDecoder()
    old, new = (read_snapshot(store, snapshot_id, decoder) for snapshot_id in (old_id, new_id))
    file_changes = _diff_files(store, old, new, jobs, progress) if files else None
    old_altered, new_altered = _altered_paths(old), _altered_paths(new)
    return SnapshotDiff(
        old_id,
        new_id,
        diff_packages(PackageSet(old.packages, old.pip), PackageSet(new.packages, new.pip)),
        FileChanges(tuple(sorted(new_altered - old_altered)), tuple(sorted(old_altered - new_altered))),
        file_changes,
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
    """Compare a snapshot with the environment at the prefix; with `files`, also compare all files.

    Files are compared by the environment's index if that is of the snapshot, else byte by byte. Raise NotInStore,
    NotAnEnvironment, Corrupted, PermissionDenied, FileOperationFailed, UsageError.
    """
    snapshot_id = resolve_spec(store, before)[1]
    snapshot = read_snapshot(store, snapshot_id)
    installed = InstalledEnvironment(prefix)
    file_changes = (
        _diff_installed_files(store, snapshot_id, snapshot, installed, jobs, progress) if files else None
    )
    return SnapshotDiff(
        snapshot_id,
        str(prefix),
        diff_packages(PackageSet(snapshot.packages, snapshot.pip), installed_packages(installed)),
        FileChanges(),
        file_changes,
    )


def _altered_paths(snapshot: Snapshot) -> set[str]:
    """Return the package files that have been changed or deleted."""
    return {path for deviation in (*snapshot.altered, *snapshot.missing) for path in deviation.paths}


def _diff_files(
    store: Store, old: Snapshot, new: Snapshot, jobs: int | None, progress: Progress
) -> FileChanges:
    old_layers, new_layers = _layers_by_use(old), _layers_by_use(new)
    only_old = [layer for use, layer in old_layers.items() if use not in new_layers]
    only_new = [layer for use, layer in new_layers.items() if use not in old_layers]
    with WorkerPool(store, jobs) as workers:
        progress.start("Reading layers", sum(layer.diff_size for layer in (*only_old, *only_new)))
        before = list_contents(only_old, workers, progress)
        after = list_contents(only_new, workers, progress)
    progress.done()
    return _compare_contents(before, after, _split_paths(old) & _split_paths(new))


def _layers_by_use(snapshot: Snapshot) -> dict[object, Layer]:
    """Return the layers, by everything that determines which files are restored from them."""
    return {(layer.digest, layer.relocations, layer.begins): layer for layer in snapshot.layers}


def _split_paths(snapshot: Snapshot) -> set[str]:
    """Return the files that are split between layers."""
    return {layer.begins.path for layer in snapshot.layers if layer.begins}


def _compare_contents(
    before: Mapping[str, Content], after: Mapping[str, Content], split: set[str]
) -> FileChanges:
    """Compare what the layers that differ hold; files in `split` are in both snapshots, with other pieces in layers
    that do not differ.
    """
    different = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    added = {path for path in different if path not in before and path not in split}
    removed = {path for path in different if path not in after and path not in split}
    changed = different - added - removed
    return FileChanges(tuple(sorted(added)), tuple(sorted(removed)), tuple(sorted(changed)))


def _diff_installed_files(
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
        changed = {*drift.changed, *drift.modified, *(path.rstrip("/") for path in drift.modes)}
        return FileChanges(drift.added, drift.removed, tuple(sorted(changed)))
    with WorkerPool(store, jobs) as workers:
        progress.start("Comparing files", snapshot.size)
        differences = compare_environment(snapshot_id, snapshot, installed, workers, progress)
    progress.done()
    paths = {difference.path: difference.what for difference in differences}
    return FileChanges(
        tuple(path for path, what in paths.items() if what == "extra"),
        tuple(path for path, what in paths.items() if what == "missing"),
        tuple(path for path, what in paths.items() if what not in ("extra", "missing", "checksums")),
    )
