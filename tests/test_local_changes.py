"""An environment has changed if data would be lost with it, whatever its times, modes, and owners are."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import ANY

import pytest

from snapper.commands import pack as packing
from snapper.commands.restore import RestoreFailure, RestoreResult, restore
from snapper.commands.status import environment_status
from snapper.environment import contents, state
from snapper.environment.installed import InstalledEnvironment
from snapper.format.constraints import packed_mode
from snapper.fs.directories import opened_directory
from snapper.repository.refs import lineage, read_ref
from snapper.repository.specs import SnapshotSpec
from snapper.restoring import remains, replaced, staging
from snapper.restoring.leftovers import remove_leftover_staging
from snapper.restoring.requests import RestoreRequest
from snapper.settings.keys import OnChange
from snapper.store import Store, open_store
from snapper.store.local import LocalStore
from tests.conftest import Machine, tree_of
from tests.support.access_lists import deny_others_in
from tests.support.environments import make_data
from tests.support.processes import forking
from tests.support.users import unprivileged
from tests.support.volumes import mounted

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

SITE = "lib/python3.11/site-packages"


class Restored(NamedTuple):
    """A store with two snapshots of an environment, and the first one on disk."""

    store: Store
    prefix: Path


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    top = tmp_path_factory.mktemp("packed")
    store, prefix = open_store(str(top / "store"), create=True), top / "work"
    for path, text in {
        "conda-meta/history": "",
        "bin/tool": f"#!{prefix}/bin/python\nprint('tool')\n",
        f"{SITE}/module.py": "x = 1\n",
        f"{SITE}/thing-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1\n",
        f"{SITE}/thing-1.dist-info/RECORD": "module.py,,\nthing-1.dist-info/METADATA,,\n",
        "etc/config": "contents",
        "share/data/results.csv": "1,2,3",
    }.items():
        (prefix / path).parent.mkdir(parents=True, exist_ok=True)
        (prefix / path).write_text(text)
    (prefix / "bin/tool").chmod(0o755)
    (prefix / "share/twin").hardlink_to(prefix / "etc/config")
    (prefix / "share/link").symlink_to("data/results.csv")
    packing.pack(store, prefix, "work", jobs=1)
    (prefix / "share/new").write_text("new")
    packing.pack(store, prefix, "work", jobs=1)
    shutil.rmtree(prefix)
    return store


@pytest.fixture
def restored(packed: Store, scratch: Path) -> Restored:
    prefix = scratch / "work"
    assert isinstance(restore_to(packed, prefix, "work@~1"), RestoreResult)
    return Restored(packed, prefix)


def restore_to(
    store: Store,
    prefix: Path,
    snapshot: str = "work",
    *,
    keep_changed: bool = False,
    on_change: OnChange = "refuse",
) -> RestoreResult | RestoreFailure:
    request = RestoreRequest(
        SnapshotSpec.parse(snapshot), prefix=prefix, keep_changed=keep_changed, on_change=on_change
    )
    (done,) = restore(store, [request], jobs=1)
    return done


# --- what happens to environments -------------------------------------------------------------------------


def rewrite(prefix: Path) -> None:
    """An activation script writes what is there."""
    file = prefix / "etc/config"
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data)


def rewrite_in_place(prefix: Path) -> None:
    for path in ("bin/tool", f"{SITE}/module.py"):
        (prefix / path).write_bytes((prefix / path).read_bytes())


def touch(prefix: Path) -> None:
    for path in prefix.rglob("*"):
        if ".snapper" not in path.parts:
            os.utime(path, follow_symlinks=False)


def set_clock(prefix: Path) -> None:
    """Files have been written while the clock was wrong."""
    for path, time in (("etc/config", 4_000_000_000), ("share/data/results.csv", 0)):
        os.utime(prefix / path, (time, time))


def round_times(prefix: Path) -> None:
    """As vfat does."""
    for path in prefix.rglob("*"):
        if path.is_file() and ".snapper" not in path.parts:
            time = int(path.stat().st_mtime) // 2 * 2
            os.utime(path, (time, time), follow_symlinks=False)


def change_owner(prefix: Path) -> None:
    for path in prefix.rglob("*"):
        os.chown(path, os.getuid(), -1, follow_symlinks=False)


def copy(prefix: Path) -> None:
    original = prefix.rename(prefix.with_name("original"))
    subprocess.run(["cp", "-a", original, prefix], check=True)


def restore_backup(prefix: Path) -> None:
    """As with tar or rsync, hard links have become files of their own."""
    original = prefix.rename(prefix.with_name("original"))
    shutil.copytree(original, prefix, symlinks=True)


def break_hard_link(prefix: Path) -> None:
    twin = prefix / "share/twin"
    twin.unlink()
    twin.write_text("contents")


def add_hard_links(prefix: Path) -> None:
    shutil.copytree(prefix, prefix.with_name("backup"), symlinks=True, copy_function=os.link)


def let_group_write(prefix: Path) -> None:
    subprocess.run(["chmod", "-R", "g+w", prefix], check=True)


def forbid_writing(prefix: Path) -> None:
    subprocess.run(["chmod", "-R", "a-w", prefix / "bin", prefix / "lib", prefix / "etc"], check=True)


def close_to_others(prefix: Path) -> None:
    subprocess.run(["chmod", "-R", "go=", prefix], check=True)


def compile_modules(prefix: Path) -> None:
    cache = prefix / SITE / "__pycache__"
    cache.mkdir()
    for python in ("cpython-39", "cpython-312.opt-1"):
        (cache / f"module.{python}.pyc").write_bytes(b"compiled")
    (prefix / SITE / "module.pyc").write_bytes(b"compiled with -b")
    (prefix / "bin/__pycache__").mkdir()


def write_caches(prefix: Path) -> None:
    for path in (
        f"{SITE}/__pycache__/module.f-1.py311.nbi",
        f"{SITE}/__pycache__/module.f-1.py311.1.nbc",
        f"{SITE}/matplotlib/mpl-data/fontlist-v390.json",
        "var/cache/fontconfig/0c9e-le64.cache-9",
        "share/data/.ipynb_checkpoints/study-checkpoint.ipynb",
        "lib/R/doc/html/packages.html",
        "lib/R/library/thing/R/thing.rdb",
        "share/julia/compiled/v1.10/Thing/x_y.ji",
        "share/julia/logs/manifest_usage.toml",
    ):
        (prefix / path).parent.mkdir(parents=True, exist_ok=True)
        (prefix / path).write_bytes(b"cache")


def overwrite(prefix: Path, path: str, text: str) -> None:
    """Write other bytes of the same size, and set the mtime back."""
    file = prefix / path
    status = file.stat()
    assert status.st_size == len(text)
    file.write_text(text)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def hide_change(prefix: Path) -> None:
    overwrite(prefix, "share/data/results.csv", "9,9,9")


def change_same_size(prefix: Path) -> None:
    (prefix / "share/data/results.csv").write_text("9,9,9")


def change_behind_hard_link(prefix: Path) -> None:
    break_hard_link(prefix)
    overwrite(prefix, "share/twin", "CONTENTS")


def change_and_close(prefix: Path) -> None:
    hide_change(prefix)
    (prefix / "share/data/results.csv").chmod(0o600)


def delete(prefix: Path) -> None:
    (prefix / "etc/config").unlink()


def link_directory(prefix: Path) -> None:
    data = prefix / "share/data"
    data.rename(prefix.with_name("data"))
    data.symlink_to(prefix.with_name("data"))


def link_elsewhere(prefix: Path) -> None:
    link = prefix / "share/link"
    status = link.lstat()
    link.unlink()
    link.symlink_to("data/RESULTS.csv")
    os.utime(link, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def compile_only(prefix: Path) -> None:
    """Nothing else has what this compiled module contains."""
    (prefix / SITE / "secret.pyc").write_bytes(b"compiled")


UNCHANGED = (
    rewrite,
    rewrite_in_place,
    touch,
    set_clock,
    round_times,
    change_owner,
    copy,
    restore_backup,
    break_hard_link,
    add_hard_links,
)
ONLY_MODES = (let_group_write, forbid_writing, close_to_others)
ONLY_CACHES = (compile_modules, write_caches)
Event = Callable[[Path], None]
CHANGED: dict[Event, str] = {
    hide_change: "share/data/results.csv",
    change_same_size: "share/data/results.csv",
    change_behind_hard_link: "share/twin",
    change_and_close: "share/data/results.csv",
    delete: "etc/config",
    link_directory: "share/data",
    link_elsewhere: "share/link",
    compile_only: f"{SITE}/secret.pyc",
}


def events(functions: tuple[Event, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("event", functions, ids=lambda event: event.__name__)


@events(UNCHANGED + ONLY_MODES + ONLY_CACHES)
def test_nothing_is_lost(event: Event, restored: Restored) -> None:
    """Status says what differs, contents are compared once, and the next snapshot is restored."""
    store, prefix = restored
    event(prefix)
    status = environment_status(store, prefix)
    assert status.drift
    assert (status.condition, status.drift.paths) == ("unchanged", [])
    assert (bool(status.drift.modes), bool(status.drift.caches)) == (
        event in ONLY_MODES,
        event in ONLY_CACHES,
    )
    drift = InstalledEnvironment(prefix).drift()
    assert drift
    assert (drift.modified, drift.touched) == ((), ())
    assert isinstance(restore_to(store, prefix), RestoreResult)
    assert (prefix / "share/new").exists()
    assert stat.S_IMODE((prefix / "bin/tool").stat().st_mode) == 0o755
    assert (prefix / "share/twin").samefile(prefix / "etc/config")


@events(tuple(CHANGED))
def test_changes_are_not_lost(event: Event, restored: Restored) -> None:
    store, prefix = restored
    event(prefix)
    before = tree_of(prefix)
    for _ in range(2):
        status = environment_status(store, prefix)
        assert status.drift
        assert CHANGED[event] in status.drift.paths
    failure = restore_to(store, prefix)
    assert isinstance(failure, RestoreFailure)
    assert "changed" in failure.error.message
    assert tree_of(prefix).keys() == before.keys()
    assert {path: item[2] for path, item in tree_of(prefix).items()} == {
        path: item[2] for path, item in before.items()
    }


@pytest.mark.parametrize("event", [None, change_same_size])
def test_what_a_killed_restore_has_left_is_kept_if_it_was_modified(
    event: Event | None, restored: Restored
) -> None:
    """Nothing tells whether it was compared, and the store is not read to find out."""
    prefix = restored.prefix
    if event:
        event(prefix)
    with opened_directory(prefix) as directory:
        assert replaced.is_as_written(directory, prefix) is (event is None)
        assert replaced.is_rest_as_written(directory, prefix) is (event is None)


# --- modes ------------------------------------------------------------------------------------------------


@events(ONLY_MODES)
def test_modes_are_corrected_where_the_snapshot_is_present(event: Event, restored: Restored) -> None:
    store, prefix = restored
    before = packed_tree(prefix)
    event(prefix)
    assert tree_of(prefix) != before
    done = restore_to(store, prefix, "work@~1", keep_changed=True)
    assert isinstance(done, RestoreResult)
    assert (done.present, done.changed) == (True, 0)
    assert packed_tree(prefix) == before


def packed_tree(prefix: Path) -> dict[str, tuple[str, int, bytes]]:
    """Return the tree with the modes that a pack stores."""
    return {
        path: (type_, packed_mode(path, type_, mode), data)
        for path, (type_, mode, data) in tree_of(prefix).items()
    }


def test_files_that_their_owner_may_not_read_are_corrected(machine: Machine) -> None:
    user = unprivileged(machine)
    prefix = make_data(user.envs / "work")
    user.run_json("pack", "work")
    before = tree_of(prefix)
    subprocess.run(["find", prefix, "-type", "f", "-exec", "chmod", "0", "{}", "+"], check=True)
    for directory in (prefix / "conda-meta", prefix / ".snapper"):
        subprocess.run(["chmod", "-R", "u=rwX,go=rX", directory], check=True)
    assert user.run_json("restore", "work")["restored"][0]["present"]
    assert tree_of(prefix) == before


def test_access_lists_and_umasks_change_nothing(
    packed: Store, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index has what the disk has after writing, and modes are those of the snapshot."""
    usual, closed = scratch / "usual/work", scratch / "closed/work"
    for prefix in (usual, closed):
        prefix.parent.mkdir()
    deny_others_in(closed.parent)
    umask = os.umask(0o077)
    try:
        for prefix in (usual, closed):
            assert isinstance(restore_to(packed, prefix, "work@~1"), RestoreResult)
    finally:
        os.umask(umask)
    assert {path: item[:2] for path, item in tree_of(closed).items()} == {
        path: item[:2] for path, item in tree_of(usual).items()
    }
    assert stat.S_IMODE((closed / "etc/config").stat().st_mode) == 0o644
    drift = InstalledEnvironment(closed).drift()
    assert drift
    assert not any((drift.paths, drift.modes, drift.touched))
    assert isinstance(restore_to(packed, closed), RestoreResult)


