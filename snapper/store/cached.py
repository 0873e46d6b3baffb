"""A cache on this machine in front of a remote store, as a directory of the objects that were read or written.

Immutable objects are read from the cache if it has them intact. All others are read from the remote store each time;
the cache keeps copies of refs and the marker, which are used when the store cannot be reached. When space runs short,
the least recently used objects are removed first. The cache is never relied on: what is corrupted or missing there is
read from the remote store again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TypeVar

from snapper.errors import NotInStore, StoreUnreachable
from snapper.format.canonical import LARGEST_DOCUMENT
from snapper.format.layout import Layout
from snapper.format.model import LARGEST_OBJECT
from snapper.store.base import ObjectInfo, ObjectStatus, Store, VersionedObject
from snapper.store.cache_directory import CacheDirectory
from snapper.store.eviction import evict

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Shares of the limit: above the first, objects are evicted until the second is reached; the third is how much is
#: written before the size of the cache is measured again.
_FULL = 0.95
_EVICTED = 0.9
_UNMEASURED = 0.01


@dataclass(eq=False)
class CachedStore:
    """Objects of `origin`, cached in `cache`; all caches in the same directory share `limit` bytes.

    A copy that is pickled, or inherited by a fork, starts with what is known of the origin at that moment. After that,
    copies do not affect each other.
    """

    origin: Store
    cache: CacheDirectory
    limit: int

    #: The error by which the origin turned out to be unreachable: it is not asked again.
    _unreachable: StoreUnreachable | None = field(default=None, init=False, repr=False)

    #: Bytes written to the cache since its size was last measured; None before the first time.
    _unmeasured: int | None = field(default=None, init=False, repr=False)

    @property
    def url(self) -> str:
        return self.origin.url

    def stale_since(self, keys: Iterable[str] = ()) -> float | None:
        if self._unreachable is None:
            return None
        times = list(self._times(keys)) or self._times([Layout.MARKER])
        return min(times, default=None)

    def require_online(self) -> None:
        if self._unreachable is not None:
            raise self._unreachable

    def authoritative(self) -> Store:
        return self.origin

    def make_directory(self) -> None:
        """Create the cache directory, accessible to this user only. Without one, nothing is cached."""
        try:
            self.cache.make()
        except OSError as error:
            message = "nothing is cached, because %s cannot be used: %s. Choose another directory: %s"
            command = "snapper config set cache DIRECTORY"
            logger.warning(message, self.cache.path, error.strerror, command)

    def read(self, key: str, limit: int = LARGEST_OBJECT) -> bytes:
        digest = Layout.digest_of(key)
        if not digest:
            return self._read_mutable(key, lambda: VersionedObject(self.origin.read(key, limit), "")).data
        data = self._cached(key, digest, limit)
        logger.debug("cache %s: %s", "miss" if data is None else "hit", key)
        if data is None:
            try:
                data = self._ask(lambda: self.origin.read(key, limit))
            except StoreUnreachable as error:
                raise _not_cached(error) from None
            if sha256(data).hexdigest() == digest:
                self._cache(key, data)
        return data

    def read_versioned(self, key: str, limit: int = LARGEST_OBJECT) -> VersionedObject:
        return self._read_mutable(key, lambda: self.origin.read_versioned(key, limit))

    def inspect(self, key: str) -> ObjectStatus | None:
        return self._ask(lambda: self.origin.inspect(key))

    @property
    def attests_own(self) -> bool:
        return self.origin.attests_own

    def size(self, key: str) -> int | None:
        try:
            return self._ask(lambda: self.origin.size(key))
        except StoreUnreachable:
            status = self._status(key)
            if status is None:
                raise
            return status.st_size

    def sizes(self, prefix: str, keys: Collection[str]) -> dict[str, int]:
        try:
            return self._ask(lambda: self.origin.sizes(prefix, keys))
        except StoreUnreachable:
            cached = {key: self._status(key) for key in keys}
            if None in cached.values():
                raise
            return {key: status.st_size for key, status in cached.items() if status}

    def put(self, key: str, data: bytes | memoryview) -> str:
        written = self._ask(lambda: self.origin.put(key, data))
        if Layout.digest_of(key):
            status = self._status(key)
            if status is None or status.st_size != len(data):
                self._cache(key, data)
        return written

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        self._ask(lambda: self.origin.replace(key, data, version))
        if key.startswith(Layout.REFS):
            self._write(key, data)
            listed = self._read_listing()
            if listed is not None:
                self._write_listing(listed | {key})

    def list_keys(self, prefix: str) -> Iterator[str]:
        try:
            keys = self._ask(lambda: list(self.origin.list_keys(prefix)))
        except StoreUnreachable:
            known = self._known_refs() if prefix == Layout.REFS else None
            if known is None:
                raise
            return iter(sorted(known))
        if prefix == Layout.REFS:
            self._write_listing(keys)
            for deleted in self._cached_refs() - set(keys):
                self._forget(deleted)
        return iter(keys)

    def list_objects(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._ask(lambda: self.origin.list_objects(prefix))

    def modified(self, key: str) -> float | None:
        return self._ask(lambda: self.origin.modified(key))

    def delete(self, key: str, version: str | None = None) -> bool:
        deleted = self._ask(lambda: self.origin.delete(key, version))
        self._forget(key)
        return deleted

    def remove_leftovers(self) -> int:
        return self._ask(self.origin.remove_leftovers)

    def list_root(self) -> list[str] | None:
        return self._ask(self.origin.list_root)

    def check_writable(self, prefix: str) -> None:
        self.origin.check_writable(prefix)

    def _ask(self, action: Callable[[], T]) -> T:
        """Do something with the origin, unless it is known to be unreachable."""
        self.require_online()
        try:
            return action()
        except StoreUnreachable as error:
            logger.info("offline, using the cache from now on: %s", error.message)
            self._unreachable = error
            raise

    def _read_mutable(self, key: str, request: Callable[[], VersionedObject]) -> VersionedObject:
        """Read a mutable object and its version from the origin; if that is offline, return the object as it was last
        read, and no version.
        """
        try:
            current = self._ask(request)
        except NotInStore:
            self._forget(key)
            raise
        except StoreUnreachable as error:
            cached = self._read(key, LARGEST_OBJECT)
            if cached is None:
                raise _not_cached(error) from None
            return VersionedObject(cached, "")
        if key == Layout.MARKER or key.startswith(Layout.REFS):
            self._cache(key, current.data)
        return current

    def _cached(self, key: str, digest: str, limit: int) -> bytes | None:
        """Return the immutable object if the cache has it intact, and mark it as used."""
        data = None
        with suppress(OSError), self.cache.opened() as files:
            read = files.read(key, limit)
            if sha256(read).hexdigest() == digest:
                data = read
                with files.entry(key) as entry:
                    os.utime(entry.name, dir_fd=entry.directory, follow_symlinks=False)
        return data

    def _read(self, key: str, limit: int) -> bytes | None:
        """Return the object as it is in the cache, or None if it is not there."""
        with suppress(OSError), self.cache.opened() as files:
            return files.read(key, limit)
        return None

    def _status(self, key: str) -> os.stat_result | None:
        """Return the status of the object in the cache, or None if it is not there."""
        with suppress(OSError), self.cache.opened() as files:
            return files.status(key)
        return None

    def _cache(self, key: str, data: bytes | memoryview) -> None:
        if len(data) <= self.limit * _EVICTED:
            self._make_space(len(data))
            self._write(key, data)

    def _write(self, key: str, data: bytes | memoryview) -> None:
        """Write the object to the cache if possible."""
        with suppress(OSError):
            self.cache.write(key, data)

    def _forget(self, key: str) -> None:
        with suppress(OSError), self.cache.opened() as files:
            files.remove(key)
        listed = self._read_listing()
        if listed and key in listed:
            self._write_listing(listed - {key})

    def _write_listing(self, refs: Iterable[str]) -> None:
        self._write(Layout.CACHED_LISTING, json.dumps(sorted(refs)).encode())

    def _read_listing(self) -> set[str] | None:
        """Return the keys of the refs that the store had when they were last listed; None if that is not known."""
        data = self._read(Layout.CACHED_LISTING, LARGEST_DOCUMENT)
        try:
            return None if data is None else {str(key) for key in json.loads(data)}
        except (ValueError, TypeError, RecursionError):
            return None

    def _cached_refs(self) -> set[str]:
        """Return the keys of the refs that are in the cache."""
        keys = set[str]()
        with suppress(OSError), self.cache.opened() as files:
            keys |= {key for key, _ in files.walk(Layout.REFS)}
        return keys

    def _known_refs(self) -> set[str] | None:
        """Return the keys of the refs that were last listed or are cached; None if nothing is known of them."""
        listed, cached = self._read_listing(), self._cached_refs()
        return None if listed is None and not cached else cached | (listed or set())

    def _times(self, keys: Iterable[str]) -> Iterator[float]:
        """Yield when those of the objects that are cached were last read from the store or written to it."""
        for key in keys:
            status = self._status(key)
            if status is not None:
                yield status.st_mtime

    def _make_space(self, size: int) -> None:
        """Evict the least recently used objects if the cache would be too full with `size` more bytes.

        The cache is only measured the first time, and then whenever enough has been written since.
        """
        if self._unmeasured is not None:
            self._unmeasured += size
            if self._unmeasured < self.limit * _UNMEASURED:
                return
        self._unmeasured = size
        evict(self.cache.root, self.limit * _FULL - size, self.limit * _EVICTED - size)


def _not_cached(error: StoreUnreachable) -> StoreUnreachable:
    return replace(error, reason=f"{error.reason}, and the cache does not contain everything needed")
