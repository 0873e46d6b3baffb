"""Status: does what is on disk still match its snapshot, and is that still the store's current one."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from snapper import catalog, config, environment
from snapper.catalog import Reference
from snapper.environment import changes, conda, pip, places, state
from snapper.environment.changes import Changes, Packages, normalized
from snapper.environment.state import Drift
from snapper.environment.tree import Tree
from snapper.errors import NoSuchEnvironment, SnapperError
from snapper.packing.plan import installed
from snapper.store import Store
from snapper.unpacking import target
from snapper.unpacking.target import Wanted

#: `unchanged` and `changed` since it was packed or restored; `unknown` where snapper has no record of that;
#: `absent` where it is in the store and not on this machine.
Condition = Literal["unchanged", "changed", "unknown", "absent"]


@dataclass(frozen=True)
class Status:
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
    packages: Changes | None
    current: str = ""
    behind: int | None = None
    stored: bool | None = None
    error: SnapperError | None = None

    @property
    def pack_command(self) -> str:
        """What packs it as it is, by its name."""
        return target.pack_command(Path(self.prefix), self.environment)


def status_of(store: Store | None, prefix: Path, name: str = "") -> Status:
    """The environment at the prefix, by that name in the store or else by its own.

    Raises NotAnEnvironment, NoPermission, FileFailed.
    """
    found = state.read(prefix)
    tree = environment.scan(prefix)
    name = name or (found.environment if found else prefix.name)
    drift = state.drifted(prefix, tree) if found else None
    condition: Condition = "unknown" if drift is None else "changed" if drift.paths else "unchanged"
    packages = _packages(prefix, tree, drift) if drift else None
    mine = Status(name, str(prefix), found.snapshot if found else "", condition, drift, packages)
    return _beside_store(mine, store) if store and found else mine


def named(store: Store | None, name: str) -> tuple[Status, ...]:
    """The environment that conda knows by that name, or else those that snapper does, here or in the store.

    Raises what `status_of` does, NoSuchEnvironment and AmbiguousName.
    """
    try:
        return (status_of(store, places.find(name)),)
    except NoSuchEnvironment as error:
        every, failure = statuses(store)
        found = tuple(each for each in every if each.environment == name)
        if not found:
            raise failure or error from None
        return found


def statuses(store: Store | None) -> tuple[tuple[Status, ...], SnapperError | None]:
    """Every environment of this machine that snapper has packed or restored, and those of the store that are not
    here, by name; and why the store does not say which it has, if it does not.
    """
    here: list[Status] = []
    for prefix in places.environments():
        found = state.read(prefix)
        if found is not None:
            try:
                here.append(status_of(store, prefix))
            except SnapperError as error:
                here.append(
                    Status(found.environment, str(prefix), found.snapshot, "unknown", None, None, error=error)
                )
    known = {each.environment for each in here}
    failure: SnapperError | None = None
    try:
        if store:
            here += [_elsewhere(store, each) for each in catalog.survey(store) if each.name not in known]
    except SnapperError as error:
        failure = error
    return tuple(sorted(here, key=lambda each: (each.environment, each.prefix))), failure


def _elsewhere(store: Store, entry: catalog.Entry) -> Status:
    """An environment of the store that conda does not know of here, or not by that name."""
    if entry.environment is None:
        return Status(entry.name, "", "", "absent", None, None, error=entry.error)
    current = entry.environment.current
    absent = Status(entry.name, "", "", "absent", None, None, current)
    wanted = Wanted(Reference(entry.name), envs_dir=config.envs_dir(None), keep_changed=True)
    try:
        prefix = target.place(entry.environment, wanted)
        found = state.read(prefix)
        if found and (found.environment == entry.name or found.snapshot == current):
            return status_of(store, prefix, entry.name)
        target.is_present(store, prefix, entry.environment, current, wanted, again=True)
    except SnapperError as error:
        return replace(absent, error=error)
    return absent


def _beside_store(mine: Status, store: Store) -> Status:
    """The status with what the store says of the environment."""
    try:
        seen = catalog.find_environment(store, mine.environment)
        named = catalog.named_by(seen[0]) if seen else ()
        stored = mine.snapshot_id in named or catalog.has_snapshot(store, mine.snapshot_id)
    except SnapperError as error:
        return replace(mine, error=error)
    if seen is None:
        return replace(mine, stored=stored)
    found = seen[0]
    steps = [step.snapshot for step in found.history][::-1]
    behind = steps.index(mine.snapshot_id) if mine.snapshot_id in steps else None
    return replace(mine, current=found.current, behind=behind, stored=stored)


def _packages(prefix: Path, tree: Tree, drift: Drift) -> Changes:
    """What became of packages. Where no record of one has changed, none has; only those that have are read."""
    snapshot = state.read_snapshot(prefix)
    records = [
        path for path in drift.paths if posixpath.dirname(path) == conda.META and path.endswith(".json")
    ]
    metadata = [path for path in drift.paths if path.endswith(".dist-info/METADATA")]
    if snapshot is None or not (records or metadata):
        return Changes((), (), ())
    before = Packages(snapshot.packages, snapshot.pip)
    known = {f"{conda.META}/{package.dist}.json" for package in snapshot.packages}
    if set(records) - set(drift.added) - known or set(metadata) & set(drift.changed):
        return changes.between(
            before, installed(prefix, tree)
        )  # records of other names, or whose owner is not plain
    read = [conda.read_record(prefix / path) for path in records if path not in drift.removed]
    owned = {entry.path for record in read for entry in record.entries}
    fresh = {file.path: file for file in tree.files if file.path in metadata and file.path not in owned}
    touched = {
        normalized(posixpath.basename(path[: -len("/METADATA")]).partition("-")[0]) for path in metadata
    }
    after = Packages(
        (
            *(each for each in snapshot.packages if f"{conda.META}/{each.dist}.json" not in records),
            *(record.package for record in read),
        ),
        (
            *(each for each in snapshot.pip if normalized(each.name) not in touched),
            *(each.package for each in pip.distributions(prefix, fresh)),
        ),
    )
    return changes.between(before, after)
