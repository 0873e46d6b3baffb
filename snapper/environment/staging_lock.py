"""The staging directory of a target, which is next to it or inside of it, and the lock in it.

The staging directory is only used if it belongs to this user, no other user can enter it, and snapper has made all that
is in it. Then nobody else can have put anything there, and whatever is in it while the lock is free is a leftover.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from snapper.errors import TargetLocked, TargetOccupied
from snapper.fs.beneath import LOOKUP
from snapper.fs.directories import closing_descriptor
from snapper.fs.lock_names import is_lease_name
from snapper.fs.locks import HeldLock, hold, is_locked
from snapper.fs.moves import Entry
from snapper.fs.private import is_made_by_snapper, open_private_directory, read_signature, sign

LOCK = "lock"

#: What is not part of the replaced environment, during a swap by snapper 0.1.0.
KEPT = "kept"

#: The beginning of the names of directories with what programs have created in place of what a swap moves.
CREATED = "created"

#: The beginning of the name of the directory that is built.
TREE = "tree"

#: The beginnings of its names while what is in the target is exchanged with what is in it: see `contents`.
LEAVING, ENTERING = "leaving", "entering"

#: The beginning of the name of the replaced directory once it has been checked.
REPLACED = "replaced"

#: The time in such a name if nothing of the directory may be removed.
KEEP_ALL = 0

#: What is exchanged with the target: at first the new directory, then the replaced one.
UNCHECKED = "unchecked"

#: The replaced directory where the swap takes two steps, and when it is to be put back.
OLD = "old"

#: The replaced directory while it is checked: what is not part of it has been moved to the new one.
CHECKING = "checking"

#: The name of a staging directory that is inside of its target.
INSIDE = ".swap.snapper"

#: The directories with what is not part of an environment, and was at the target before a swap.
NOT_PUT_BACK = (OLD, UNCHECKED)

#: The shorter names of trees are those of snapper 0.1.0.
_OWN_NAME = re.compile(
    rf"(?:{LOCK}|{OLD}|{KEPT}|{UNCHECKED}|{CHECKING}|{CREATED}[0-9a-f]{{16}}|(?:{LEAVING}|{ENTERING})_[0-9]+"
    rf"|{TREE}(?:[0-9a-f]{{16}}|[a-z0-9_]{{8}})|{REPLACED}[0-9a-f]{{16}}_[0-9]+)\Z"
)
_RANDOM_TREE = re.compile(rf"{TREE}[0-9a-f]{{16}}\Z")
_REPLACED_NAME = re.compile(rf"{REPLACED}\w+_([0-9]+)\Z")
STAGING_NAME = re.compile(r"\..+\.snapper\Z", re.S)

#: Attempts to lock a staging directory that other processes remove, or replace, at the same time.
_ATTEMPTS = 1000


class LockedStaging(NamedTuple):
    """A staging directory, a descriptor of it, and the lock on the file in it."""

    entry: Entry
    directory: int
    lock: HeldLock

    def release(self) -> None:
        """Remove the lock and the staging directory if nothing else is in it: the lock shows that snapper has made it.

        The lock is closed first, as NFS keeps files that are open.
        """
        with suppress(OSError):
            if [name for name in os.listdir(self.directory) if not is_lease_name(name, LOCK)] == [LOCK]:
                os.unlink(LOCK, dir_fd=self.directory)
        self.lock.release()
        os.close(self.directory)
        with suppress(OSError):
            os.rmdir(self.entry.name, dir_fd=self.entry.directory)


def staging_path(target: Path) -> Path:
    """Return the path of the staging directory that is next to a target."""
    return target.parent / f".{target.name}.snapper"


def replaced_name(since: int) -> str:
    """Return a new name for a directory that has been at the target and was checked after that time."""
    return f"{REPLACED}{secrets.token_hex(8)}_{since}"


def time_in_name(name: str) -> int | None:
    """Return the time in a name that `replaced_name` has returned; None for other names."""
    match = _REPLACED_NAME.match(name)
    return int(match[1]) if match else None


def has_random_name(tree: str) -> bool:
    """Return whether a tree has a name that nothing but snapper makes, unlike that of a tree of 0.1.0."""
    return _RANDOM_TREE.match(tree) is not None


def lock_staging(parent: int, path: Path, target: Path) -> LockedStaging:
    """Create and lock a staging directory of a target; raise TargetLocked, TargetOccupied, OSError.

    It is at `path`, in the open directory `parent`. The lock is on a file because NFS does not share locks on
    directories between machines.
    """
    for _ in range(_ATTEMPTS):
        with suppress(FileExistsError):
            os.mkdir(path.name, 0o700, dir_fd=parent)
            _check_permissions(parent, path)
        with suppress(FileNotFoundError):  # the process that had the lock has removed the directory
            directory = _open_staging(parent, path)
            try:
                lock = _lock_file(directory, target)
                if lock is not None:
                    return LockedStaging(Entry(parent, path.name), directory, lock)
            except BaseException:
                os.close(directory)
                raise
            os.close(directory)
    raise TargetLocked(str(target))


def is_in_use(path: str, dir_fd: int) -> bool:
    """Return whether a process of this user uses the staging directory; True if that cannot be determined.

    What other users have there can look like anything, and must not keep this user from replacing an environment.
    """
    try:
        directory = open_private_directory(path, dir_fd)
    except OSError:
        return False
    with closing_descriptor(directory):
        try:
            return is_locked(LOCK, directory)
        except FileNotFoundError:
            return False
        except OSError:
            return True


def find_leftovers(parent: Path) -> list[Path]:
    """Return this user's staging directories in a directory that no process uses."""
    try:
        with closing_descriptor(os.open(parent, LOOKUP & ~os.O_NOFOLLOW)) as directory:
            names = filter(STAGING_NAME.match, sorted(os.listdir(parent)))
            return [parent / name for name in names if _is_leftover(name, directory)]
    except OSError:
        return []


