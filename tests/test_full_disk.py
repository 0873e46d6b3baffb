"""Full and read-only disks: nothing is left half done, and the same command succeeds once there is space.

The disks are small memory file systems, which only root may mount; other users run these tests in a namespace where
they are root.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Machine, tree_of
from tests.support.commands import RunningCommand, halt_between, staging_has, start_command
from tests.support.disk import PAGE_SIZE, Disk
from tests.support.environments import make_data, make_many
from tests.support.stores import check_store

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount; see test_in_a_namespace")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    yield made
    subprocess.run(["umount", "-l", str(made.path)], capture_output=True, check=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can run the tests directly")
def test_in_a_namespace() -> None:
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("this user may not make a namespace to mount in")
    command = [*namespace, sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@root_only
def test_linked_files_need_no_space(machine: Machine, disk: Disk) -> None:
    """A snapshot with little new data replaces one that fills more than half of the disk."""
    disk.mount(2048 * PAGE_SIZE)
    prefix = make_data(machine.envs / "data")
    (prefix / "large").write_bytes(os.urandom(1024 * PAGE_SIZE))
    first = machine.run_json("pack", "data")["snapshot"]
    info = prefix / "lib" / "small-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small\nVersion: 1.0\n\n")
    (info / "RECORD").write_text("small-1.0.dist-info/METADATA,,\nsmall-1.0.dist-info/RECORD,,\n")
    machine.run_json("pack", "data")
    prefix_path = disk.path / "data"
    machine.run_json("restore", f"data@{first[:8]}", "-p", prefix_path)
    inode = (prefix_path / "large").stat().st_ino
    machine.run_json("restore", "data", "-p", prefix_path)
    assert (prefix_path / "large").stat().st_ino == inode
    assert (prefix_path / "lib" / "small-1.0.dist-info" / "METADATA").exists()
    machine.run_json("restore", f"data@{first[:8]}", "-p", prefix_path)


# --- the store --------------------------------------------------------------------------------------------


@root_only
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_pack_to_a_store_with_too_little_space_can_be_repeated(
    known: bool, machine: Machine, disk: Disk
) -> None:
    """The disk grows from attempt to attempt, so that each fails at another point."""
    prefix = make_data(machine.envs / "data")
    before: dict[str, str] = {}
    disk.mount(256 * PAGE_SIZE)
    store = disk.path / "store"
    size = 0
    if known:
        before = {"data": machine.run_json("pack", "data", "--store", store)["snapshot"]}
        (prefix / "more").write_bytes(os.urandom(2 * PAGE_SIZE))
        size = sum(-(-path.stat().st_size // PAGE_SIZE) for path in store.rglob("*") if path.is_file()) - 1
    failures = 0
    while True:
        size += 1 if known else 2
        disk.set(f"size={size * PAGE_SIZE}")
        outcome = machine.snapper("pack", "data", "--store", store, "--json")
        if outcome.code == 0:
            break
        assert outcome.code == 1, outcome
        error = outcome.json["error"]
        assert error["type"] == "InsufficientSpace"
        assert str(store) in error["message"]
        assert "Free some space" in error["hint"]
        failures += 1
        if (store / "snapper.json").exists():
            assert check_store(store) == before
        else:
            assert [path for path in store.rglob("*") if not path.is_dir()] == []
    assert failures > 3
    assert check_store(store) == {"data": outcome.json["snapshot"]}
    machine.run_json("restore", "data", "--store", store, "--prefix", machine.home / "again")
    again = tree_of(machine.home / "again")
    assert again.keys() == tree_of(prefix).keys()


@root_only
def test_store_full_when_the_ref_is_written_keeps_the_previous_snapshot(machine: Machine, disk: Disk) -> None:
    prefix = make_data(machine.envs / "data")
    disk.mount(128 * PAGE_SIZE)
    store = disk.path / "store"
    first = machine.run_json("pack", "data", "--store", store)["snapshot"]
    (prefix / "more").write_text("more")
    with (store / "environments" / "data.json").open("r+b") as entry:
        fcntl.flock(entry, fcntl.LOCK_EX)
        running = start_command(machine, "pack", "data", "--store", store, "--json")
        assert running.reaches(lambda: len([*(store / "snapshots").glob("[!.]*")]) == 2)
        hog = disk.fill()
    outcome = running.finish()
    assert outcome.code == 1, outcome
    assert outcome.json["error"]["type"] == "InsufficientSpace"
    assert check_store(store) == {"data": first}
    hog.unlink()
    second = machine.run_json("pack", "data", "--store", store)["snapshot"]
    assert check_store(store) == {"data": second} != {"data": first}


@root_only
def test_pack_to_a_store_with_too_few_inodes_can_be_repeated(machine: Machine, disk: Disk) -> None:
    make_data(machine.envs / "data")
    disk.mount(1024 * PAGE_SIZE, inodes=8)
    store = disk.path / "store"
    error = machine.expect_error(1, "pack", "data", "--store", store)
    assert error["type"] == "InsufficientSpace"
    assert check_store(store) == {}
    disk.set("nr_inodes=100")
    machine.run_json("pack", "data", "--store", store)
    check_store(store)


@root_only
def test_read_only_store_can_be_read_but_not_written(machine: Machine, disk: Disk) -> None:
    prefix = make_data(machine.envs / "data")
    disk.mount(1024 * PAGE_SIZE)
    store = disk.path / "store"
    disk.set("ro")
    error = machine.expect_error(13, "pack", "data", "--store", store)
    assert error["type"] == "StoreRefused"
    assert "Read-only file system" in error["message"]
    disk.set("rw")
    machine.run_json("pack", "data", "--store", store)
    disk.set("ro")
    machine.run_json("list", "--store", store)
    machine.run_json("restore", "data", "--store", store, "--prefix", machine.home / "again")
    assert machine.run_json("pack", "data", "--store", store)["unchanged"]
    before = tree_of(store)
    (prefix / "more").write_text("more")
    outcome = machine.snapper("pack", "data", "--store", store)
    assert outcome.code == 13
    assert "Read-only file system" in outcome.err
    assert tree_of(store) == before
    disk.set("rw")
    assert not machine.run_json("pack", "data", "--store", store)["unchanged"]


# --- the environment --------------------------------------------------------------------------------------


@root_only
def test_read_only_environment_can_be_packed(machine: Machine, disk: Disk) -> None:
    disk.mount(1024 * PAGE_SIZE)
    prefix = make_data(disk.path / "data")
    disk.set("ro")
    first = machine.run_json("pack", "-p", prefix)
    assert machine.run_json("pack", "-p", prefix)["unchanged"]
    assert not (prefix / ".snapper").exists()
    assert check_store(machine.store) == {"data": first["snapshot"]}


@pytest.fixture
def stocked(machine: Machine) -> Machine:
    """A machine with the environment `data` in its store but not on disk."""
    prefix = make_data(machine.envs / "data")
    machine.run_json("pack", "data")
    shutil.rmtree(prefix)
    return machine


@root_only
def test_restore_with_too_little_space_leaves_nothing_behind(stocked: Machine, disk: Disk) -> None:
    """The disk grows from attempt to attempt, from a size that the check beforehand rejects."""
    disk.mount(PAGE_SIZE)
    target = disk.path / "envs" / "data"
    error = stocked.expect_error(1, "restore", "data", "--prefix", target)
    assert error["type"] == "InsufficientSpace"
    assert "bytes are needed" in error["message"]
    assert f"{PAGE_SIZE:,} are free" in error["message"]
    assert [*disk.path.iterdir()] == []
    size, seen = 100, set()
    while True:
        size += 1
        disk.set(f"size={size * PAGE_SIZE}")
        outcome = stocked.snapper("restore", "data", "--prefix", target, "--json")
        if outcome.code == 0:
            break
        assert outcome.code == 1, outcome
        assert outcome.json["error"]["type"] == "InsufficientSpace"
        assert not target.exists()
        seen.add("needed" in outcome.json["error"]["message"])
        assert not any(path.is_file() for path in disk.path.rglob("*"))
        if "needed" in outcome.json["error"]["message"]:
            size += 8
    assert True in seen
    assert (target / "conda-meta").is_dir()
    assert [*target.parent.iterdir()] == [target]


@root_only
def test_restore_with_too_few_inodes_leaves_nothing_behind(stocked: Machine, disk: Disk) -> None:
    disk.mount(1024 * PAGE_SIZE, inodes=10)
    target = disk.path / "data"
    error = stocked.expect_error(1, "restore", "data", "--prefix", target)
    assert error["type"] == "InsufficientSpace"
    assert "inodes" in error["message"]
    assert [*disk.path.iterdir()] == []
    disk.set("nr_inodes=20")
    error = stocked.expect_error(1, "restore", "data", "--prefix", target)
    assert "no space left" in error["message"]
    assert [*disk.path.iterdir()] == []
    disk.set("nr_inodes=100")
    stocked.run_json("restore", "data", "--prefix", target)


@root_only
@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_disk_that_fills_up_while_restoring_keeps_the_old_tree(
    old: bool, machine: Machine, disk: Disk
) -> None:
    """While the command is stopped, somebody else takes the space that it has reserved."""
    source = make_many(machine.envs / "many")
    machine.run_json("pack", "many")
    size = sum(path.stat().st_size + PAGE_SIZE for path in source.rglob("*"))
    disk.mount(2 * size)
    target = disk.path / "many"
    if old:
        make_data(target)
    before = tree_of(target)
    command = ("restore", "many", "--prefix", target, "--replace")

    def start() -> RunningCommand:
        if (target / "lib").exists():
            shutil.rmtree(target)
            if old:
                make_data(target)
        return start_command(machine, *command, "--json", "--jobs", 1)

    running = halt_between(start, staging_has(target, "lib/*"), (target / "lib").exists)
    hog = disk.fill()
    running.process.send_signal(signal.SIGCONT)
    outcome = running.finish()
    assert outcome.code == 1, outcome
    error = outcome.json["error"]
    assert error["type"] == "InsufficientSpace"
    assert str(disk.path) in error["message"]
    assert tree_of(target) == before
    assert {*disk.path.iterdir()} == ({hog, target} if old else {hog})
    hog.unlink()
    machine.run_json(*command)
    assert tree_of(target).keys() == tree_of(source).keys()
    assert [*disk.path.iterdir()] == [target]


@root_only
def test_restore_to_a_read_only_disk_is_refused(stocked: Machine, disk: Disk) -> None:
    disk.mount(1024 * PAGE_SIZE)
    disk.set("ro")
    for target in (disk.path / "data", disk.path / "new" / "data"):
        error = stocked.expect_error(1, "restore", "data", "--prefix", target)
        assert "read-only file system" in error["message"]
        assert str(disk.path) in error["message"]
        assert error["hint"]
    disk.set("rw")
    stocked.run_json("restore", "data", "--prefix", disk.path / "data")


@root_only
def test_full_home_directory_fails_the_kernel_but_not_the_restore(machine: Machine, disk: Disk) -> None:
    prefix = make_data(machine.envs / "data")
    prefix_path = prefix / "share/jupyter/kernels/textual"
    prefix_path.mkdir(parents=True)
    (prefix_path / "kernel.json").write_text(
        '{"argv": ["/bin/true"], "display_name": "Text", "language": "text"}'
    )
    machine.run_json("pack", "data")
    shutil.rmtree(prefix)
    disk.mount(8 * PAGE_SIZE)
    hog = disk.fill()
    outcome = machine.snapper("restore", "data", "--json", HOME=str(disk.path))
    assert outcome.code == 3, outcome
    (document,) = outcome.json["restored"]
    assert "No space left" in document["kernels"][0]["problem"]
    assert (prefix / "conda-meta").is_dir()
    hog.unlink()
    (document,) = machine.run_json("restore", "data", HOME=str(disk.path))["restored"]
    assert document["present"]
    assert document["kernels"][0]["problem"] == ""
    assert (disk.path / ".conda" / "environments.txt").read_text() == f"{prefix}\n"
