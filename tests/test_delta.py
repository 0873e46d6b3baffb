"""Restoring another snapshot in an environment's place takes over what is there already, and writes what is not."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from snapper.commands.pack import pack
from snapper.commands.restore import RestoreFailure, RestoreResult, restore
from snapper.environment import clock, state
from snapper.environment.scan import scan
from snapper.format.layout import Layout
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.requests import RestoreRequest
from snapper.store import Store, open_store
from tests.conftest import tree_of
from tests.support.packs import previous_pack

NEW = "share/notes/new.txt"


def put(
    store: Store, prefix: Path, snapshot: str, *, replace: bool = False
) -> RestoreResult | RestoreFailure:
    (done,) = restore(
        store, [RestoreRequest(SnapshotSpec("env", snapshot), prefix=prefix, replace=replace)], jobs=1
    )
    return done


def inodes(prefix: Path) -> dict[str, tuple[int, int]]:
    """Inode and mtime of every file but snapper's own; links keep no times."""
    found = scan(prefix).files
    return {file.path: (file.inode, file.mtime_ns) for file in found if file.type == "file"}


def vouched(prefix: Path) -> bool:
    previous = previous_pack(prefix)
    return previous is not None and previous.is_unchanged()


@pytest.fixture
def store(pristine: Callable[[str], Path], scratch: Path) -> Store:
    """With an environment in two snapshots, of which the second has a package less and a file more."""
    store = open_store(str(scratch / "store"), create=True)
    pack(store, pristine("no-python"), "env", jobs=1)
    prefix = scratch / "work"
    assert isinstance(put(store, prefix, ""), RestoreResult)
    (prefix / NEW).parent.mkdir(parents=True)
    (prefix / NEW).write_text(f"{prefix}\n")
    for file in (prefix / "share" / "textdata", *prefix.glob("conda-meta/textdata*")):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    pack(store, prefix, "env", jobs=1)
    shutil.rmtree(prefix)
    return store


def whole(store: Store, prefix: Path, snapshot: str) -> dict[str, tuple[str, int, bytes]]:
    """What the snapshot is at that place when nothing was there before."""
    shutil.rmtree(prefix, ignore_errors=True)
    assert isinstance(put(store, prefix, snapshot), RestoreResult)
    return tree_of(prefix)


def test_back_and_forth(store: Store, scratch: Path) -> None:
    prefix = scratch / "env"
    second, first = whole(store, prefix, ""), whole(store, prefix, "~1")
    before = inodes(prefix)
    for snapshot, tree in (("", second), ("~1", first), ("", second)):
        assert isinstance(put(store, prefix, snapshot), RestoreResult)
        assert tree_of(prefix) == tree
        now = inodes(prefix)
        assert all(now[path] == before[path] for path in now if path.startswith(("bin/whereami", "lib/")))
        assert vouched(prefix)
    assert [path.name for path in scratch.iterdir() if path.name.startswith(".")] == []


def test_nothing_is_fetched_that_is_there(store: Store, scratch: Path) -> None:
    """A store that has lost the layers which both snapshots have is missed by nobody."""
    prefix = scratch / "env"
    whole(store, prefix, "~1")
    previous = state.read_previous(prefix)
    assert previous
    for layer in previous.snapshot.layers:
        if "whereami" in layer.owner:
            (scratch / "store" / Layout.layer(layer.digest)).unlink()
    assert isinstance(put(store, prefix, ""), RestoreResult)
    shutil.rmtree(prefix)
    assert isinstance(put(store, prefix, ""), RestoreFailure)


def test_what_was_changed_is_not_taken_over(store: Store, scratch: Path) -> None:
    """Not even where size and mtime are as they were."""
    prefix = scratch / "env"
    second = whole(store, prefix, "")
    whole(store, prefix, "~1")
    file = prefix / "bin" / "whereami"
    times = file.stat()
    data = file.read_bytes()
    with file.open("r+b") as out:
        out.write(bytes(reversed(data)))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert isinstance(put(store, prefix, "", replace=True), RestoreResult)
    assert tree_of(prefix) == second


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_is_another_users_is_not_taken_over(store: Store, scratch: Path) -> None:
    prefix = scratch / "env"
    whole(store, prefix, "")
    os.chown(prefix / "bin" / "whereami", 65534, -1)
    clock.next_tick(prefix)
    pack(store, prefix, "env", jobs=1)
    assert vouched(prefix)
    assert isinstance(put(store, prefix, "~1"), RestoreResult)
    assert {path.lstat().st_uid for path in prefix.rglob("*")} == {0}


def test_an_environment_that_was_never_restored_is_not_mixed(
    pristine: Callable[[str], Path], scratch: Path
) -> None:
    """What was made when it was installed has other times there than in a snapshot."""
    store = open_store(str(scratch / "store"), create=True)
    prefix = scratch / "origin"
    shutil.copytree(pristine("no-python"), prefix, symlinks=True)
    (prefix / "a").write_text("a")
    pack(store, prefix, "env", jobs=1)
    (prefix / NEW).parent.mkdir(parents=True)
    (prefix / NEW).write_text("new\n")
    pack(store, prefix, "env", jobs=1)
    assert isinstance(put(store, prefix, "~1"), RestoreResult)
    elsewhere = scratch / "moved"
    shutil.copytree(prefix, elsewhere, symlinks=True)
    assert whole(store, prefix, "~1") == tree_of(elsewhere)
    times, fresh = ({path: time for path, (_, time) in inodes(each).items()} for each in (elsewhere, prefix))
    assert times == fresh


def test_without_links_everything_is_written(
    store: Store, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On file systems that have none, or when they end in the middle."""
    prefix = scratch / "env"
    second = whole(store, prefix, "")
    made = multiprocessing.Value("i")  # in a worker, which is forked
    link = os.link

    def few(*arguments: object, **options: object) -> None:
        made.value += 1
        if made.value > 3 and "textdata" not in str(arguments):
            raise PermissionError("no more links")
        link(*arguments, **options)  # type: ignore[arg-type]

    whole(store, prefix, "~1")
    monkeypatch.setattr(os, "link", few)
    assert isinstance(put(store, prefix, ""), RestoreResult)
    assert made.value == 4
    assert tree_of(prefix) == second
