"""Stores in a directory: killed writers, file systems with few features, and several users."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import pickle
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from snapper.cli.app import run
from snapper.errors import (
    Corrupted,
    LockHeld,
    NotAStore,
    NotInStore,
    ObjectTooLarge,
    SnapperError,
    StoreRefused,
)
from snapper.format.layout import Layout
from snapper.fs import atomic, lock_file
from snapper.fs.locks import try_lock
from snapper.store import Store, VersionMismatch, entry_lock, open_store
from snapper.store.local import LocalStore
from tests.support.processes import forking, run_as_nobody
from tests.support.store_races import check_creations, check_increments

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

KEY = "layers/ab/object.tar.zst"
MUTABLE = "environments/work.json"


def be_killed_while_writing(_number: int, store: Store) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        store.put(KEY, b"never there")


def test_what_a_killed_writer_leaves_is_not_an_object(tmp_path: Path) -> None:
    """The next write to the directory removes it, but not what is still being written."""
    store = open_store(str(tmp_path), create=True)
    (tmp_path / "layers/ab").mkdir(parents=True)
    process = forking.Process(target=be_killed_while_writing, args=(0, store))
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


def test_failed_writes_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    store = open_store(str(tmp_path), create=True)
    monkeypatch.setattr(os, "fsync", fail)
    for write in (lambda: store.put(KEY, b"x"), lambda: store.replace(KEY, b"x", None)):
        with pytest.raises(StoreRefused) as caught:
            write()
        assert "Input/output error" in caught.value.message
    assert list((tmp_path / "layers/ab").iterdir()) == []


# --- links and other files that are no objects ------------------------------------------------------------


def contents(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def everything(store: Store, key: str) -> list[Callable[[], object]]:
    """Return all operations on an object and its directory."""
    prefix = key.partition("/")[0] + "/"
    return [
        lambda: store.read(key),
        lambda: store.read_versioned(key),
        lambda: store.size(key),
        lambda: store.put(key, b"other"),
        lambda: store.replace(key, b"other", None),
        lambda: store.replace(key, b"other", "version"),
        lambda: store.delete(key),
        lambda: store.delete(key, "version"),
        lambda: list(store.list_keys(prefix)),
        lambda: list(store.list_objects(prefix)),
        lambda: store.check_writable(prefix),
        store.remove_leftovers,
    ]


@pytest.mark.parametrize("prefix", Layout.PREFIXES)
def test_nothing_is_done_through_a_linked_directory(prefix: str, tmp_path: Path) -> None:
    """Neither the operations nor the commands that list everything reach the other store."""
    other = tmp_path / "other" / prefix
    open_store(str(tmp_path / "other"), create=True).put(f"{prefix}object", b"there")
    (other / f".object.{'0' * 16}").touch()
    before = contents(tmp_path / "other")
    store = open_store(str(tmp_path / "store"), create=True)
    (tmp_path / "store" / prefix).symlink_to(other)
    for operation in everything(store, f"{prefix}object"):
        with pytest.raises(StoreRefused, match=f"{prefix[:-1]} is a symbolic link") as caught:
            operation()
        assert "If you trust" in caught.value.hint
    for command in (["prune", "--yes", "--grace", "0s"], ["verify"], ["verify", "--data", "--repair"]):
        assert run([*command, "--store", str(tmp_path / "store")]) == 13
    assert contents(tmp_path / "other") == before


def test_a_linked_directory_of_layers_is_reported_but_not_followed(tmp_path: Path) -> None:
    other = open_store(str(tmp_path / "other"), create=True)
    other.put(KEY, b"there")
    store = open_store(str(tmp_path / "store"), create=True)
    store.put("layers/cd/object.tar.zst", b"there, too")
    (tmp_path / "store/layers/ab").symlink_to(tmp_path / "other/layers/ab")
    assert list(store.list_keys("layers/")) == ["layers/ab", "layers/cd/object.tar.zst"]
    for operation in everything(store, KEY)[:8]:
        with pytest.raises(StoreRefused, match="layers/ab is a symbolic link"):
            operation()
    store.remove_leftovers()
    assert other.read(KEY) == b"there"


@pytest.mark.parametrize("target", ["elsewhere", "/dev/zero", "missing"])
def test_a_linked_object_is_not_read_and_can_be_replaced(target: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"there")
    store = open_store(str(tmp_path / "store"), create=True)
    for key in (KEY, MUTABLE):
        file = tmp_path / "store" / key
        file.parent.mkdir(parents=True)
        file.symlink_to(tmp_path / target)
        with pytest.raises(Corrupted, match="it is a symbolic link"):
            store.read(key)
        assert store.size(key) is None
        assert list(store.list_keys(key.partition("/")[0] + "/")) == [key]
        with pytest.raises(VersionMismatch):
            store.replace(key, b"new", None)
        with pytest.raises(Corrupted, match="it is a symbolic link"):
            store.replace(key, b"new", "version")
        assert store.put(key, b"new")
        assert store.read(key) == b"new"
        file.unlink()
        file.symlink_to(tmp_path / target)
        assert store.delete(key)
    assert (tmp_path / "elsewhere").read_bytes() == b"there"


def test_the_directory_of_a_store_may_be_a_link(tmp_path: Path) -> None:
    open_store(str(tmp_path / "store"), create=True)
    (tmp_path / "link").symlink_to(tmp_path / "store")
    store = open_store(str(tmp_path / "link"))
    store.replace(MUTABLE, b"one", None)
    assert (tmp_path / "store" / MUTABLE).read_bytes() == b"one"
    assert list(store.list_keys("environments/")) == [MUTABLE]


def test_a_store_whose_directory_is_replaced_is_not_used_any_more(tmp_path: Path) -> None:
    """Who may rename it could otherwise have objects of another store deleted that the user may write to."""
    other = open_store(str(tmp_path / "other"), create=True)
    other.replace(MUTABLE, b"there", None)
    for create in (True, False):
        store = open_store(str(tmp_path / "store"), create=create)
        (tmp_path / "store").rename(tmp_path / "moved")
        (tmp_path / "store").symlink_to(tmp_path / "other")
        for operation in everything(pickle.loads(pickle.dumps(store)), MUTABLE):
            with pytest.raises(StoreRefused, match="another directory has taken its place"):
                operation()
        (tmp_path / "store").unlink()
        (tmp_path / "moved").rename(tmp_path / "store")
        assert list(store.list_keys("environments/")) == []
    assert contents(tmp_path / "other") == {MUTABLE: b"there", "snapper.json": b'{"format":1}'}


def test_a_store_that_appears_after_it_was_looked_for_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory is renamed away, so that it is not known which one this is, and another one is put in its place."""
    other = open_store(str(tmp_path / "other"), create=True)
    other.replace(MUTABLE, b"there", None)
    monkeypatch.setattr(
        "snapper.store.opening._check_no_cache",
        lambda store: (tmp_path / "store").symlink_to(tmp_path / "other"),
    )
    with pytest.raises(NotAStore, match="there is no store at"):
        open_store(str(tmp_path / "store"))
    unopened = LocalStore.opened(tmp_path / "none")
    (tmp_path / "none").symlink_to(tmp_path / "other")
    for operation in everything(unopened, MUTABLE):
        with suppress(SnapperError, VersionMismatch):
            assert not operation()
    assert contents(tmp_path / "other") == {MUTABLE: b"there", "snapper.json": b'{"format":1}'}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
