"""Files of objects below an open directory, at their keys.

Others may write to the directory. So every key is reached by descriptors, component by component, and nothing is ever
read, written, listed, or deleted through a symbolic link. Only regular files are objects.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from snapper.fs.beneath import LISTING, LOOKUP
from snapper.fs.directories import open_below
from snapper.fs.moves import Entry
from snapper.fs.ownership import Place, is_own, others_can_write
from snapper.fs.small_files import read_entry

#: The most components that a listed key may have below the prefix that is listed. Keys of objects have at most two.
_MAX_DEPTH = 8

#: The mode of directories in a store, less the umask: a group may share the store.
_MODE = 0o777


class ObjectFiles(NamedTuple):
    """The objects below the open directory `top`. All methods may raise OSError: ELOOP if a component of the key is a
    link, EINVAL if something other than a regular file has the key.
    """

    top: int

    @contextmanager
    def entry(
        self, key: str, flags: int = LOOKUP, *, make: bool = False, durable: bool = True
    ) -> Iterator[Entry]:
        """Yield the key as a name in its directory, which is opened with these flags, and created with `make`."""
        parent, _, name = key.rpartition("/")
        mode = _MODE if make else None
        directory = open_below(self.top, parent, flags, mode=mode, durable=durable)
        try:
            yield Entry(directory, name)
        finally:
            os.close(directory)

    def read(self, key: str, limit: int) -> bytes:
        """Return the whole object; raise EFBIG if it has more than `limit` bytes."""
        with self.entry(key) as entry:
            try:
                return read_entry(entry, limit)
            except OSError as error:
                raise OSError(error.errno, error.strerror, key) from None

    def status(self, key: str) -> os.stat_result | None:
        """Return the status of the object's file, or None if there is no regular file."""
        with suppress(FileNotFoundError), self.entry(key) as entry:
            return _file_status(entry)
        return None

    def modified(self, key: str) -> float:
        """Return when what has the key was last written, which may be a link. Raise FileNotFoundError."""
        with self.entry(key) as entry:
            return os.lstat(entry.name, dir_fd=entry.directory).st_mtime

    def inspect(self, key: str) -> tuple[os.stat_result, bool] | None:
        """Return the status of the object's file, and whether only this user or root can have written and put it there.

        Return None if there is no regular file.
        """
        with suppress(FileNotFoundError), self.entry(key) as entry:
            status, directory = _file_status(entry), os.fstat(entry.directory)
            if status is not None:
                is_own_only = _is_private(status, entry) and _is_private(directory, entry.directory)
                return status, is_own_only
        return None

    def is_top_private(self) -> bool:
        """Return whether the top belongs to this user or root, and nobody else may write to it."""
        return _is_private(os.fstat(self.top), self.top)

    def remove(self, key: str) -> bool:
        """Remove the file; return whether it existed."""
        try:
            with self.entry(key) as entry:
                os.unlink(entry.name, dir_fd=entry.directory)
        except FileNotFoundError:
            return False
        return True

    def walk(self, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield everything below the prefix except directories, with its key.

        Files whose names begin with a dot are no objects.
        """
        for directory in self.directories(prefix):
            for entry in directory.entries:
                if not (entry.name.startswith(".") or entry.is_dir(follow_symlinks=False)):
                    yield directory.prefix + _composed_name(entry, directory.descriptor), entry

    def directories(self, prefix: str) -> Iterator[OpenDirectory]:
        """Yield the directory of the prefix and those below it; none if it does not exist. Each is closed at the next
        step.
        """
        try:
            descriptor = open_below(self.top, prefix.rstrip("/"), LISTING)
        except FileNotFoundError:
            return
        yield from _walk(descriptor, prefix, _MAX_DEPTH)


@contextmanager
def opened_files(root: str | Path) -> Iterator[ObjectFiles]:
    """Yield the objects in a directory, which may be a link. May raise OSError."""
    descriptor = os.open(root, LOOKUP & ~os.O_NOFOLLOW)
    try:
        yield ObjectFiles(descriptor)
    finally:
        os.close(descriptor)


class OpenDirectory(NamedTuple):
    """An open directory, what it contains, and the prefix of the keys of that."""

    descriptor: int
    prefix: str
    entries: list[os.DirEntry[str]]


def _file_status(entry: Entry) -> os.stat_result | None:
    status = os.lstat(entry.name, dir_fd=entry.directory)
    return status if stat.S_ISREG(status.st_mode) else None


def _is_private(status: os.stat_result, place: Place) -> bool:
    """Return whether this is the status of what belongs to this user or root, and nobody else may write to."""
    return is_own(status) and not others_can_write(status, place)


def _composed_name(entry: os.DirEntry[str], directory: int) -> str:
    """Return the name of an entry as snapper has written it, composed (NFC), where the file system decomposes names."""
    name = normalize("NFC", entry.name)
    if name != entry.name:
        with suppress(OSError):
            listed, composed = entry.stat(follow_symlinks=False), os.lstat(name, dir_fd=directory)
            return name if os.path.samestat(listed, composed) else entry.name
    return entry.name


def _walk(descriptor: int, prefix: str, depth: int) -> Iterator[OpenDirectory]:
    try:
        with os.scandir(descriptor) as found:
            entries = list(found)
        yield OpenDirectory(descriptor, prefix, entries)
        for entry in entries if depth else ():
            if entry.is_dir(follow_symlinks=False):
                with suppress(FileNotFoundError, NotADirectoryError):  # it has changed since it was listed
                    below = os.open(entry.name, LISTING, dir_fd=descriptor)
                    yield from _walk(below, f"{prefix}{entry.name}/", depth - 1)
    finally:
        os.close(descriptor)
