"""The cache in front of a store that can go offline."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import pytest

from snapper.errors import NotAStore, NotInStore, StoreUnreachable
from snapper.format.layout import Layout
from snapper.format.model import LARGEST_OBJECT
from snapper.store import open_store
from snapper.store.cache_directory import TAG, CacheDirectory
from snapper.store.cached import CachedStore
from snapper.store.local import LocalStore

DATA = b"the bytes of a layer"
LAYER = Layout.layer(hashlib.sha256(DATA).hexdigest())
NAME = "bucket-0123456789ab"
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

    def sizes(self, prefix: str, keys: Collection[str]) -> dict[str, int]:
        self._check()
        return super().sizes(prefix, keys)

    def put(self, key: str, data: bytes | memoryview) -> str:
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
    return UnpluggableStore(tmp_path / "store", identity=LocalStore.opened(tmp_path / "store").identity)


@pytest.fixture
def new_cached(origin: UnpluggableStore, tmp_path: Path) -> Callable[[], CachedStore]:
    """Return a function that opens the store behind its one cache, as a new process does."""

    def open_cached() -> CachedStore:
        cached = CachedStore(origin, CacheDirectory(str(tmp_path / "cache"), NAME), 10**9)
        cached.make_directory()
        return cached

    return open_cached


def test_offline_store_answers_from_the_cache(new_cached: Callable[[], CachedStore], tmp_path: Path) -> None:
    store = new_cached()
    store.put(LAYER, DATA)
    store.replace(REF, b"one", None)
    assert list(store.list_keys(Layout.REFS)) == [REF]
    store.read(Layout.MARKER)
    cached_ref = tmp_path / "cache" / NAME / REF
    os.utime(cached_ref, (1_000_000, 1_000_000))
    (tmp_path / "unplugged").touch()
    store = new_cached()
    assert store.stale_since() is None  # no request has been sent to the store yet
    assert store.read(REF) == b"one"
    assert store.read_versioned(REF) == (b"one", "")
    assert store.read(LAYER) == DATA
    assert store.size(LAYER) == len(DATA)
    assert store.sizes(Layout.LAYERS, [LAYER]) == {LAYER: len(DATA)}
    assert list(store.list_keys(Layout.REFS)) == [REF]
    assert store.stale_since([REF]) == 1_000_000
    assert store.stale_since() == (tmp_path / "cache" / NAME / Layout.MARKER).stat().st_mtime


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
        lambda: store.sizes(Layout.LAYERS, [LAYER, Layout.layer("0" * 64)]),
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
    cached = tmp_path / "cache" / NAME / LAYER
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


# --- directories that are in use, or that others can change -----------------------------------------------


def layer(number: int) -> tuple[str, bytes]:
    data = b"%1000d" % number
    return Layout.layer(hashlib.sha256(data).hexdigest()), data


def files_in(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir()}


def test_only_objects_in_marked_caches_are_evicted(origin: UnpluggableStore, tmp_path: Path) -> None:
    """The directory of caches is one that is in use, and has names that look like those of caches."""
    root, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    key, data = layer(0)
    for file in (
        root / ".env",
        root / "project/.gitignore",
        root / "notes-0123456789ab" / key,
        root / "notes-0123456789ab/notes.txt",
        root / "notes-0123456789ab" / Layout.REFS / ".env",
        elsewhere / key,
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        os.utime(file, (1, 1))
    (root / "linked-0123456789ab").symlink_to(elsewhere)
    store = CachedStore(origin, CacheDirectory(str(root), NAME), 10_000)
    store.make_directory()
    own = root / NAME / "layers/00/.env"
    own.parent.mkdir(parents=True)
    own.write_bytes(data)
    leftover = own.with_name(f".object.{'0' * 16}")
    leftover.touch()
    (root / NAME / "pages").symlink_to(elsewhere / "layers")
    mine = files_in(tmp_path) - {str(leftover.relative_to(tmp_path))}
    written = [layer(number) for number in range(20)]
    for number, (key, data) in enumerate(written):
        store.put(key, data)
        os.utime(root / NAME / key, (1000 + number, 1000 + number))
    assert mine <= files_in(tmp_path)
    assert not leftover.exists()
    cached = {key for key, _ in written if (root / NAME / key).exists()}
    assert cached == {key for key, _ in written[-len(cached) :]}
    assert 5 <= len(cached) <= 10


def test_large_entries_do_not_fill_the_cache(origin: UnpluggableStore, tmp_path: Path) -> None:
    """Entries are kept for when the store is offline, but not if they are larger than any that snapper writes."""
    store = CachedStore(origin, CacheDirectory(str(tmp_path / "caches"), NAME), 6 << 20)
    store.make_directory()
    small = Layout.ref("small")
    origin.replace(small, b"small", None)
    store.read(small)
    for number, size in enumerate([2 << 20, 2 << 20, 2 << 20, 2 << 20, 7 << 20]):
        origin.replace(Layout.ref(f"large{number}"), bytes(size), None)
        store.read(Layout.ref(f"large{number}"))
    sizes = [path.stat().st_size for path in (tmp_path / "caches" / NAME / Layout.REFS).iterdir()]
    assert sum(sizes) <= 6 << 20
    assert len(b"small") in sizes


def prepare_link(cache: Path) -> None:
    (cache.parent / "elsewhere").mkdir(parents=True)
    cache.symlink_to(cache.parent / "elsewhere")


def prepare_other_owner(cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o700)
    os.chown(cache, 65534, 65534)


def prepare_writable(cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)


def prepare_used(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "notes.txt").touch()


def prepare_other_cache(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / TAG).write_text("Signature: 8a477f597d28d172789f06886806bc55\n# another program\n")


def prepare_pipe(cache: Path) -> None:
    cache.mkdir(parents=True)
    os.mkfifo(cache / TAG)


UNUSABLE = {
    "symbolic link": prepare_link,
    "belongs to": prepare_other_owner,
    "other users may write": prepare_writable,
    "contains other files": prepare_used,
    "cache of another program": prepare_other_cache,
    "not a regular file": prepare_pipe,
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_a_directory_that_is_not_a_cache_of_this_user_is_not_used(
    reason: str,
    origin: UnpluggableStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is neither written to nor read, whatever it contains, and a warning says why."""
    if reason == "belongs to" and os.geteuid() != 0:
        pytest.skip("only root can give a directory to another user")
    monkeypatch.setattr(logging.getLogger("snapper"), "propagate", True)
    cache = tmp_path / "cache" / NAME
    UNUSABLE[reason](cache)
    (cache / REF).parent.mkdir()
    (cache / REF).write_bytes(b"planted")
    (cache / LAYER).parent.mkdir(parents=True)
    (cache / LAYER).write_bytes(DATA)
    os.utime(cache / LAYER, (1, 1))
    before = files_in(tmp_path / "cache")
    store = CachedStore(origin, CacheDirectory(str(tmp_path / "cache"), NAME), 1_000)
    store.make_directory()
    assert reason in caplog.text and "snapper config set cache" in caplog.text
    store.put(LAYER, DATA)
    store.replace(REF, b"mine", None)
    assert store.read(LAYER) == DATA
    assert list(store.list_keys(Layout.REFS)) == [REF]
    for number in range(3):
        store.put(*layer(number))
    (tmp_path / "unplugged").touch()
    for key in (LAYER, REF):
        with pytest.raises(StoreUnreachable):
            store.read(key)
    assert store.stale_since([REF]) is None
    assert files_in(tmp_path / "cache") == before
    assert (cache / LAYER).stat().st_mtime == 1