@pytest.mark.parametrize("exists", [False, True])
def test_a_default_store_that_another_user_puts_in_place_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    """Nobody has chosen it: its owner is checked after it has been opened, and no path is followed afterwards."""
    theirs = tmp_path / "theirs"
    open_store(str(theirs), create=True)
    os.chown(theirs, 54321, 54321)
    if exists:
        open_store(str(tmp_path / "store"), create=True)

    def swap(store: object) -> None:
        if exists:
            (tmp_path / "store").rename(tmp_path / "mine")
        theirs.rename(tmp_path / "store")

    monkeypatch.setattr("snapper.store.opening._check_no_cache", swap)
    with pytest.raises(StoreRefused):
        open_store(str(tmp_path / "store"), create=True, is_default=True)
    monkeypatch.undo()
    with pytest.raises(StoreRefused, match=r"it is the default, but .* belongs to the user 54321"):
        open_store(str(tmp_path / "store"), is_default=True)
    assert open_store(str(tmp_path / "store"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to another user")
def test_a_link_of_another_user_to_a_store_is_refused(tmp_path: Path) -> None:
    open_store(str(tmp_path / "store"), create=True)
    (tmp_path / "link").symlink_to(tmp_path / "store")
    os.chown(tmp_path / "link", 54321, 54321, follow_symlinks=False)
    with pytest.raises(StoreRefused, match="is a link of the user 54321") as caught:
        open_store(str(tmp_path / "link"))
    assert str(tmp_path / "store") in caught.value.hint


def test_only_regular_files_are_objects(tmp_path: Path) -> None:
    """A pipe does not make any operation hang."""
    store = open_store(str(tmp_path), create=True)
    for key in (KEY, MUTABLE, Layout.PRUNE_LOCK):
        (tmp_path / key).parent.mkdir(parents=True)
        os.mkfifo(tmp_path / key)
        assert store.size(key) is None
        with pytest.raises(NotInStore):
            store.read(key)
        with pytest.raises(StoreRefused, match="not a regular file"):
            store.replace(key, b"new", "version")
        assert store.put(key, b"new")
        assert store.read(key) == b"new"


def test_objects_are_read_up_to_the_limit(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), create=True)
    store.put(KEY, b"12345")
    assert store.read(KEY, 5) == b"12345"
    with pytest.raises(ObjectTooLarge):
        store.read(KEY, 4)
    os.truncate(tmp_path / KEY, 1 << 40)
    with pytest.raises(ObjectTooLarge):
        store.read(KEY)


def test_an_object_under_a_false_name_is_replaced(tmp_path: Path) -> None:
    """Another publisher has written it before, with other bytes of the same size."""
    store = open_store(str(tmp_path), create=True)
    key = Layout.layer(hashlib.sha256(b"right").hexdigest())
    (tmp_path / key).parent.mkdir(parents=True)
    (tmp_path / key).write_bytes(b"false")
    assert store.put(key, b"right")
    assert not store.put(key, b"right")
    assert store.read(key) == b"right"


def test_writes_never_change_a_file_that_has_another_name(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), create=True)
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    for key in (KEY, MUTABLE):
        (tmp_path / "store" / key).parent.mkdir(parents=True)
        os.link(mine, tmp_path / "store" / key)
    os.link(mine, tmp_path / "store/environments" / f".work.json.{'0' * 16}")
    store.put(KEY, b"other")
    store.replace(MUTABLE, b"other", store.read_versioned(MUTABLE).version)
    assert (store.read(KEY), store.read(MUTABLE)) == (b"other", b"other")
    assert mine.read_bytes() == b"mine"