def _is_leftover(name: str, parent: int) -> bool:
    try:
        with closing_descriptor(open_private_directory(name, parent)) as directory:
            return not _unknown_names(directory) and not is_in_use(".", directory)
    except OSError:
        return False


def _unknown_names(directory: int) -> list[str]:
    """Return the names in the staging directory of what snapper has not made: all unless it has signed the lock."""
    names = sorted(os.listdir(directory), key=LOCK.__eq__)
    return (
        [name for name in names if not (_OWN_NAME.match(name) or is_lease_name(name, LOCK))]
        if is_made_by_snapper(directory, LOCK)
        else names
    )


def _check_permissions(parent: int, path: Path) -> None:
    """Raise TargetOccupied if the new directory lets others in, as on vfat and network shares; remove it then."""
    if stat.S_IMODE(os.lstat(path.name, dir_fd=parent).st_mode) & 0o077:
        os.rmdir(path.name, dir_fd=parent)
        reason = (
            "its file system does not keep permissions, so other users could change what is restored there"
        )
        advice = "Mount it for this user only (such as umask=077), or restore elsewhere with --prefix or --envs-dir."
        raise TargetOccupied(str(path.parent), reason, advice)


def _open_staging(parent: int, path: Path) -> int:
    """Open the staging directory; raise TargetOccupied if somebody else may have put something in it."""
    advice = "Move or remove it, or have its owner do that, then run this again. Or use another directory."
    try:
        directory = open_private_directory(path.name, parent)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TargetOccupied(str(path), error.strerror or str(error), advice) from None
    try:
        unknown = _unknown_names(directory)
    except BaseException:
        os.close(directory)
        raise
    if unknown:
        os.close(directory)
        raise TargetOccupied(str(path), f"it contains {unknown[0]!r}, which is not from snapper", advice)
    return directory


def _lock_file(directory: int, target: Path) -> HeldLock | None:
    """Return the locked file in the staging directory, None to try again; raise TargetLocked."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(LOCK, flags, 0o600, dir_fd=directory)
    file = Entry(directory, LOCK)
    try:
        held = hold(file, descriptor)
        if held is None:
            raise TargetLocked(str(target), read_signature(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    if file.is_open_as(descriptor):
        sign(descriptor)
        return held
    held.release()
    return None
