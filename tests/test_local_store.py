"""Stores in a directory: killed writers, file systems with few features, and several users."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snapper.errors import NotInStore, SnapperError, StoreRefused
from snapper.store import Store, VersionMismatch, open_store
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


def test_only_regular_files_are_objects(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), create=True)
    (tmp_path / "layers/ab").mkdir(parents=True)
    os.mkfifo(tmp_path / KEY)
    assert store.size(KEY) is None
    with pytest.raises(NotInStore):
        store.read(KEY)


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
    def refuse(*_: object) -> None:
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
    assert (data, keys, again) == (b"x", [KEY], False)
    assert [type(error) for error in errors] == [StoreRefused, StoreRefused]
    assert store.read(MUTABLE) == b"one"


def test_an_unreadable_directory_of_a_store_is_not_listed_as_empty(public: Path) -> None:
    store = open_store(str(public), create=True)
    store.put(KEY, b"x")
    (public / "layers").chmod(0)
    found = run_as_nobody(lambda: list(store.list_keys("layers/")))
    assert isinstance(found, StoreRefused)


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
