"""Remove the least recently used objects from caches.

Only files that snapper has written are looked at: objects, which are named by their digest and whose time of last use
is their mtime, and the temporary files of killed writers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from snapper.format.layout import Layout
from snapper.fs.atomic import remove_leftovers
from snapper.store.cache_directory import CacheDirectory, caches_in
from snapper.store.object_files import ObjectFiles

_PREFIXES = (Layout.REFS, Layout.SNAPSHOTS, Layout.PAGES, Layout.LAYERS)

#: The largest entry, in bytes, that is not evicted: entries are needed offline, and usually have some kilobytes.
_SMALL_ENTRY = 1 << 20


class _CachedObject(NamedTuple):
    last_used: float
    size: int
    cache: CacheDirectory
    key: str


def evict(root: str, full: float, target: float) -> None:
    """If the objects in all caches in the directory are larger than `full`, remove the least recently used ones until
    `target` is reached, both in bytes.
    """
    objects = sorted(_cached_objects(root))
    total = sum(each.size for each in objects)
    if total <= full:
        return
    for each in objects:
        if total <= target:
            break
        with suppress(OSError), each.cache.opened() as files:
            files.remove(each.key)
            total -= each.size


def _cached_objects(root: str) -> Iterator[_CachedObject]:
    """Yield what can be removed. Directories that cannot be read are left out."""
    with suppress(OSError):
        for cache in caches_in(root):
            with suppress(OSError), cache.opened() as files:
                for prefix in _PREFIXES:
                    with suppress(OSError):
                        yield from _objects_below(prefix, cache, files)


def _objects_below(prefix: str, cache: CacheDirectory, files: ObjectFiles) -> Iterator[_CachedObject]:
    for directory in files.directories(prefix):
        remove_leftovers(directory.descriptor)
    for key, entry in files.walk(prefix):
        if Layout.parse(key):
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if prefix != Layout.REFS or status.st_size > _SMALL_ENTRY:
                    yield _CachedObject(status.st_mtime, status.st_size, cache, key)
