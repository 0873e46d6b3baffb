"""Where a snapshot goes on this machine, and that nothing which stands there would be lost."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from snapper.environment import state
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.locations import default_prefix
from snapper.environment.platforms import this_platform
from snapper.errors import (
    FileOperationFailed,
    NoTargetDirectory,
    PermissionDenied,
    PlatformMismatch,
    StoreUnreachable,
    TargetOccupied,
)
from snapper.format.model import Ref, Snapshot
from snapper.repository.refs import referenced_snapshots
from snapper.repository.snapshots import has_snapshot
from snapper.repository.specs import SnapshotSpec, resolve_in_ref
from snapper.restoring.staging import remove_leftover_staging
from snapper.store import Store

_ELSEWHERE = "Restore elsewhere with --prefix or --envs-dir."


@dataclass(frozen=True)
class RestoreRequest:
    """One environment to restore. `prefix` or `envs_dir` say where; `replace` that changes there may be lost, and
    `keep_changed` that they are to be left alone. Of several, those of a lower `rank` are done first.
    """

    reference: SnapshotSpec
    prefix: Path | None = None
    envs_dir: Path | None = None
    replace: bool = False
    keep_changed: bool = False
    rank: int = 0


@dataclass(frozen=True)
class RestoreTarget:
    """Where a snapshot goes and how it stands there: `present` already, or something to put in its place. It may be one
    `instead_of` the current one, which cannot be had.
    """

    entry: Ref
    snapshot_id: str
    prefix: Path
    present: bool
    instead_of: str = ""

    @property
    def name(self) -> str:
        return self.entry.name


def inspect_target(
    store: Store, wanted: RestoreRequest, found: Ref, prefix: Path, *, again: bool = False
) -> RestoreTarget:
    """How the environment stands at the prefix, and that nothing there would be lost; raises TargetOccupied,
    NotInStore,
    Usage.
    """
    snapshot_id = resolve_in_ref(found, wanted.reference, store)
    if not again:
        remove_leftover_staging(prefix)
    present = is_present(store, prefix, found, snapshot_id, wanted, again=again)
    return RestoreTarget(found, snapshot_id, prefix, present)


def choose_prefix(found: Ref, wanted: RestoreRequest, taken: Collection[Path] = ()) -> Path:
    """The prefix that the environment is restored to, where others go to those that are `taken`; raises
    NoTargetDirectory.
    """
    origin = found.latest.prefix
    if wanted.prefix:
        prefix = wanted.prefix
    elif wanted.envs_dir:
        prefix = wanted.envs_dir / found.name
    elif _stands_at(origin, found.name):
        prefix = Path(origin)
    else:
        prefix = default_prefix(found.name, origin, taken)
    return Path(os.path.abspath(prefix))


def choose_prefixes(chosen: Sequence[tuple[RestoreRequest, Ref]]) -> list[Path | NoTargetDirectory]:
    """Where each of these goes, some of which may go inside of others, or why nowhere."""

    def outer_first(number: int) -> tuple[int, bool]:
        _, found = chosen[number]
        origin = Path(found.latest.prefix)
        return len(origin.parts), origin.name != found.name

    decided: dict[int, Path | NoTargetDirectory] = {}
    taken: list[Path] = []
    for number in sorted(range(len(chosen)), key=outer_first):
        wanted, found = chosen[number]
        try:
            prefix = choose_prefix(found, wanted, taken)
        except NoTargetDirectory as error:
            decided[number] = error
            continue
        decided[number] = prefix
        taken.append(prefix)
    return [decided[number] for number in range(len(chosen))]


def _stands_at(prefix: str, name: str) -> bool:
    """Whether the environment is there, be it in a directory of another name."""
    known = state.read(Path(prefix)) if prefix.startswith("/") else None
    return known is not None and known.environment == name


def check_target(target: RestoreTarget, snapshot: Snapshot) -> None:
    """Raises what would make the restore fail later, but for room: PlatformMismatch, PrefixTooLong, TargetOccupied,
    PermissionDenied, FileOperationFailed.
    """
    from snapper.restoring.unpack import check_prefix_length  # noqa: PLC0415 - what is not needed where all are there already

    here = this_platform()
    if snapshot.platform != here:
        raise PlatformMismatch(target.name, snapshot.platform, here)
    check_prefix_length(str(target.prefix), snapshot.layers)
    parent = existing_parent(target)
    if not os.path.isdir(parent):
        raise TargetOccupied(str(parent), "it is not a directory", _ELSEWHERE)
    if os.statvfs(parent).f_flag & os.ST_RDONLY:
        raise FileOperationFailed(str(parent), "it is on a read-only file system", _ELSEWHERE)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionDenied(str(parent), "write in")


def pack_command(prefix: Path, name: str) -> str:
    """The command that packs what is at the prefix as that environment."""
    return f"snapper pack -p {shlex.quote(str(prefix))}{'' if prefix.name == name else f' --name {name}'}"


def existing_parent(target: RestoreTarget) -> Path:
    """The nearest directory above the target that is there."""
    parent = target.prefix.parent
    while not os.path.lexists(parent):
        parent = parent.parent
    return parent


def is_present(
    store: Store, prefix: Path, entry: Ref, snapshot_id: str, wanted: RestoreRequest, *, again: bool = False
) -> bool:
    """Whether the entry's snapshot is at `prefix` already; raises TargetOccupied unless otherwise it may be put there.

    For a second look (`again`) at another snapshot, its files are not gone through: the last look does that.
    """
    if not os.path.lexists(prefix):
        return False
    elsewhere = "Restore elsewhere with --prefix or --envs-dir, or move it away first."
    if not prefix.is_dir():
        raise TargetOccupied(str(prefix), "it is not a directory", elsewhere)
    try:
        if not any(prefix.iterdir()) and not prefix.is_symlink():
            return False
        if not (prefix / "conda-meta").is_dir():
            raise TargetOccupied(str(prefix), "it is a directory that is not a conda environment", elsewhere)
    except PermissionError:
        raise PermissionDenied(str(prefix), "read") from None
    found = state.read(prefix)
    if prefix.is_symlink():
        return _is_present_behind(prefix, found, snapshot_id, wanted)
    saving = (
        f"Pack it first (snapper pack -p {prefix} --name ANOTHER), or overwrite it with the snapshot from the store: "
        "--replace."
    )
    if found is None:
        if wanted.replace:
            return False
        raise TargetOccupied(
            str(prefix),
            "it is an environment that snapper has neither packed nor restored",
            saving,
        )
    name = entry.name
    if found.environment != name and found.snapshot != snapshot_id:
        raise TargetOccupied(
            str(prefix),
            f"it is the environment {found.environment!r} in the store",
            "Restore elsewhere with --prefix or --envs-dir. Or pack the existing environment "
            f"({pack_command(prefix, found.environment)}) and move it elsewhere; or pack it as {name!r} from now on: "
            f"{pack_command(prefix, name)}.",
        )
    if not (wanted.replace or found.snapshot == snapshot_id or _is_stored(store, entry, found.snapshot)):
        raise TargetOccupied(
            str(prefix),
            f"it is snapshot {found.snapshot[:12]}, which is not in the store {store.url}",
            saving,
        )
    if again and found.snapshot != snapshot_id:
        return False
    return _is_unchanged(prefix, found, snapshot_id, wanted)


def _is_stored(store: Store, entry: Ref, snapshot_id: str) -> bool:
    """Whether the store has the snapshot, as the environment's entry says where nothing else can be known."""
    try:
        found = has_snapshot(store, snapshot_id)
        store.require_online()  # the cache does not know what the store has by now
        return found
    except StoreUnreachable:
        if snapshot_id in referenced_snapshots(entry):
            return True
        raise


