"""The contract of all stores: in a directory, on S3, and with a cache in front of them."""

from __future__ import annotations

import hashlib
import os
import pickle
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from snapper.errors import NotInStore, ObjectTooLarge
from snapper.format.layout import Layout
from snapper.store import CacheConfig, Store, VersionMismatch, open_store
from snapper.store.cache_directory import CacheDirectory
from snapper.store.cached import CachedStore
from snapper.store.s3 import store as s3_store
from tests.support.memory import MEMORY
from tests.support.processes import run_simultaneously
from tests.support.s3server import REAL_BUCKET, S3Server
from tests.support.store_races import check_creations, check_increments

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

#: A key that names no digest, so that any bytes can be put there.
KEY = "layers/ab/object.tar.zst"
MUTABLE = "environments/work.json"


@dataclass(frozen=True)
class NewStore:
    """A new store, and a way to write objects to it that bypasses snapper."""

    store: Store
    write_directly: Callable[[str, bytes], None]


def directory(request: pytest.FixtureRequest) -> Iterator[NewStore]:
    yield new_directory_store(request.getfixturevalue("tmp_path") / "store")


def other_device(request: pytest.FixtureRequest) -> Iterator[NewStore]:
    tmp_path: Path = request.getfixturevalue("tmp_path")
    for place in (MEMORY, Path("/var/tmp")):
        if os.access(place, os.W_OK) and place.stat().st_dev != tmp_path.stat().st_dev:
            break
    else:
        pytest.skip("there is no other file system to write to")
    top = Path(tempfile.mkdtemp(dir=place))
    try:
        yield new_directory_store(top / "store")
    finally:
        shutil.rmtree(top)


def seaweedfs(request: pytest.FixtureRequest) -> Iterator[NewStore]:
    yield from new_seaweedfs_store(request, None)


def cached_directory(request: pytest.FixtureRequest) -> Iterator[NewStore]:
    tmp_path: Path = request.getfixturevalue("tmp_path")
    new = new_directory_store(tmp_path / "store")
    cached = CachedStore(new.store, CacheDirectory(str(tmp_path / "cache"), "bucket-0123456789ab"), 10**9)
    cached.make_directory()
    yield replace(new, store=cached)


def cached_seaweedfs(request: pytest.FixtureRequest) -> Iterator[NewStore]:
    cache = CacheConfig(str(request.getfixturevalue("tmp_path") / "cache"), 10**9)
    yield from new_seaweedfs_store(request, cache)


def real_bucket(_request: pytest.FixtureRequest) -> Iterator[NewStore]:
    bucket, _, prefix = REAL_BUCKET.removeprefix("s3://").partition("/")
    prefix = f"{prefix.strip('/')}/{secrets.token_hex(8)}".lstrip("/")
    client = boto3.client("s3")
    yield new_bucket_store(f"s3://{bucket}/{prefix}", client, bucket, prefix, None)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", ()):
            client.delete_object(Bucket=bucket, Key=entry["Key"])


def new_directory_store(top: Path) -> NewStore:
    def write_directly(key: str, data: bytes) -> None:
        (top / key).parent.mkdir(parents=True, exist_ok=True)
        (top / key).write_bytes(data)

    return NewStore(open_store(str(top), create=True), write_directly)


def new_seaweedfs_store(request: pytest.FixtureRequest, cache: CacheConfig | None) -> Iterator[NewStore]:
    server: S3Server = request.getfixturevalue("s3_server")
    prefix = f"shelf {secrets.token_hex(8)}/ü+%20#=&"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(server.credentials))
        yield new_bucket_store(server.url(prefix), server.client(), server.bucket, prefix, cache)


def new_bucket_store(url: str, client: Any, bucket: str, prefix: str, cache: CacheConfig | None) -> NewStore:
    def write_directly(key: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=data)

    return NewStore(open_store(url, create=True, cache=cache), write_directly)


