"""File systems without locks, without fsync of directories, and without other features of those of Linux."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from snapper.checks.file_systems import check_locks
from snapper.environment.staging_lock import lock_staging
from snapper.errors import Corrupted, FileOperationFailed, TargetLocked
from snapper.fs import atomic, leases
from snapper.fs.directories import closing_descriptor, link_or_copy
from snapper.fs.locks import HeldLock, hold, is_locked
from snapper.fs.moves import Entry, move
from snapper.process.identity import boot_id, hostname
from snapper.restoring.errors import unpack_errors
from snapper.settings.file import write_setting
from snapper.store import VersionMismatch, open_store
from tests.conftest import Machine
from tests.support.environments import make_data

NO_LOCKS = ("ENOSYS", "ENOLCK", "EOPNOTSUPP")
NO_SYNC = ("EINVAL", "ENOTSUP", "EBADF")


def failing(name: str) -> Callable[..., None]:
    code = getattr(errno, name)

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.fixture(autouse=True)
def nothing_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_reported", set())


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", failing("ENOSYS"))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Entry]:
    (tmp_path / "lock").touch()
    with closing_descriptor(os.open(tmp_path, os.O_RDONLY)) as directory:
        yield Entry(directory, "lock")


def take(file: Entry) -> HeldLock | None:
    descriptor = os.open(file.name, os.O_RDWR, dir_fd=file.directory)
    held = hold(file, descriptor)
    if held is None:
        os.close(descriptor)
    return held


def plant(path: Path, age: float = 0, **fields: object) -> Path:
    """Write a lease of another process."""
    lease = path / "lock.0123456789abcdef.lease"
    lease.write_text(json.dumps({"user": "ann@far", **fields}))
    os.utime(lease, (time.time() - age,) * 2)
    return lease


@pytest.mark.parametrize("name", NO_LOCKS)
def test_lock_files_exclude_others_where_flock_fails(
    name: str, file: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(name))
    for _ in range(2):
        held = take(file)
        assert held
        assert take(file) is None
        assert is_locked(file.name, file.directory)
        held.release()
        assert not is_locked(file.name, file.directory)
    assert os.listdir(tmp_path) == ["lock"]
    assert len(caplog.messages) == 1
    assert "has no locks (flock), so lock files are used" in caplog.text


def test_other_errors_of_flock_are_raised(file: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", failing("EIO"))
    with pytest.raises(OSError, match="Input/output error"):
        take(file)


def dead_process() -> int:
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


@pytest.mark.parametrize(
    ("fields", "age", "is_held"),
    [
        ({"host": "far", "boot": "b", "pid": 1}, 0, True),
        ({"host": "far", "boot": "b", "pid": 1}, leases.EXPIRES_AFTER + 10, False),
        ({"host": "far", "boot": "b", "pid": 1}, -leases.EXPIRES_AFTER - 10, False),
        (
            {"host": hostname(), "boot": "an earlier one", "pid": os.getpid()},
            leases.EXPIRES_AFTER + 10,
            False,
        ),
        ({"host": hostname(), "boot": boot_id(), "pid": os.getpid()}, 1e6, True),
        ({"host": hostname(), "boot": boot_id(), "pid": os.getpid(), "started": "1"}, 0, False),
        ({"host": hostname(), "boot": boot_id(), "pid": "dead"}, 0, False),
        ({"pid": [], "unknown": 1}, 0, True),
    ],
    ids=["renewed", "expired", "future", "boot", "alive", "PID reused", "dead", "invalid"],
)
@pytest.mark.usefixtures("without_locks")
def test_lock_files_expire(
    fields: dict[str, object], age: float, is_held: bool, file: Entry, tmp_path: Path
) -> None:
    if fields["pid"] == "dead":
        fields = {**fields, "pid": dead_process()}
    lease = plant(tmp_path, age, **fields)
    assert is_locked(file.name, file.directory) == is_held
    held = take(file)
    assert (held is None) == is_held == lease.exists()
    if held:
        held.release()


@pytest.mark.usefixtures("without_locks")
def test_holder_renews_its_lock_file(file: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_RENEWED_EVERY", 0.01)
    held = take(file)
    assert held
    (lease,) = tmp_path.glob("*.lease")
    os.utime(lease, (0, 0))
    deadline = time.monotonic() + 10
    while lease.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lease.stat().st_mtime
    held.release()


INCREMENT = """
import errno, fcntl, os, sys, time
from snapper.fs.lock_file import locked
def fail(*_): raise OSError(errno.ENOLCK, "no locks")
fcntl.flock = fail
directory = os.open(sys.argv[1], os.O_RDONLY)
for _ in range(20):
    with locked(directory, print):
        with open(sys.argv[1] + "/count") as file: value = int(file.read())
        time.sleep(0.001)
        with open(sys.argv[1] + "/count", "w") as file: file.write(str(value + 1))