# --- settings, and stores that cannot be read -------------------------------------------------------------


def test_caches_can_be_added(restored: Restored, monkeypatch: pytest.MonkeyPatch) -> None:
    store, prefix = restored
    (prefix / "share/mytool/cache").mkdir(parents=True)
    (prefix / "share/mytool/cache/index.bin").touch()
    assert environment_status(store, prefix).condition == "changed"
    monkeypatch.setenv("SNAPPER_CACHES", "*.tmp,mytool/cache")
    status = environment_status(store, prefix)
    assert status.drift
    assert (status.condition, status.drift.caches) == ("unchanged", ("share/mytool/cache/index.bin",))


def test_files_count_as_changed_where_the_store_cannot_be_read(packed: Store, restored: Restored) -> None:
    _, prefix = restored
    touch(prefix)
    status = environment_status(None, prefix)
    assert status.drift
    assert (status.condition, status.not_compared) == ("changed", "the store cannot be read")
    assert "etc/config" in status.drift.modified


# --- on_change --------------------------------------------------------------------------------------------

DATA = "share/data/results.csv"


@pytest.fixture
def own_store(packed: Store, restored: Restored, scratch: Path) -> Restored:
    """A copy of the store to pack to, and the environment with changed data."""
    shutil.copytree(Path(packed.url), scratch / "store")
    (restored.prefix / DATA).write_text("other results")
    return Restored(open_store(str(scratch / "store")), restored.prefix)