KINDS = [
    directory,
    other_device,
    seaweedfs,
    cached_directory,
    cached_seaweedfs,
    *([real_bucket] if REAL_BUCKET else []),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def new_store(request: pytest.FixtureRequest) -> Iterator[NewStore]:
    yield from request.param(request)


@pytest.fixture
def store(new_store: NewStore) -> Store:
    return new_store.store


# --- immutable objects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"x", b"\0\xff\r\n", bytes(range(256)) * 20_000], ids=len)
def test_put_and_read_an_object(store: Store, data: bytes) -> None:
    assert store.size(KEY) is None
    assert store.put(KEY, data)
    assert store.read(KEY) == data
    assert store.size(KEY) == len(data)


def test_put_accepts_views_of_buffers(store: Store) -> None:
    buffer = bytearray(b"0123456789")
    assert store.put(KEY, memoryview(buffer)[2:5])
    buffer[:] = b"abcdefghij"
    assert store.read(KEY) == b"234"


def test_put_does_not_overwrite(store: Store) -> None:
    assert store.put(KEY, b"first")
    assert not store.put(KEY, b"other")
    assert store.read(KEY) == b"first"


@pytest.mark.parametrize("existing", [b"", b"whole obj", b"whole object and more"])
def test_put_replaces_an_object_of_another_size(new_store: NewStore, existing: bytes) -> None:
    new_store.write_directly(KEY, existing)
    assert new_store.store.put(KEY, b"whole object")
    assert new_store.store.read(KEY) == b"whole object"


def test_missing_objects_raise_not_in_store(store: Store) -> None:
    store.put(KEY, b"x")
    for key in ("layers/ab/missing", "layers/ab", "layers", "nothing/at/all"):
        assert store.size(key) is None
        for action in (store.read, store.read_versioned):
            with pytest.raises(NotInStore) as caught:
                action(key)
            assert key in caught.value.message
            assert store.url in caught.value.message
            assert caught.value.code == 10


def test_read_refuses_objects_larger_than_the_limit(store: Store) -> None:
    store.put(KEY, b"four")
    assert store.read(KEY, 4) == b"four"
    with pytest.raises(ObjectTooLarge):
        store.read(KEY, 3)


def test_deleted_objects_are_missing_and_can_be_put_again(store: Store) -> None:
    store.put(KEY, b"x")
    assert store.delete(KEY)
    assert store.size(KEY) is None
    assert list(store.list_keys("layers/")) == []
    assert not store.delete(KEY)
    assert store.put(KEY, b"again")
    assert store.read(KEY) == b"again"


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 20_000], ids=len)
@pytest.mark.parametrize("key_of", [Layout.snapshot, Layout.page, Layout.layer])
def test_objects_named_by_their_digest(store: Store, key_of: Callable[[str], str], data: bytes) -> None:
    key = key_of(hashlib.sha256(data).hexdigest())
    assert store.put(key, data)
    assert not store.put(key, data)
    for _ in range(2):
        assert store.read(key) == data
        assert store.read(key, len(data)) == data
        assert store.size(key) == len(data)
    assert list(store.list_keys(f"{key.partition('/')[0]}/")) == [key]
    if data:
        with pytest.raises(ObjectTooLarge):
            store.read(key, len(data) - 1)
    assert store.delete(key)
    with pytest.raises(NotInStore):
        store.read(key)
    assert not store.delete(key)


def put(_number: int, store: Store, data: bytes) -> bool:
    return bool(store.put(KEY, data))


def test_simultaneous_puts_of_one_object(store: Store) -> None:
    data = os.urandom(3_000_000)
    assert True in run_simultaneously(6, put, store, data)
    assert store.read(KEY) == data
    assert list(store.list_keys("layers/")) == [KEY]


# --- mutable objects -------------------------------------------------------------------------------------


def test_replace_without_version_only_creates(store: Store) -> None:
    store.replace(MUTABLE, b"one", None)
    assert store.read_versioned(MUTABLE)[0] == b"one"
    with pytest.raises(VersionMismatch):
        store.replace(MUTABLE, b"two", None)
    assert store.read(MUTABLE) == b"one"


def test_replace_requires_the_current_version(store: Store) -> None:
    store.replace(MUTABLE, b"one", None)
    _, first = store.read_versioned(MUTABLE)
    store.replace(MUTABLE, b"two, which is longer", first)
    data, second = store.read_versioned(MUTABLE)
    assert data == b"two, which is longer"
    for stale in (first, "", "no version"):
        with pytest.raises(VersionMismatch):
            store.replace(MUTABLE, b"three", stale)
    assert store.read_versioned(MUTABLE) == (data, second)
    store.replace(MUTABLE, b"4", second)
    assert store.read(MUTABLE) == b"4"


def test_delete_requires_the_current_version(store: Store) -> None:
    store.replace(MUTABLE, b"one", None)
    _, first = store.read_versioned(MUTABLE)
    store.replace(MUTABLE, b"two", first)
    _, second = store.read_versioned(MUTABLE)
    with pytest.raises(VersionMismatch):
        store.delete(MUTABLE, first)
    assert store.read(MUTABLE) == b"two"
    assert store.delete(MUTABLE, second)
    assert not store.delete(MUTABLE, second)
    assert store.size(MUTABLE) is None


