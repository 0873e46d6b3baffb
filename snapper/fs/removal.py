"""Remove directory trees, read-only directories included.

Links are never followed. Other file systems are never entered, also where the system does not tell where they are
mounted.
"""

from __future__ import annotations

import errno
import os
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from snapper.fs.beneath import LISTING, LOOKUP
from snapper.fs.directories import closing_descriptor
from snapper.fs.mounts import mount_points_below

#: Directories at this depth are moved up before they are removed: each level takes a descriptor and a stack frame.
_MAX_DEPTH = 100

#: Later than all times that a file can have.
_NEVER = sys.maxsize

#: Earlier than all times that a file can have.
LONG_AGO = -sys.maxsize

#: Something stays in a directory, or what was one is a link or a file by now.
_STAYS = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.ELOOP)

#: Tell by its path and status whether something may be removed although its status has changed since.
IsKnown = Callable[[str, os.stat_result], bool]


def remove_tree(top: str | Path, dir_fd: int | None = None) -> None:
    """Remove a directory and all below it; `top` is relative to the directory `dir_fd` if given.

    Raise OSError if another file system is mounted below it; if the system tells so, nothing is removed (EBUSY).
    """
    with closing_descriptor(os.open(top, LOOKUP, dir_fd=dir_fd)) as directory:
        check_no_mounts(directory)
    try:
        directory = os.open(top, LISTING, dir_fd=dir_fd)
    except PermissionError:
        _make_accessible(top, dir_fd)
        directory = os.open(top, LISTING, dir_fd=dir_fd)
    with closing_descriptor(directory):
        remove_older(directory)
    os.rmdir(top, dir_fd=dir_fd)


def remove_contents(directory: int) -> None:
    """Remove everything in an open directory; raise what `remove_tree` raises."""
    check_no_mounts(directory)
    remove_older(directory)


def remove_older(
    directory: int,
    since: int = _NEVER,
    is_known: IsKnown = lambda *_: False,
    spared: tuple[str, ...] = (),
    shared: frozenset[int] = frozenset(),
) -> None:
    """Remove what is in an open directory, except for what somebody has changed at the time `since` or later.

    What has a later ctime, in nanoseconds, is only removed if it `is_known`, or is an empty directory: what has been
    written, renamed, or linked has one, but so have further links to a file that was removed. In a directory with a
    later ctime, everything has to be known: it may have been renamed, which changes nothing in it. Directories that are
    not empty in the end stay, and so do those in the top that are `spared`. It is not checked whether other file
    systems are mounted below (`check_no_mounts`).

    `shared` are the inodes of files that another directory has, too, and had at that time: only this name of them can
    be lost. In a directory with no later ctime, which therefore has the names of that time, they are removed whatever
    their ctime is.

    May raise OSError; PermissionError, with a path, after everything was removed that this user may remove.
    """
    _Removal(directory, since, is_known, spared, shared).run()


def check_no_mounts(directory: int) -> None:
    """Raise OSError (EBUSY) if the system tells that another file system is mounted below an open directory."""
    mounts = mount_points_below(directory)
    if mounts:
        raise OSError(errno.EBUSY, "another file system is mounted in it", mounts[0])


class _Moved(NamedTuple):
    """A directory that was moved up: its name in the top, its path before, its inode, and `since` for what is in it.

    That it was moved has changed its status.
    """

    name: str
    path: str
    inode: int
    since: int


class _Listing(NamedTuple):
    """What is in a directory, and its status: had a name been added before it was listed, the ctime would be later."""

    entries: list[os.DirEntry[str]]
    status: os.stat_result


