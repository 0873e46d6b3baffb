"""Restore: from snapshots in a store to environments on disk, with their kernels in the user's menu."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from snapper import catalog, environment, kernels, places, state
from snapper.catalog import Reference
from snapper.descriptors import reporting
from snapper.errors import (
    FileFailed,
    InTheWay,
    NoPermission,
    NoSpace,
    SnapperError,
    WrongPlatform,
)
from snapper.model import FORMAT, Snapshot, encode_snapshot
from snapper.progress import SILENT, Progress
from snapper.staging import Staging, staged, sweep
from snapper.store import Store
from snapper.unpack import check_length, unpack
from snapper.workers import Workers

#: What a file system takes for each file beside its data, in bytes: half a block, and the directory's entry.
_OVERHEAD = 2304


@dataclass(frozen=True)
class Wanted:
    """One environment to restore. `prefix` or `envs_dir` say where; `replace` that changes there may be lost."""

    reference: Reference
    prefix: Path | None = None
    envs_dir: Path | None = None
    replace: bool = False
    keep_changed: bool = False


@dataclass(frozen=True)
class Restored:
    """What became of one environment; `present` if it was there already, then with so many files `changed` since.

    Sizes in bytes.
    """

    environment: str
    snapshot_id: str
    prefix: str
    present: bool
    changed: int
    size: int
    kernels: tuple[kernels.Registered, ...]
    unrelocated: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Failed:
    """An environment that could not be restored, and why."""

    environment: str
    error: SnapperError


@dataclass(frozen=True)
class _Place:
    """Where a snapshot goes and how it stands there: `present` already, or something to put in its place."""

    name: str
    snapshot_id: str
    prefix: Path
    present: bool


def restore(
    store: Store, wanted: Sequence[Wanted], *, jobs: int | None = None, progress: Progress = SILENT
) -> Iterator[Restored | Failed]:
    """Restores each environment in turn; one that fails does not stop the others.

    Whatever fails, what stood at an environment's place is as it was.
    """
    with ExitStack() as stack:
        pool: list[Workers[None]] = []

        def workers() -> Workers[None]:
            if not pool:
                pool.append(stack.enter_context(Workers(None, jobs)))
            return pool[0]

        for each in wanted:
            try:
                yield _restore(store, each, workers, progress)
            except SnapperError as error:
                yield Failed(str(each.reference), error)


def _restore(
    store: Store, wanted: Wanted, workers: Callable[[], Workers[None]], progress: Progress
) -> Restored:
    began = time.monotonic()
    place = _locate(store, wanted)
    size = 0
    unrelocated: tuple[str, ...] = ()
    if not place.present:
        snapshot = catalog.read_snapshot(store, place.snapshot_id)
        _check(place, snapshot)
        pool = workers()
        progress.start(f"Restoring {place.name}", snapshot.size)
        with staged(place.prefix) as staging:
            _locate(store, wanted)
            unrelocated = _build(store, place, snapshot, staging, pool, progress)
            _is_present(store, place.prefix, place.name, place.snapshot_id, wanted)
            staging.swap()
        progress.done()
        size = snapshot.size
    else:
        sweep(place.prefix)
    registered = kernels.register(place.prefix, place.name)
    _list_with_conda(place.prefix, progress)
    return Restored(
        environment=place.name,
        snapshot_id=place.snapshot_id,
        prefix=str(place.prefix),
        present=place.present,
        changed=_changes(place.prefix) if place.present else 0,
        size=size,
        kernels=registered,
        unrelocated=unrelocated,
        seconds=time.monotonic() - began,
    )


def _locate(store: Store, wanted: Wanted) -> _Place:
    """Decides where to restore to, and that nothing there would be lost; raises InTheWay, NoPlace, NotInStore."""
    found, snapshot_id = catalog.resolve(store, wanted.reference)
    if wanted.prefix:
        prefix = wanted.prefix
    elif wanted.envs_dir:
        prefix = wanted.envs_dir / found.name
    else:
        prefix = places.place_for(found.name, found.latest.prefix)
    prefix = Path(os.path.abspath(prefix))
    return _Place(
        found.name, snapshot_id, prefix, _is_present(store, prefix, found.name, snapshot_id, wanted)
    )


def _is_present(store: Store, prefix: Path, name: str, snapshot_id: str, wanted: Wanted) -> bool:
    """Whether the snapshot is at `prefix` already; raises InTheWay unless otherwise it may be put there."""
    if not os.path.lexists(prefix):
        return False
    elsewhere = "Restore elsewhere with --prefix or --envs-dir, or move it away first."
    if not prefix.is_dir():
        raise InTheWay(str(prefix), "it is not a directory", elsewhere)
    try:
        if not any(prefix.iterdir()) and not prefix.is_symlink():
            return False
        if not (prefix / "conda-meta").is_dir():
            raise InTheWay(str(prefix), "it is a directory that is not a conda environment", elsewhere)
    except PermissionError:
        raise NoPermission(str(prefix), "read") from None
    found = state.read(prefix)
    if prefix.is_symlink():
        return _is_present_behind(prefix, found, snapshot_id, wanted)
    saving = (
        f"Pack it first (snapper pack -p {prefix} --name ANOTHER), or put the stored one in its place with "
        "--replace."
    )
    if found is None:
        if wanted.replace:
            return False
        raise InTheWay(
            str(prefix),
            "it is an environment of which snapper does not know whether it is in the store",
            saving,
        )
    if found.environment != name and found.snapshot != snapshot_id:
        raise InTheWay(str(prefix), f"it is the environment {found.environment!r}", elsewhere)
    if not wanted.replace and store.size(catalog.snapshot_key(found.snapshot)) is None:
        raise InTheWay(
            str(prefix),
            f"it is snapshot {found.snapshot[:12]}, which is not in the store {store.url}",
            saving,
        )
    return _is_unchanged(prefix, found, snapshot_id, wanted)


def _is_present_behind(link: Path, found: state.State | None, snapshot_id: str, wanted: Wanted) -> bool:
    """The same for a symlink, in whose place nothing is ever put; raises InTheWay unless all is there."""
    same = found is not None and found.snapshot == snapshot_id
    if same and (wanted.keep_changed or state.drift(link, environment.scan(link)) == []):
        return True
    there = os.path.realpath(link)
    raise InTheWay(
        str(link),
        f"it is a symlink to {there}, where something else or another snapshot is",
        f"Restore to where it leads with --prefix {there}, or remove the link first.",
    )


def _is_unchanged(prefix: Path, found: state.State, snapshot_id: str, wanted: Wanted) -> bool:
    same = found.snapshot == snapshot_id
    if same and wanted.keep_changed:
        return True
    changed = state.drift(prefix, environment.scan(prefix))
    if changed == []:
        return same
    if wanted.replace:
        return False
    files = "1 file" if changed and len(changed) == 1 else f"{len(changed or ())} files"
    what = f"{files}, {changed[0]!r} first" if changed else "what exactly is not known"
    raise InTheWay(
        str(prefix),
        f"it has changed since it was snapshot {found.snapshot[:12]} ({what})",
        "Keep the changes with snapper pack, or give them up with --replace.",
    )


def _changes(prefix: Path) -> int:
    return len(state.drift(prefix, environment.scan(prefix)) or ())


def _check(place: _Place, snapshot: Snapshot) -> None:
    """Raises what would make the restore fail later: WrongPlatform, PrefixTooLong, NoPermission, NoSpace."""
    here = environment.this_platform()
    if snapshot.platform != here:
        raise WrongPlatform(place.name, snapshot.platform, here)
    check_length(str(place.prefix), snapshot.layers)
    parent = place.prefix.parent
    while not os.path.lexists(parent):
        parent = parent.parent
    if not os.path.isdir(parent):
        raise InTheWay(str(parent), "it is not a directory", "Restore elsewhere with --prefix or --envs-dir.")
    status = os.statvfs(parent)
    if status.f_flag & os.ST_RDONLY:
        raise FileFailed(
            str(parent), "it is on a read-only file system", "Restore elsewhere with --prefix or --envs-dir."
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise NoPermission(str(parent), "write in")
    free = shutil.disk_usage(parent).free
    needed = snapshot.size + snapshot.files * _OVERHEAD
    if needed > free:
        raise NoSpace(str(parent), needed, free)
    if status.f_files and snapshot.files > status.f_favail:
        raise NoSpace(str(parent), snapshot.files, status.f_favail, "inodes")


def _build(
    store: Store,
    place: _Place,
    snapshot: Snapshot,
    staging: Staging,
    workers: Workers[None],
    progress: Progress,
) -> tuple[str, ...]:
    """Unpacks the snapshot into the staging directory; returns the paths that could not be relocated."""
    prefix = str(place.prefix)
    done = unpack(store, snapshot.layers, str(staging.tree), prefix, workers, progress)
    found = state.State(FORMAT, place.name, place.snapshot_id, prefix)
    with reporting(f"snapshot {place.snapshot_id[:12]}", prefix):
        state.write(staging.tree, found, encode_snapshot(snapshot)[1], done.index)
        staging.tree.chmod(snapshot.mode & 0o777)
    return done.unrelocated


def _list_with_conda(prefix: Path, progress: Progress) -> None:
    try:
        places.register(prefix)
    except OSError as error:
        progress.note(f"{prefix} could not be added to ~/.conda/environments.txt: {error.strerror}")
