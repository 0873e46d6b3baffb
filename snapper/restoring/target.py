"""Check that restoring to a prefix will work, and that nothing at the prefix would be lost."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from snapper.environment import conda, state
from snapper.environment.contents import complete_exchange_at
from snapper.environment.control import others_may_write
from snapper.environment.drift import LocalChanges
from snapper.environment.foreign import is_foreign
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.locations import why_of_unknown_origin
from snapper.environment.scan import find_shared_directory, mounted_file_systems, nested_environments
from snapper.environment.tree import MOUNTED, Tree
from snapper.errors import (
    Corrupted,
    LayersPruned,
    NotAnEnvironment,
    NotInStore,
    PermissionDenied,
    SnapperError,
    StoreUnreachable,
    TargetOccupied,
)
from snapper.format.model import Ref
from snapper.fs.directories import opened_directory
from snapper.fs.mounts import mount_points_below
from snapper.fs.ownership import is_of_this_user, is_own
from snapper.fs.pinned import PinnedDirectory
from snapper.repository.refs import referenced_snapshots
from snapper.repository.snapshots import has_snapshot, read_snapshot, require_layers
from snapper.repository.specs import resolve_in_ref
from snapper.restoring.destinations import UnusedLocation
from snapper.restoring.errors import (
    describe_discarded,
    how_to_save,
    occupied_by_changes,
    occupied_by_link,
    occupied_by_other,
    occupied_by_shared,
    occupied_by_unknown,
    pack_command,
)
from snapper.restoring.leftovers import remove_leftover_staging
from snapper.restoring.parent import check_parent
from snapper.restoring.place import is_spared, is_staged_inside
from snapper.restoring.requests import RestoreRequest
from snapper.store import Store
from snapper.store.used_directories import used_directory_in

ELSEWHERE = "Restore elsewhere with --prefix or --envs-dir."
_ELSEWHERE_OR_MOVE = "Restore elsewhere with --prefix or --envs-dir, or move it away first."
_AGAIN = "Restore again."


@dataclass(frozen=True)
class RestoreTarget:
    """A snapshot and the prefix to restore it to; `present` if it is there already.

    `directory` is the environment that is there, or has been restored; `changed` is how many of its files differ from
    the snapshot, as far as that was looked for. `conflict` says what would be lost with it, if anything.
    `instead_of` is the current snapshot of the environment if the cache of an offline store has only this one.
    `unused_location` is where the environment was packed if it is restored elsewhere and nobody asked for that.
    """

    ref: Ref
    snapshot_id: str
    prefix: Path
    present: bool
    directory: PinnedDirectory | None = None
    changed: int = 0
    conflict: TargetOccupied | None = None
    instead_of: str = ""
    unused_location: UnusedLocation | None = None

    @property
    def name(self) -> str:
        return self.ref.name


def inspect_target(
    store: Store, request: RestoreRequest, ref: Ref, prefix: Path, *, again: bool = False
) -> RestoreTarget:
    """Resolve the requested snapshot and look whether it is at the prefix.

    The first inspection of a prefix removes leftovers of killed processes there, and corrects modes. Where the request
    keeps changes, these are only looked for if something seems to have changed. Raise TargetOccupied if restoring
    would lose something, NotInStore, UsageError.
    """
    snapshot_id = resolve_in_ref(ref, request.spec, store)
    if not again:
        remove_leftover_staging(prefix)
    complete_exchange_at(prefix)
    environment = InstalledEnvironment(prefix)
    try:
        is_kept = request.keep_changed and is_present(store, environment, snapshot_id, request)
        changed = 0
        if is_kept and not again and environment.is_touched():
            environment, changed = _look_at_kept(store, environment)
        elif not is_kept and not again:
            environment = _with_correct_modes(environment)
        conflict = check_replaceable(store, environment, ref, snapshot_id, request, again=again)
        present = is_present(store, environment, snapshot_id, request)
    except NotAnEnvironment:  # it was one
        raise TargetOccupied(str(prefix), "it was replaced while it was inspected", _AGAIN) from None
    return RestoreTarget(ref, snapshot_id, prefix, present, _directory(environment), changed, conflict)


def _with_correct_modes(environment: InstalledEnvironment) -> InstalledEnvironment:
    from snapper.restoring.modes import with_correct_modes  # noqa: PLC0415 - not needed if nothing has changed

    return with_correct_modes(environment)


def _look_at_kept(store: Store, environment: InstalledEnvironment) -> tuple[InstalledEnvironment, int]:
    """Correct the modes of an environment that stays as it is; return it, and how many of its files have changed."""
    from snapper.restoring.local_changes import count_kept_changes, now_or_none  # noqa: PLC0415 - as above

    since = now_or_none(environment.directory)
    environment = _with_correct_modes(environment)
    return environment, count_kept_changes(store, environment, since)


def _find_changes(store: Store, environment: InstalledEnvironment) -> LocalChanges | None:
    from snapper.restoring.local_changes import find_local_changes  # noqa: PLC0415 - as above

    return find_local_changes(store, environment)


def _directory(environment: InstalledEnvironment) -> PinnedDirectory | None:
    try:
        return environment.directory
    except SnapperError:  # nothing is there, or only what a restore keeps
        return None


def is_present(
    store: Store, environment: InstalledEnvironment, snapshot_id: str, request: RestoreRequest
) -> bool:
    """Return whether the environment is the snapshot, with local changes only if the request keeps these."""
    installed = environment.state
    if installed is None or installed.snapshot != snapshot_id:
        return False
    if request.keep_changed:
        return True
    changes = _find_changes(store, environment)
    return changes is not None and not changes.drift.paths


def check_replaceable(
    store: Store,
    environment: InstalledEnvironment,
    ref: Ref,
    snapshot_id: str,
    request: RestoreRequest,
    *,
    again: bool = False,
) -> TargetOccupied | None:
    """Raise TargetOccupied if restoring the snapshot to the environment's prefix would lose something.

    Return the error instead if what would be lost can be kept, and the request does not refuse that.
    A prefix where the snapshot is present passes, also if root has installed it. What is of another user never does. A
    second inspection (`again`) does not compare the files of another snapshot with the index: the last one, before the
    swap, does.
    """
    prefix = environment.prefix
    with suppress(OSError):
        check_parent(prefix)
    status = _status(prefix)
    if status is None:
        return None
    if not is_of_this_user(status):
        if not (is_own(status) and is_present(store, environment, snapshot_id, request)):
            raise occupied_by_other(prefix, status, has_to_stay=is_staged_inside(prefix))
        return None
    if is_present(store, environment, snapshot_id, request):
        return None
    _check_no_mounts(prefix, prefix)
    if _is_replaceable_directory(prefix):
        return None
    if prefix.is_symlink():
        raise occupied_by_link(prefix)  # links are never replaced
    conflict = _find_conflict(store, environment, ref, snapshot_id, request, again=again)
    installed = environment.state
    if installed and not request.replace and (not again or installed.snapshot == snapshot_id):
        conflict = conflict or _changes_conflict(environment, _find_changes(store, environment))
    if conflict and request.on_change == "refuse":
        raise conflict
    return conflict


class Replaced(NamedTuple):
    """What was in a directory that a snapshot has replaced, and a description of what is `discarded` of it.

    If all of it is to be kept, the `conflict` says why.
    """

    tree: Tree
    discarded: str = ""
    conflict: TargetOccupied | None = None


def check_replaced(
    store: Store,
    replaced: PinnedDirectory,
    target: RestoreTarget,
    request: RestoreRequest,
    restored: PinnedDirectory,
    shared: frozenset[int],
) -> Replaced:
    """Raise TargetOccupied if something is lost with a directory that the snapshot has replaced.

    `restored` takes its place. Both have the files whose inodes are `shared`. Something is discarded if the request
    says so, and this is the environment that was inspected. All of it is kept if the request says so, unless it was
    found only now that something would be lost: then the two share files.
    """
    _check_no_mounts(replaced.path, replaced.descriptor)
    if _has_only_shared(replaced.path, replaced.descriptor):
        return Replaced(Tree((), ()))
    inspected = target.directory
    if request.replace and not (inspected and os.path.samestat(inspected.status, replaced.status)):
        raise TargetOccupied(str(replaced), "it was replaced while restoring", _AGAIN)
    environment = InstalledEnvironment(replaced)
    conflict = _find_conflict(store, environment, target.ref, target.snapshot_id, request, again=False)
    if (shared_directory := find_shared_directory(environment.directory, environment.tree)) is not None:
        raise occupied_by_shared(environment.prefix, shared_directory)
    if request.replace:
        return Replaced(environment.tree, describe_discarded(environment))
    if environment.state:
        from snapper.restoring.local_changes import find_hidden_changes  # noqa: PLC0415 - as above

        changes = find_hidden_changes(store, environment, restored, shared)
        conflict = conflict or _changes_conflict(environment, changes)
    if conflict and (request.on_change != "aside" or shared):
        raise conflict
    return Replaced(environment.tree, conflict=conflict)


def _find_conflict(
    store: Store,
    environment: InstalledEnvironment,
    ref: Ref,
    snapshot_id: str,
    request: RestoreRequest,
    *,
    again: bool,
) -> TargetOccupied | None:
    """Return the error if replacing an environment of this user would lose something that can be kept; or raise it.

    It is raised if the request says so, and if the environment must stay where it is.
    """
    prefix = environment.prefix
    _check_contains_no_used_directory(environment, store)
    installed, conflict = environment.state, None
    if installed is None and (not request.replace or why_of_unknown_origin(environment.directory)):
        conflict = occupied_by_unknown(environment.directory, how_to_save(prefix))
        if request.on_change == "refuse" or why_of_unknown_origin(environment.directory):
            raise conflict
    if others_may_write(prefix, environment.directory.status, environment.directory.descriptor):
        raise occupied_by_shared(prefix)
    if not again:
        _check_nothing_inside(environment, request)
    if installed is None:
        return conflict
    _check_same_environment(prefix, ref, installed, snapshot_id)
    if not (request.replace or again or installed.snapshot == snapshot_id):
        reason = _why_not_stored(store, ref, environment, installed.snapshot)
        if reason:
            reason = f"it is snapshot {installed.snapshot[:12]}, which {reason}"
            return TargetOccupied(str(prefix), reason, how_to_save(prefix))
    return None


def _check_no_mounts(prefix: Path, directory: Path | int) -> None:
    """Raise TargetOccupied if a file system is mounted in the environment, which would go with it.

    What is mounted in the directories of other environments and packages moves along with these, or stays.
    `directory` is where the environment is, or its descriptor.
    """
    for path in mount_points_below(directory):
        if not is_foreign(path.partition("/")[0]):
            raise _mounted(prefix / path)


def _mounted(path: Path) -> TargetOccupied:
    return TargetOccupied(str(path), MOUNTED, "Unmount it, then restore again.")


def _status(prefix: Path) -> os.stat_result | None:
    """Return the status of what is at the prefix, which may be a link, or None if nothing is."""
    try:
        return os.lstat(prefix)
    except OSError:
        return None


def _is_replaceable_directory(prefix: Path) -> bool:
    """Return whether nothing in the directory at the prefix would be lost; raise TargetOccupied, PermissionDenied."""
    if not prefix.is_dir():
        raise TargetOccupied(str(prefix), "it is not a directory", _ELSEWHERE_OR_MOVE)
    try:
        with opened_directory(prefix) as directory:
            return _has_only_shared(prefix, directory) and not prefix.is_symlink()
    except PermissionError:
        raise PermissionDenied(str(prefix), "read") from None


def _has_only_shared(prefix: Path, directory: int) -> bool:
    """Return whether an open directory is empty, or has only what survives a restore, such as other environments.

    Raise TargetOccupied if it has more, but is not an environment.
    """
    with os.scandir(directory) as entries:
        found = list(entries)
        if all(is_spared(entry) for entry in found):
            return True
    if not any(entry.name == conda.META and entry.is_dir() for entry in found):
        reason = "it is a directory that is not a conda environment"
        raise TargetOccupied(str(prefix), reason, _ELSEWHERE_OR_MOVE)
    return False


def _check_same_environment(
    prefix: Path, ref: Ref, installed: state.EnvironmentState, snapshot_id: str
) -> None:
    """Raise TargetOccupied if an environment of another name is at the prefix."""
    if installed.environment == ref.name or installed.snapshot == snapshot_id:
        return
    raise TargetOccupied(
        str(prefix),
        f"it is the environment {installed.environment!r} in the store",
        "Restore elsewhere with --prefix or --envs-dir. Or pack the existing environment "
        f"({pack_command(prefix, installed.environment)}) and move it elsewhere; "
        f"or pack it as {ref.name!r} from now on: {pack_command(prefix, ref.name)}.",
    )


def _why_not_stored(store: Store, ref: Ref, environment: InstalledEnvironment, snapshot_id: str) -> str:
    """Return why the store may not have the snapshot, or not keep it; empty if it does.

    Of an offline store, it is only known whether the ref refers to the snapshot.
    """
    try:
        if not has_snapshot(store, snapshot_id):
            store.require_online()  # the cache cannot tell what others have changed
            return f"is not in the store {store.url}"
        if snapshot_id not in referenced_snapshots(ref):
            store.require_online()
            return f"is not in the history of {ref.name!r} in the store {store.url}"
        previous = environment.previous
        is_known = previous is not None and previous.encoded.digest == snapshot_id
        snapshot = previous.snapshot if previous and is_known else read_snapshot(store, snapshot_id)
        require_layers(store, snapshot.layers)
    except StoreUnreachable:
        if snapshot_id not in referenced_snapshots(ref):
            raise
    except (Corrupted, LayersPruned, NotInStore):
        return f"is no longer complete in the store {store.url}"
    return ""


def _changes_conflict(
    environment: InstalledEnvironment, changes: LocalChanges | None
) -> TargetOccupied | None:
    """Return the error if there are changes, or if it is unknown whether there are any."""
    has_changed = changes is None or changes.drift.paths
    return occupied_by_changes(environment, changes) if has_changed else None


def _check_contains_no_used_directory(environment: InstalledEnvironment, store: Store) -> None:
    """Raise TargetOccupied if the environment contains a directory that is not part of any environment."""
    used = used_directory_in(environment.prefix, store)
    if used:
        raise TargetOccupied(str(environment.prefix), f"it contains {used}", ELSEWHERE)


def _check_nothing_inside(environment: InstalledEnvironment, request: RestoreRequest) -> None:
    """Raise TargetOccupied if a file system is mounted in the environment, also where only a walk finds it.

    Do so if other environments in it are to be discarded. Those in `envs` are kept.
    """
    for path in mounted_file_systems(environment.tree):
        raise _mounted(environment.prefix / path)
    for path in nested_environments(environment.tree) if request.replace else ():
        inner = environment.prefix / path
        raise TargetOccupied(
            str(environment.prefix),
            f"it contains another environment, {inner}",
            f"Move that elsewhere, for example below {environment.prefix / 'envs'}, then restore again.",
        )
