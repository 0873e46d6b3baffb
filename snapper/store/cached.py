"""A store that is far away, and a directory store on this machine that keeps what was read from it or put into it.

Immutable objects are read from the directory where it has them whole, others from where they come from, each time:
of those the directory keeps what was last seen, for when that cannot be reached. The oldest that was not used goes
first where room is short. Nothing in the directory is counted on: what is damaged or gone is read anew.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from snapper.errors import NotInStore, SnapperError, StoreUnreachable
from snapper.format.model import LARGEST_OBJECT
from snapper.store.base import ObjectInfo, Store, digest_in
from snapper.store.local import LocalStore

T = TypeVar("T")

_MARKER = "snapper.json"
_ENTRIES = "environments/"

#: Which entries there are, in the directory alone: of those, it has some.
_LISTING = "environments.json"

#: Shares of the limit: from where on room is made, what stays then, and what is kept between two looks.
_FULL = 0.95
_FILLED = 0.9
_UNSEEN = 0.01

#: When what is not to go was last used.
_STAYS = float("inf")

#: Stores that this process could not reach, by URL: they are not asked again.
_unreachable: dict[str, StoreUnreachable] = {}

#: Bytes that this process has kept in a cache since it last looked how full that is.
_kept: dict[str, int] = {}


@dataclass(frozen=True)
class CachedStore:
    """Objects of `origin`, kept in the directory `root/NAME`; all that is below `root` may take `limit` bytes."""

    origin: Store
    root: str
    name: str
    limit: int

    @property
    def url(self) -> str:
        return self.origin.url

    def last_seen(self, keys: Iterable[str]) -> float | None:
        """When all of these entries were as they are kept, or of none, when the origin was last opened, in seconds
        since 1970, if it cannot be reached now. None where nothing is kept, too.
        """
        if self.url not in _unreachable:
            return None
        times = list(self._times(keys)) or self._times([_MARKER])
        return min(times, default=None)

    def require(self) -> None:
        """Raises StoreUnreachable where the origin could not be reached when it was last asked."""
        if self.url in _unreachable:
            raise _unreachable[self.url]

    def make(self) -> None:
        """Makes the directory, for this user alone, where that can be done."""
        with suppress(OSError):
            Path(self.root).mkdir(parents=True, exist_ok=True)
            self._local.root.mkdir(mode=0o700, exist_ok=True)

    def read(self, key: str, limit: int = LARGEST_OBJECT) -> bytes:
        digest = digest_in(key)
        if not digest:
            return self.read_versioned(key)[0]
        data = self._kept(key, digest)
        if data is None:
            try:
                data = self._ask(lambda: self.origin.read(key, limit))
            except StoreUnreachable as error:
                raise _not_kept(error) from None
            if sha256(data).hexdigest() == digest:
                self._keep(key, data)
        return data

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        try:
            data, version = self._ask(lambda: self.origin.read_versioned(key))
        except NotInStore:
            self._forget(key)
            raise
        except StoreUnreachable as error:
            return self._as_last_seen(key, error), ""
        if key == _MARKER or key.startswith(_ENTRIES):
            self._write(key, data)
        return data, version

    def size(self, key: str) -> int | None:
        try:
            return self._ask(lambda: self.origin.size(key))
        except StoreUnreachable:
            kept = self._local.size(key)
            if kept is None:
                raise
            return kept

    def put(self, key: str, data: bytes | memoryview) -> bool:
        written = self._ask(lambda: self.origin.put(key, data))
        if digest_in(key) and self._local.size(key) != len(data):
            self._keep(key, data)
        return written

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        self._ask(lambda: self.origin.replace(key, data, version))
        if key.startswith(_ENTRIES):
            self._write(key, data)
            listed = self._listed()
            if listed is not None:
                self._list(listed | {key})

    def keys(self, prefix: str) -> Iterator[str]:
        try:
            found = self._ask(lambda: list(self.origin.keys(prefix)))
        except StoreUnreachable:
            known = self._known_entries() if prefix == _ENTRIES else None
            if known is None:
                raise
            return iter(sorted(known))
        if prefix == _ENTRIES:
            self._list(found)
            for gone in set(self._local.keys(prefix)) - set(found):
                self._forget(gone)
        return iter(found)

    def entries(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._ask(lambda: self.origin.entries(prefix))

    def delete(self, key: str, version: str | None = None) -> bool:
        deleted = self._ask(lambda: self.origin.delete(key, version))
        self._forget(key)
        return deleted

    def sweep(self) -> int:
        return self._ask(self.origin.sweep)

    def others(self) -> list[str] | None:
        return self._ask(self.origin.others)

    @property
    def _local(self) -> LocalStore:
        return LocalStore(Path(self.root) / self.name)

    def _ask(self, action: Callable[[], T]) -> T:
        """Does something with the origin, unless it is known that it cannot be reached."""
        self.require()
        try:
            return action()
        except StoreUnreachable as error:
            _unreachable[self.url] = error
            raise

    def _as_last_seen(self, key: str, error: StoreUnreachable) -> bytes:
        try:
            return self._local.read(key)
        except SnapperError:
            raise _not_kept(error) from None

    def _kept(self, key: str, digest: str) -> bytes | None:
        """The object as the directory has it, if it is whole there."""
        try:
            data = self._local.read(key)
        except SnapperError:
            return None
        if sha256(data).hexdigest() != digest:
            return None
        with suppress(OSError):
            os.utime(self._local.root / key)
        return data

    def _keep(self, key: str, data: bytes | memoryview) -> None:
        if len(data) <= self.limit * _FILLED:
            self._make_room(len(data))
            self._write(key, data)

    def _write(self, key: str, data: bytes | memoryview) -> None:
        """Puts the object into the directory, as far as that takes it."""
        target = self._local.root / key
        aside = target.with_name(f".{target.name[:16]}.{secrets.token_hex(8)}")
        with suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with open(descriptor, "wb") as file:
                    file.write(data)
                aside.rename(target)
            except BaseException:
                aside.unlink(missing_ok=True)
                raise

    def _forget(self, key: str) -> None:
        with suppress(OSError):
            (self._local.root / key).unlink()
        listed = self._listed()
        if listed and key in listed:
            self._list(listed - {key})

    def _list(self, keys: Iterable[str]) -> None:
        """Keeps which entries there are."""
        self._write(_LISTING, json.dumps(sorted(keys)).encode())

    def _known_entries(self) -> set[str] | None:
        """The entries that there were when they were last listed, and those that are kept; None where that says
        nothing.
        """
        listed, kept = self._listed(), set[str]()
        with suppress(SnapperError):
            kept = set(self._local.keys(_ENTRIES))
        return None if listed is None and not kept else kept | (listed or set())

    def _listed(self) -> set[str] | None:
        """The entries that there were when they were last listed; None where that is not kept."""
        try:
            return {str(key) for key in json.loads(self._local.read(_LISTING))}
        except (SnapperError, ValueError, TypeError, RecursionError):
            return None

    def _times(self, keys: Iterable[str]) -> Iterator[float]:
        """When those of the objects that are kept were last seen."""
        for key in keys:
            with suppress(OSError):
                yield (self._local.root / key).stat().st_mtime

    def _make_room(self, size: int) -> None:
        """Removes what was longest not used, when this process has kept enough to look how full it is."""
        kept = _kept.get(self.root)
        _kept[self.root] = (kept or 0) + size
        if kept is not None and _kept[self.root] < self.limit * _UNSEEN:
            return
        _kept[self.root] = size
        found = sorted(_files(Path(self.root)))
        total = size + sum(each[1] for each in found)
        if total > self.limit * _FULL:
            for last, length, path in found:
                if total <= self.limit * _FILLED or last == _STAYS:
                    break
                with suppress(OSError):
                    path.unlink()
                    total -= length


def _not_kept(error: StoreUnreachable) -> StoreUnreachable:
    return replace(error, reason=f"{error.reason}, and the cache does not contain everything needed")


def _files(root: Path) -> Iterator[tuple[float, int, Path]]:
    """When each object, or what is left of its writing, was last used, how large it is, and where."""
    recently = time.time() - 3600
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory) / name
            with suppress(OSError):
                status = path.stat()
                key = "/".join(path.relative_to(root).parts[1:])
                if name.startswith("."):
                    last = 0.0 if status.st_mtime < recently else _STAYS
                else:
                    last = status.st_mtime if digest_in(key) else _STAYS
                yield last, status.st_size, path
