"""What would be lost when a restore replaces an environment with another snapshot."""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from snapper.commands import pack as packing
from snapper.commands.restore import RestoreFailure, restore
from snapper.environment import clock
from snapper.environment.drift import find_drift
from snapper.environment.index import ANY_CTIME, NO_LAYER, Index, IndexHeader, index_entry
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.tree import File, Tree
from snapper.format.times import LINK_TIME
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.requests import RestoreRequest
from snapper.store import Store, open_store
from tests.conftest import Machine
from tests.support.environments import make_data
from tests.support.packs import previous_pack

#: What version 0.1.0 writes into the first line of an index, besides its version.
OF_0_1_0 = {"snapshot", "prefix", "taken", "unrelocated"}


@pytest.fixture
def outdated(machine: Machine) -> Path:
    """Return an environment on disk that is the snapshot before the current one."""
    prefix = make_data(machine.envs / "data")
    machine.run_json("pack", "data")
    (prefix / "new").write_text("new")
    machine.run_json("pack", "data")
    machine.run_json("restore", "data@~1", "--replace")
    return prefix


#: Paths that no snapshot can have, and directories that would be lost with an environment, none of which is packed.
UNPACKED = [
    "work/project/.snapper/store.txt",
    "notes/.draft.snapper/text",
    ("d/" * 256) + "data.csv",
    "private/",
    "results/run1/",
    "my-envs/work/conda-meta/history",
]


@pytest.mark.parametrize("path", UNPACKED)
def test_update_does_not_lose_what_cannot_be_packed(path: str, machine: Machine, outdated: Path) -> None:
    inside = outdated / path
    os.makedirs(inside if path.endswith("/") else inside.parent)
    if not path.endswith("/"):
        inside.write_text("mine")
    assert machine.run_json("status", "data")["environments"][0]["condition"] == "changed"
    error = machine.expect_error(11, "restore", "data")
    assert error["type"] == "TargetOccupied"
    assert path.split("/", maxsplit=1)[0] in error["message"]
    assert machine.snapper("restore", "--all").code == 11
    assert inside.exists()


