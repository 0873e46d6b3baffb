"""Status: compare environments on this machine with their snapshots, and these with the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from snapper.checks.package_drift import find_package_changes
from snapper.environment import conda, state
from snapper.environment.changes import PackageChanges
from snapper.environment.contents import is_unfinished
from snapper.environment.control import others_may_write
from snapper.environment.drift import Drift
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.kept import kept_beside
from snapper.environment.locations import find_environment, installed_environments, why_of_unknown_origin
from snapper.environment.staging_lock import INSIDE
from snapper.errors import EnvironmentNotFound, EnvironmentOfUnknownOrigin, SnapperError
from snapper.format.model import Ref
from snapper.fs.errors import read_errors
from snapper.repository.refs import StoredEnvironment, find_ref, read_all_refs, referenced_snapshots
from snapper.repository.snapshots import has_snapshot
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.errors import pack_command
from snapper.restoring.local_changes import FEW_BYTES, find_local_changes
from snapper.restoring.requests import RestoreRequest, choose_prefix
from snapper.restoring.target import check_replaceable
from snapper.settings.resolution import load_settings, resolve_envs_dir
from snapper.store import Store

#: `unchanged` or `changed` since the environment was packed or restored; `unknown` if snapper has no record of that;
#: `absent` if it is in the store but not on this machine.
Condition = Literal["unchanged", "changed", "unknown", "absent"]


@dataclass(frozen=True)
class EnvironmentStatus:
    """An environment, and the snapshot that it was last packed as or restored from.

    `drift` and `packages` are what has changed since then; `not_compared` is why it is not known of the files that were
    only modified. `current` is the current snapshot of that name in the store,
    and `behind` the number of history entries after this one, None if the history does not contain it. `stored` is
    whether the store has the snapshot and will keep it, None if that is unknown. `kept` are directories beside it with
    what would have been lost when it was replaced. No restore replaces one that `others_may_write` to. For an absent
    environment, `error` is what would prevent restoring it.
    """

    environment: str
    prefix: str
    snapshot_id: str
    condition: Condition
    drift: Drift | None = None
    not_compared: str = ""
    packages: PackageChanges | None = None
    current: str = ""
    behind: int | None = None
    stored: bool | None = None
    kept: tuple[str, ...] = ()
    others_may_write: bool = False
    error: SnapperError | None = None

    @property
    def pack_command(self) -> str:
        """The command that packs the environment under its name."""
        return pack_command(Path(self.prefix), self.environment)


@dataclass(frozen=True)
class StatusReport:
    """Environments sorted by name, and the error if the store could not be listed."""

    environments: tuple[EnvironmentStatus, ...]
    store_error: SnapperError | None = None


def environment_status(store: Store | None, prefix: Path, name: str = "") -> EnvironmentStatus:
    """Return the status of the environment at the prefix.

    `name` is its name in the store; by default, the one it was packed or restored under. Raise what
    `conda.pin_environment` does.
    """
    directory = conda.pin_environment(prefix)
    installed = InstalledEnvironment(directory)
    current_state = installed.state
    changes = find_local_changes(store, installed, FEW_BYTES)
    drift = changes.drift if changes else None
    with read_errors():
        is_exposed = others_may_write(prefix, directory.status, directory.descriptor)
    status = EnvironmentStatus(
        environment=name or (current_state.environment if current_state else prefix.name),
        prefix=str(prefix),
        snapshot_id=current_state.snapshot if current_state else "",
        condition="unknown" if drift is None else "changed" if drift.paths else "unchanged",
        drift=drift,
        not_compared=changes.problem if changes else "",
        packages=find_package_changes(installed, drift) if drift else None,
        kept=kept_beside(prefix),
        others_may_write=is_exposed,
    )
    return _compare_with_store(status, store) if store and current_state else status


def statuses_by_name(store: Store | None, name: str) -> tuple[EnvironmentStatus, ...]:
    """Return the status of the environment that conda knows by that name.

    If there is none, return those of all environments that snapper knows by that name, on this machine or in the store.
    Raise what `environment_status` raises, EnvironmentNotFound, AmbiguousName, and what prevented listing the store.
    """
    try:
        return (_status_of_named(store, find_environment(name)),)
    except EnvironmentNotFound as error:
        report = all_statuses(store)
        statuses = tuple(status for status in report.environments if status.environment == name)
        if not statuses:
            raise report.store_error or error from None
        return statuses


def _status_of_named(store: Store | None, prefix: Path) -> EnvironmentStatus:
    """Return the status of the environment, with an error if others may have put it there to have it published."""
    status = environment_status(store, prefix)
    reason = "" if status.snapshot_id else why_of_unknown_origin(conda.pin_environment(prefix))
    return replace(status, error=EnvironmentOfUnknownOrigin(str(prefix), reason)) if reason else status


def all_statuses(store: Store | None) -> StatusReport:
    """Return the status of all environments that snapper has packed or restored here, or that are in the store."""
    statuses = list(_installed_statuses(store))
    error: SnapperError | None = None
    if store:
        try:
            installed = {status.environment for status in statuses}
            others = [entry for entry in read_all_refs(store) if entry.name not in installed]
            statuses += [_stored_status(store, entry) for entry in others]
        except SnapperError as store_error:
            error = store_error
    statuses.sort(key=lambda status: (status.environment, status.prefix))
    return StatusReport(tuple(statuses), error)


def _installed_statuses(store: Store | None) -> Iterator[EnvironmentStatus]:
    """Yield the status of each environment that conda knows and that snapper has packed, restored, or half restored."""
    for prefix in installed_environments():
        current_state = state.read(prefix)
        if current_state is None and not is_unfinished(prefix / INSIDE):
            continue
        try:
            yield environment_status(store, prefix)
        except SnapperError as error:
            name = current_state.environment if current_state else prefix.name
            snapshot_id = current_state.snapshot if current_state else ""
            yield EnvironmentStatus(name, str(prefix), snapshot_id, "unknown", error=error)


def _stored_status(store: Store, entry: StoredEnvironment) -> EnvironmentStatus:
    """Return the status of an environment in the store that conda does not know by that name."""
    absent = EnvironmentStatus(entry.name, "", "", "absent", error=entry.error)
    ref = entry.ref
    if ref is None:
        return absent
    absent = replace(absent, current=ref.current)
    request = RestoreRequest(
        SnapshotSpec(entry.name),
        envs_dir=resolve_envs_dir(None),
        keep_changed=True,
        on_change=load_settings().on_change,
    )
    try:
        prefix = choose_prefix(ref, request)
        if _is_restored_at(prefix, ref):
            return environment_status(store, prefix, entry.name)
        check_replaceable(store, InstalledEnvironment(prefix), ref, ref.current, request, again=True)
    except SnapperError as error:
        return replace(absent, error=error)
    return absent


def _is_restored_at(prefix: Path, ref: Ref) -> bool:
    """Return whether the environment is at the prefix: by its name in the store, or by its current snapshot."""
    current_state = state.read(prefix)
    return current_state is not None and (
        current_state.environment == ref.name or current_state.snapshot == ref.current
    )


def _compare_with_store(status: EnvironmentStatus, store: Store) -> EnvironmentStatus:
    """Return the status with `current`, `behind` and `stored`, or with the error that reading the store gave."""
    snapshot_id = status.snapshot_id
    try:
        published = find_ref(store, status.environment)
        referenced = referenced_snapshots(published.ref) if published else ()
        stored = snapshot_id in referenced or (not published and has_snapshot(store, snapshot_id))
    except SnapperError as error:
        return replace(status, error=error)
    if published is None:
        return replace(status, stored=stored)
    newest_first = [entry.snapshot for entry in reversed(published.ref.history)]
    behind = newest_first.index(snapshot_id) if snapshot_id in newest_first else None
    return replace(status, current=published.ref.current, behind=behind, stored=stored)
