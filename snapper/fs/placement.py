"""Move entries to and from directories that may be read-only, and make what is in their place give way.

Nothing is replaced, and no link is followed: everything happens by descriptors of the directories.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from snapper.fs.beneath import LISTING
from snapper.fs.directories import closing_descriptor
from snapper.fs.moves import Entry, move
from snapper.fs.ownership import is_of_this_user
from snapper.fs.private import create_private_directory

#: How often to make room for something that is moved, if programs create something of its name each time.
_ATTEMPTS = 100


def put_in_place(origin: Entry, place: Entry, aside: Entry) -> None:
    """Move an entry to a place, from which everything else gives way: see `set_aside`. May raise OSError."""
    for _ in range(_ATTEMPTS):
        with suppress(FileExistsError):
            move_anyway(origin, place)
            return
        try:
            os.rmdir(place.name, dir_fd=place.directory)
        except OSError:
            with suppress(FileNotFoundError):
                set_aside(place, aside)
    raise FileExistsError(errno.EEXIST, "programs create it again and again", place.name)


def set_aside(entry: Entry, aside: Entry) -> None:
    """Move an entry to a new private directory, whose name begins with that of `aside`. May raise OSError."""
    name, directory = create_private_directory(aside.name, aside.directory)
    with closing_descriptor(directory):
        try:
            move_anyway(entry, Entry(directory, entry.name))
        except OSError:
            os.rmdir(name, dir_fd=aside.directory)
            raise


def move_anyway(source: Entry, destination: Entry) -> None:
    """Move an entry as `move` does, also from and to read-only directories of this user. May raise OSError."""
    with suppress(PermissionError):
        move(source, destination)
        return
    with (
        writable(source.directory),
        writable(destination.directory),
        _movable(source.name, source.directory),
    ):
        move(source, destination)


def make_writable(directory: int) -> int:
    """Make an open directory writable, which it must be to be moved; return the mode that it had."""
    mode = stat.S_IMODE(os.fstat(directory).st_mode)
    if not mode & stat.S_IWUSR:
        os.fchmod(directory, mode | stat.S_IWUSR)
    return mode


@contextmanager
def writable(directory: int) -> Iterator[None]:
    """Make an open directory writable for a while."""
    mode = make_writable(directory)
    try:
        yield
    finally:
        if not mode & stat.S_IWUSR:
            os.fchmod(directory, mode)


@contextmanager
def _movable(name: str, parent: int) -> Iterator[None]:
    """Make what is to be moved writable, as it must be if it is a directory of this user."""
    status = os.lstat(name, dir_fd=parent)
    if not stat.S_ISDIR(status.st_mode) or status.st_mode & stat.S_IWUSR or not is_of_this_user(status):
        yield
        return
    with closing_descriptor(os.open(name, LISTING, dir_fd=parent)) as directory, writable(directory):
        yield
