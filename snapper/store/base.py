"""What a store must do: hold objects by key, immutable ones written once, mutable ones compared and swapped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class VersionMismatch(Exception):
    """The object is no longer at the version that the caller saw; nothing was written."""


class Store(Protocol):
    """Keys are names separated by `/`. All errors but VersionMismatch are SnapperErrors.

    A store crosses into worker processes, so it pickles and holds no open files.
    """

    @property
    def url(self) -> str:
        """What `--store` would name it by."""

    def read(self, key: str) -> bytes:
        """The whole object; raises NotInStore."""

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """The whole object and its version; raises NotInStore."""

    def size(self, key: str) -> int | None:
        """The object's size in bytes, None where there is no such object."""

    def put(self, key: str, data: bytes | memoryview) -> bool:
        """Writes an immutable object unless it is there; True if it was written. Durable when it returns."""

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        """Writes a mutable object that is at `version` (None: not there yet), or raises VersionMismatch."""

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with `prefix`, which ends in `/`, in order."""
