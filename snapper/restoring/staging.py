"""Build a directory next to its target, and swap it in whole.

What replaces `PARENT/NAME` is built in the staging directory `PARENT/.NAME.snapper`, which holds a file that is
locked while a process works on NAME. If the lock is free, whatever else is in the staging directory is a leftover of a
killed process, and is removed.

What is inside of an environment without being part of it, such as other environments below `envs/` of a base
environment, is moved to `kept` in the staging directory for the moment of the swap. That is never removed, but moved
back, by the next process if need be; so is the replaced directory, `old`, where a swap takes two steps.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from snapper.environment.scan import foreign_paths
from snapper.errors import SnapperError, TargetLocked, TargetOccupied
from snapper.fs.directories import DirectoryTree
from snapper.fs.errors import os_errors
from snapper.fs.exchange import exchange
from snapper.fs.locks import is_locked, is_open_file, try_lock
from snapper.fs.removal import remove_tree
from snapper.process.identity import user_at_host, utc_now
from snapper.process.signals import defer_signals

if TYPE_CHECKING:
    from snapper.process.pool import WorkerPool
    from snapper.store import Store

_LOCK = "lock"
_OLD = "old"
_KEPT = "kept"
_MAX_SIGNATURE = 1024

#: The depth at which most directories of an environment are (`lib/python3.12/site-packages/NAME`).
_REMOVAL_DEPTH = 4

#: How many of those directories a worker removes at a time.
_REMOVAL_BATCH = 16

_MOVE_ELSEWHERE = "Move it elsewhere, then restore again."


@dataclass(frozen=True)
class Staging:
    """A directory to build, and where it is swapped to.

    `tree` is the directory to build. After a swap by exchange, what was at `target` is at that path instead; where the
    system cannot exchange directories, it is at `old` next to it.
    """

    target: Path
    tree: Path

    def swap(self) -> None:
        """Put the tree at the target, in one step if the system can exchange directories.

        What was at the target is in the staging directory then, except for what is not part of the environment: that
        moves into the new one. Raise TargetOccupied if something that is no directory has appeared at the target or
        something cannot be moved, and TargetLocked if another process restores an environment inside the target.
        """
        mode = _make_writable(self.tree)
        if self.target.is_symlink() or not self.target.is_dir():
            self._move_in()
        else:
            previous_mode = _make_writable(self.target)
            try:
                self._set_foreign_paths_aside()
                if not exchange(self.tree, self.target):
                    self.target.rename(self.tree.parent / _OLD)
                    self._move_in()
            except BaseException:
                with suppress(OSError, TargetOccupied):
                    _recover(self.tree.parent, self.target)
                    self.target.chmod(previous_mode)
                raise
        self.target.chmod(mode)
        _recover(self.tree.parent, self.target)

    def remove_replaced(self, workers: WorkerPool[Store]) -> None:
        """Remove most of the directory that an exchange has replaced, with the workers, which must be idle.

        The end of `staging_directory` removes the rest.
        """
        replaced = str(self.tree)
        paths = _directories_at_depth(replaced, _REMOVAL_DEPTH)
        for first in range(0, len(paths), _REMOVAL_BATCH):
            batch = paths[first : first + _REMOVAL_BATCH]
            workers.submit(_remove_directories, _RemovalJob(replaced, batch), 1)
        with suppress(SnapperError), closing(workers.results()) as results:
            for _ in results:
                pass

    def _set_foreign_paths_aside(self) -> None:
        """Move what is not part of the environment to `kept`, unless the tree has something at those paths."""
        paths = foreign_paths(self.target)
        for path in paths:
            if not _is_free(self.tree / path):
                reason = "it is not part of the environment, but the snapshot has a file at this path"
                raise TargetOccupied(str(self.target / path), reason, _MOVE_ELSEWHERE)
            if path.endswith(".snapper") and _is_in_use(self.target / path):
                raise TargetLocked(str(self.target / path))
        kept_directory = self.tree.parent / _KEPT
        for path in paths:
            kept_directory.mkdir(exist_ok=True)
            _move(self.target / path, kept_directory / path)

    def _move_in(self) -> None:
        """Rename the tree to the target, which replaces an empty directory and fails for anything else."""
        try:
            self.tree.rename(self.target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise TargetOccupied(
                    str(self.target), "it was created while restoring", _MOVE_ELSEWHERE
                ) from None
            raise


@contextmanager
def staging_directory(target: Path) -> Iterator[Staging]:
    """Lock the target and yield an empty, private directory next to it.

    At the end, whatever is in the staging directory is removed: the new tree, or the replaced one after a swap.

    Raise TargetLocked if another process stages the same target, TargetOccupied, PermissionDenied, InsufficientSpace,
    FileOperationFailed.
    """
    directory = _staging_path(target)
    with os_errors(target.parent, "write to"):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(directory, str(target))
        try:
            _recover(directory, target)
            _remove_contents(directory)
            yield Staging(target, Path(tempfile.mkdtemp(prefix="tree", dir=directory)))
        finally:
            with defer_signals():
                try:
                    _recover(directory, target)
                    _remove_contents(directory)
                finally:
                    _unlock(directory, lock)


def remove_leftover_staging(target: Path) -> None:
    """Remove what a killed process left next to the target, unless another process works on it."""
    if os.path.lexists(_staging_path(target)):
        with suppress(SnapperError), staging_directory(target):
            pass


def find_leftovers(parent: Path) -> list[Path]:
    """Return the staging directories in a directory that no process uses."""
    return [directory for directory in sorted(parent.glob(".*.snapper")) if not _is_in_use(directory)]


def _staging_path(target: Path) -> Path:
    return target.parent / f".{target.name}.snapper"


# --- the lock ---------------------------------------------------------------------------------------------


def _is_in_use(directory: Path) -> bool:
    """Return whether a process uses the staging directory; True if that cannot be determined."""
    try:
        with _open_owned(directory) as descriptor:
            return is_locked(_LOCK, descriptor)
    except FileNotFoundError:
        return False
    except (OSError, TargetOccupied):
        return True


@contextmanager
def _open_owned(directory: Path) -> Iterator[int]:
    """Open the staging directory.

    Raise TargetOccupied if it is a link, or belongs to a user other than this one and the owner of the directory
    above, who could have snapper remove things elsewhere, and replace what is built.
    """
    planted = TargetOccupied(
        str(directory), "it is not a directory owned by this user", "Remove it, then run this again."
    )
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            raise planted from None
        raise
    try:
        if os.fstat(descriptor).st_uid not in (os.geteuid(), os.stat("..", dir_fd=descriptor).st_uid):
            raise planted
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(directory: Path, target: str) -> int:
    """Create the staging directory and return its locked lock file; raise TargetLocked, TargetOccupied.

    The lock is on a file because NFS does not share locks on directories between machines.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        try:
            with _open_owned(directory) as opened:
                descriptor = os.open(_LOCK, flags, 0o600, dir_fd=opened)
        except FileNotFoundError:  # the process that had the lock has removed the directory
            continue
        if not try_lock(descriptor):
            holder = os.pread(descriptor, _MAX_SIGNATURE, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise TargetLocked(target, holder)
        if is_open_file(descriptor, directory / _LOCK):
            _sign(descriptor)
            return descriptor
        os.close(descriptor)


def _sign(lock: int) -> None:
    """Write into the lock file who holds it, unless the disk is full."""
    with suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{user_at_host()} (process {os.getpid()}, since {utc_now()})\n".encode(), 0)


def _unlock(directory: Path, lock: int) -> None:
    """Remove the staging directory; the lock is closed first, as NFS keeps files that are open."""
    (directory / _LOCK).unlink(missing_ok=True)
    os.close(lock)
    with suppress(OSError):
        directory.rmdir()


# --- moving -----------------------------------------------------------------------------------------------


def _recover(directory: Path, target: Path) -> None:
    """Undo a swap that was interrupted between two steps, and move back what is in `kept`; raise TargetOccupied."""
    if (directory / _OLD).is_dir() and not os.path.lexists(target):
        (directory / _OLD).rename(target)
    kept_directory = directory / _KEPT
    if not kept_directory.is_dir() or target.is_symlink() or not target.is_dir():
        return
    envs = kept_directory / "envs"
    for path in (kept_directory / "pkgs", *(envs.iterdir() if envs.is_dir() else ())):
        if os.path.lexists(path):
            _move(path, target / path.relative_to(kept_directory))
    for emptied in (envs, kept_directory):
        with suppress(OSError):
            emptied.rmdir()


def _is_free(path: Path) -> bool:
    """Return whether something can be moved to the path, whose parent directory may not exist yet."""
    parent = path.parent
    return not os.path.lexists(path) and not parent.is_symlink() and (parent.is_dir() or not parent.exists())


def _move(old: Path, new: Path) -> None:
    """Move what is not part of an environment, from and to read-only directories too; raise TargetOccupied."""
    try:
        if not _is_free(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if not new.parent.exists():
            new.parent.mkdir()
            new.parent.chmod(stat.S_IMODE(old.parent.stat().st_mode))
        with _writable(old.parent), _writable(new.parent):
            mode = None if old.is_symlink() else _make_writable(old)
            old.rename(new)
            if mode is not None and not mode & stat.S_IWUSR:
                new.chmod(mode)
    except OSError as error:
        reason = f"it is not part of the environment and cannot be moved to {new}: {error.strerror}"
        raise TargetOccupied(str(old), reason, _MOVE_ELSEWHERE) from None


def _make_writable(directory: Path) -> int:
    """Make a directory writable, which it must be to be moved; return the mode that it had."""
    mode = stat.S_IMODE(directory.stat().st_mode)
    if not mode & stat.S_IWUSR:
        directory.chmod(mode | stat.S_IWUSR)
    return mode


@contextmanager
def _writable(directory: Path) -> Iterator[None]:
    mode = _make_writable(directory)
    try:
        yield
    finally:
        if not mode & stat.S_IWUSR:
            directory.chmod(mode)


# --- removing ---------------------------------------------------------------------------------------------


def _remove_contents(directory: Path) -> None:
    """Remove all but the lock and `kept`; what cannot be removed (another user's, open on NFS) is left."""
    with _open_owned(directory) as descriptor:
        for name in os.listdir(descriptor):
            if name not in (_LOCK, _KEPT):
                with suppress(OSError):
                    remove_tree(name, descriptor)


class _RemovalJob(NamedTuple):
    """Directories to remove, by their paths below `top`."""

    top: str
    paths: list[str]


def _remove_directories(_: object, job: _RemovalJob) -> None:
    """Remove the directories as far as that is possible."""
    with suppress(OSError), closing(DirectoryTree(job.top, make=False)) as directories:
        for path in job.paths:
            parent, _, name = path.rpartition("/")
            with suppress(OSError):
                remove_tree(name, directories[parent])


def _directories_at_depth(top: str, depth: int) -> list[str]:
    """Return the paths of the directories that many levels below `top`."""
    paths = [""]
    for _ in range(depth):
        parents, paths = paths, []
        for parent in parents:
            with suppress(OSError), os.scandir(os.path.join(top, parent)) as entries:
                paths += [
                    os.path.join(parent, entry.name)
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False)
                ]
    return paths
