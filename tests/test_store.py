"""Stores: one contract for all kinds of them, and how they are found by URL."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import pickle
import secrets
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from snapper.errors import (
    NotAStore,
    NotInStore,
    ObjectTooLarge,
    SnapperError,
    StoreRefused,
    UnsupportedFormat,
)
from snapper.store import Store, VersionMismatch, open_store
from tests.support.s3server import REAL_BUCKET, S3Server

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

KEY = "layers/ab/object.tar.zst"
MUTABLE = "environments/work.json"
NOBODY = 65534

forking = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Shelf:
    """A new store, and a way to put bytes there that is not the store's own."""

    store: Store
    slip_in: Callable[[str, bytes], None]


def shelf_in(top: Path) -> Shelf:
    def slip_in(key: str, data: bytes) -> None:
        (top / key).parent.mkdir(parents=True, exist_ok=True)
        (top / key).write_bytes(data)

    return Shelf(open_store(str(top), create=True), slip_in)


def directory(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    yield shelf_in(request.getfixturevalue("tmp_path") / "store")


def other_device(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    shared, tmp_path = Path("/dev/shm"), request.getfixturevalue("tmp_path")
    if not os.access(shared, os.W_OK) or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is not another file system that can be written to")
    top = Path(tempfile.mkdtemp(dir=shared))
    try:
        yield shelf_in(top / "store")
    finally:
        shutil.rmtree(top)


def seaweedfs(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    server: S3Server = request.getfixturevalue("s3_server")
    prefix = f"shelf {secrets.token_hex(8)}/ü+%20#=&"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(server.credentials))
        yield bucket_shelf(server.url(prefix), server.client(), server.bucket, prefix)


def real_bucket(_request: pytest.FixtureRequest) -> Iterator[Shelf]:
    bucket, _, prefix = REAL_BUCKET.removeprefix("s3://").partition("/")
    prefix = f"{prefix.strip('/')}/{secrets.token_hex(8)}".lstrip("/")
    client = boto3.client("s3")
    yield bucket_shelf(f"s3://{bucket}/{prefix}", client, bucket, prefix)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for found in page.get("Contents", ()):
            client.delete_object(Bucket=bucket, Key=found["Key"])


def bucket_shelf(url: str, client: Any, bucket: str, prefix: str) -> Shelf:
    def slip_in(key: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=data)

    return Shelf(open_store(url, create=True), slip_in)


SHELVES = [directory, other_device, seaweedfs, *([real_bucket] if REAL_BUCKET else [])]


@pytest.fixture(params=SHELVES, ids=lambda make: make.__name__)
def shelf(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    yield from request.param(request)


@pytest.fixture
def store(shelf: Shelf) -> Store:
    return shelf.store


def at_once(count: int, action: Callable[..., Any], *arguments: object) -> list[Any]:
    """What the action returns in each of several processes that begin it at the same moment."""
    barrier = forking.Barrier(count)
    answers = forking.SimpleQueue()

    def begin(number: int) -> None:
        barrier.wait(30)
        answers.put(action(number, *arguments))

    processes = [forking.Process(target=begin, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * count
    return [answers.get() for _ in processes]


# --- immutable objects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"x", b"\0\xff\r\n", bytes(range(256)) * 20_000], ids=len)
def test_what_is_put_is_read(store: Store, data: bytes) -> None:
    assert store.size(KEY) is None
    assert store.put(KEY, data)
    assert store.read(KEY) == data
    assert store.size(KEY) == len(data)


def test_views_of_buffers_are_put(store: Store) -> None:
    buffer = bytearray(b"0123456789")
    assert store.put(KEY, memoryview(buffer)[2:5])
    buffer[:] = b"abcdefghij"
    assert store.read(KEY) == b"234"


def test_an_object_is_put_once(store: Store) -> None:
    assert store.put(KEY, b"first")
    assert not store.put(KEY, b"other")
    assert store.read(KEY) == b"first"


@pytest.mark.parametrize("held", [b"", b"whole obj", b"whole object and more"])
def test_an_object_of_another_size_is_healed(shelf: Shelf, held: bytes) -> None:
    shelf.slip_in(KEY, held)
    assert shelf.store.put(KEY, b"whole object")
    assert shelf.store.read(KEY) == b"whole object"


def test_what_is_not_there(store: Store) -> None:
    store.put(KEY, b"x")
    for key in ("layers/ab/missing", "layers/ab", "layers", "nothing/at/all"):
        assert store.size(key) is None
        for action in (store.read, store.read_versioned):
            with pytest.raises(NotInStore) as caught:
                action(key)
            assert key in caught.value.message
            assert store.url in caught.value.message
            assert caught.value.code == 10


def test_no_more_is_read_than_is_wanted(store: Store) -> None:
    store.put(KEY, b"four")
    assert store.read(KEY, 4) == b"four"
    with pytest.raises(ObjectTooLarge):
        store.read(KEY, 3)


def test_what_is_deleted_is_gone(store: Store) -> None:
    store.put(KEY, b"x")
    assert store.delete(KEY)
    assert store.size(KEY) is None
    assert list(store.list_keys("layers/")) == []
    assert not store.delete(KEY)
    assert store.put(KEY, b"again")
    assert store.read(KEY) == b"again"


def put(_number: int, store: Store, data: bytes) -> bool:
    return store.put(KEY, data)


def test_many_put_the_same_object_at_once(store: Store) -> None:
    data = os.urandom(3_000_000)
    assert True in at_once(6, put, store, data)
    assert store.read(KEY) == data
    assert list(store.list_keys("layers/")) == [KEY]


# --- mutable objects --------------------------------------------------------------------------------------


def test_replace_makes_what_was_not_there(store: Store) -> None:
    store.replace(MUTABLE, b"one", None)
    assert store.read_versioned(MUTABLE)[0] == b"one"
    with pytest.raises(VersionMismatch):
        store.replace(MUTABLE, b"two", None)
    assert store.read(MUTABLE) == b"one"


def test_replace_goes_by_the_version_that_was_read(store: Store) -> None:
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


def test_delete_goes_by_the_version_that_was_read(store: Store) -> None:
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


def test_replace_of_what_is_gone(shelf: Shelf) -> None:
    shelf.store.replace("environments/other.json", b"one", None)
    _, version = shelf.store.read_versioned("environments/other.json")
    with pytest.raises(VersionMismatch):
        shelf.store.replace(MUTABLE, b"two", version)
    assert shelf.store.size(MUTABLE) is None


def increment(_number: int, store: Store, times: int) -> int:
    """Adds one so many times; how often it had to try again."""
    retries = 0
    for _ in range(times):
        while True:
            data, version = store.read_versioned(MUTABLE)
            try:
                store.replace(MUTABLE, b"%d" % (int(data) + 1), version)
                break
            except VersionMismatch:
                retries += 1
    return retries


def test_no_change_of_many_at_once_is_lost(store: Store) -> None:
    store.replace(MUTABLE, b"0", None)
    at_once(6, increment, store, 15)
    assert store.read(MUTABLE) == b"90"
    assert list(store.list_keys("environments/")) == [MUTABLE]


def create(number: int, store: Store, keys: list[str]) -> list[bool]:
    """Which of the objects this process was the first to make."""
    made = []
    for key in keys:
        try:
            store.replace(key, b"%d" % number, None)
            made.append(True)
        except VersionMismatch:
            made.append(False)
    return made


def test_only_one_of_many_makes_an_object(store: Store) -> None:
    keys = [f"environments/{number}.json" for number in range(10)]
    made = at_once(5, create, store, keys)
    for each in zip(*made, strict=True):
        assert sum(each) == 1
    assert list(store.list_keys("environments/")) == keys
    assert {int(store.read(key)) for key in keys} <= set(range(5))


def read_or_replace(number: int, store: Store) -> None:
    for turn in range(10):
        data, version = store.read_versioned(MUTABLE)
        assert len(data) == 500_000
        assert len(set(data)) == 1
        if number == 0:
            store.replace(MUTABLE, bytes([turn]) * 500_000, version)


def test_readers_see_whole_objects(store: Store) -> None:
    store.replace(MUTABLE, b"x" * 500_000, None)
    at_once(3, read_or_replace, store)


# --- listing ----------------------------------------------------------------------------------------------


def test_keys_are_listed_in_order_below_a_prefix(store: Store) -> None:
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


def test_entries_have_size_and_age(store: Store) -> None:
    before = time.time()
    for number, key in enumerate(("layers/00/b", "layers/00/a", "snapshots/c")):
        store.put(key, b"x" * number)
    found = list(store.list_objects("layers/"))
    assert [(each.key, each.size) for each in found] == [("layers/00/a", 1), ("layers/00/b", 0)]
    assert all(before - 2 < each.modified < time.time() + 2 for each in found)
    assert list(store.list_objects("environments/")) == []


def test_more_keys_than_a_page_of_any_listing_has(shelf: Shelf) -> None:
    keys = [f"layers/{number % 7}/{number:04}" for number in range(1_100)]
    for key in keys:
        shelf.slip_in(key, b"x")
    assert list(shelf.store.list_keys("layers/")) == sorted(keys)


# --- what else every store is -----------------------------------------------------------------------------


def test_stores_pickle(store: Store) -> None:
    store.put(KEY, b"x")
    other: Store = pickle.loads(pickle.dumps(store))
    assert other.read(KEY) == b"x"
    assert other.url == store.url


def test_a_store_is_found_again_by_its_url(store: Store) -> None:
    store.put(KEY, b"x")
    assert open_store(store.url).read(KEY) == b"x"


# --- in a directory ---------------------------------------------------------------------------------------


def killed_while_writing(_number: int, store: Store) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        store.put(KEY, b"never there")


def test_what_a_killed_process_was_writing_is_no_object(tmp_path: Path) -> None:
    """And whoever writes there next clears it away, but not what is still being written."""
    store = open_store(str(tmp_path), create=True)
    (tmp_path / "layers/ab").mkdir(parents=True)
    process = forking.Process(target=killed_while_writing, args=(0, store))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert len(list((tmp_path / "layers/ab").iterdir())) == 1
    assert list(store.list_keys("layers/")) == []
    assert store.size(KEY) is None
    held = tmp_path / "layers/ab" / f".held.{'0' * 16}"
    with held.open("wb") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        assert store.put(KEY, b"there")
        assert {path.name for path in (tmp_path / "layers/ab").iterdir()} == {Path(KEY).name, held.name}
        assert list(store.list_keys("layers/")) == [KEY]
        assert store.remove_leftovers() == 0
    assert store.remove_leftovers() == 1
    assert [path.name for path in (tmp_path / "layers/ab").iterdir()] == [Path(KEY).name]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    store = open_store(str(tmp_path), create=True)
    monkeypatch.setattr(os, "fsync", fail)
    for write in (lambda: store.put(KEY, b"x"), lambda: store.replace(KEY, b"x", None)):
        with pytest.raises(StoreRefused) as caught:
            write()
        assert "Input/output error" in caught.value.message
    assert list((tmp_path / "layers/ab").iterdir()) == []


def test_what_is_no_file_is_no_object(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), create=True)
    (tmp_path / "layers/ab").mkdir(parents=True)
    os.mkfifo(tmp_path / KEY)
    assert store.size(KEY) is None
    with pytest.raises(NotInStore):
        store.read(KEY)


def lock_as_nfs(descriptor: int, operation: int, lock: Callable[[int, int], None] = fcntl.flock) -> None:
    """NFS shares locks of files between its clients if they are open for writing, and never locks of directories."""
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    if stat.S_ISDIR(os.fstat(number).st_mode):
        return
    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    lock(number, operation)


def test_no_change_is_lost_between_machines_that_share_a_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lock_as_nfs)
    store = open_store(str(tmp_path), create=True)
    test_no_change_of_many_at_once_is_lost(store)
    shutil.rmtree(tmp_path / "environments")
    test_only_one_of_many_makes_an_object(store)


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    store = open_store(str(tmp_path), create=True)
    test_replace_makes_what_was_not_there(store)
    shutil.rmtree(tmp_path / "environments")
    test_only_one_of_many_makes_an_object(store)


# --- opening ----------------------------------------------------------------------------------------------


def test_a_store_is_made_in_a_new_directory(tmp_path: Path) -> None:
    top = tmp_path / "a" / "b c"
    with pytest.raises(NotAStore) as caught:
        open_store(str(top))
    assert "does not exist" in caught.value.message
    assert caught.value.code == 13
    assert not (tmp_path / "a").exists()
    store = open_store(str(top), create=True)
    assert json.loads((top / "snapper.json").read_bytes()) == {"format": 1}
    store.put(KEY, b"x")
    for again in (open_store(str(top)), open_store(str(top), create=True)):
        assert again.read(KEY) == b"x"


@pytest.mark.parametrize("neighbours", [[], ["config.toml"]])
def test_a_store_is_made_in_an_empty_directory(tmp_path: Path, neighbours: list[str]) -> None:
    for name in neighbours:
        (tmp_path / name).touch()
    open_store(str(tmp_path), create=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*neighbours, "snapper.json"]


def open_new(_number: int, url: str) -> bool:
    open_store(url, create=True).put(KEY, b"x")
    return True


def test_many_make_one_store_at_once(tmp_path: Path) -> None:
    for turn in range(5):
        assert all(at_once(6, open_new, str(tmp_path / str(turn))))


def test_a_store_whose_making_was_cut_off_is_made(tmp_path: Path) -> None:
    process = forking.Process(target=killed_while_making, args=(str(tmp_path),))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(NotAStore):
        open_store(str(tmp_path))
    open_store(str(tmp_path), create=True)
    open_store(str(tmp_path))


def killed_while_making(url: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        open_store(url, create=True)


def refused(url: str, create: bool) -> NotAStore:
    with pytest.raises(NotAStore) as caught:
        open_store(url, create=create)
    assert url in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("create", [False, True])
def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path, create: bool) -> None:
    (tmp_path / "thesis.doc").write_text("mine")
    assert "snapper.json" in refused(str(tmp_path), create).message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


@pytest.mark.parametrize("create", [False, True])
def test_a_file_is_no_store(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_text("mine")
    assert "file" in refused(str(tmp_path / "file"), create).reason
    with pytest.raises(SnapperError) as caught:
        open_store(str(tmp_path / "file" / "below"), create=create)
    assert caught.value.code == 13
    assert (tmp_path / "file").read_text() == "mine"


MARKERS = [
    b"",
    b"{",
    b"[]",
    b"1",
    b'{"format":"1"}',
    b'{"format":0}',
    b'{"format":true}',
    b'{"format":null}',
    b"{}",
]


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_that_says_nothing_is_refused(tmp_path: Path, marker: bytes, create: bool) -> None:
    (tmp_path / "snapper.json").write_bytes(marker)
    assert "snapper.json" in refused(str(tmp_path), create).message
    assert (tmp_path / "snapper.json").read_bytes() == marker


@pytest.mark.parametrize("create", [False, True])
def test_a_store_of_a_later_snapper_is_left_to_it(tmp_path: Path, create: bool) -> None:
    (tmp_path / "snapper.json").write_bytes(b'{"format":2,"more":[]}')
    with pytest.raises(UnsupportedFormat) as caught:
        open_store(str(tmp_path), create=create)
    assert (caught.value.found, caught.value.known, caught.value.code) == (2, 1, 13)
    assert "pip install" in caught.value.hint


@pytest.mark.parametrize("url", ["ftp://host/x", "gs://bucket", "S4://x", "://x", "http://x"])
def test_unknown_kinds_of_store(url: str) -> None:
    refused(url, create=True)


@pytest.mark.parametrize("url", ["file://host/x", "file://", "file://relative", "file:///a%00b"])
def test_file_urls_that_name_no_directory(url: str) -> None:
    refused(url, create=True)


@pytest.mark.parametrize("form", ["file://{}", "file://localhost{}"])
def test_file_urls(tmp_path: Path, form: str) -> None:
    top = tmp_path / "with space, ü and %"
    url = form.format(str(top).replace("%", "%25").replace(" ", "%20").replace("ü", "%C3%BC"))
    open_store(url, create=True)
    assert (top / "snapper.json").is_file()
    assert open_store(url).url == str(top)


def test_paths_are_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    store = open_store("~/one", create=True)
    assert store.url == str(tmp_path / "one")
    assert open_store("one").url == store.url
    with pytest.raises(SnapperError):
        open_store("~no-such-user/store", create=True)


# --- as another user --------------------------------------------------------------------------------------


def as_nobody(action: Callable[[], Any]) -> Any:
    """What the action returns or raises in a process that may not do everything."""
    answers = forking.SimpleQueue()

    def begin() -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        try:
            answers.put(action())
        except BaseException as error:
            answers.put(error)

    process = forking.Process(target=begin)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    return answers.get()


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may enter."""
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    yield top
    for path in top.rglob("*"):
        path.chmod(0o700)
    shutil.rmtree(top)


@pytest.mark.parametrize("create", [False, True])
def test_a_store_that_may_not_be_entered(public: Path, create: bool) -> None:
    open_store(str(public / "closed" / "store"), create=True)
    for closed in (public / "closed", public / "closed" / "store"):
        closed.chmod(0)
        found = as_nobody(lambda: open_store(str(public / "closed" / "store"), create=create))
        assert isinstance(found, StoreRefused)
        assert "ermission denied" in found.message
        closed.chmod(0o755)


def test_a_store_that_may_not_be_made(public: Path) -> None:
    public.chmod(0o555)
    found = as_nobody(lambda: open_store(str(public / "store"), create=True))
    assert isinstance(found, StoreRefused)
    public.chmod(0o755)


def test_a_store_that_may_only_be_read(public: Path) -> None:
    store = open_store(str(public), create=True)
    store.put(KEY, b"x")
    store.replace(MUTABLE, b"one", None)
    for directory_ in (public, *(path for path in public.rglob("*") if path.is_dir())):
        directory_.chmod(0o555)

    def use() -> list[Any]:
        opened = open_store(str(public))
        answers: list[Any] = [opened.read(KEY), list(opened.list_keys("layers/")), opened.put(KEY, b"y")]
        version = opened.read_versioned(MUTABLE)[1]
        for write in (
            lambda: opened.put("layers/ab/new", b"x"),
            lambda: opened.replace(MUTABLE, b"two", version),
        ):
            try:
                write()
            except SnapperError as error:
                answers.append(error)
        return answers

    data, keys, again, *errors = as_nobody(use)
    assert (data, keys, again) == (b"x", [KEY], False)
    assert [type(error) for error in errors] == [StoreRefused, StoreRefused]
    assert store.read(MUTABLE) == b"one"


def test_a_part_of_a_store_that_may_not_be_listed_is_not_empty(public: Path) -> None:
    store = open_store(str(public), create=True)
    store.put(KEY, b"x")
    (public / "layers").chmod(0)
    found = as_nobody(lambda: list(store.list_keys("layers/")))
    assert isinstance(found, StoreRefused)


def test_two_users_share_a_store(public: Path) -> None:
    store = open_store(str(public), create=True)
    store.replace(MUTABLE, b"one", None)
    for directory_ in (public, *(path for path in public.rglob("*") if path.is_dir())):
        directory_.chmod(0o777)
    _, version = store.read_versioned(MUTABLE)
    assert as_nobody(lambda: store.replace(MUTABLE, b"two", version)) is None
    data, version = store.read_versioned(MUTABLE)
    assert data == b"two"
    store.replace(MUTABLE, b"three", version)
