"""Remove directory trees, read-only directories included. Links are never followed."""

from __future__ import annotations

import errno
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from snapper.fs.beneath import LISTING, LOOKUP
from snapper.fs.directories import closing_descriptor
from snapper.fs.mounts import mount_points_below

#: Directories at this depth are moved up before they are removed: each level takes a descriptor and a stack frame.
_MAX_DEPTH = 100


def remove_tree(top: str | Path, dir_fd: int | None = None) -> None:
    """Remove a directory and all below it; `top` is relative to the directory `dir_fd` if given.

    Raise OSError, with EBUSY and nothing removed if another file system is mounted below it.
    """
    with closing_descriptor(os.open(top, LOOKUP, dir_fd=dir_fd)) as directory:
        _check_no_mounts(directory)
    remove_unmounted_tree(top, dir_fd)


def remove_unmounted_tree(top: str | Path, dir_fd: int | None = None) -> None:
    """Do what `remove_tree` does for a directory below which nothing is mounted, so that this is not checked."""
    try:
        directory = os.open(top, LISTING, dir_fd=dir_fd)
    except PermissionError:
        _make_accessible(top, dir_fd)
        directory = os.open(top, LISTING, dir_fd=dir_fd)
    try:
        _remove_contents(directory)
    finally:
        os.close(directory)
    os.rmdir(top, dir_fd=dir_fd)


def remove_contents(directory: int) -> None:
    """Remove everything in an open directory; raise what `remove_tree` raises."""
    _check_no_mounts(directory)
    _remove_contents(directory)


def _check_no_mounts(directory: int) -> None:
    mounts = mount_points_below(directory)
    if mounts:
        raise OSError(errno.EBUSY, "another file system is mounted in it", mounts[0])


def _remove_contents(directory: int) -> None:
    moved: list[str] = []

    def move_up(name: str, parent: int) -> None:
        moved.append(secrets.token_hex(16))
        os.rename(name, moved[-1], src_dir_fd=parent, dst_dir_fd=directory)

    _empty(directory, 0, move_up)
    while moved:
        _remove(moved.pop(), directory, 0, move_up)


def _empty(directory: int, depth: int, move_up: Callable[[str, int], None]) -> None:
    """Do what shutil.rmtree does in half the time, as no paths are built."""
    with os.scandir(directory) as entries:
        children = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in children:
        if is_directory:
            _remove(name, directory, depth, move_up)
            continue
        try:
            os.unlink(name, dir_fd=directory)
        except PermissionError:
            os.fchmod(directory, 0o700)
            os.unlink(name, dir_fd=directory)


def _remove(name: str, parent: int, depth: int, move_up: Callable[[str, int], None]) -> None:
    """Remove the directory, or move it up if it is too deep."""
    try:
        directory = os.open(name, LISTING, dir_fd=parent)
    except PermissionError:
        os.fchmod(parent, 0o700)
        _make_accessible(name, parent)
        directory = os.open(name, LISTING, dir_fd=parent)
    try:
        if depth == _MAX_DEPTH:
            os.fchmod(directory, 0o700)
            os.fchmod(parent, 0o700)
            move_up(name, parent)
            return
        _empty(directory, depth + 1, move_up)
    finally:
        os.close(directory)
    try:
        os.rmdir(name, dir_fd=parent)
    except PermissionError:
        os.fchmod(parent, 0o700)
        os.rmdir(name, dir_fd=parent)


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
