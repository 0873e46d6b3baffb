"""The directory of one cache, which snapper has made and marked.

The setting `cache` may name a directory that is in use, or that other users may write to. So each cache is in a
directory of its own there. It is used only if it is no link, belongs to this user, cannot be written to by others, and
has a file CACHEDIR.TAG (bford.info/cachedir) that says that it is one of snapper's. All access is by descriptors.
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
from snapper.fs.moves import Entry
from snapper.fs.ownership import is_of_this_user, others_can_write, owner_name
from snapper.fs.small_files import read_entry
from snapper.store.object_files import ObjectFiles

TAG = "CACHEDIR.TAG"
_MARK = b"# This is a cache that snapper has made. It can be deleted at any time.\n"
_TAG_CONTENT = b"Signature: 8a477f597d28d172789f06886806bc55\n" + _MARK
_LARGEST_TAG = 4096

#: What earlier versions, which did not mark caches, put into the directory of a cache.
_KNOWN_NAMES = frozenset({Layout.MARKER, Layout.CACHED_LISTING, *(prefix[:-1] for prefix in Layout.PREFIXES)})


class CacheDirectory(NamedTuple):
    """The directory `name` below `root`, the directory that all caches are in."""

    root: str
    name: str

    @property
    def path(self) -> str:
        return os.path.join(self.root, self.name)

    def make(self) -> None:
        """Create the directory, unless it exists, but not where another user's link leads.

        Raise OSError if it cannot be used; the error says why.
        """
        root = _make_root(self.root)
        try:
            with suppress(FileExistsError):
                os.mkdir(self.name, 0o700, dir_fd=root)
        finally:
            os.close(root)
        with self.opened():
            return

    @contextmanager
    def opened(self) -> Iterator[ObjectFiles]:
        """Yield the objects in the directory. Raise OSError if it cannot be used."""
        try:
            descriptor = os.open(self.path, LISTING)
        except NotADirectoryError as error:
            reason = "it is a symbolic link, or no directory"
            raise OSError(error.errno, reason, self.path) from None
        try:
            self._check(descriptor)
            yield ObjectFiles(descriptor)
        finally:
            os.close(descriptor)

    def write(self, key: str, data: bytes | memoryview) -> None:
        """Write a file. It is not synced: readers verify objects. May raise OSError."""
        with self.opened() as files, files.entry(key, LISTING, make=True, durable=False) as entry:
            write_entry(entry, data, durable=False, mode=0o600)

    def _check(self, descriptor: int) -> None:
        """Raise OSError unless the open directory is a cache of this user. Mark those that earlier versions made."""
        status = os.fstat(descriptor)
        if not is_of_this_user(status):
            raise OSError(errno.EPERM, f"it belongs to {owner_name(status)}", self.path)
        if others_can_write(status):
            raise OSError(errno.EPERM, "other users may write to it", self.path)
        tag = Entry(descriptor, TAG)
        try:
            content = read_entry(tag, _LARGEST_TAG)
        except FileNotFoundError:
            if not (Layout.is_cache_name(self.name) and all(map(_is_known, os.listdir(descriptor)))):
                raise OSError(errno.EINVAL, "it contains other files", self.path) from None
            write_entry(tag, _TAG_CONTENT, durable=False)
        else:
            if not content.startswith(_TAG_CONTENT):
                raise OSError(errno.EINVAL, "it is the cache of another program", self.path)


def caches_in(root: str) -> Iterable[CacheDirectory]:
    """Return what may be caches in the directory, in order. May raise OSError."""
    return [CacheDirectory(root, name) for name in sorted(os.listdir(root)) if Layout.is_cache_name(name)]


def _make_root(path: str) -> int:
    """Open the directory at an absolute path, and create it if necessary; follow no link of another user."""
    try:
        return open_beneath("/", path, LOOKUP, own_links=True)
    except FileNotFoundError:
        parent = _make_root(os.path.dirname(path))
    try:
        name = os.path.basename(path)
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)
        return os.open(name, LOOKUP, dir_fd=parent)
    finally:
        os.close(parent)


def _is_known(name: str) -> bool:
    return name in _KNOWN_NAMES or is_temporary(name)