def test_caches_of_earlier_versions_are_marked_and_used(
    new_cached: Callable[[], CachedStore], origin: UnpluggableStore, tmp_path: Path
) -> None:
    other = tmp_path / "cache/other-0123456789ab"
    for cache in (tmp_path / "cache" / NAME, other):
        new = CachedStore(origin, CacheDirectory(str(tmp_path / "cache"), cache.name), 10**9)
        new.make_directory()
        new.put(LAYER, DATA)
        new.replace(Layout.ref(cache.name), b"one", None)
        list(new.list_keys(Layout.REFS))
        (cache / TAG).unlink()
    os.utime(other / LAYER, (1, 1))
    (tmp_path / "unplugged").touch()
    assert new_cached().read(LAYER) == DATA
    assert (
        (tmp_path / "cache" / NAME / TAG)
        .read_text()
        .startswith("Signature: 8a477f597d28d172789f06886806bc55")
    )
    (tmp_path / "unplugged").unlink()
    limited = CachedStore(origin, CacheDirectory(str(tmp_path / "cache"), NAME), 1_112)
    limited.put(*layer(1))
    limited.put(*layer(2))
    assert (other / LAYER).exists() and not (other / TAG).exists()
    CacheDirectory(str(tmp_path / "cache"), other.name).make()
    limited.put(*layer(3))
    limited.put(*layer(4))
    assert not (other / LAYER).exists()


@pytest.mark.parametrize("lacks", [Layout.LOCKS, Layout.REFS, "nothing"])
def test_stores_next_to_caches_are_not_taken_for_caches(
    lacks: str, origin: UnpluggableStore, tmp_path: Path
) -> None:
    """A directory store may have a name like a cache: with a commit or an account at its end."""
    root = tmp_path / "cache"
    for name in ("envs-3f2a9c81d04b", NAME):
        store = open_store(str(root / name), create=True)
        key, data = layer(0)
        store.put(key, data)
        store.replace(REF, b"one", None)
        store.put(Layout.new_trial(), b"lock")
        if lacks != "nothing":
            shutil.rmtree(root / name / lacks)
    before = files_in(root)
    CachedStore(origin, CacheDirectory(str(root), NAME), 10).make_directory()
    limited = CachedStore(origin, CacheDirectory(str(root), "bucket-0123456789ab"), 2_000)
    limited.make_directory()
    for number in range(1, 5):
        limited.put(*layer(number))
    assert before <= files_in(root)
    assert not list(root.glob(f"*-3f2a9c81d04b/{TAG}")) and not (root / NAME / TAG).exists()
    assert open_store(str(root / NAME)).read(key) == data


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("is_filled", [False, True])
def test_no_store_is_opened_in_a_cache(
    is_filled: bool, create: bool, origin: UnpluggableStore, tmp_path: Path
) -> None:
    """Its objects can be evicted at any time."""
    cache = CacheDirectory(str(tmp_path / "cache"), NAME)
    cached = CachedStore(origin, cache, 10**9)
    cached.make_directory()
    if is_filled:
        origin.put(Layout.MARKER, b'{"format":1}')
        cached.read(Layout.MARKER)
    before = files_in(tmp_path)
    with pytest.raises(NotAStore, match="it is the cache of another store"):
        open_store(cache.path, create=create)
    assert files_in(tmp_path) == before
