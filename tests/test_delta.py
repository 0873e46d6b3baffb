"""Replacing an environment by another snapshot links the files that both have, and writes only the others."""

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


def restore_snapshot(
    store: Store, prefix: Path, snapshot: str, *, replace: bool = False
) -> RestoreResult | RestoreFailure:
    (done,) = restore(
        store, [RestoreRequest(SnapshotSpec("env", snapshot), prefix=prefix, replace=replace)], jobs=1
    )
    return done


def inodes(prefix: Path) -> dict[str, tuple[int, int]]:
    """Return inode and mtime of every regular file of the environment."""
    files = scan(prefix).files
    return {file.path: (file.inode, file.mtime_ns) for file in files if file.type == "file"}


def is_vouched_for(prefix: Path) -> bool:
    previous = previous_pack(prefix)
    return previous is not None and previous.is_unchanged()


@pytest.fixture
def store(pristine: Callable[[str], Path], scratch: Path) -> Store:
    """A store with two snapshots of an environment; the second lacks a package and has another file."""
    store = open_store(str(scratch / "store"), create=True)
    pack(store, pristine("no-python"), "env", jobs=1)
    prefix = scratch / "work"
    assert isinstance(restore_snapshot(store, prefix, ""), RestoreResult)
    (prefix / NEW).parent.mkdir(parents=True)
    (prefix / NEW).write_text(f"{prefix}\n")
    for file in (prefix / "share" / "textdata", *prefix.glob("conda-meta/textdata*")):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    pack(store, prefix, "env", jobs=1)
    shutil.rmtree(prefix)
    return store


def restore_to_empty_prefix(store: Store, prefix: Path, snapshot: str) -> dict[str, tuple[str, int, bytes]]:
    """Restore the snapshot to an empty prefix; return the tree."""
    shutil.rmtree(prefix, ignore_errors=True)
    assert isinstance(restore_snapshot(store, prefix, snapshot), RestoreResult)
    return tree_of(prefix)


def test_unchanged_files_are_linked_when_switching_snapshots(store: Store, scratch: Path) -> None:
    prefix = scratch / "env"
    second, first = restore_to_empty_prefix(store, prefix, ""), restore_to_empty_prefix(store, prefix, "~1")
    before = inodes(prefix)
    for snapshot, tree in (("", second), ("~1", first), ("", second)):
        assert isinstance(restore_snapshot(store, prefix, snapshot), RestoreResult)
        assert tree_of(prefix) == tree
        now = inodes(prefix)
        assert all(now[path] == before[path] for path in now if path.startswith(("bin/whereami", "lib/")))
        assert is_vouched_for(prefix)
    assert [path.name for path in scratch.iterdir() if path.name.startswith(".")] == []


def test_layers_of_linked_files_are_not_read_from_the_store(store: Store, scratch: Path) -> None:
    """The restore succeeds although the store has lost the layers that both snapshots share."""
    prefix = scratch / "env"
    restore_to_empty_prefix(store, prefix, "~1")
    previous = state.read_previous(prefix)
    assert previous
    for layer in previous.snapshot.layers:
        if "whereami" in layer.owner:
            (scratch / "store" / Layout.layer(layer.digest)).unlink()
    assert isinstance(
        restore_snapshot(store, prefix, ""), RestoreFailure
    )  # only this machine has all of the old one
    assert isinstance(restore_snapshot(store, prefix, "", replace=True), RestoreResult)
    shutil.rmtree(prefix)
    assert isinstance(restore_snapshot(store, prefix, ""), RestoreFailure)


def test_changed_file_is_written_even_if_size_and_mtime_are_the_same(store: Store, scratch: Path) -> None:
    prefix = scratch / "env"
    second = restore_to_empty_prefix(store, prefix, "")
    restore_to_empty_prefix(store, prefix, "~1")
    file = prefix / "bin" / "whereami"
    times = file.stat()
    data = file.read_bytes()
    with file.open("r+b") as out:
        out.write(bytes(reversed(data)))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert isinstance(restore_snapshot(store, prefix, "", replace=True), RestoreResult)
    assert tree_of(prefix) == second


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user_are_not_linked(store: Store, scratch: Path) -> None:
    prefix = scratch / "env"
    restore_to_empty_prefix(store, prefix, "")
    os.chown(prefix / "bin" / "whereami", 65534, -1)
    clock.next_tick(prefix)
    pack(store, prefix, "env", jobs=1)
    assert is_vouched_for(prefix)
    assert isinstance(restore_snapshot(store, prefix, "~1"), RestoreResult)
    assert {path.lstat().st_uid for path in prefix.rglob("*")} == {0}


def test_files_that_others_can_write_to_are_not_linked(store: Store, scratch: Path) -> None:
    """They could do so between the check of a file and the link to it."""
    prefix = scratch / "env"
    restore_to_empty_prefix(store, prefix, "")
    (prefix / "bin/whereami").chmod(0o757)
    clock.next_tick(prefix)
    pack(store, prefix, "env", jobs=1)
    assert is_vouched_for(prefix)
    before = inodes(prefix)
    assert isinstance(restore_snapshot(store, prefix, "~1"), RestoreResult)
    now = inodes(prefix)
    assert now["bin/whereami"] != before["bin/whereami"]
    assert not prefix.stat().st_mode & 0o002
    assert not any(mode & 0o002 for kind, mode, _ in tree_of(prefix).values() if kind != "symlink")


def test_files_of_an_environment_that_was_never_restored_are_not_linked(
    pristine: Callable[[str], Path], scratch: Path
) -> None:
    """Files that installing creates have other times than in a snapshot, so linking them would mix the two."""
    store = open_store(str(scratch / "store"), create=True)
    prefix = scratch / "origin"
    shutil.copytree(pristine("no-python"), prefix, symlinks=True)
    (prefix / "a").write_text("a")
    pack(store, prefix, "env", jobs=1)
    (prefix / NEW).parent.mkdir(parents=True)
    (prefix / NEW).write_text("new\n")
    pack(store, prefix, "env", jobs=1)
    assert isinstance(restore_snapshot(store, prefix, "~1"), RestoreResult)
    elsewhere = scratch / "moved"
    shutil.copytree(prefix, elsewhere, symlinks=True)
    assert restore_to_empty_prefix(store, prefix, "~1") == tree_of(elsewhere)
    times, fresh = ({path: time for path, (_, time) in inodes(top).items()} for top in (elsewhere, prefix))
    assert times == fresh


def test_everything_is_written_if_links_fail(
    store: Store, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links fail from the start or halfway, as on file systems without hard links."""
    prefix = scratch / "env"
    second = restore_to_empty_prefix(store, prefix, "")
    made = multiprocessing.Value("i")  # in a worker, which is forked
    link = os.link

    def few(*arguments: object, **options: object) -> None:
        made.value += 1
        if made.value > 3 and "textdata" not in str(arguments):
            raise PermissionError("no more links")
        link(*arguments, **options)  # type: ignore[arg-type]

    restore_to_empty_prefix(store, prefix, "~1")
    monkeypatch.setattr(os, "link", few)
    assert isinstance(restore_snapshot(store, prefix, ""), RestoreResult)
    assert made.value == 4
    assert tree_of(prefix) == second
