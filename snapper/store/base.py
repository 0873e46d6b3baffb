"""What a store must do: hold objects by key, immutable ones written once, mutable ones compared and swapped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from snapper.format.model import LARGEST_OBJECT


class VersionMismatch(Exception):
    """The object is no longer at the version that the caller saw; nothing was written."""


_IMMUTABLE = re.compile(r"(?:(?:layers|pages)/[0-9a-f]{2}|snapshots)/([0-9a-f]{64})\.")


def digest_in(key: str) -> str:
    """The sha256 that names an immutable object; empty for another key. Who reads such an object looks at that."""
    found = _IMMUTABLE.match(key)
    return found[1] if found else ""


class ObjectInfo(NamedTuple):
    """An object as a listing shows it: size in bytes, and when it was written, by the store's clock, in seconds
    since 1970.
    """

    key: str
    size: int
    modified: float


class Store(Protocol):
    """Keys are names separated by `/`. All errors but VersionMismatch are SnapperErrors.

    A store crosses into worker processes, so it pickles and holds no open files.
    """

    @property
    def url(self) -> str:
        """What `--store` would name it by."""

    def read(self, key: str, limit: int = LARGEST_OBJECT) -> bytes:
        """The whole object; raises NotInStore, and ObjectTooLarge for more than `limit` bytes."""

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """The whole object and its version; raises NotInStore, ObjectTooLarge."""

    def size(self, key: str) -> int | None:
        """The object's size in bytes, None where there is no such object."""

    def put(self, key: str, data: bytes | memoryview) -> bool:
        """Writes an immutable object unless it is there; True if it was written. Durable when it returns."""

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        """Writes a mutable object that is at `version` (None: not there yet), or raises VersionMismatch."""

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with `prefix`, which ends in `/`, in order."""

    def entries(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects whose keys begin with `prefix`, which ends in `/`, in the order of their keys."""

    def delete(self, key: str, version: str | None = None) -> bool:
        """Removes the object; False where it was not there. With a `version`, it must be at that, or
        VersionMismatch is raised.
        """

    def others(self) -> list[str] | None:
        """Some names that stand at the store's top, all if there are few; None where there is no such place. Raises
        NotAStore where there is a place that no store can be at.
        """

    def sweep(self) -> int:
        """Removes what writers that were killed left behind, which is no object; how many things that were."""
