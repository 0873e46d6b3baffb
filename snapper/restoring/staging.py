"""A directory built aside and swapped into place whole.

What is built for `PARENT/NAME` stands in `PARENT/.NAME.snapper`, where a file is locked while somebody works on
NAME. A lock that can be had means that whoever left things there is dead, and they are cleared away.

What stands in an environment's directory without being part of it, such as other environments below `envs/` of a
base environment, stands there for the moment of the swap, in `kept`. That is never cleared away, but put back.
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
from typing import TYPE_CHECKING

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

_LOCK = "lock"
_OLD = "old"
_KEPT = "kept"
_LONGEST_SIGNATURE = 1024

#: Where most directories of an environment are, `lib/python3.12/site-packages/NAME`, and how many a worker is given.
_DEEP = 4
_AT_ONCE = 16


@dataclass(frozen=True)
class Staging:
    """`tree` is where to build what shall become `target`."""

    target: Path
    tree: Path

    def swap(self) -> None:
        """Puts the tree in the target's place, in one step where the system can; what stood there goes, but for what
        is not part of the environment there: that is in the new one then.

        Raises TargetOccupied where something has come to stand there that is no directory to be replaced, or where
        something cannot be taken over, and TargetLocked where somebody is at work on it.
        """
        mode = _unlocked(self.tree)
        if self.target.is_symlink() or not self.target.is_dir():
            self._move_in()
        else:
            before = _unlocked(self.target)
            try:
                self._keep()
                if not exchange(self.tree, self.target):
                    self.target.rename(self.tree.parent / _OLD)
                    self._move_in()
            except BaseException:
                with suppress(OSError, TargetOccupied):
                    _recover(self.tree.parent, self.target)
                    self.target.chmod(before)
                raise
        self.target.chmod(mode)
        _recover(self.tree.parent, self.target)

    def clear(self, workers: WorkerPool[None]) -> None:
        """Has the workers, which must have nothing else to do, remove most of what a swap has left."""
        tree = str(self.tree)
        paths = _directories_at(tree, _DEEP)
        for first in range(0, len(paths), _AT_ONCE):
            workers.submit(_remove_below, (tree, paths[first : first + _AT_ONCE]), 1)
        with suppress(SnapperError), closing(workers.results()) as results:
            for _ in results:
                pass

    def _keep(self) -> None:
        """Moves aside what is not part of the environment, after a look that all of it can go into the new one."""
        found = foreign_paths(self.target)
        for path in found:
            if not _is_free(self.tree / path):
                reason = "it is not part of the environment, but the snapshot has a file at this path"
                raise TargetOccupied(
                    str(self.target / path), reason, "Move it elsewhere, then restore again."
                )
            if path.endswith(".snapper") and _is_held(self.target / path):
                raise TargetLocked(str(self.target / path))
        kept = self.tree.parent / _KEPT
        for path in found:
            kept.mkdir(exist_ok=True)
            _move(self.target / path, kept / path)

    def _move_in(self) -> None:
        try:
            self.tree.rename(self.target)  # which replaces an empty directory, and fails on all else
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise TargetOccupied(
                    str(self.target),
                    "it was created while restoring",
                    "Move it elsewhere, then restore again.",
                ) from None
            raise


@contextmanager
def staging_directory(target: Path) -> Iterator[Staging]:
    """Gives an empty, private directory beside the target, which is gone at the end unless it was swapped in.

    Raises TargetLocked where another process stages the same target, PermissionDenied, InsufficientSpace,
    FileOperationFailed.
    """
    holder = _holder(target)
    with os_errors(target.parent, "write in"):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(holder, str(target))
        try:
            _recover(holder, target)
            _clear(holder)
            yield Staging(target, Path(tempfile.mkdtemp(prefix="tree", dir=holder)))
        finally:
            with defer_signals():
                try:
                    _recover(holder, target)
                    _clear(holder)
                finally:
                    _unlock(holder, lock)


def remove_leftover_staging(target: Path) -> None:
    """Clears away what a killed process left beside the target, but not what somebody is at work on."""
    if os.path.lexists(_holder(target)):
        with suppress(SnapperError), staging_directory(target):
            pass


def find_leftovers(parent: Path) -> list[Path]:
    """What killed processes left in a directory, and nobody works on."""
    return [holder for holder in sorted(parent.glob(".*.snapper")) if not _is_held(holder)]


def _is_held(holder: Path) -> bool:
    """Whether somebody is at work there, which also counts as so where there is no telling."""
    try:
        with _opened(holder) as directory:
            return is_locked(_LOCK, directory)
    except FileNotFoundError:
        return False
    except (OSError, TargetOccupied):
        return True


def _holder(target: Path) -> Path:
    return target.parent / f".{target.name}.snapper"


@contextmanager
def _opened(holder: Path) -> Iterator[int]:
    """The holder's descriptor. Raises TargetOccupied where it leads elsewhere, or is of a user who can do nothing to
    the
    directory above: who made it so could have things removed there, and put others in the place of what is built.
    """
    planted = TargetOccupied(
        str(holder), "it is not a directory owned by this user", "Remove it, then run this again."
    )
    try:
        descriptor = os.open(holder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
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


def _locked(holder: Path, what: str) -> int:
    """The lock, which is on a file because NFS shares none of directories between machines; raises TargetLocked,
    TargetOccupied.
    """
    file = holder / _LOCK
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        with suppress(FileExistsError):
            holder.mkdir(mode=0o700)
        try:
            with _opened(holder) as directory:
                descriptor = os.open(_LOCK, flags, 0o600, dir_fd=directory)
        except FileNotFoundError:
            continue
        if not try_lock(descriptor):
            who = os.pread(descriptor, _LONGEST_SIGNATURE, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise TargetLocked(what, who)
        if is_open_file(descriptor, file):
            _sign(descriptor)
            return descriptor
        os.close(descriptor)


def _sign(lock: int) -> None:
    """Says in the lock who holds it; a full disk must not stand in the way of that."""
    with suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{user_at_host()} (process {os.getpid()}, since {utc_now()})\n".encode(), 0)


def _unlocked(directory: Path) -> int:
    """Lets a directory be moved into another one, for which it must be writable itself; the mode that it had."""
    mode = stat.S_IMODE(directory.stat().st_mode)
    if not mode & stat.S_IWUSR:
        directory.chmod(mode | stat.S_IWUSR)
    return mode


def _unlock(holder: Path, lock: int) -> None:
    """Lets go of the holder; NFS keeps a file that is open, so the lock is closed before its directory goes."""
    (holder / _LOCK).unlink(missing_ok=True)
    os.close(lock)
    with suppress(OSError):
        holder.rmdir()


def _recover(holder: Path, target: Path) -> None:
    """Undoes a swap in two steps that was cut off between them, and puts back what is kept; raises TargetOccupied."""
    if (holder / _OLD).is_dir() and not os.path.lexists(target):
        (holder / _OLD).rename(target)
    kept = holder / _KEPT
    if not kept.is_dir() or target.is_symlink() or not target.is_dir():
        return
    envs = kept / "envs"
    for path in (kept / "pkgs", *(envs.iterdir() if envs.is_dir() else ())):
        if os.path.lexists(path):
            _move(path, target / path.relative_to(kept))
    for directory in (envs, kept):
        with suppress(OSError):
            directory.rmdir()


def _is_free(path: Path) -> bool:
    """Whether something can be moved there, which the directory above may be made for."""
    above = path.parent
    return not os.path.lexists(path) and not above.is_symlink() and (above.is_dir() or not above.exists())


def _move(old: Path, new: Path) -> None:
    """Moves what is not part of an environment, from and to read-only directories too; raises TargetOccupied."""
    try:
        if not _is_free(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if not new.parent.exists():
            new.parent.mkdir()
            new.parent.chmod(stat.S_IMODE(old.parent.stat().st_mode))
        with _writable(old.parent), _writable(new.parent):
            mode = None if old.is_symlink() else _unlocked(old)
            old.rename(new)
            if mode is not None and not mode & stat.S_IWUSR:
                new.chmod(mode)
    except OSError as error:
        reason = f"it is not part of the environment and cannot be moved to {new}: {error.strerror}"
        raise TargetOccupied(str(old), reason, "Move it elsewhere, then restore again.") from None


@contextmanager
def _writable(directory: Path) -> Iterator[None]:
    mode = _unlocked(directory)
    try:
        yield
    finally:
        if not mode & stat.S_IWUSR:
            directory.chmod(mode)


def _clear(holder: Path) -> None:
    """Removes what can be removed: what is another user's, or open on NFS, must not fail what has been done."""
    with _opened(holder) as directory:
        for name in os.listdir(directory):
            if name not in (_LOCK, _KEPT):
                with suppress(OSError):
                    remove_tree(name, directory)


def _directories_at(top: str, depth: int) -> list[str]:
    """The paths of directories so deep below `top`."""
    found = [""]
    for _ in range(depth):
        above, found = found, []
        for path in above:
            with suppress(OSError), os.scandir(os.path.join(top, path)) as entries:
                found += [
                    os.path.join(path, each.name) for each in entries if each.is_dir(follow_symlinks=False)
                ]
    return found


def _remove_below(_: object, job: tuple[str, list[str]]) -> None:
    """Removes directories below another one as far as that can be done."""
    top, paths = job
    with suppress(OSError), closing(DirectoryTree(top, make=False)) as directories:
        for path in paths:
            above, _, name = path.rpartition("/")
            with suppress(OSError):
                remove_tree(name, directories[above])
