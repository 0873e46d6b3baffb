"""The cache in front of a store that can go offline."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from snapper.errors import NotInStore, StoreUnreachable
from snapper.format.layout import Layout
from snapper.format.model import LARGEST_OBJECT
from snapper.store import open_store
from snapper.store.cached import CachedStore
from snapper.store.local import LocalStore

DATA = b"the bytes of a layer"
LAYER = Layout.layer(hashlib.sha256(DATA).hexdigest())
REF = Layout.ref("work")


@dataclass(frozen=True)
class UnpluggableStore(LocalStore):
    """A store in a directory that cannot be reached while the file `unplugged` is beside the directory."""

    def _check(self) -> None:
        if (self.root.parent / "unplugged").exists():
            raise StoreUnreachable(self.url, "it is unplugged")

    def read(self, key: str, limit: int = LARGEST_OBJECT) -> bytes:
        self._check()
        return super().read(key, limit)

    def size(self, key: str) -> int | None:
        self._check()
        return super().size(key)

    def put(self, key: str, data: bytes | memoryview) -> bool:
        self._check()
        return super().put(key, data)

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        self._check()
        super().replace(key, data, version)

    def list_root(self) -> list[str] | None:
        self._check()
        return super().list_root()


@pytest.fixture
def origin(tmp_path: Path) -> UnpluggableStore:
    open_store(str(tmp_path / "store"), create=True)
    return UnpluggableStore(tmp_path / "store")


@pytest.fixture
def new_cached(origin: UnpluggableStore, tmp_path: Path) -> Callable[[], CachedStore]:
    """Return a function that opens the store behind its one cache, as a new process does."""

    def open_cached() -> CachedStore:
        cached = CachedStore(origin, str(tmp_path / "cache"), "name", 10**9)
        cached.make_directory()
        return cached

    return open_cached


def test_offline_store_answers_from_the_cache(new_cached: Callable[[], CachedStore], tmp_path: Path) -> None:
    store = new_cached()
    store.put(LAYER, DATA)
    store.replace(REF, b"one", None)
    assert list(store.list_keys(Layout.REFS)) == [REF]
    store.read(Layout.MARKER)
    cached_ref = tmp_path / "cache/name" / REF
    os.utime(cached_ref, (1_000_000, 1_000_000))
    (tmp_path / "unplugged").touch()
    store = new_cached()
    assert store.stale_since() is None  # no request has been sent to the store yet
    assert store.read(REF) == b"one"
    assert store.read_versioned(REF) == (b"one", "")
    assert store.read(LAYER) == DATA
    assert store.size(LAYER) == len(DATA)
    assert list(store.list_keys(Layout.REFS)) == [REF]
    assert store.stale_since([REF]) == 1_000_000
    assert store.stale_since() == (tmp_path / "cache/name" / Layout.MARKER).stat().st_mtime


def test_offline_store_refuses_what_the_cache_cannot_answer(
    new_cached: Callable[[], CachedStore], tmp_path: Path
) -> None:
    new_cached().put(LAYER, DATA)
    (tmp_path / "unplugged").touch()
    store = new_cached()
    for request in (
        lambda: store.read(REF),
        lambda: store.read(Layout.layer("0" * 64)),
        lambda: store.size(Layout.layer("0" * 64)),
        lambda: list(store.list_keys(Layout.REFS)),
        lambda: store.put(LAYER, DATA),
        lambda: store.replace(REF, b"one", None),
        store.list_root,
        store.require_online,
    ):
        with pytest.raises(StoreUnreachable):
            request()


def test_an_unreachable_store_is_not_asked_again(
    new_cached: Callable[[], CachedStore], tmp_path: Path
) -> None:
    """The object that noticed does not ask again, nor do its copies in worker processes; a new one does."""
    unplugged = tmp_path / "unplugged"
    unplugged.touch()
    store = new_cached()
    store.require_online()
    with pytest.raises(StoreUnreachable):
        store.read(REF)
    unplugged.unlink()
    copy: CachedStore = pickle.loads(pickle.dumps(store))
    for offline in (store, copy):
        with pytest.raises(StoreUnreachable):
            offline.require_online()
        with pytest.raises(StoreUnreachable):
            offline.read(REF)
    with pytest.raises(NotInStore):
        new_cached().read(REF)
    assert store.authoritative().size(REF) is None


def test_corrupted_cached_objects_are_read_from_the_store(
    new_cached: Callable[[], CachedStore], tmp_path: Path
) -> None:
    store = new_cached()
    store.put(LAYER, DATA)
    cached = tmp_path / "cache/name" / LAYER
    assert cached.read_bytes() == DATA
    cached.write_bytes(DATA[:-1] + b"?")
    assert store.read(LAYER) == DATA
    assert cached.read_bytes() == DATA


def test_deleted_refs_leave_the_cache(new_cached: Callable[[], CachedStore], tmp_path: Path) -> None:
    store, other = new_cached(), Layout.ref("other")
    store.replace(REF, b"one", None)
    store.replace(other, b"two", None)
    assert list(store.list_keys(Layout.REFS)) == [other, REF]
    store.authoritative().delete(REF)
    assert list(store.list_keys(Layout.REFS)) == [other]
    (tmp_path / "unplugged").touch()
    offline = new_cached()
    assert list(offline.list_keys(Layout.REFS)) == [other]
    with pytest.raises(StoreUnreachable):
        offline.read(REF)