"""


def test_processes_exclude_each_other_without_flock(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", INCREMENT, str(tmp_path)]
    with ExitStack() as running:
        processes = [
            running.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL)) for _ in range(3)
        ]
        assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "60"
    assert sorted(os.listdir(tmp_path)) == [".lock", "count"]


@pytest.mark.usefixtures("without_locks")
def test_staging_is_locked_without_flock(tmp_path: Path) -> None:
    target = tmp_path / "x"
    with closing_descriptor(os.open(tmp_path, os.O_RDONLY)) as parent:
        staging = lock_staging(parent, tmp_path / ".x.snapper", target)
        with pytest.raises(TargetLocked, match="process"):
            lock_staging(parent, tmp_path / ".x.snapper", target)
        staging.release()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", NO_LOCKS)
def test_store_and_settings_without_flock(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(name))
    monkeypatch.setenv("SNAPPER_CONFIG", str(tmp_path / "settings.toml"))
    monkeypatch.setenv("SNAPPER_STATE_DIR", str(tmp_path / "state"))
    store = open_store(str(tmp_path / "store"), create=True)
    store.replace("environments/x.json", b"one", None)
    _, version = store.read_versioned("environments/x.json")
    before = time.monotonic()
    store.replace("environments/x.json", b"two", version)
    assert time.monotonic() - before < 0.5
    with pytest.raises(VersionMismatch):
        store.replace("environments/x.json", b"three", version)
    assert "lock files are used" in caplog.text
    write_setting("jobs", 2)
    assert [path for path in tmp_path.rglob("*") if "lease" in path.name] == []


@pytest.mark.usefixtures("without_locks")
def test_old_temporary_files_are_removed_without_flock(tmp_path: Path) -> None:
    for name, age in (("new", 60), ("old", 2 * atomic._ABANDONED_AFTER)):
        temporary = tmp_path / f".{name}.0123456789abcdef"
        temporary.touch()
        os.utime(temporary, (time.time() - age,) * 2)
    assert atomic.remove_leftovers(tmp_path) == 1
    assert os.listdir(tmp_path) == [".new.0123456789abcdef"]


@pytest.mark.parametrize("name", NO_SYNC)
def test_store_on_a_file_system_without_sync_of_directories(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(descriptor: int, really: Callable[[int], None] = os.fsync) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            failing(name)()
        really(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    store = open_store(str(tmp_path / "new" / "store"), create=True)
    store.replace("environments/x.json", b"one", None)
    _, version = store.read_versioned("environments/x.json")
    store.replace("environments/x.json", b"two", version)
    assert store.read("environments/x.json") == b"two"
    assert store.delete("environments/x.json")


def without(function: str, code: str, machine: Machine) -> dict[str, str]:
    """Return variables with which programs in Python get an error from functions of `os`."""
    site = machine.home / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(
        "import errno, os\n"
        "def fail(*_, **__):\n"
        f"    raise OSError(errno.{code}, os.strerror(errno.{code}))\n"
        + "".join(f"os.{name} = fail\n" for name in function.split())
    )
    return {"PYTHONPATH": str(site)}


def test_environments_are_restored_without_hard_links_and_modes(machine: Machine) -> None:
    prefix = make_data(machine.envs / "data")
    (prefix / "one").write_text("shared")
    os.link(prefix / "one", prefix / "two")
    os.utime(prefix / "one", ns=(1, 1_700_000_000_123_456_789))
    before = {path: path.read_bytes() for path in prefix.rglob("*") if path.is_file()}
    first = machine.run_json("pack", "data")["snapshot"]
    (prefix / "three").write_text("more")
    machine.run_json("pack", "data")
    shutil.rmtree(prefix)
    variables = without("link chmod fchmod", "EPERM", machine)
    for snapshot in ("data", f"data@{first[:8]}"):
        machine.run_json("restore", snapshot, **variables)
        assert {path: path.read_bytes() for path in before} == before
        assert (prefix / "two").stat().st_mtime_ns == 1_700_000_000_123_456_789
    assert machine.snapper("status", "data", **variables).out.count("unchanged") == 1


@pytest.mark.parametrize("name", ["EMLINK", "EPERM", "ENOTSUP"])
def test_files_are_copied_where_hard_links_are_refused(
    name: str, file: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock").write_text("data")
    (tmp_path / "lock").chmod(0o751)
    monkeypatch.setattr(os, "link", failing(name))
    link_or_copy(file, Entry(file.directory, "copy"))
    assert (tmp_path / "copy").read_text() == "data"
    one, two = (tmp_path / "lock").stat(), (tmp_path / "copy").stat()
    assert (one.st_mode, one.st_mtime_ns) == (two.st_mode, two.st_mtime_ns)
    assert one.st_ino != two.st_ino


def test_doctor_names_what_is_missing_and_restore_refuses_without_symlinks(machine: Machine) -> None:
    prefix = make_data(machine.envs / "data")
    machine.run_json("pack", "data")
    shutil.rmtree(prefix)
    assert "File system" not in machine.snapper("doctor").out
    variables = without("symlink link", "EPERM", machine)
    outcome = machine.snapper("restore", "data", **variables)
    assert outcome.code == 1
    assert f"{prefix}: its file system has no symbolic links, which environments need" in outcome.err
    assert os.listdir(machine.envs) == []
    found = machine.snapper("doctor", **variables).out
    assert "has no symbolic links" in " ".join(found.split())
    assert "has no hard links" in " ".join(found.split())
    assert os.listdir(machine.envs) == []


@pytest.mark.parametrize("ignores_case", [True, False])
def test_names_that_differ_only_in_case_are_no_damage(ignores_case: bool, tmp_path: Path) -> None:
    """Directories of both names stand for a file system that does not distinguish them."""
    for name in (".x.snapper", ".X.SNAPPER") if ignores_case else (".x.snapper",):
        (tmp_path / name).mkdir()
    expected = FileOperationFailed if ignores_case else Corrupted
    with pytest.raises(expected), unpack_errors("snapshot", str(tmp_path / "x")):
        failing("EEXIST")()


@pytest.mark.parametrize("name", ["ENOSYS", "EINVAL", "EOPNOTSUPP"])
def test_entries_are_moved_where_the_system_cannot_check_and_rename_in_one_step(
    name: str, file: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(renameat2=lambda *_: -1))
    monkeypatch.setattr(ctypes, "get_errno", lambda: getattr(errno, name))
    move(file, Entry(file.directory, "moved"))
    assert os.listdir(tmp_path) == ["moved"]
    (tmp_path / "lock").touch()
    with pytest.raises(FileExistsError):
        move(file, Entry(file.directory, "moved"))


@pytest.mark.parametrize("has_locks", [True, False])
def test_doctor_says_that_a_store_has_no_locks(
    has_locks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(str(tmp_path), create=True)
    if not has_locks:
        monkeypatch.setattr(fcntl, "flock", failing("ENOLCK"))
    assert [finding.level for finding in check_locks(tmp_path)] == ([] if has_locks else ["note"])
