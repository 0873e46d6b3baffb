"""Collecting files into layers: size limits, files that change meanwhile, and uploads from forked processes."""

from __future__ import annotations

import multiprocessing
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from snapper.environment.scan import scan
from snapper.environment.tree import File, Tree, walk
from snapper.errors import ChangedWhilePacking, FileOperationFailed, TooManyDirectories, TooManyFiles
from snapper.format import layer_builder
from snapper.format.model import LAYER_SIZE
from snapper.packing.collect import collect_group
from snapper.packing.context import PackContext
from snapper.packing.items import CollectedGroup, FileGroup, PackItem
from snapper.packing.large import scan_large_file
from snapper.packing.plan import make_plan
from snapper.packing.uploads import upload_queue
from snapper.repository.locks import pack_intent
from snapper.store import open_store

SMALL = 64 * 1024


def test_links_that_a_restore_would_refuse_are_not_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapper.packing.plan.MOST_KEPT", 10_000)
    (tmp_path / "file").touch()
    for number in range(30):
        (tmp_path / f"link{number}").symlink_to("x" * 200)
    with pytest.raises(TooManyFiles, match=f"{tmp_path} has too many files: links and directories"):
        make_plan(tmp_path, walk(tmp_path), ())


def test_directories_that_a_restore_would_refuse_are_not_packed(tmp_path: Path) -> None:
    """Those that are members of layers do not count: space is reserved for members."""
    for number in range(4):
        (tmp_path / f"{number}" / "/".join(["a"] * 240)).mkdir(parents=True)
    (tmp_path / "b").mkdir()
    for number in range(20):
        (tmp_path / f"b/{number}").mkdir()
        (tmp_path / f"b/{number}").chmod(0o700)
    make_plan(tmp_path, walk(tmp_path), ())
    (tmp_path / "/".join(["c"] * 200)).mkdir(parents=True)
    with pytest.raises(TooManyDirectories, match=f"{tmp_path} has too many directories: more than 1,100 "):
        make_plan(tmp_path, walk(tmp_path), ())


