"""The directory of one cache, which snapper has made and marked.

The setting `cache` may name a directory that is in use, or that other users may write to. So each cache is in a
directory of its own there. It is used only if it is no link, belongs to this user, cannot be written to by others, and
has a file CACHEDIR.TAG (bford.info/cachedir) that says that it is one of snapper's. All access is by descriptors.

What is in a cache may be deleted at any time, so nothing else must be taken for one: stores have the same objects. Only
the cache of a store that is being opened is marked, and no store is opened in a marked directory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from snapper.format.layout import Layout
from snapper.fs.atomic import is_temporary, write_entry
from snapper.fs.beneath import LISTING, LOOKUP, open_beneath
from snapper.fs.directories import closing_descriptor
from snapper.fs.moves import Entry
from snapper.fs.ownership import is_of_this_user, others_can_write, owner_name
from snapper.fs.small_files import read_entry, read_own_entry
from snapper.store.object_files import ObjectFiles

TAG = "CACHEDIR.TAG"
_MARK = b"# This is a cache that snapper has made. It can be deleted at any time.\n"
_TAG_CONTENT = b"Signature: 8a477f597d28d172789f06886806bc55\n" + _MARK
_LARGEST_TAG = 4096

#: What earlier versions, which did not mark caches, put into the directory of a cache. Stores have locks, too.
_CACHED_PREFIXES = (prefix[:-1] for prefix in Layout.PREFIXES if prefix != Layout.LOCKS)
_KNOWN_NAMES = frozenset({Layout.MARKER, Layout.CACHED_LISTING, *_CACHED_PREFIXES})


class CacheDirectory(NamedTuple):
    """The directory `name` below `root`, the directory that all caches are in."""

    root: str
    name: str

    @property
    def path(self) -> str:
        return os.path.join(self.root, self.name)

    def make(self) -> None:
        """Create and mark the directory, unless it exists, but not where another user's link leads.

        A directory of this name that is empty, or a cache that earlier versions made, is marked. Raise OSError if it
        cannot be used; the error says why.
        """
        root = _make_root(self.root)
        with closing_descriptor(root), suppress(FileExistsError):
            os.mkdir(self.name, 0o700, dir_fd=root)
        with closing_descriptor(self._open()) as descriptor:
            names = set(os.listdir(descriptor))
            if TAG not in names:
                self._check_unmarked(names)
                write_entry(Entry(descriptor, TAG), _TAG_CONTENT, durable=False, mode=0o600)
            self._check_tag(descriptor)

    @contextmanager
    def opened(self) -> Iterator[ObjectFiles]:
        """Yield the objects in the directory. Raise OSError if it cannot be used."""
        with closing_descriptor(self._open()) as descriptor:
            self._check_tag(descriptor)
            yield ObjectFiles(descriptor)

    def write(self, key: str, data: bytes | memoryview) -> None:
        """Write a file. It is not synced: readers verify objects. May raise OSError."""
        with self.opened() as files, files.entry(key, LISTING, make=True, durable=False) as entry:
            write_entry(entry, data, durable=False, mode=0o600)

    def _open(self) -> int:
        """Open the directory; raise OSError unless it is one of this user, and not writable by others."""
        try:
            descriptor = os.open(self.path, LISTING)
        except NotADirectoryError as error:
            reason = "it is a symbolic link, or no directory"
            raise OSError(error.errno, reason, self.path) from None
        status = os.fstat(descriptor)
        if is_of_this_user(status) and not others_can_write(status, descriptor):
            return descriptor
        os.close(descriptor)
        is_writable = is_of_this_user(status)
        reason = "other users may write to it" if is_writable else f"it belongs to {owner_name(status)}"
        raise OSError(errno.EPERM, reason, self.path)

    def _check_unmarked(self, names: set[str]) -> None:
        """Raise OSError unless a directory with these names is empty, or a cache that an earlier version made."""
        others = {name for name in names if not is_temporary(name)}
        if others and not (Layout.CACHED_LISTING in others and others <= _KNOWN_NAMES):
            raise OSError(errno.EINVAL, "it contains other files", self.path)

    def _check_tag(self, descriptor: int) -> None:
        """Raise OSError unless the open directory is marked."""
        try:
            content = read_entry(Entry(descriptor, TAG), _LARGEST_TAG)
        except FileNotFoundError:
            raise OSError(errno.EINVAL, f"it has no {TAG}", self.path) from None
        if not content.startswith(_TAG_CONTENT):
            raise OSError(errno.EINVAL, "it is the cache of another program", self.path)


def is_cache(directory: int) -> bool:
    """Return whether this user, or root, has marked an open directory as a cache."""
    try:
        return read_own_entry(Entry(directory, TAG), _LARGEST_TAG).startswith(_TAG_CONTENT)
    except OSError:
        return False


def caches_in(root: str) -> Iterable[CacheDirectory]:
    """Return what may be caches in the directory, in order. May raise OSError."""
    return [CacheDirectory(root, name) for name in sorted(os.listdir(root)) if Layout.is_cache_name(name)]


def _make_root(path: str) -> int:
    """Open the directory at an absolute path, and create it if necessary; follow no link of another user."""
    try:
        return open_beneath("/", path, LOOKUP, own_links=True)
    except FileNotFoundError:
        parent = _make_root(os.path.dirname(path))
    with closing_descriptor(parent):
        name = os.path.basename(path)
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
        return os.open(name, LOOKUP, dir_fd=parent)