def test_what_survives_an_update_is_no_difference(
    machine: Machine, outdated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is also true of what cannot be lost: sockets, and directories that Python has left empty."""
    kept = [outdated / path for path in ("Envs/exp/data", "PKGS/data", "envs/x/conda-meta/history")]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(outdated)
        server.bind("socket")
    (outdated / "lib/__pycache__").mkdir(parents=True, exist_ok=True)
    assert machine.run_json("status", "data")["environments"][0]["condition"] == "unchanged"
    machine.run_json("restore", "data")
    assert (outdated / "new").exists()
    assert all(path.read_text() == "mine" for path in kept)


def test_replacing_an_environment_says_what_is_discarded(machine: Machine, outdated: Path) -> None:
    for number in range(7):
        (outdated / f"mine{number}").touch()
    (outdated / "work/.snapper").mkdir(parents=True)
    outcome = machine.snapper("restore", "data", "--replace")
    assert outcome.code == 0
    assert (
        f"{outdated}: discarded 8 files, such as 'mine0', 'mine1', 'mine2', 'mine3', 'mine4'" in outcome.err
    )
    assert "discarded" not in machine.snapper("restore", "data", "--replace").err
    shutil.rmtree(outdated / ".snapper")
    outcome = machine.snapper("restore", "data", "--replace")
    assert "discarded an environment that snapper had neither packed nor restored" in outcome.err


def test_other_environments_inside_of_an_environment_are_neither_packed_nor_replaced(
    machine: Machine, outdated: Path
) -> None:
    """The user has a second directory for environments in there, which conda's configuration names."""
    mine = outdated / "my-envs/work/secret"
    shutil.copytree(outdated / "conda-meta", outdated / "my-envs/work/conda-meta")
    (outdated / "my-envs/work/conda-meta/history").touch()
    (outdated / "lib/python3.12/site-packages/tests/conda-meta").mkdir(parents=True)
    (outdated / "lib/python3.12/site-packages/tests/conda-meta/history").touch()
    mine.write_text("secret")
    error = machine.expect_error(11, "restore", "data", "--replace")
    assert str(outdated / "my-envs/work") in error["message"]
    packed = machine.snapper("pack", "data", "--json").json
    assert packed["skipped"] == [{"path": "my-envs/work", "reason": "it is another environment"}]
    restored = machine.home / "again"
    machine.run_json("restore", "data", "--prefix", restored)
    assert not list(restored.rglob("secret"))
    assert (restored / "lib/python3.12/site-packages/tests/conda-meta/history").exists()
    assert mine.read_text() == "secret"
    (outdated / "my-envs").rename(outdated / "envs")
    machine.run_json("restore", "data", "--replace")
    assert (outdated / "envs/work/secret").read_text() == "secret"


def test_environment_that_an_older_version_restored_is_updated(machine: Machine, outdated: Path) -> None:
    """What has changed in it since can be told, although its files count as unread."""
    file = outdated / ".snapper/index"
    line, _, blocks = file.read_bytes().partition(b"\n")
    header = {key: value for key, value in json.loads(line).items() if key in OF_0_1_0}
    file.write_bytes(json.dumps({**header, "version": "0.1.0"}).encode() + b"\n" + blocks)
    (status,) = machine.run_json("status", "data")["environments"]
    assert status["condition"] == "unchanged"
    (outdated / "mine").touch()
    assert machine.expect_error(11, "restore", "data")
    (outdated / "mine").unlink()
    machine.run_json("restore", "data")
    assert (outdated / "new").exists()


def test_clone_that_conda_makes_is_another_environment(machine: Machine, outdated: Path) -> None:
    """conda copies what no package has, and replaces the prefix in it."""
    clone = outdated.with_name("clone")
    shutil.copytree(outdated, clone, symlinks=True)
    state = clone / ".snapper/state.json"
    state.write_text(state.read_text().replace(str(outdated), str(clone)))
    conditions = {entry["prefix"]: entry["condition"] for entry in machine.run_json("status")["environments"]}
    assert conditions == {str(outdated): "unchanged"}
    machine.run_json("restore", "data")
    assert (outdated / "new").exists()


def test_files_written_in_the_tick_of_the_index_count_as_changed(tmp_path: Path) -> None:
    """Where times are coarse, such as on network file systems, one can be written again without a trace."""
    taken = 5_000_000_000
    before, in_tick, in_future = (
        File(path, "file", 1, 0o644, mtime, ctime, 1, 1, 1)
        for path, mtime, ctime in (
            ("before", taken - 10**9, taken),
            ("in tick", taken, taken),
            ("in future", taken + 10**12, taken),
        )
    )
    for header in (IndexHeader("a" * 64, "/p", taken), IndexHeader("a" * 64, "/p", 0)):
        files = (before, in_tick, in_future)
        index = Index(header, {file.path: (*index_entry(file)[1:], 0) for file in files})
        assert find_drift(Tree(files, ()), index, lambda path: None).paths == (
            ["in tick"] if header.taken else []
        )


def test_pack_waits_until_the_clock_of_the_file_system_has_advanced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, what is written while it reads could look like what it has read."""
    prefix = make_data(tmp_path / "data")
    written = prefix / "notes"
    written.touch()
    monkeypatch.setattr(clock, "now", lambda _: written.stat().st_ctime_ns)
    packing.pack(open_store(str(tmp_path / "store"), create=True), prefix, "data", jobs=1)
    installed = InstalledEnvironment(prefix)
    assert installed.index is not None
    assert installed.index.header.taken > written.stat().st_ctime_ns
    assert installed.index.vouches(
        next(f for f in installed.tree.files if f.path == "notes"), written.stat().st_dev
    )


# --- when the store may not have the only other copy ------------------------------------------------------


def lose_layers(store: Path, _: str) -> None:
    shutil.rmtree(store / "layers")


def lose_history(store: Path, snapshot_id: str) -> None:
    """Write the entry as another publisher might: without the snapshot that this machine has."""
    file = store / "environments/data.json"
    entry = json.loads(file.read_text())
    entry["history"] = [change for change in entry["history"] if change["snapshot"] != snapshot_id]
    file.write_text(json.dumps(entry, sort_keys=True, separators=(",", ":")))


@pytest.mark.parametrize(
    ("lose", "reason"), [(lose_layers, "no longer complete"), (lose_history, "not in the history of 'data'")]
)
def test_environment_is_not_replaced_if_the_store_may_have_lost_it(
    lose: Callable[[Path, str], None], reason: str, machine: Machine, outdated: Path
) -> None:
    status = machine.run_json("status", "data")["environments"][0]
    assert (status["condition"], status["stored"]) == ("unchanged", True)
    lose(machine.store, status["snapshot"])
    assert reason in machine.expect_error(11, "restore", "data")["message"]
    assert not (outdated / "new").exists()
    stored = machine.run_json("status", "data")["environments"][0]["stored"]
    assert stored == (lose is lose_layers)


# --- directories that snapper or the user needs -----------------------------------------------------------


@pytest.mark.parametrize("inside", ["HOME", "SNAPPER_STORE", "SNAPPER_CACHE", "XDG_STATE_HOME"])
def test_environment_that_contains_what_is_in_use_is_neither_packed_nor_replaced(
    inside: str, machine: Machine, tmp_path: Path
) -> None:
    """conda has been installed into the home directory, or the user keeps the store in an environment."""
    prefix = make_data(tmp_path / "other/data")
    machine.run_json("pack", "-p", prefix)
    within = prefix / "within"
    variables = {inside: str(within)}
    if inside == "SNAPPER_STORE":
        shutil.copytree(machine.store, within)
    else:
        within.mkdir()
    (within / "secret").write_text("secret")
    error = machine.expect_error(2, "pack", "-p", prefix, **variables)
    assert str(within) in error["message"]
    error = machine.expect_error(11, "restore", "data", "-p", prefix, "--replace", **variables)
    assert str(within) in error["message"]
    assert (within / "secret").read_text() == "secret"


# --- what an update takes from the environment that it replaces -------------------------------------------


def distribution(site: Path, name: str, **contents: str | bytes) -> None:
    """Install a distribution with modules and data of these names as pip does; it becomes a layer of its own."""
    metadata = site / f"{name}-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")
    for file, content in contents.items():
        (site / file.replace("__", ".")).write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    listed = [*(file.replace("__", ".") for file in contents), f"{metadata.name}/METADATA"]
    (metadata / "RECORD").write_text("".join(f"{path},,\n" for path in listed))


def add_files_that_packing_changes(prefix: Path, home: Path) -> None:
    """Add files that name the environment by its real path, are elsewhere, or are in the place of others."""
    real, site = os.path.realpath(prefix), prefix / "lib/python3.6/site-packages"
    site.mkdir(parents=True)
    (site.parent / "os.py").touch()
    distribution(site, "spelled", spelled__py=f"x = '{prefix}/x'", unchanged__py="")
    distribution(site, "real", real__py=f"x = '{real}/x'")
    distribution(site, "both", both__py=f"x = '{real}/x', '{prefix}/x'")
    distribution(site, "wide", wide__txt=f"{real}/x".encode("utf-16"))
    distribution(site, "escaped", escaped__json=f"{real}/x".replace("/", "\\/"))
    distribution(site, "script", script__sh=f"#!{real}/bin/python\n")
    distribution(site, "long", long__sh=f"#!{prefix}/{'x' * 200}/python\n")
    distribution(site, "module", module__pyc=compiled("x = 1", f"{real}/lib/module.py", 5))
    distribution(site, "reproducible", reproducible__pyc=compiled("x = 1", "module.py", LINK_TIME))
    distribution(site, "first", first__txt=f"{real}/x")
    distribution(site, "second", second__txt="")
    (site / "second.txt").unlink()
    os.link(site / "first.txt", site / "second.txt")
    distribution(site, "link", link__txt="")
    (site / "link.txt").unlink()
    (site / "link.txt").symlink_to(f"{real}/lib")
    distribution(site, "six", six__py="old")
    distribution(home / ".local/lib/python3.6/site-packages", "six", six__py="included")
    project = home / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text("[project]\nname = 'project'\n")
    (project / "project.py").write_text(f"x = '{project}'")
    url = json.dumps({"url": f"file://{project}", "dir_info": {"editable": True}})
    distribution(site, "project", project__pth=f"{project}\n")
    (site / "project-1.dist-info/direct_url.json").write_text(url)
    with (site / "project-1.dist-info/RECORD").open("a") as record:
        record.write("project-1.dist-info/direct_url.json,,\n")
    distribution(site, "mention", mention__txt=f"{project}/data")


def compiled(source: str, path: str, mtime: int) -> bytes:
    """Compile a module as if it was at the path and had this time, in seconds."""
    header = importlib.util.MAGIC_NUMBER + struct.pack("<III", 0, mtime, len(source))
    return header + marshal.dumps(compile(source, path, "exec"))


def contents_of(prefix: Path) -> dict[str, tuple[object, ...]]:
    """Return what is at each path, with the first path of the same file."""
    first: dict[int, str] = {}
    files = sorted(path for path in prefix.rglob("*") if ".snapper" not in path.parts)
    return {
        str(path): (
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "",
            path.lstat().st_mode,
            path.lstat().st_mtime_ns if path.is_file() and not path.is_symlink() else 0,
            first.setdefault(path.lstat().st_ino, str(path)),
        )
        for path in files
    }


def test_files_that_named_what_was_included_are_read_again(machine: Machine) -> None:
    """They are packed as they are when nothing is included any more."""
    prefix = make_data(machine.envs / "work")
    add_files_that_packing_changes(prefix, machine.home)
    machine.snapper("pack", "work", "--editable=include", "--user-site=include")
    without = machine.snapper("pack", "work", "--editable=ignore", "--json").json
    full = machine.snapper("pack", "work", "--editable=ignore", "--full", "--json").json
    assert (without["snapshot"], without["unchanged"]) == (full["snapshot"], False)


@pytest.mark.parametrize("policy", ["include", "ignore"])
def test_update_in_place_gives_what_a_new_restore_gives(
    policy: str, machine: Machine, tmp_path: Path
) -> None:
    """Files are only taken from the replaced environment if restoring their layers gives the same.

    Packs need not read them again, except for what was packed with something from elsewhere.
    """
    home = tmp_path / "home"
    (tmp_path / "volume/home").mkdir(parents=True)
    home.symlink_to("volume/home")
    user = Machine(home, home / "envs", machine.store)
    prefix = make_data(user.envs / "work")
    add_files_that_packing_changes(prefix, home)
    options = ["--editable=ignore"]
    if policy == "include":
        options = ["--editable=include", "--user-site=include"]
    assert user.snapper("pack", "work", *options).code == 3
    (prefix / "own").touch()
    assert user.snapper("pack", "work", *options).code == 3
    previous = previous_pack(prefix)
    assert previous
    assert previous.is_unchanged() is (policy == "ignore")
    assert machine.snapper("restore", "work").code == 3
    (machine.envs / "work/new").touch()
    machine.snapper("pack", "work", "--editable=ignore")
    unchanged = prefix / "lib/python3.6/site-packages/unchanged.py"
    inode = unchanged.stat().st_ino
    updated = user.snapper("restore", "work", "--replace")
    assert (prefix / "new").exists()
    assert unchanged.stat().st_ino == inode
    in_place = contents_of(prefix)
    prefix.rename(tmp_path / "replaced")
    assert user.snapper("restore", "work").code == updated.code
    assert contents_of(prefix) == in_place


# --- changes that keep size, mode, and mtime --------------------------------------------------------------


def update(store: Store, prefix: Path, snapshot: str = "work", *, replace: bool = False) -> str:
    """Restore; return what the error says, if there is one."""
    (done,) = restore(
        store, [RestoreRequest(SnapshotSpec.parse(snapshot), prefix=prefix, replace=replace)], jobs=1
    )
    return done.error.message if isinstance(done, RestoreFailure) else ""


@pytest.fixture
def reproducible(scratch: Path) -> tuple[Store, Path]:
    """Return a store, and an environment with files of one size and time, of which it has a newer snapshot."""
    store, prefix = open_store(str(scratch / "store"), create=True), scratch / "work"
    for directory in ("conda-meta", "models"):
        (prefix / directory).mkdir(parents=True)
    (prefix / "conda-meta/history").touch()
    for name in ("active", "second"):
        (prefix / "models" / name).write_text(f"{name:10}")
    (prefix / "models/link").symlink_to("active")
    (prefix / "models/twin").hardlink_to(prefix / "models/second")
    distribution(prefix / "lib/python3.11/site-packages", "thing", thing__py="x = 1")
    for path in prefix.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    packing.pack(store, prefix, "work", jobs=1)
    (prefix / "models/second").write_text("updated")
    (prefix / "models/link").unlink()
    (prefix / "models/link").symlink_to("twin")
    packing.pack(store, prefix, "work", jobs=1)
    assert update(store, prefix, "work@~1") == ""
    return store, prefix


def test_files_with_another_inode_or_ctime_are_looked_at() -> None:
    file = File("a", "file", 1, 0o644, 5, 7, 9, 11, 1)
    for row, taken, touched in (
        ((1, 0o644, 5, 7, 9, 0), 8, []),
        ((1, 0o644, 5, 6, 9, 0), 8, ["a"]),
        ((1, 0o644, 5, 7, 8, 0), 8, ["a"]),
        ((1, 0o644, 5, 7, 9, 0), 7, ["a"]),
        ((1, 0o644, 5, ANY_CTIME, 9, 0), 8, []),
        ((1, 0o644, 5, ANY_CTIME, 9, 0), 7, ["a"]),
        ((1, 0o644, 5, 7, 8, NO_LAYER), 8, []),
    ):
        index = Index(IndexHeader("a" * 64, "/p", taken), {"a": row})
        assert list(find_drift(Tree((file,), ()), index, lambda path: None).touched) == touched


def keep_times(path: Path, times: os.stat_result) -> None:
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns), follow_symlinks=False)


def test_changes_that_keep_size_and_time_are_not_lost(reproducible: tuple[Store, Path]) -> None:
    """Files exchange their names, one is overwritten, a link and one of two hard links are replaced."""
    store, prefix = reproducible
    active, second, link, twin = (prefix / "models" / name for name in ("active", "second", "link", "twin"))
    thing = prefix / "lib/python3.11/site-packages/thing.py"
    times = {path: path.lstat() for path in (thing, link, twin)}
    second.rename(prefix / "aside")
    active.rename(second)
    (prefix / "aside").rename(active)
    thing.write_text("x = 2")
    twin.unlink()
    twin.write_text(f"{'third':10}")
    link.unlink()
    link.symlink_to("failed")
    for path, before in times.items():
        keep_times(path, before)
    contents = contents_of(prefix)
    assert "5 files, such as 'lib/python3.11/site-packages/thing.py'" in update(store, prefix)
    assert contents_of(prefix) == contents
    assert update(store, prefix, replace=True) == ""
    assert second.read_text() == "updated"


def copied(prefix: Path) -> None:
    """The environment is put back from a copy, in which hard links have become files of their own."""
    original = prefix.rename(prefix.parent / "original")
    shutil.copytree(original, prefix, symlinks=True)
    for path in original.rglob("*"):
        keep_times(prefix / path.relative_to(original), path.lstat())


def linked(prefix: Path) -> None:
    """A backup has hard links to all files, and the mode of some has changed and changed back."""
    shutil.copytree(prefix, prefix.parent / "backup", symlinks=True, copy_function=os.link)
    for mode in (0o600, 0o644):
        (prefix / "models/active").chmod(mode)


@pytest.mark.parametrize("touch", [copied, linked])
def test_files_with_the_same_contents_have_not_changed(
    touch: Callable[[Path], None], reproducible: tuple[Store, Path]
) -> None:
    """Only their inode or ctime differs; the update has others."""
    store, prefix = reproducible
    touch(prefix)
    assert update(store, prefix) == ""
    assert (prefix / "models/second").read_text() == "updated"