@pytest.mark.parametrize("path", ["a/link/b", "a/link/b/c", "a/file/b"])
def test_members_below_something_else_than_a_directory_are_not_packed(tmp_path: Path, path: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").touch()
    (tmp_path / "a/link").symlink_to(".")
    tree = walk(tmp_path)
    make_plan(tmp_path, tree, ())
    below = Tree((*tree.files, File(path, "file", 0, 0o644, 0, 0, 0, 0, 1)), ())
    with pytest.raises(FileOperationFailed, match=f"{tmp_path}/{path[:6]}.*: it is not a directory"):
        make_plan(tmp_path, below, ())


def test_links_with_targets_that_no_restore_could_make_are_not_packed(tmp_path: Path) -> None:
    """The placeholder can be longer than the prefix, and the path of an included source than its own."""
    link = File("link", "symlink", 0, 0o777, 0, 0, 1, 1, 1)
    too_long, too_long_with_placeholder = ("x" * 4096, f"/env/{'x/' * 2045}")
    store = open_store(str(tmp_path / "store"), create=True)

    def collect(target: str) -> CollectedGroup:
        group = FileGroup("files", "", 0, (PackItem(link._replace(target=target)),))
        with pack_intent(store) as intent:
            context = PackContext("/env", "/env", store, intent, 1, {}, frozenset(), {})
            collected: CollectedGroup = collect_group(context, group).finish()
            return collected

    assert collect(too_long_with_placeholder).unrelocated == ("link",)
    with pytest.raises(FileOperationFailed, match="/env/link: a link has a target of"):
        collect(too_long)


@pytest.mark.parametrize("kind", ["symlinks", "hard links", "directories", "empty files"])
def test_members_without_data_count_towards_the_layer_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Each has a header of 512 bytes, and the unpacked size of a layer is limited."""
    monkeypatch.setattr(layer_builder, "LAYER_SIZE", SMALL)
    top = tmp_path / "env"
    top.mkdir()
    (top / "first").touch()
    for number in range(600):
        path = top / f"x{number:03}"
        if kind == "symlinks":
            path.symlink_to("nowhere")
        elif kind == "hard links":
            os.link(top / "first", path)
        elif kind == "directories":
            path.mkdir()
        else:
            path.touch()
    files = sorted(walk(top).files, key=lambda file: file.path)
    linked = "first" if kind == "hard links" else ""
    items = tuple(PackItem(file, linked="" if file.path == "first" else linked) for file in files)
    store = open_store(str(tmp_path / "store"), create=True)
    with pack_intent(store) as intent:
        context = PackContext(str(top), str(top), store, intent, 1, {}, frozenset(), {})
        collected = collect_group(context, FileGroup("files", "", 0, items)).finish()
    assert sum(layer.members for layer in collected.layers) == 601
    assert max(layer.diff_size for layer in collected.layers) <= SMALL + 1024


def test_forked_process_gets_its_own_upload_queue(tmp_path: Path) -> None:
    """Threads do not survive a fork, and a queue without its threads would never upload anything."""
    store = open_store(str(tmp_path / "store"), create=True)

    def upload(key: str) -> None:
        assert upload_queue().put(store, key, b"x").result(30)

    upload("layers/aa/first")
    process = multiprocessing.get_context("fork").Process(target=upload, args=("layers/aa/second",))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert list(store.list_keys("layers/")) == ["layers/aa/first", "layers/aa/second"]


# --- changes while packing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packing:
    """An environment with the file `lib/a/data` while it is packed: it has been walked and is about to be read."""

    top: Path
    outside: Path
    files: tuple[File, ...]

    def collect(self) -> CollectedGroup:
        store = open_store(str(self.outside / "store"), create=True)
        items = tuple(PackItem(file) for file in self.files if file.type == "file")
        with pack_intent(store) as intent:
            context = PackContext(str(self.top), str(self.top), store, intent, 1, {}, frozenset(), {})
            collected: CollectedGroup = collect_group(context, FileGroup("files", "", 0, items)).finish()
            return collected


@pytest.fixture
def packing(tmp_path: Path) -> Packing:
    top, outside = tmp_path / "env", tmp_path / "outside"
    (top / "lib" / "a").mkdir(parents=True)
    outside.mkdir()
    (top / "lib" / "a" / "data").write_text("data")
    return Packing(top, outside, walk(top).files)


@pytest.mark.parametrize("moved", ["lib", "lib/a", "lib/a/data"])
def test_links_that_appear_while_packing_are_not_followed(packing: Packing, moved: str) -> None:
    """Another user who owns the environment could have a file published that only the packing user may read.

    The links lead to the very file that was there, so nothing else tells that they are links.
    """
    (packing.top / moved).rename(packing.outside / "moved")
    (packing.top / moved).symlink_to(packing.outside / "moved")
    assert (packing.top / "lib/a/data").read_text() == "data"
    with pytest.raises(ChangedWhilePacking, match="env/lib/a/data changed"):
        packing.collect()


@pytest.mark.parametrize("size", [4, LAYER_SIZE + 1])
@pytest.mark.parametrize("change", [{"device": 1}, {"inode": 1}, {"mtime_ns": 1}, {"size": -1}], ids=str)
def test_file_that_is_another_one_than_before_is_not_packed(
    packing: Packing, change: dict[str, int], size: int
) -> None:
    """Files on another file system, mounted while packing, can have the same inode, size, and time."""
    os.truncate(packing.top / "lib/a/data", size)
    (file,) = (file for file in walk(packing.top).files if file.type == "file")
    other = file._replace(**{field: getattr(file, field) + more for field, more in change.items()})
    with pytest.raises(ChangedWhilePacking):
        if size > LAYER_SIZE:
            context = PackContext(str(packing.top), str(packing.top), None, None, 1, {}, frozenset(), {})  # type: ignore[arg-type]
            scan_large_file(context, PackItem(other))
        else:
            replace(packing, files=(other,)).collect()


@pytest.mark.parametrize("kind", ["fifo", "socket", "directory", "nothing"])
def test_file_that_becomes_something_else_is_not_packed(packing: Packing, kind: str) -> None:
    data = packing.top / "lib/a/data"
    data.unlink()
    if kind == "fifo":
        os.mkfifo(data)
    elif kind == "directory":
        data.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(data))
    with pytest.raises(ChangedWhilePacking):
        packing.collect()


def test_walk_does_not_follow_a_directory_that_becomes_a_link(packing: Packing) -> None:
    """While one of two directories is listed, the other one is replaced."""
    (packing.outside / "secret").touch()
    (packing.top / "lib/b").mkdir()
    (packing.top / "lib/b/data").touch()
    replaced: list[Path] = []

    def replace_other(path: str) -> None:
        if path.count("/") == 2 and not replaced:
            other = packing.top / "lib" / ("b" if path.startswith("lib/a/") else "a")
            other.rename(packing.outside / "moved")
            other.symlink_to(packing.outside)
            replaced.append(other)

    with pytest.raises(FileOperationFailed) as caught:
        walk(packing.top, replace_other)
    assert caught.value.path == str(replaced[0])


def test_links_outside_are_not_read_through_a_directory_that_becomes_a_link(packing: Packing) -> None:
    """Neither are their targets."""
    (packing.top / "lib/a/link").symlink_to("inside")
    (packing.outside / "link").symlink_to("a secret of another user")

    def replace_directory(path: str) -> None:
        if path == "lib/a/link":
            (packing.top / "lib/a").rename(packing.outside / "a")
            (packing.top / "lib/a").symlink_to(packing.outside)

    targets = {file.target for file in walk(packing.top, replace_directory).files}
    assert "inside" in targets
    assert targets <= {"", "inside"}


# --- what is not packed -----------------------------------------------------------------------------------------


def test_paths_that_no_snapshot_may_contain_are_left_out_and_reported(tmp_path: Path) -> None:
    """snapper's own directories are only left out silently where snapper makes them."""
    for path in (
        "conda-meta/history",
        ".snapper/state.json",
        "envs/.team.snapper/lock",
        "envs/team/conda-meta/history",
        "envs/data/file",
        "envs/data/conda-meta",
        "Envs/file",
        "lib/.snapper/state.json",
        "lib/.snapper.py",
        "lib/snapper/file",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "pkgs").symlink_to("lib")
    tree = scan(tmp_path)
    assert {file.path for file in tree.files if file.type == "file"} == {
        "conda-meta/history",
        "lib/.snapper.py",
        "lib/snapper/file",
    }
    assert [path for path, _ in tree.skipped] == [
        "Envs",
        "envs",
        "lib/.snapper",
        "pkgs",
    ]