def kept_data(prefix: Path) -> list[str]:
    """Return the data in what was kept beside the environment."""
    return [(top / DATA).read_text() for top in prefix.parent.glob("work.replaced-*")]


def packed_data(store: Store, scratch: Path) -> list[str]:
    """Return the data in each snapshot of the history but the first and the current one."""
    ref = read_ref(store, "work").ref
    found = []
    for number, snapshot in enumerate(dict.fromkeys(entry.snapshot for entry in ref.history)):
        if snapshot not in (ref.current, ref.history[0].snapshot):
            other = scratch / f"other{number}"
            assert isinstance(restore_to(store, other, f"work@{snapshot}"), RestoreResult)
            found.append((other / DATA).read_text())
    return found


def test_changed_environments_are_kept_aside(own_store: Restored, caplog: pytest.LogCaptureFixture) -> None:
    store, prefix = own_store
    inodes = {path.stat().st_ino for path in prefix.rglob("*") if path.is_file()}
    done = restore_to(store, prefix, on_change="aside")
    assert isinstance(done, RestoreResult)
    assert (prefix / "share/new").exists()
    (kept,) = done.kept
    assert kept in caplog.text
    assert "has changed" in caplog.text
    assert environment_status(store, prefix).kept == (kept,)
    assert kept_data(prefix) == ["other results"]
    assert not inodes & {path.stat().st_ino for path in prefix.rglob("*") if path.is_file()}
    assert restore_to(store, prefix, on_change="aside") == replace(done, present=True, seconds=ANY, size=0)