def _is_present_behind(
    link: Path, found: state.EnvironmentState | None, snapshot_id: str, wanted: RestoreRequest
) -> bool:
    """The same for a symlink, in whose place nothing is ever put; raises TargetOccupied unless all is there."""
    same = found is not None and found.snapshot == snapshot_id
    if same and (wanted.keep_changed or _changed_paths(link) == []):
        return True
    there = os.path.realpath(link)
    raise TargetOccupied(
        str(link),
        f"it is a symlink to {there}, which is not this snapshot",
        f"Restore to its target with --prefix {there}, or remove the symlink first.",
    )


def _is_unchanged(
    prefix: Path, found: state.EnvironmentState, snapshot_id: str, wanted: RestoreRequest
) -> bool:
    same = found.snapshot == snapshot_id
    if same and wanted.keep_changed:
        return True
    changed = _changed_paths(prefix)
    if changed == []:
        return same
    if wanted.replace:
        return False
    files = "1 file" if changed and len(changed) == 1 else f"{len(changed or ())} files"
    what = f"{files}, such as {changed[0]!r}" if changed else "unknown which files"
    raise TargetOccupied(
        str(prefix),
        f"it has changed since snapshot {found.snapshot[:12]} ({what})",
        f"Pack the changes ({pack_command(prefix, found.environment)}), or discard them with --replace.",
    )


def _changed_paths(prefix: Path) -> list[str] | None:
    """Return the paths that differ from the environment's snapshot; None if that is unknown."""
    drift = InstalledEnvironment(prefix).drift()
    return None if drift is None else drift.paths
