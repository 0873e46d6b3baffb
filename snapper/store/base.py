"""The interface of a store: immutable objects that are written once, mutable ones replaced by compare-and-swap."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple, Protocol, TypeVar

from snapper.format.model import LARGEST_OBJECT

S = TypeVar("S")


class VersionMismatch(Exception):
    """The object is not at the version that the caller expected; nothing was written."""


class VersionedObject(NamedTuple):
    """A mutable object as it was read, and the version that it is replaced by."""

    data: bytes
    version: str


class ObjectInfo(NamedTuple):
    """An object in a listing: its size in bytes, and when it was last written, in seconds since 1970 by the store's
    clock.

    `archived` is why it cannot be read, unless it has been restored: `inspect` does not find it if it has not.
    """

    key: str
    size: int
    modified: float
    archived: str = ""


class ObjectStatus(NamedTuple):
    """What is known of an object without reading it: its size in bytes, and whether its bytes have the digest in its
    key. `is_attested` is false if only reading it can tell. Whatever replaces the object has another `identity`.
    """

    size: int
    is_attested: bool
    identity: str


class Store(Protocol):
    """Objects by key. Keys are names separated by `/`. All errors except VersionMismatch are SnapperErrors.

    Stores are passed to worker processes: they can be pickled, and hold no open files.
    """

    @property
    def url(self) -> str:
        """The URL by which `--store` names the store, without credentials, to show and to record."""

    def read(self, key: str, limit: int = LARGEST_OBJECT) -> bytes:
        """Return the whole object. Raise NotInStore, or ObjectTooLarge if it has more than `limit` bytes."""

    def read_versioned(self, key: str, limit: int = LARGEST_OBJECT) -> VersionedObject:
        """Return the whole object and its version. Raise NotInStore, or ObjectTooLarge as `read` does."""

    def inspect(self, key: str) -> ObjectStatus | None:
        """Return what is known of the object without reading it, None if there is no such object.

        One that is known to be unreadable at the moment does not count as stored: `put` replaces it.
        """

    @property
    def attests_own(self) -> bool:
        """Whether `inspect` attests the objects that this user writes."""

    def size(self, key: str) -> int | None:
        """Return the object's size in bytes, None if there is no such object."""

    def sizes(self, prefix: str, keys: Collection[str]) -> dict[str, int]:
        """Return the sizes in bytes of those of the objects that `inspect` finds, by key. All keys begin with
        `prefix`, which ends in `/`. Many sizes take fewer requests than each of them on its own.
        """

    def put(self, key: str, data: bytes | memoryview) -> str:
        """Write an immutable object unless it exists. Durable on return.

        Return its identity, as in ObjectStatus, or an empty string if it exists. Others may replace it at any time, so
        what `inspect` returns later need not be the identity of what was written.
        """

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        """Write a mutable object. Raise VersionMismatch unless it is at `version` (None: does not exist yet)."""

    def list_keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with `prefix`, which ends in `/`, in order."""

    def list_objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix`, which ends in `/`, in order of their keys."""

    def modified(self, key: str) -> float | None:
        """Return when the object was last written, as in ObjectInfo, None if there is none. It need not be readable."""

    def delete(self, key: str, version: str | None = None) -> bool:
        """Delete the object; return False if it did not exist. Raise VersionMismatch unless it is at `version`, if
        that is given.
        """

    def list_root(self) -> list[str] | None:
        """Return names at the top of the store, all of them if there are few; None if the directory or prefix does
        not exist. Raise NotAStore if something else is in its place.
        """

    def remove_leftovers(self) -> int:
        """Remove what killed writers left behind, which is never an object; return how many things were removed."""

    def check_writable(self, prefix: str) -> None:
        """Raise StoreRefused if it is known without trying that nothing can be written below `prefix`."""

    def stale_since(self, keys: Iterable[str] = ()) -> float | None:
        """Return when the cache was last in step with the store, in seconds since 1970, if the store could not be
        reached and the cache answers in its place. None if the store was always reached, or if nothing is cached.

        With `keys`, return when all of these objects were last known to be current.
        """

    def require_online(self) -> None:
        """Raise again the StoreUnreachable of an earlier request, if there was one. Does not contact the store."""

    def authoritative(self) -> Store:
        """Return the same store without a cache in front of it."""


class DirectStore:
    """What stores have in common that have no cache in front of them: what they return is always current."""

    def inspect(self, key: str) -> ObjectStatus | None:
        raise NotImplementedError

    @property
    def attests_own(self) -> bool:
        return True

    def size(self, key: str) -> int | None:
        status = self.inspect(key)
        return status.size if status else None

    def check_writable(self, prefix: str) -> None:  # noqa: ARG002 - as Store has it
        return

    def stale_since(self, keys: Iterable[str] = ()) -> None:  # noqa: ARG002 - as Store has it
        return None

    def require_online(self) -> None:
        return

    def authoritative(self: S) -> S:
        return self
