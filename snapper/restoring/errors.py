"""Errors of restores: map what reading layers and writing their files raises, and say whose target it is."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snapper.environment import conda
from snapper.environment.drift import LocalChanges
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.locations import why_of_unknown_origin
from snapper.environment.staging_lock import staging_path
from snapper.errors import Corrupted, FileOperationFailed, TargetOccupied
from snapper.format.member import InvalidSegment
from snapper.fs.errors import map_os_error
from snapper.fs.ownership import owner_name
from snapper.fs.pinned import PinnedDirectory
from snapper.process.identity import current_user

#: What the operating system reports if members of a snapshot contradict each other, such as a file at the path of a
#: directory: nothing else writes to a staging directory.
_CONTRADICTIONS = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOENT)

_SAME_NAMES = "the environment has names that differ only in case, which its file system does not distinguish"
_USE_ANOTHER = "Restore it to another file system with --prefix or --envs-dir."

#: How many of the paths are named that a replacement discards.
_MOST_NAMED = 5


@contextmanager
def unpack_errors(what: str, prefix: str) -> Iterator[None]:
    """Raise Corrupted for malformed or contradictory contents of `what`, else what `map_os_error` returns."""
    try:
        yield
    except (InvalidSegment, ValueError) as error:
        raise Corrupted(what, str(error)) from None
    except OSError as error:
        if error.errno == errno.EEXIST and _ignores_case(Path(prefix)):
            raise FileOperationFailed(prefix, _SAME_NAMES, _USE_ANOTHER) from None
        if error.errno in _CONTRADICTIONS:
            raise Corrupted(what, f"its members contradict each other ({error.strerror})") from None
        raise map_os_error(error, Path(prefix).parent, "write to") from None


def _ignores_case(target: Path) -> bool:
    """Return whether the staging directory that is next to a target is also found by its name in the other case."""
    staging = staging_path(target)
    return os.path.lexists(staging) and os.path.lexists(staging.with_name(staging.name.swapcase()))


def occupied_by_other(path: Path, status: os.stat_result, *, has_to_stay: bool = False) -> TargetOccupied:
    """Return the error to raise for what another user has at the path, which has this status.

    If it `has_to_stay` there, such as a mount point, the user needs to own it.
    """
    owner = owner_name(status)
    advice = f"Restore elsewhere with --prefix or --envs-dir, or have {owner} move it away first."
    if has_to_stay:
        command = f"chown {current_user()} {shlex.quote(str(path))}"
        advice = f"Have {owner} give it to you ({command}). Or restore elsewhere with --prefix or --envs-dir."
    return TargetOccupied(str(path), f"it belongs to the user {owner}", advice)


def occupied_by_link(link: Path) -> TargetOccupied:
    """Return the error to raise for a link that does not lead to the snapshot to restore."""
    target = os.path.realpath(link)
    reason = f"it is a symlink to {target}, which is not this snapshot"
    advice = f"Restore to its target with --prefix {shlex.quote(target)}, or remove the symlink first."
    return TargetOccupied(str(link), reason, advice)


def occupied_by_shared(prefix: Path, directory: str = "") -> TargetOccupied:
    """Return the error to raise for an environment that others may write to, or to a directory in it.

    Nothing says how to make it replaceable: what they have moved there would be removed with it.
    """
    where = f"{directory!r} in it" if directory else "it"
    reason = f"others may write to {where}, and may have moved files of yours there"
    advice = "Move it away first, then restore again. Or restore elsewhere with --prefix or --envs-dir."
    return TargetOccupied(str(prefix), reason, advice)


def occupied_by_unknown(environment: PinnedDirectory, how_to_save: str) -> TargetOccupied:
    """Return the error to raise for an environment that snapper has neither packed nor restored.

    Nothing says how to publish one that others may have put there.
    """
    reason = why_of_unknown_origin(environment)
    if reason:
        advice = "Move it away first."
        return TargetOccupied(str(environment), f"others may have put it there: {reason}", advice)
    reason = "it is an environment that snapper has neither packed nor restored"
    return TargetOccupied(str(environment), reason, how_to_save)


def pack_command(prefix: Path, name: str) -> str:
    """Return the command that packs the environment at the prefix under that name."""
    return f"snapper pack -p {shlex.quote(str(prefix))}{'' if prefix.name == name else f' --name {shlex.quote(name)}'}"


def how_to_save(prefix: Path) -> str:
    """Return what to do about an environment that would be lost."""
    return (
        f"Pack it first ({pack_command(prefix, 'ANOTHER')}), or overwrite it with the snapshot from the store: "
        "--replace."
    )


def occupied_by_changes(environment: InstalledEnvironment, changes: LocalChanges | None) -> TargetOccupied:
    """Return the error to raise for an environment with changes, or one of which it is unknown whether it has any."""
    prefix, installed = environment.prefix, environment.state
    assert installed is not None
    changed = changes.drift.paths if changes else ()
    skipped = {path for path, _ in environment.tree.skipped} if changed else frozenset()
    unpackable = [path for path in changed if path in skipped]
    advice = (
        f"Pack the changes ({pack_command(prefix, installed.environment)}), keep them beside it with --on-change "
        "aside, or discard them with --replace."
    )
    if unpackable:
        advice = f"Move elsewhere what cannot be packed (such as {unpackable[0]!r}). {advice}"
    since = f"it has changed since snapshot {installed.snapshot[:12]}"
    return TargetOccupied(str(prefix), f"{since} ({describe_changes(changes)})", advice)


def describe_changes(changes: LocalChanges | None, most: int = 1) -> str:
    """Describe what differs from an environment's last snapshot, with at most so many paths; empty if nothing does."""
    if changes is None:
        return "unknown which files"
    changed = changes.drift.paths
    if not changed:
        return ""
    files = "1 file" if len(changed) == 1 else f"{len(changed)} files"
    problem = changes.problem and (
        f"; {len(changes.drift.modified)} of them possibly, as they could not be compared: {changes.problem}"
    )
    return f"{files}, such as {', '.join(map(repr, changed[:most]))}{problem}"


def describe_discarded(environment: InstalledEnvironment) -> str:
    """Return what a replacement discards of what is at the prefix; empty if that is only a snapshot."""
    if not conda.is_environment(environment.prefix):
        return ""
    if environment.state is None:
        return "an environment that snapper had neither packed nor restored"
    drift = environment.drift()
    return describe_changes(LocalChanges(drift) if drift else None, _MOST_NAMED)
