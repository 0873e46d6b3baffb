"""Status: does what is on disk still match its snapshot, and is that still the store's current one."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from snapper.environment import changes, conda, pip, state
from snapper.environment.changes import PackageChanges, PackageSet, normalize_name
from snapper.environment.drift import Drift
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.locations import find_environment, installed_environments
from snapper.errors import EnvironmentNotFound, SnapperError
from snapper.packing.plan import installed_packages
from snapper.repository.refs import RefOrError, find_ref, read_all_refs, referenced_snapshots
from snapper.repository.snapshots import has_snapshot
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.requests import RestoreRequest, choose_prefix
from snapper.restoring.target import is_present, pack_command
from snapper.settings.resolution import resolve_envs_dir
from snapper.store import Store

#: `unchanged` and `changed` since it was packed or restored; `unknown` where snapper has no record of that;
#: `absent` where it is in the store and not on this machine.
Condition = Literal["unchanged", "changed", "unknown", "absent"]


@dataclass(frozen=True)
class EnvironmentStatus:
    """An environment, where it is, and the snapshot that it was packed as or restored from.

    `drift` and `packages` say what has changed since. `current` is the store's snapshot of that name, and `behind`
    how many steps of the history lie between; None where the store's history has none of this snapshot. `stored` says
    whether the store has it at all; None where that is not known. For what is absent, `error` is what would keep it
    from being restored.
    """

    environment: str
    prefix: str
    snapshot_id: str
    condition: Condition
    drift: Drift | None
    packages: PackageChanges | None
    current: str = ""
    behind: int | None = None
    stored: bool | None = None
    error: SnapperError | None = None

    @property
    def pack_command(self) -> str:
        """What packs it as it is, by its name."""
        return pack_command(Path(self.prefix), self.environment)


def environment_status(store: Store | None, prefix: Path, name: str = "") -> EnvironmentStatus:
    """The environment at the prefix, by that name in the store or else by its own.

    Raises NotAnEnvironment, PermissionDenied, FileOperationFailed.
    """
    installed = InstalledEnvironment(prefix)
    found = installed.state
    name = name or (found.environment if found else prefix.name)
    drift = installed.drift()
    condition: Condition = "unknown" if drift is None else "changed" if drift.paths else "unchanged"
    packages = _packages(installed, drift) if drift else None
    mine = EnvironmentStatus(name, str(prefix), found.snapshot if found else "", condition, drift, packages)
    return _beside_store(mine, store) if store and found else mine


def statuses_by_name(store: Store | None, name: str) -> tuple[EnvironmentStatus, ...]:
    """The environment that conda knows by that name, or else those that snapper does, here or in the store.

    Raises what `status_of` does, EnvironmentNotFound and AmbiguousName.
    """
    try:
        return (environment_status(store, find_environment(name)),)
    except EnvironmentNotFound as error:
        every, failure = all_statuses(store)
        found = tuple(each for each in every if each.environment == name)
        if not found:
            raise failure or error from None
        return found


def all_statuses(store: Store | None) -> tuple[tuple[EnvironmentStatus, ...], SnapperError | None]:
    """Every environment of this machine that snapper has packed or restored, and those of the store that are not
    here, by name; and why the store does not say which it has, if it does not.
    """
    here: list[EnvironmentStatus] = []
    for prefix in installed_environments():
        found = state.read(prefix)
        if found is not None:
            try:
                here.append(environment_status(store, prefix))
            except SnapperError as error:
                here.append(
                    EnvironmentStatus(
                        found.environment, str(prefix), found.snapshot, "unknown", None, None, error=error
                    )
                )
    known = {each.environment for each in here}
    failure: SnapperError | None = None
    try:
        if store:
            here += [_elsewhere(store, each) for each in read_all_refs(store) if each.name not in known]
    except SnapperError as error:
        failure = error
    return tuple(sorted(here, key=lambda each: (each.environment, each.prefix))), failure


def _elsewhere(store: Store, entry: RefOrError) -> EnvironmentStatus:
    """An environment of the store that conda does not know of here, or not by that name."""
    if entry.environment is None:
        return EnvironmentStatus(entry.name, "", "", "absent", None, None, error=entry.error)
    current = entry.environment.current
    absent = EnvironmentStatus(entry.name, "", "", "absent", None, None, current)
    wanted = RestoreRequest(SnapshotSpec(entry.name), envs_dir=resolve_envs_dir(None), keep_changed=True)
    try:
        prefix = choose_prefix(entry.environment, wanted)
        found = state.read(prefix)
        if found and (found.environment == entry.name or found.snapshot == current):
            return environment_status(store, prefix, entry.name)
        is_present(store, prefix, entry.environment, current, wanted, again=True)
    except SnapperError as error:
        return replace(absent, error=error)
    return absent


def _beside_store(mine: EnvironmentStatus, store: Store) -> EnvironmentStatus:
    """The status with what the store says of the environment."""
    try:
        seen = find_ref(store, mine.environment)
        named = referenced_snapshots(seen.ref) if seen else ()
        stored = mine.snapshot_id in named or has_snapshot(store, mine.snapshot_id)
    except SnapperError as error:
        return replace(mine, error=error)
    if seen is None:
        return replace(mine, stored=stored)
    found = seen.ref
    steps = [step.snapshot for step in found.history][::-1]
    behind = steps.index(mine.snapshot_id) if mine.snapshot_id in steps else None
    return replace(mine, current=found.current, behind=behind, stored=stored)


def _packages(installed: InstalledEnvironment, drift: Drift) -> PackageChanges:
    """What became of packages. Where no record of one has changed, none has; only those that have are read."""
    snapshot = installed.previous.snapshot if installed.previous else None
    records = [
        path for path in drift.paths if posixpath.dirname(path) == conda.META and path.endswith(".json")
    ]
    metadata = [path for path in drift.paths if path.endswith(".dist-info/METADATA")]
    if snapshot is None or not (records or metadata):
        return PackageChanges((), (), ())
    before = PackageSet(snapshot.packages, snapshot.pip)
    known = {f"{conda.META}/{package.dist}.json" for package in snapshot.packages}
    if set(records) - set(drift.added) - known or set(metadata) & set(drift.changed):
        return changes.diff_packages(
            before, installed_packages(installed)
        )  # records of other names, or whose owner is not plain
    read = [conda.read_record(installed.prefix / path) for path in records if path not in drift.removed]
    owned = {entry.path for record in read for entry in record.entries}
    fresh = {
        file.path: file for file in installed.tree.files if file.path in metadata and file.path not in owned
    }
    touched = {
        normalize_name(posixpath.basename(path[: -len("/METADATA")]).partition("-")[0]) for path in metadata
    }
    after = PackageSet(
        (
            *(each for each in snapshot.packages if f"{conda.META}/{each.dist}.json" not in records),
            *(record.package for record in read),
        ),
        (
            *(each for each in snapshot.pip if normalize_name(each.name) not in touched),
            *(each.package for each in pip.distributions(installed.prefix, fresh)),
        ),
    )
    return changes.diff_packages(before, after)