@pytest.mark.parametrize("step", [None, 2, 4])
def test_changed_environments_in_mount_points_are_kept_inside(
    packed: Store, scratch: Path, step: int | None
) -> None:
    """Also if the process is killed while it exchanges what is in them."""
    prefix = scratch / "work"
    prefix.mkdir()
    with mounted("tmpfs", prefix, scratch / "volume"):
        assert isinstance(restore_to(packed, prefix, "work@~1"), RestoreResult)
        assert not InstalledEnvironment(prefix).is_touched()
        (prefix / DATA).write_text("other results")
        if step is not None:
            arguments = (step, Restored(packed, prefix), "aside")
            process = forking.Process(target=restore_until, args=arguments)
            process.start()
            process.join(60)
            assert process.exitcode == -signal.SIGKILL
        assert isinstance(restore_to(packed, prefix, on_change="aside"), RestoreResult)
        assert (prefix / "share/new").exists()
        (kept,) = prefix.glob("work.replaced-*")
        assert (kept / DATA).read_text() == "other results"
        assert (kept / "etc/config").exists()


def test_unknown_environments_are_kept_aside(own_store: Restored) -> None:
    store, prefix = own_store
    shutil.rmtree(prefix / ".snapper")
    assert isinstance(restore_to(store, prefix), RestoreFailure)
    assert isinstance(restore_to(store, prefix, on_change="aside"), RestoreResult)
    assert kept_data(prefix) == ["other results"]