class _Removal:
    """Removes what is in an open directory, except for what was changed at the time `since` or later."""

    def __init__(
        self, top: int, since: int, is_known: IsKnown, spared: tuple[str, ...], shared: frozenset[int]
    ) -> None:
        self._top = top
        self._since = since
        self._is_known = is_known
        self._spared = spared
        self._shared = shared
        self._device = os.fstat(top).st_dev
        self._moved: list[_Moved] = []
        self._refused: PermissionError | None = None

    def run(self) -> None:
        self._remove_all(_list(self._top), self._top, "", 0, self._since)
        while self._moved:
            self._remove_moved(self._moved.pop())
        if self._refused:
            raise self._refused

    def _remove_all(self, listing: _Listing, directory: int, path: str, depth: int, since: int) -> None:
        """Do what shutil.rmtree does in less time. The path ends in `/` unless it is empty."""
        shared = self._shared if listing.status.st_ctime_ns < since else frozenset()
        for entry in listing.entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    self._remove_directory(entry.name, directory, path + entry.name, depth, since)
                    continue
                # What has the name now: it may have been replaced since the directory was listed.
                status = entry.stat(follow_symlinks=False)
                if (
                    status.st_ctime_ns < since
                    or status.st_ino in shared
                    or self._is_known(path + entry.name, status)
                ):
                    _remove_file(entry.name, directory)
            except FileNotFoundError:  # programs that still use the directory may remove or rename it
                continue
            except PermissionError as error:
                self._refused = PermissionError(error.errno, error.strerror, path + entry.name)

    def _remove_directory(self, name: str, parent: int, path: str, depth: int, since: int) -> None:
        """Remove the directory, or move it up if it is too deep, unless something stays in it."""
        try:
            directory, listing = _open_directory(name, parent)
            try:
                status = listing.status
                if self._stays(name, parent, path, status, since):
                    return
                since = since if status.st_ctime_ns < since else LONG_AGO
                if depth == _MAX_DEPTH:
                    os.fchmod(directory, 0o700)
                    self._move_up(name, parent, _Moved(secrets.token_hex(16), path, status.st_ino, since))
                    return
                self._remove_all(listing, directory, path + "/", depth + 1, since)
            finally:
                os.close(directory)
            _remove_empty(name, parent)
        except OSError as error:
            if error.errno not in _STAYS:
                raise

    def _stays(self, name: str, parent: int, path: str, status: os.stat_result, since: int) -> bool:
        """Return whether a directory, which had that status when it was opened, is not to be emptied."""
        if path in self._spared or status.st_dev != self._device:
            return True
        if status.st_ctime_ns < since:
            return False
        with suppress(OSError):
            os.rmdir(name, dir_fd=parent)
            return True
        return not self._is_known(path, status)

    def _move_up(self, name: str, parent: int, moved: _Moved) -> None:
        os.fchmod(parent, 0o700)
        os.rename(name, moved.name, src_dir_fd=parent, dst_dir_fd=self._top)
        self._moved.append(moved)

    def _remove_moved(self, moved: _Moved) -> None:
        """Remove a directory that was moved up, unless another one was moved because it had just got its name."""
        try:
            directory, listing = _open_directory(moved.name, self._top)
            with closing_descriptor(directory):
                if listing.status.st_ino != moved.inode:
                    return
                self._remove_all(listing, directory, moved.path + "/", 1, moved.since)
            _remove_empty(moved.name, self._top)
        except OSError as error:
            if error.errno not in _STAYS:
                raise


def _remove_file(name: str, parent: int) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except PermissionError:
        os.fchmod(parent, 0o700)
        os.unlink(name, dir_fd=parent)


def _remove_empty(name: str, parent: int) -> None:
    try:
        os.rmdir(name, dir_fd=parent)
    except PermissionError:
        os.fchmod(parent, 0o700)
        os.rmdir(name, dir_fd=parent)


def _open_directory(name: str, parent: int) -> tuple[int, _Listing]:
    """Open and list a directory, which may have no permissions; return its status before it was given some."""
    status = None
    try:
        directory = os.open(name, LISTING, dir_fd=parent)
    except PermissionError:
        os.fchmod(parent, 0o700)
        status = os.lstat(name, dir_fd=parent)
        _make_accessible(name, parent)
        directory = os.open(name, LISTING, dir_fd=parent)
    try:
        return directory, _list(directory, status)
    except BaseException:
        os.close(directory)
        raise


def _list(directory: int, before: os.stat_result | None = None) -> _Listing:
    """List an open directory. Its status is that of a later moment, unless one from `before` is given."""
    with os.scandir(directory) as entries:
        children = list(entries)
    return _Listing(children, before or os.fstat(directory))


if sys.platform == "linux":

    def _make_accessible(name: str | Path, dir_fd: int | None) -> None:
        """Give this user all permissions for a directory. The system call that does so would follow a link."""
        descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", 0o700)
        finally:
            os.close(descriptor)

else:

    def _make_accessible(name: str | Path, dir_fd: int | None) -> None:
        """Give this user all permissions for a directory."""
        os.chmod(name, 0o700, dir_fd=dir_fd, follow_symlinks=False)
