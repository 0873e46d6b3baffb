"""The public Python API, available as `import snapper`; docs/api.md documents it with examples.

Snapshots are named as on the command line, `ENV` or `ENV@SNAPSHOT`. The settings (settings file and SNAPPER_*
variables) supply defaults. Functions return frozen results and raise subclasses of SnapperError.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from snapper import store as stores
from snapper.archives.importer import archive_stem
from snapper.commands.copy import CopyFailure, CopyResult, copy_environments, select_snapshots
from snapper.commands.diff import SnapshotDiff, diff_installed, diff_snapshots
from snapper.commands.export import ExportRequest, ExportResult, export_snapshot
from snapper.commands.import_archive import import_archive as pack_archive
from snapper.commands.log import LogEntry, read_log
from snapper.commands.pack import PackOptions, PackResult
from snapper.commands.pack import pack as pack_environment
from snapper.commands.prune import PruneResult
from snapper.commands.prune import prune as prune_store
from snapper.commands.remove import plan_removal, remove_environment
from snapper.commands.restore import RestoreFailure, RestoreResult
from snapper.commands.restore import restore as restore_requests
from snapper.commands.restore_session import RestoreOptions
from snapper.commands.restore_session import restore_all as restore_matching
from snapper.commands.retention import RetentionPolicy
from snapper.commands.rollback import LocalRestore, Rollback
from snapper.commands.rollback import rollback as roll_back
from snapper.commands.status import EnvironmentStatus, all_statuses, environment_status, statuses_by_name
from snapper.commands.tag import TagResult, delete_tag, set_tag
from snapper.commands.verify import (
    EnvironmentCheck,
    LayerSample,
    RepairResult,
    VerifyResult,
    verify_and_repair,
    verify_store,
)
from snapper.commands.verify import verify_environment as compare_environment
from snapper.environment.locations import find_environment
from snapper.format.model import Snapshot
from snapper.packing.source import EditablePolicy
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.refs import StoredEnvironment, read_all_refs
from snapper.repository.snapshots import read_snapshot as read_stored_snapshot
from snapper.repository.specs import SnapshotSpec, resolve_spec
from snapper.restoring.requests import RestoreRequest
from snapper.restoring.selection import NamePatterns
from snapper.settings.directories import absolute_directory
from snapper.settings.resolution import load_settings, resolve_envs_dir, store_url
from snapper.store import Store

# --- stores and their contents ----------------------------------------------------------------------------


def open_store(url: str | None = None, *, create: bool = False, apart_from: Path | None = None) -> Store:
    """Open the store at a directory, a `file://` URL, or `s3://BUCKET/PREFIX`; by default the one in the settings.

    With `create`, a missing or empty directory or S3 prefix becomes a store. Raise NotAStore, UnsupportedFormat,
    StoreRefused, StoreUnreachable, and UsageError if the store is inside the directory `apart_from`.
    """
    location = store_url(url)
    cache = stores.configured_cache(location)
    return stores.open_store(location, create=create, apart_from=apart_from, cache=cache)


def environments(store: Store) -> tuple[StoredEnvironment, ...]:
    """Return the environments in the store by name; those that cannot be read have an `error` instead of a `ref`."""
    return tuple(read_all_refs(store))


def snapshots(store: Store, environment: str, *, limit: int | None = None) -> tuple[LogEntry, ...]:
    """Return the history of an environment, latest first, with the packages that each entry changed.

    Raise NotInStore, Corrupted, UnsupportedFormat.
    """
    return read_log(store, environment, limit)


def read_snapshot(store: Store, spec: str) -> Snapshot:
    """Return a snapshot: its packages, kernels, and layers. Raise NotInStore, Corrupted, UnsupportedFormat."""
    return read_stored_snapshot(store, resolve_spec(store, SnapshotSpec.parse(spec))[1])


# --- environments on this machine -------------------------------------------------------------------------


def pack(
    store: Store,
    environment: str | Path,
    *,
    name: str | None = None,
    message: str = "",
    level: int | None = None,
    editables: EditablePolicy = "refuse",
    full: bool = False,
    force: bool = False,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> PackResult:
    """Pack an environment, given by its conda name or its directory (a Path), and publish the snapshot as `name`.

    The name defaults to that of the environment. Files that have not changed since the last pack or restore are not
    read unless `full`. `editables` says what to do about editable installs: "refuse", "include" their sources, or
    "ignore". With `force`, publish even if someone else has published in the meantime.

    Raise EnvironmentNotFound, AmbiguousName, NotAnEnvironment, EditableInstallsFound, ChangedWhilePacking,
    PermissionDenied, InsufficientSpace, StoreRefused, ConcurrentUpdate; the store's environments are then unchanged.
    """
    settings = load_settings()
    prefix = _find_prefix(environment)
    name = name or (prefix.name if isinstance(environment, Path) else environment)
    options = PackOptions(
        message=message, level=level or settings.level, editables=editables, full=full, force=force
    )
    return pack_environment(store, prefix, name, options, jobs=jobs or settings.jobs, progress=progress)


def restore(
    store: Store,
    spec: str,
    *,
    prefix: str | Path | None = None,
    envs_dir: str | Path | None = None,
    replace: bool = False,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> RestoreResult:
    """Restore one snapshot and register its kernels; an environment that is already in place is left as it is.

    `prefix` or `envs_dir` name the target; by default it is chosen as the command line does. `replace` overwrites local
    changes. Raise NotInStore, TargetOccupied, PlatformMismatch, PrefixTooLong, InsufficientSpace, PermissionDenied,
    Corrupted, and what stores raise; what was at the target is then unchanged.
    """
    request = RestoreRequest(
        SnapshotSpec.parse(spec), prefix=_prefix(prefix), envs_dir=_envs_dir(envs_dir), replace=replace
    )
    (outcome,) = restore_requests(store, [request], jobs=jobs or load_settings().jobs, progress=progress)
    if isinstance(outcome, RestoreFailure):
        raise outcome.error
    return outcome


def restore_all(
    store: Store,
    *,
    only: Sequence[str] = (),
    except_: Sequence[str] = (),
    first: Sequence[str] = (),
    envs_dir: str | Path | None = None,
    replace: bool = False,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> Iterator[RestoreResult | RestoreFailure]:
    """Restore all environments of the store, or those whose names match the patterns; yield the outcome of each.

    A failure does not stop the others. Environments with local changes are left as they are unless `replace`. Those
    that match `first` are restored first, then the most recently used.
    """
    settings = load_settings()
    options = RestoreOptions(
        envs_dir=_envs_dir(envs_dir),
        replace=replace,
        first=tuple(first) or settings.first,
        jobs=jobs or settings.jobs,
    )
    patterns = NamePatterns(tuple(only) or settings.only, tuple(except_) or settings.except_)
    for event in restore_matching(lambda: store, store.url, patterns, options, progress=progress):
        if isinstance(event, (RestoreResult, RestoreFailure)):
            yield event


def status(store: Store | None, environment: str | Path | None = None) -> tuple[EnvironmentStatus, ...]:
    """Return how environments on this machine compare with the store: one by name or directory (a Path), or all.

    Without a store, only what is known on this machine is returned. Raise EnvironmentNotFound, NotAnEnvironment, and
    what stores raise.
    """
    if isinstance(environment, Path):
        return (environment_status(store, absolute_directory(environment)),)
    if environment is not None:
        return statuses_by_name(store, environment)
    report = all_statuses(store)
    if report.store_error is not None:
        raise report.store_error
    return report.environments


def diff(
    store: Store,
    before: str,
    after: str | Path | None = None,
    *,
    files: bool = False,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> SnapshotDiff:
    """Return what differs from the snapshot `before` to the snapshot `after`, or to an environment on this machine.

    The environment is given by its directory (a Path); by default it is the one that `before` names. With `files`, list
    every file that differs, not only packages.
    """
    jobs = jobs or load_settings().jobs
    first = SnapshotSpec.parse(before)
    if isinstance(after, str):
        second = SnapshotSpec.parse(after)
        return diff_snapshots(store, first, second, files=files, jobs=jobs, progress=progress)
    prefix = _find_prefix(after or first.environment)
    return diff_installed(store, first, prefix, files=files, jobs=jobs, progress=progress)


# --- history ----------------------------------------------------------------------------------------------


def rollback(
    store: Store,
    spec: str,
    *,
    message: str = "",
    store_only: bool = False,
    prefix: str | Path | None = None,
    envs_dir: str | Path | None = None,
    replace: bool = False,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> Rollback:
    """Make an earlier snapshot current again for everyone: the one that `spec` names, or the one before the current.

    It is first restored on this machine, unless `store_only`; the other options are those of `restore`. Raise
    NoEarlierSnapshot, NotInStore, StoreUnreachable, ConcurrentUpdate, and what `restore` raises.
    """
    local = None
    if not store_only:
        local = LocalRestore(_prefix(prefix), _envs_dir(envs_dir), replace, jobs or load_settings().jobs)
    return roll_back(store, SnapshotSpec.parse(spec), message=message, local=local, progress=progress)


def tag(store: Store, spec: str, name: str, *, move: bool = False) -> TagResult:
    """Give a snapshot a tag. Raise TagExists if it names another snapshot, unless `move`; NotInStore, UsageError."""
    return set_tag(store, SnapshotSpec.parse(spec), name, move=move)


def untag(store: Store, environment: str, name: str) -> TagResult:
    """Delete a tag of an environment. Raise NotInStore."""
    return delete_tag(store, environment, name)


def remove(store: Store, environment: str) -> None:
    """Remove an environment and its history from the store, for everyone; what is on disk stays. Raise NotInStore."""
    remove_environment(store, plan_removal(store, environment))


# --- sharing ----------------------------------------------------------------------------------------------


def copy(
    source: Store, target: Store, *specs: str, force: bool = False, progress: Progress = NO_PROGRESS
) -> Iterator[CopyResult | CopyFailure]:
    """Copy snapshots, all current ones by default, to another store and make them current there; yield each outcome.

    An environment whose history has diverged in the target is only replaced with `force`.
    """
    selected = select_snapshots(source, map(SnapshotSpec.parse, specs))
    return copy_environments(source, target, selected, force=force, progress=progress)


def export(
    store: Store,
    spec: str,
    output: str | Path,
    *,
    format: str = "",
    dest_prefix: str = "",
    level: int | None = None,
    threads: int | None = None,
    force: bool = False,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> ExportResult:
    """Write a snapshot as a conda-pack archive; the format defaults to that of the output's extension.

    The archive is relocatable with conda-unpack, or made for `dest_prefix`. An existing file is only replaced with
    `force`. Raise NotInStore, TargetOccupied, PrefixTooLong, ProgramNotFound, InsufficientSpace, UsageError.
    """
    request = ExportRequest(
        SnapshotSpec.parse(spec),
        absolute_directory(output),
        format=format,
        dest_prefix=dest_prefix,
        level=level,
        threads=threads,
        force=force,
    )
    return export_snapshot(store, request, jobs=jobs or load_settings().jobs, progress=progress)


def import_archive(
    store: Store,
    file: str | Path,
    *,
    name: str | None = None,
    message: str = "",
    level: int | None = None,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> PackResult:
    """Pack the environment in a conda-pack archive; nothing in the archive is executed.

    The name defaults to that of the file. Raise NotAnArchive, InvalidArchive, ProgramNotFound, and what `pack` raises.
    """
    settings = load_settings()
    path = absolute_directory(file)
    name = name or archive_stem(path)
    level, jobs = level or settings.level, jobs or settings.jobs
    return pack_archive(lambda: store, path, name, message=message, level=level, jobs=jobs, progress=progress)


# --- store maintenance ------------------------------------------------------------------------------------


def verify(
    store: Store,
    sample: LayerSample | None = None,
    *,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> VerifyResult:
    """Check the objects of a store against their digests and each other; read the layers of the sample, if given."""
    return verify_store(store, sample, jobs=jobs or load_settings().jobs, progress=progress)


def repair(
    store: Store,
    sample: LayerSample | None = None,
    sources: Mapping[str, Store] | None = None,
    *,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> RepairResult:
    """Check a store as `verify` does, and replace damaged objects by intact copies.

    Copies come from the `sources`, by name, or by default from the environments on this machine.
    """
    settings = load_settings()
    return verify_and_repair(
        store, sample, sources, level=settings.level, jobs=jobs or settings.jobs, progress=progress
    )


def verify_environment(
    store: Store,
    environment: str | Path,
    spec: str | None = None,
    *,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> EnvironmentCheck:
    """Compare every byte of an environment with a snapshot, by default the one last packed or restored."""
    prefix = _find_prefix(environment)
    parsed = SnapshotSpec.parse(spec) if spec else None
    return compare_environment(store, prefix, parsed, jobs=jobs or load_settings().jobs, progress=progress)


def prune(
    store: Store,
    retention: RetentionPolicy | None = None,
    environments: Sequence[str] = (),
    *,
    apply: bool = False,
    grace: float = 24 * 3600,
    progress: Progress = NO_PROGRESS,
) -> PruneResult:
    """Delete what no environment needs any more; without `apply`, only return what would be deleted.

    The retention policy limits the history of the given environments, by default all; without one, histories stay as
    they are. Objects younger than `grace`, in seconds, are kept. Raise StoreLocked, Corrupted, LeaseExpired.
    """
    retention = retention or RetentionPolicy()
    return prune_store(store, retention, environments, dry=not apply, grace=grace, progress=progress)


# --- arguments --------------------------------------------------------------------------------------------


def _find_prefix(environment: str | Path) -> Path:
    """Return the prefix of an environment, given by its conda name or its directory (a Path)."""
    return absolute_directory(environment) if isinstance(environment, Path) else find_environment(environment)


def _prefix(prefix: str | Path | None) -> Path | None:
    return absolute_directory(prefix) if prefix else None


def _envs_dir(directory: str | Path | None) -> Path | None:
    return resolve_envs_dir(Path(directory) if directory else None)