def test_changed_environments_are_packed_first(
    own_store: Restored, scratch: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The current snapshot stays that for others, and the snapshot before it is the same."""
    store, prefix = own_store
    before = read_ref(store, "work").ref
    assert isinstance(restore_to(store, prefix, on_change="pack"), RestoreResult)
    after = read_ref(store, "work").ref
    assert (after.current, lineage(after)) == (before.current, lineage(before))
    assert after.history[: len(before.history)] == before.history
    saved, returned = after.history[len(before.history) :]
    assert (saved.action, returned.action, returned.snapshot) == ("pack", "rollback", before.current)
    assert saved.snapshot[:12] in caplog.text
    assert (prefix / "share/new").exists()
    assert "other results" in packed_data(store, scratch)
    assert kept_data(prefix) == []


def link_source(prefix: Path) -> None:
    """Make an editable install, with which nothing is packed."""
    (prefix.parent / "source").mkdir()
    (prefix.parent / "source/thing.py").touch()
    (prefix / SITE / "__editable__.thing-1.pth").write_text(f"{prefix.parent}/source\n")


def write_reserved(prefix: Path) -> None:
    """Write what no snapshot can have."""
    (prefix / "notes/.draft.snapper").mkdir(parents=True)
    (prefix / "notes/.draft.snapper/text").touch()


@events((link_source, write_reserved))
def test_what_cannot_be_packed_is_not_replaced(event: Event, own_store: Restored) -> None:
    store, prefix = own_store
    event(prefix)
    failure = restore_to(store, prefix, on_change="pack")
    assert isinstance(failure, RestoreFailure)
    assert (prefix / DATA).read_text() == "other results"


STEPS = (
    (staging, "move"),
    (staging, "exchange"),
    (remains, "move"),
    (remains, "keep"),
    (contents, "move_anyway"),
    (contents, "put_in_place"),
    (replaced, "move"),
    (LocalStore, "put"),
    (LocalStore, "replace"),
    (state, "write"),
)


def restore_until(step: int, own_store: Restored, on_change: OnChange) -> None:
    """Restore, and kill this process before that step."""
    steps, process = itertools.count(), os.getpid()

    def before(real: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            if os.getpid() == process and next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return run

    for owner, name in STEPS:
        setattr(owner, name, before(getattr(owner, name)))
    restore_to(*own_store, on_change=on_change)


@pytest.mark.parametrize(("on_change", "stride"), [("aside", 1), ("pack", 5)])
def test_kills_lose_nothing(on_change: OnChange, stride: int, own_store: Restored, scratch: Path) -> None:
    """A pack has many steps before anything is replaced, so only some of them are tried."""
    store, prefix = own_store
    for step in itertools.count(0, stride):
        process = forking.Process(target=restore_until, args=(step, own_store, on_change))
        process.start()
        process.join(60)
        remove_leftover_staging(prefix)
        is_new = (prefix / "share/new").exists()
        assert is_new or (prefix / DATA).read_text() == "other results"
        assert isinstance(restore_to(store, prefix, on_change=on_change), RestoreResult)
        saved = kept_data(prefix) if on_change == "aside" else packed_data(store, scratch)
        assert "other results" in saved, step
        if process.exitcode == 0:
            break
        for path in scratch.iterdir():
            if path.name.startswith(("work", "other")):
                shutil.rmtree(path)
        assert isinstance(restore_to(store, prefix, "work@~1"), RestoreResult)
        (prefix / DATA).write_text("other results")
    assert step > 3


@pytest.mark.parametrize(("event", "is_unchanged"), [(copy, True), (set_clock, False)])
@pytest.mark.parametrize("is_compared", [False, True])
def test_packs_have_exact_times(
    event: Event, is_unchanged: bool, is_compared: bool, packed: Store, scratch: Path
) -> None:
    """Also if status has found that the contents are the same."""
    shutil.copytree(Path(packed.url), scratch / "store")
    store, prefix = open_store(str(scratch / "store")), scratch / "work"
    assert isinstance(restore_to(store, prefix), RestoreResult)
    event(prefix)
    if is_compared:
        assert environment_status(store, prefix).condition == "unchanged"
    assert packing.pack(store, prefix, "work", jobs=1).unchanged == is_unchanged