def test_replace_does_not_create_a_deleted_object(new_store: NewStore) -> None:
    new_store.store.replace("environments/other.json", b"one", None)
    _, version = new_store.store.read_versioned("environments/other.json")
    with pytest.raises(VersionMismatch):
        new_store.store.replace(MUTABLE, b"two", version)
    assert new_store.store.size(MUTABLE) is None


def test_no_simultaneous_change_is_lost(store: Store) -> None:
    check_increments(store)


def test_only_one_of_several_processes_creates_an_object(store: Store) -> None:
    check_creations(store)


def read_or_replace(number: int, store: Store) -> None:
    for turn in range(10):
        data, version = store.read_versioned(MUTABLE)
        assert len(data) == 500_000
        assert len(set(data)) == 1
        if number == 0:
            store.replace(MUTABLE, bytes([turn]) * 500_000, version)


def test_readers_never_see_incomplete_objects(store: Store) -> None:
    store.replace(MUTABLE, b"x" * 500_000, None)
    run_simultaneously(3, read_or_replace, store)


# --- listing ---------------------------------------------------------------------------------------------


def test_list_keys_below_a_prefix_in_order(store: Store) -> None:
    keys = [
        "layers/00/b",
        "layers/00/a",
        "layers/ff/c",
        "layers/0-/d",
        "layers/00.e",
        "snapshots/a",
        "layersx/a",
    ]
    for key in keys:
        store.put(key, b"x")
    assert list(store.list_keys("layers/")) == sorted(key for key in keys if key.startswith("layers/"))
    assert list(store.list_keys("layers/00/")) == ["layers/00/a", "layers/00/b"]
    assert list(store.list_keys("snapshots/")) == ["snapshots/a"]
    assert list(store.list_keys("environments/")) == []


@pytest.mark.parametrize("many", [20, 25])
def test_sizes_of_those_objects_that_exist(many: int, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 is asked for a listing, unless it has too few of the objects."""
    monkeypatch.setattr(s3_store, "_MANY", many)
    keys = [f"layers/{number:02}/object" for number in range(25)]
    for number, key in enumerate(keys[:-1]):
        store.put(key, bytes(number))
    assert store.sizes(Layout.LAYERS, keys) == {key: number for number, key in enumerate(keys[:-1])}
    assert store.sizes(Layout.LAYERS, keys[-2:]) == {keys[-2]: 23}


def test_list_objects_with_size_and_time(store: Store) -> None:
    before = time.time()
    for number, key in enumerate(("layers/00/b", "layers/00/a", "snapshots/c")):
        store.put(key, b"x" * number)
    found = list(store.list_objects("layers/"))
    assert [(each.key, each.size) for each in found] == [("layers/00/a", 1), ("layers/00/b", 0)]
    assert all(before - 2 < each.modified < time.time() + 2 for each in found)
    assert list(store.list_objects("environments/")) == []
    assert {each.key: store.modified(each.key) for each in found} == {
        each.key: each.modified for each in found
    }
    assert store.modified("layers/0") is None


def test_list_more_keys_than_one_s3_response_holds(new_store: NewStore) -> None:
    keys = [f"layers/{number % 7}/{number:04}" for number in range(1_100)]
    for key in keys:
        new_store.write_directly(key, b"x")
    assert list(new_store.store.list_keys("layers/")) == sorted(keys)


# --- other properties of all stores ----------------------------------------------------------------------


def test_stores_can_be_pickled(store: Store) -> None:
    store.put(KEY, b"x")
    other: Store = pickle.loads(pickle.dumps(store))
    assert other.read(KEY) == b"x"
    assert other.url == store.url


def test_the_url_of_a_store_opens_it_again(store: Store) -> None:
    store.put(KEY, b"x")
    assert open_store(store.url).read(KEY) == b"x"


def test_reachable_stores_are_online(store: Store) -> None:
    store.replace(MUTABLE, b"one", None)
    assert store.stale_since() is None
    assert store.stale_since([MUTABLE]) is None
    store.require_online()


def test_the_authoritative_store_has_the_same_objects(store: Store) -> None:
    store.replace(MUTABLE, b"one", None)
    origin = store.authoritative()
    assert origin.url == store.url
    data, version = origin.read_versioned(MUTABLE)
    assert data == b"one"
    origin.replace(MUTABLE, b"two", version)
    assert store.read(MUTABLE) == b"two"
    assert origin.authoritative() is origin