def test_leftovers_are_only_removed_where_objects_are(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), create=True)
    leftover = f".object.{'0' * 16}"
    for directory in ("", "cache/one", "layers", "layers/ab", "environments"):
        (tmp_path / directory).mkdir(parents=True, exist_ok=True)
        (tmp_path / directory / leftover).touch()
    assert store.remove_leftovers() == 4
    assert list(contents(tmp_path / "cache")) == [f"one/{leftover}"]


# --- locks ------------------------------------------------------------------------------------------------


def test_a_reader_cannot_keep_others_from_publishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds a lock on everything that it may open, as snapper 0.1.0 does when it publishes."""
    assert entry_lock._PATIENCE <= 1
    monkeypatch.setattr(entry_lock, "_PATIENCE", 0.1)
    store = open_store(str(tmp_path), create=True)
    store.replace(MUTABLE, b"one", None)
    store.replace(MUTABLE, b"two", store.read_versioned(MUTABLE).version)
    held = [os.open(path, os.O_RDONLY) for path in (tmp_path, *tmp_path.rglob("*")) if path.name != ".lock"]
    try:
        for descriptor in held:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        store.replace(MUTABLE, b"three", store.read_versioned(MUTABLE).version)
        assert store.delete(MUTABLE, store.read_versioned(MUTABLE).version)
    finally:
        for descriptor in held:
            os.close(descriptor)


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o555, 0o600), (0o755, 0o600), (0o775, 0o660), (0o777, 0o666), (0o2770, 0o660)]
)
def test_the_lock_is_open_to_those_who_may_write(mode: int, expected: int, tmp_path: Path) -> None:
    store = open_store(str(tmp_path), create=True)
    store.replace(MUTABLE, b"one", None)
    (tmp_path / "environments").chmod(mode)
    store.replace(MUTABLE, b"two", store.read_versioned(MUTABLE).version)
    lock = tmp_path / "environments/.lock"
    assert stat.S_IMODE(lock.stat().st_mode) == expected
    assert list(store.list_keys("environments/")) == [MUTABLE]


def test_waiting_for_a_lock_is_reported_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock_file, "_REPORT_AFTER", 0.05)
    monkeypatch.setattr(lock_file, "_GIVE_UP_AFTER", 0.3)
    monkeypatch.setattr(logging.getLogger("snapper"), "propagate", True)
    store = open_store(str(tmp_path), create=True)
    store.replace(MUTABLE, b"one", None)
    version = store.read_versioned(MUTABLE).version
    with (tmp_path / "environments/.lock").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LockHeld) as caught:
            store.replace(MUTABLE, b"two", version)
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    if str(os.getpid()) in Path("/proc/locks").read_text():
        assert f"process {os.getpid()} of " in caught.value.message
    store.replace(MUTABLE, b"two", version)


def test_a_lock_file_that_is_no_file_is_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), create=True)
    store.replace(MUTABLE, b"one", None)
    version = store.read_versioned(MUTABLE).version
    lock = tmp_path / "store/environments/.lock"
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreRefused):
        store.replace(MUTABLE, b"two", version)
    assert not (tmp_path / "elsewhere").exists()
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(StoreRefused):
        store.replace(MUTABLE, b"two", version)


def test_a_private_file_in_place_of_the_lock_file_stays_private(tmp_path: Path) -> None:
    """Whoever may write to the directory of a file can move it, whatever its own permissions."""
    store = open_store(str(tmp_path / "store"), create=True)
    store.replace(MUTABLE, b"one", None)
    version = store.read_versioned(MUTABLE).version
    (tmp_path / "store/environments").chmod(0o777)
    lock = tmp_path / "store/environments/.lock"
    lock.write_text("secret")
    lock.chmod(0o600)
    with pytest.raises(StoreRefused, match="so it is not a lock"):
        store.replace(MUTABLE, b"two", version)
    assert (stat.S_IMODE(lock.stat().st_mode), lock.read_text()) == (0o600, "secret")


@pytest.mark.parametrize("way", ["link", "rename"])
def test_an_empty_file_in_place_of_the_lock_file_keeps_its_owner_and_mode(way: str, tmp_path: Path) -> None:
    """It may be filled later, and everyone can link it where the system does not protect hard links."""
    store = open_store(str(tmp_path / "store"), create=True)
    store.replace(MUTABLE, b"one", None)
    environments, private = tmp_path / "store/environments", tmp_path / "private"
    environments.chmod(0o777)
    if os.geteuid() == 0:
        os.chown(environments, 54321, 54321)
    private.touch(mode=0o600)
    before = private.stat()
    with private.open() as opened:
        (os.link if way == "link" else os.rename)(private, environments / ".lock")
        store.replace(MUTABLE, b"two", store.read_versioned(MUTABLE).version)
        after = os.fstat(opened.fileno())
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert stat.S_IMODE((environments / ".lock").stat().st_mode) == 0o666


@pytest.mark.parametrize(("times", "succeeds"), [(3, True), (1000, False)])
def test_a_temporary_file_that_another_process_locks_is_replaced(
    times: int, succeeds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path), create=True)
    held: list[int] = []

    def lock_first(descriptor: int) -> bool:
        if len(held) < times:
            held.append(os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY))
            fcntl.flock(held[-1], fcntl.LOCK_EX)
        return try_lock(descriptor)

    monkeypatch.setattr(atomic, "try_lock", lock_first)
    if succeeds:
        assert store.put(KEY, b"there")
    else:
        with pytest.raises(StoreRefused, match="locks or removes every temporary file"):
            store.put(KEY, b"there")
    for descriptor in held:
        os.close(descriptor)
    assert sorted(contents(tmp_path)) == [*([KEY] if succeeds else []), "snapper.json"]


def flock_like_nfs(descriptor: int, operation: int, lock: Callable[[int, int], None] = fcntl.flock) -> None:
    """NFS shares locks between clients if the file is open for writing, and never shares locks of directories."""
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    if stat.S_ISDIR(os.fstat(number).st_mode):
        return
    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    lock(number, operation)


def test_no_change_is_lost_between_machines_that_share_a_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", flock_like_nfs)
    store = open_store(str(tmp_path), create=True)
    check_increments(store)
    shutil.rmtree(tmp_path / "environments")
    check_creations(store)


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    store = open_store(str(tmp_path), create=True)
    store.replace(MUTABLE, b"one", None)
    with pytest.raises(VersionMismatch):
        store.replace(MUTABLE, b"two", None)
    assert store.read(MUTABLE) == b"one"
    shutil.rmtree(tmp_path / "environments")
    check_creations(store)


# --- with other users ------------------------------------------------------------------------------------


@pytest.fixture
def public() -> Iterator[Path]:
    """Return a directory that every user may enter."""
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    yield top
    for path in top.rglob("*"):
        path.chmod(0o700)
    shutil.rmtree(top)


@pytest.mark.parametrize("create", [False, True])
def test_opening_an_inaccessible_store_is_refused(public: Path, create: bool) -> None:
    open_store(str(public / "closed" / "store"), create=True)
    for closed in (public / "closed", public / "closed" / "store"):
        closed.chmod(0)
        found = run_as_nobody(lambda: open_store(str(public / "closed" / "store"), create=create))
        assert isinstance(found, StoreRefused)
        assert "ermission denied" in found.message
        closed.chmod(0o755)


def test_creating_a_store_without_permission_is_refused(public: Path) -> None:
    public.chmod(0o555)
    found = run_as_nobody(lambda: open_store(str(public / "store"), create=True))
    assert isinstance(found, StoreRefused)
    public.chmod(0o755)


def test_read_only_stores_can_be_read(public: Path) -> None:
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

    data, keys, again, *errors = run_as_nobody(use)
    assert (data, keys, again) == (b"x", [KEY], "")
    assert [type(error) for error in errors] == [StoreRefused, StoreRefused]
    assert store.read(MUTABLE) == b"one"


def test_an_unreadable_directory_of_a_store_is_not_listed_as_empty(public: Path) -> None:
    store = open_store(str(public), create=True)
    store.put(KEY, b"x")
    (public / "layers").chmod(0)
    found = run_as_nobody(lambda: list(store.list_keys("layers/")))
    assert isinstance(found, StoreRefused)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run processes of another user")
def test_only_those_who_may_write_can_hold_the_lock(public: Path) -> None:
    store = open_store(str(public), create=True)
    store.replace(MUTABLE, b"one", None)
    store.replace(MUTABLE, b"two", store.read_versioned(MUTABLE).version)

    def attempts() -> list[bool]:
        opened = []
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            try:
                os.close(os.open(public / "environments/.lock", flags))
                opened.append(True)
            except PermissionError:
                opened.append(False)
        return opened

    assert run_as_nobody(attempts) == [False, False, False]
    (public / "environments").chmod(0o777)
    version = store.read_versioned(MUTABLE).version
    refused = run_as_nobody(lambda: open_store(str(public)).replace(MUTABLE, b"three", version))
    assert isinstance(refused, StoreRefused)
    assert ".lock there belongs to root" in refused.message
    store.replace(MUTABLE, b"three", version)  # which gives others access to the lock
    assert run_as_nobody(attempts) == [True, True, True]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run processes of another user")
def test_a_user_can_publish_after_root_has(public: Path) -> None:
    """Root makes the lock for the owner of the directory, who replaces one that it may not open."""
    store = open_store(str(public), create=True)
    store.replace(MUTABLE, b"one", None)
    for path in (public, *public.rglob("*")):
        os.chown(path, 65534, 65534)
    lock = public / "environments/.lock"

    def publish() -> None:
        opened = open_store(str(public))
        opened.replace(MUTABLE, b"by its owner", opened.read_versioned(MUTABLE).version)

    store.replace(MUTABLE, b"by root", store.read_versioned(MUTABLE).version)
    assert lock.stat().st_uid == 65534
    assert run_as_nobody(publish) is None
    os.chown(lock, 0, 0)
    assert run_as_nobody(publish) is None
    assert lock.stat().st_uid == 65534


def test_two_users_share_a_store(public: Path) -> None:
    store = open_store(str(public), create=True)
    store.replace(MUTABLE, b"one", None)
    for directory_ in (public, *(path for path in public.rglob("*") if path.is_dir())):
        directory_.chmod(0o777)
    _, version = store.read_versioned(MUTABLE)
    assert run_as_nobody(lambda: store.replace(MUTABLE, b"two", version)) is None
    data, version = store.read_versioned(MUTABLE)
    assert data == b"two"
    store.replace(MUTABLE, b"three", version)
