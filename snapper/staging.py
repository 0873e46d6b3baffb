"""A directory built aside and swapped into place whole.

What is built for `PARENT/NAME` is `PARENT/.NAME.snapper/tree`. The directory around it is locked while somebody
works on NAME; a lock that can be had means that whoever left things there is dead, and they are cleared away.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from snapper.errors import Busy, FileFailed, InTheWay, NoPermission, NoSpace, SnapperError
from snapper.interrupts import uninterrupted

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@dataclass(frozen=True)
class Staging:
    """`tree` is where to build what shall become `target`."""

    target: Path
    tree: Path

    @property
    def _aside(self) -> Path:
        return self.tree.parent / "old"

    def swap(self) -> None:
        """Puts the tree in the target's place, in one step where the system can; what stood there goes.

        Raises InTheWay where something has come to stand there that is no directory to be replaced.
        """
        mode = _unlocked(self.tree)
        if not self.target.exists():
            self._move_in()
        else:
            before = _unlocked(self.target)
            try:
                if not _exchanged(self.tree, self.target):
                    self.target.rename(self._aside)
                    self._move_in()
            except BaseException:
                with suppress(OSError):
                    self.target.chmod(before)
                raise
        self.target.chmod(mode)

    def _move_in(self) -> None:
        try:
            self.tree.rename(self.target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise InTheWay(
                    str(self.target), "it came to be there meanwhile", "Move it away, then restore again."
                ) from None
            raise

    def _recover(self) -> None:
        """Undoes a swap in two steps that was cut off between them."""
        if self._aside.is_dir() and not os.path.lexists(self.target):
            self._aside.rename(self.target)


@contextmanager
def staged(target: Path) -> Iterator[Staging]:
    """Gives an empty, private directory beside the target, which is gone at the end unless it was swapped in.

    Raises Busy where another process stages the same target, NoPermission, NoSpace, FileFailed.
    """
    holder = _holder(target)
    with _reporting(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(holder, str(target))
        try:
            staging = Staging(target, holder / "tree")
            staging._recover()
            _empty(holder)
            staging.tree.mkdir(mode=0o700)
            yield staging
        finally:
            with uninterrupted():
                _empty(holder)
                holder.rmdir()
                os.close(lock)


def sweep(target: Path) -> None:
    """Clears away what a killed process left beside the target, but not what somebody is at work on."""
    if os.path.lexists(_holder(target)):
        with suppress(SnapperError), staged(target):
            pass


def _holder(target: Path) -> Path:
    return target.parent / f".{target.name}.snapper"


def _locked(holder: Path, what: str) -> int:
    while True:
        holder.mkdir(mode=0o700, exist_ok=True)
        try:
            descriptor = os.open(holder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == holder.stat().st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise Busy(what) from None
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _unlocked(directory: Path) -> int:
    """Lets a directory be moved into another one, for which it must be writable itself; the mode that it had."""
    mode = stat.S_IMODE(directory.stat().st_mode)
    if not mode & stat.S_IWUSR:
        directory.chmod(mode | stat.S_IWUSR)
    return mode


def _empty(holder: Path) -> None:
    for entry in list(holder.iterdir()):
        remove_tree(entry)


def remove_tree(top: Path) -> None:
    """Removes a directory and all below it, read-only directories too."""

    def retry(function: Callable[[str], object], path: str, _: object) -> None:
        parent = os.path.dirname(path)
        for directory in (parent, path):
            if stat.S_ISDIR(os.lstat(directory).st_mode):
                os.chmod(directory, 0o700)
        if function in (os.open, os.scandir, os.lstat):
            shutil.rmtree(path)
        else:
            function(path)

    if sys.version_info >= (3, 12):
        shutil.rmtree(top, onexc=retry)
    else:
        shutil.rmtree(top, onerror=retry)


def _exchanged(one: Path, other: Path) -> bool:
    """Swaps two directories by renameat2(2); False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(code, os.strerror(code), str(other))


@contextmanager
def _reporting(parent: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(str(parent)) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise NoPermission(str(parent), "write in") from None
        raise FileFailed(str(error.filename or parent), error.strerror or str(error)) from None
