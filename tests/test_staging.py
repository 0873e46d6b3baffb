"""Staging: a directory replaces another one completely, or nothing changes."""

from __future__ import annotations

import errno
import fcntl
import itertools
import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from snapper.environment import state
from snapper.environment.index import IndexHeader, encode_block, index_entry
from snapper.environment.scan import scan
from snapper.environment.staging_lock import find_leftovers
from snapper.environment.tree import Tree, walk
from snapper.errors import (
    FileOperationFailed,
    InsufficientSpace,
    PermissionDenied,
    SnapperError,
    TargetLocked,
    TargetOccupied,
)
from snapper.fs import moves, placement
from snapper.fs.directories import opened_directory
from snapper.fs.moves import Entry, exchange, move
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.removal import remove_older, remove_tree
from snapper.process.pool import WorkerPool
from snapper.restoring import remains, replaced, staging
from snapper.restoring.leftovers import remove_leftover_staging
from snapper.restoring.replaced import next_tick
from snapper.restoring.staging import Staging, staging_directory
from tests.conftest import tree_of
from tests.support.staging import sign_lock

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

NOBODY = 65534

real_move_in = Staging._move_in
real_old_directories = replaced._old_directories

forking = multiprocessing.get_context("fork")


def build_tree(top: Path, text: str) -> None:
    """Create a tree that looks like an environment, with read-only directories like those of some packages."""
    (top / "lib" / "deep").mkdir(parents=True)
    (top / "lib" / "file").write_text(text)
    (top / "lib" / "deep" / "file").write_text(text)
    (top / "bin").symlink_to("lib")
    (top / "lib" / "deep").chmod(0o555)
    (top / "lib").chmod(0o555)


def text_in(top: Path) -> str:
    return (top / "bin" / "deep" / "file").read_text()


def write_index(top: Path) -> None:
    """Write an index of what is in an environment."""
    entries = [index_entry(file) for file in walk(top).files]
    header = IndexHeader("0" * 64, str(top), time.time_ns())
    state.write_index(top, header, [encode_block(0, entries)])


def swap_in(target: Path, text: str) -> None:
    with staging_directory(target) as staged:
        build_tree(staged.tree, text)
        staged.swap()


def no_exchange(one: Entry, other: Entry) -> bool:
    return False


@pytest.fixture(params=["exchange", "two steps"])
def swap_method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with renameat2, and as on systems without it: NFS, macOS, old kernels."""
    if request.param == "two steps":
        monkeypatch.setattr(staging, "exchange", no_exchange)
    return str(request.param)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "envs" / "work"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def in_process(action: Callable[[], object]) -> int | None:
    """Run the action in a child process; return its exit code."""
    process = forking.Process(target=action)
    process.start()
    process.join(30)
    return process.exitcode


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# --- swapping ---------------------------------------------------------------------------------------------


def test_swap_creates_a_missing_target(target: Path, swap_method: str) -> None:
    swap_in(target, "new")
    assert text_in(target) == "new"
    assert names(target.parent) == ["work"]


def test_swap_replaces_an_empty_directory(target: Path, swap_method: str) -> None:
    target.mkdir(parents=True)
    swap_in(target, "new")
    assert text_in(target) == "new"
    assert names(target.parent) == ["work"]


def test_swap_replaces_a_tree_completely(target: Path, swap_method: str) -> None:
    swap_in(target, "old")
    (target / "extra").write_text("of old")
    swap_in(target, "new")
    assert text_in(target) == "new"
    assert names(target) == ["bin", "lib"]
    assert names(target.parent) == ["work"]


def test_target_is_swapped_repeatedly(target: Path, swap_method: str) -> None:
    for turn in range(5):
        swap_in(target, str(turn))
        assert text_in(target) == str(turn)
    assert names(target.parent) == ["work"]


def test_swap_takes_one_step_where_directories_can_be_exchanged(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target never disappears if the system can exchange directories."""
    seen: list[bool] = []
    real = exchange

    def watched(one: Entry, other: Entry) -> bool:
        seen.append(real(one, other))
        return seen[-1]

    swap_in(target, "old")
    monkeypatch.setattr(staging, "exchange", watched)
    swap_in(target, "new")
    if seen == [False]:
        pytest.skip("this file system cannot exchange directories")
    assert seen == [True]


def test_target_with_a_long_name(target: Path) -> None:
    long = target.with_name("n" * 240)
    swap_in(long, "new")
    assert text_in(long) == "new"


@pytest.mark.parametrize("points_to", [None, "nowhere", "/"])
def test_swap_does_not_replace_a_file_or_link(target: Path, swap_method: str, points_to: str | None) -> None:
    with pytest.raises(TargetOccupied) as caught, staging_directory(target) as staged:
        build_tree(staged.tree, "new")
        if points_to:
            target.symlink_to(points_to)
        else:
            target.write_text("mine")
        staged.swap()
    assert caught.value.code == 11
    assert os.readlink(target) == points_to if points_to else target.read_text() == "mine"
    assert names(target.parent) == ["work"]


def test_swap_does_not_replace_a_tree_created_meanwhile(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(self: Staging) -> None:
        build_tree(target, "somebody else's")
        real_move_in(self)

    monkeypatch.setattr(Staging, "_move_in", meanwhile)
    with pytest.raises(TargetOccupied):
        swap_in(target, "new")
    assert text_in(target) == "somebody else's"
    assert names(target.parent) == ["work"]


# --- nested environments and package caches ---------------------------------------------------------------


def make_base(target: Path) -> dict[str, tuple[str, int, bytes]]:
    """Create a base environment with nested environments and a package cache; return the entries of those."""
    swap_in(target, "old")
    for directory in ("envs/other", "envs/unpacked"):
        (target / directory / "conda-meta").mkdir(parents=True)
        (target / directory / "precious").write_text(directory)
    (target / "envs" / "away").symlink_to("../../../elsewhere")
    (target.parent.parent / "elsewhere" / "conda-meta").mkdir(parents=True)
    (target / "envs" / "notes").write_text("mine")
    (target / "pkgs").mkdir()
    (target / "pkgs" / "urls.txt").touch()
    for directory in ("envs/other", "envs", "pkgs", ""):
        (target / directory).chmod(0o555)
    return foreign_entries(target)


def foreign_entries(target: Path) -> dict[str, tuple[str, int, bytes]]:
    return {path: entry for path, entry in tree_of(target).items() if re.match(r"(pkgs|envs)(/|\Z)", path)}


def test_nested_environments_and_package_cache_survive_a_swap(public: Path, swap_method: str) -> None:
    def work() -> None:
        target = public / "envs" / "base"
        before = make_base(target)
        assert len(before) == 11
        swap_in(target, "new")
        assert text_in(target) == "new"
        assert foreign_entries(target) == before
        assert names(target.parent) == ["base"]
        remove_tree(target)

    as_nobody(public, work)


def save(target: Path, number: int) -> None:
    """Save a file as a program of a nested environment does, by an absolute path, with its directory if necessary."""
    results = target / "envs/other/results"
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{number}").write_text("work")


def swap_in_interrupted(target: Path, at: int, how: str, refused: bool) -> None:
    """Swap; before one step, a program saves something, and the process is killed or fails; report the steps taken."""
    steps = itertools.count()

    def interrupted(real: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            number = next(steps)
            (target.parent.parent / "steps").write_text(f"{number + 1}")
            if number in (at - 1, at):
                save(target, number)
            if number == at and how == "killed":
                kill_self()
            if number == at and how == "failed":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*arguments)

        return run

    def check(_: int) -> None:
        if refused:
            raise KeyError

    with (
        pytest.MonkeyPatch.context() as patch,
        suppress(SnapperError, KeyError),
        staging_directory(target) as staged,
    ):
        for owner, name in ((placement, "move"), (staging, "move"), (staging, "exchange")):
            patch.setattr(owner, name, interrupted(getattr(owner, name)))
        build_tree(staged.tree, "new")
        staged.swap(check)


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("how", ["killed", "failed", "goes on"])
def test_nested_environments_survive_an_interrupted_swap(
    tmp_path: Path, swap_method: str, how: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They keep their names, whatever programs create in their place, and whichever step is the last."""
    monkeypatch.setattr(remains, "is_as_written", lambda *_: True)
    texts = []
    for at in itertools.count():
        target = tmp_path / str(at) / "envs" / "work"
        before = make_base(target)
        inode = (target / "envs/other").stat().st_ino
        if how == "killed":
            in_process(lambda: swap_in_interrupted(target, at, how, refused))  # noqa: B023 - it is called here
        else:
            swap_in_interrupted(target, at, how, refused)
        remove_leftover_staging(target)
        steps = int((target.parent.parent / "steps").read_text())
        texts.append(text_in(target))
        assert before.items() <= foreign_entries(target).items(), at
        assert (target / "envs/other").stat().st_ino == inode, at
        saved = [path for number in range(steps) for path in target.parent.rglob(f"results/{number}")]
        assert len(saved) == len({at - 1, at} & {*range(steps)})
        assert not [path for path in target.parent.iterdir() if path.name.startswith(".")]
        if steps <= at:
            break
    assert set(texts) <= {"old", "new"}
    assert texts[-1] == ("old" if refused else "new")
    assert len(texts) > 6


@pytest.mark.parametrize("at_first", ["directory", "link", "file"])
@pytest.mark.parametrize("created", ["directory", "link", "file", "directory of another user"])
def test_what_was_there_before_a_swap_has_the_right_to_its_name(
    target: Path, swap_method: str, at_first: str, created: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been created in its place is kept next to the target if it cannot be merged."""
    if "user" in created:
        need_two_users()
    make: dict[str, Callable[[Path], object]] = {
        "directory": make_environment,
        "link": lambda path: path.symlink_to("../volume"),
        "file": Path.touch,
    }
    swap_in(target, "old")
    make[at_first](target / "envs")
    before = foreign_entries(target)

    def create(*_: object) -> None:
        make[created.partition(" ")[0]](target / "envs")
        if "user" in created:
            os.chown(target / "envs", NOBODY, NOBODY)
        kill_self()

    def swap() -> None:
        monkeypatch.setattr(staging, "put_back", create)
        swap_in(target, "new")

    assert in_process(swap) == -signal.SIGKILL
    remove_leftover_staging(target)
    assert text_in(target) == "new"
    assert foreign_entries(target) == before
    aside = [kept / "envs" for kept in target.parent.glob("work.replaced-*") if "envs" in os.listdir(kept)]
    assert len(aside) == 1
    assert sorted(path.name.partition(".")[0] for path in target.parent.iterdir()) == ["work"] * 3
    if at_first == "directory" == created:
        assert (aside[0] / "x/precious").exists()


def make_environment(envs: Path) -> None:
    (envs / "x/conda-meta").mkdir(parents=True)
    (envs / "x/precious").touch()


def test_swap_is_refused_if_the_snapshot_has_a_file_in_place_of_a_shared_directory(
    target: Path, swap_method: str
) -> None:
    make_base(target)
    before = tree_of(target)
    for path in ("envs", "pkgs"):
        with pytest.raises(TargetOccupied) as caught, staging_directory(target) as staged:
            build_tree(staged.tree, "new")
            (staged.tree / path).parent.mkdir(exist_ok=True)
            (staged.tree / path).write_text("of the snapshot")
            staged.swap()
        assert str(target / path) in caught.value.message
        assert tree_of(target) == before
        assert names(target.parent) == ["work"]


def test_swap_is_refused_while_a_nested_environment_is_restored(target: Path) -> None:
    make_base(target)
    before = tree_of(target)
    (target / "envs").chmod(0o755)
    with staging_directory(target / "envs" / "third"), pytest.raises(TargetLocked):
        swap_in(target, "new")
    (target / "envs").chmod(0o555)
    assert tree_of(target) == before


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [False, True])
def test_error_before_the_swap_changes_nothing(
    target: Path, existing: bool, kind: type[BaseException]
) -> None:
    if existing:
        swap_in(target, "old")
    before = tree_of(target.parent)
    with pytest.raises(kind), staging_directory(target) as staged:
        build_tree(staged.tree, "new")
        raise kind
    assert tree_of(target.parent) == before


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_swap_that_fails_between_two_steps_changes_nothing(
    target: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def fail(self: Staging) -> None:
        assert not self.target.exists()
        raise kind

    swap_in(target, "old")
    before = tree_of(target.parent)
    monkeypatch.setattr(staging, "exchange", no_exchange)
    monkeypatch.setattr(Staging, "_move_in", fail)
    with pytest.raises((SnapperError, KeyboardInterrupt)):
        swap_in(target, "new")
    assert tree_of(target.parent) == before


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, InsufficientSpace),
        (errno.EDQUOT, InsufficientSpace),
        (errno.EACCES, PermissionDenied),
        (errno.EPERM, PermissionDenied),
        (errno.EIO, FileOperationFailed),
    ],
)
def test_os_errors_are_reported_with_a_path(target: Path, number: int, kind: type[SnapperError]) -> None:
    with pytest.raises(kind) as caught, staging_directory(target):
        raise OSError(number, os.strerror(number), "some/file")
    assert str(target.parent) in caught.value.message or "some/file" in caught.value.message
    assert names(target.parent) == []


def test_staging_below_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SnapperError), staging_directory(tmp_path / "file" / "work"):
        pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("supported", [True, False], ids=["one step", "more steps"])
@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_move_replaces_nothing(
    tmp_path: Path, kind: str, supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make: dict[str, Callable[[Path], object]] = {
        "file": Path.touch,
        "link": lambda path: path.symlink_to("nowhere"),
        "directory": Path.mkdir,
    }
    if not supported:
        monkeypatch.setattr(moves, "_renameat2", lambda *_: False)
    directory = os.open(tmp_path, os.O_RDONLY)
    source, free, taken = (Entry(directory, name) for name in ("source", "free", "taken"))
    for other in make.values():
        make[kind](tmp_path / "source")
        other(tmp_path / "taken")
        before = tree_of(tmp_path)
        with pytest.raises(FileExistsError):
            move(source, taken)
        assert tree_of(tmp_path) == before
        move(source, free)
        assert tree_of(tmp_path)["free"] == before["source"]
        assert names(tmp_path) == ["free", "taken"]
        for path in tmp_path.iterdir():
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    os.close(directory)


# --- killed processes -------------------------------------------------------------------------------------


def test_staging_removes_leftovers_of_a_killed_process(target: Path) -> None:
    def killed() -> None:
        with staging_directory(target) as staged:
            build_tree(staged.tree, "half")
            kill_self()

    for _ in range(2):
        assert in_process(killed) == -signal.SIGKILL
        assert not target.exists()
        assert names(target.parent) == [".work.snapper"]
    swap_in(target, "new")
    assert text_in(target) == "new"
    assert names(target.parent) == ["work"]


def test_leftovers_of_a_killed_process_are_removed_on_request(target: Path) -> None:
    def killed() -> None:
        with staging_directory(target) as staged:
            build_tree(staged.tree, "half")
            kill_self()

    swap_in(target, "old")
    assert in_process(killed) == -signal.SIGKILL
    remove_leftover_staging(target)
    assert text_in(target) == "old"
    assert names(target.parent) == ["work"]
    remove_leftover_staging(target)
    assert names(target.parent) == ["work"]


def test_staging_undoes_a_swap_killed_between_two_steps(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap_in(target, "old")
    before = tree_of(target.parent)
    with monkeypatch.context() as patch:
        patch.setattr(staging, "exchange", no_exchange)
        patch.setattr(Staging, "_move_in", lambda _: kill_self())
        assert in_process(lambda: swap_in(target, "new")) == -signal.SIGKILL
    assert not target.exists()
    with staging_directory(target):
        assert text_in(target) == "old"
    assert tree_of(target.parent) == before


def test_swap_killed_after_its_last_step_is_complete(target: Path, swap_method: str) -> None:
    def killed() -> None:
        with staging_directory(target) as staged:
            build_tree(staged.tree, "new")
            staged.swap()
            kill_self()

    swap_in(target, "old")
    assert in_process(killed) == -signal.SIGKILL
    assert text_in(target) == "new"
    remove_leftover_staging(target)
    assert text_in(target) == "new"
    assert names(target.parent) == ["work"]


# --- planted staging directories --------------------------------------------------------------------------


def need_two_users() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make files of two users")


def plant_link(holder: Path, elsewhere: Path) -> None:
    elsewhere.rename(elsewhere.with_name("project"))
    holder.symlink_to(elsewhere.with_name("project"))


def plant_directory_of_another(holder: Path, elsewhere: Path) -> None:
    need_two_users()
    elsewhere.rename(holder)
    os.chown(holder, NOBODY, NOBODY)


def plant_directory_of_the_owner_above(holder: Path, elsewhere: Path) -> None:
    plant_directory_of_another(holder, elsewhere)
    os.chown(holder.parent, NOBODY, NOBODY)


def plant_public_directory(holder: Path, elsewhere: Path) -> None:
    elsewhere.rename(holder)
    holder.chmod(0o777)


def plant_other_directory(holder: Path, elsewhere: Path) -> None:
    """Whoever may write to the directory above can rename what this user has there."""
    sign_lock(elsewhere)
    (elsewhere / "conda-meta").mkdir()
    elsewhere.rename(holder)


def plant_private_directory(holder: Path, elsewhere: Path) -> None:
    """A directory of this user, with names that snapper has used, and renamed by somebody else."""
    (elsewhere / "tree_results").mkdir()
    elsewhere.rename(holder)


def plant_other_lock(holder: Path, elsewhere: Path) -> None:
    (elsewhere / "lock").touch()
    elsewhere.rename(holder)


def plant_similar_names(holder: Path, elsewhere: Path) -> None:
    sign_lock(elsewhere)
    (elsewhere / "tree_1").mkdir()
    elsewhere.rename(holder)


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (plant_link, "not a directory"),
        (plant_directory_of_another, "belongs to the user nobody"),
        (plant_directory_of_the_owner_above, "belongs to the user nobody"),
        (plant_public_directory, "other users may enter it"),
        (plant_private_directory, "it contains"),
        (plant_other_lock, "it contains"),
        (plant_other_directory, "'conda-meta'"),
        (plant_similar_names, "'tree_1'"),
    ],
)
def test_planted_staging_directory_is_refused_and_left_alone(
    tmp_path: Path, plant: Callable[[Path, Path], None], reason: str
) -> None:
    """It could make snapper move files out of the target and into it, and remove files elsewhere."""
    target, planted = tmp_path / "envs" / "work", tmp_path / "planted"
    make_base(target)
    (planted / "kept").mkdir(parents=True, mode=0o700)
    planted.chmod(0o700)
    (planted / "kept" / "pkgs").mkdir()
    (planted / "kept" / "envs").symlink_to(target / "envs")
    (planted / f"tree{'0' * 16}" / "precious").mkdir(parents=True)
    plant(target.parent / ".work.snapper", planted)
    before = tree_of(tmp_path)
    remove_leftover_staging(target)
    assert find_leftovers(target.parent) == []
    with pytest.raises(TargetOccupied) as caught:
        swap_in(target, "new")
    assert str(target.parent / ".work.snapper") in caught.value.message
    assert reason in caught.value.message
    assert tree_of(tmp_path) == before


def test_other_directories_with_names_of_trees_of_0_1_0_are_kept(target: Path) -> None:
    holder = target.parent / ".work.snapper"
    (holder / "tree_results").mkdir(parents=True)
    holder.chmod(0o700)
    sign_lock(holder)
    (holder / "tree_results/model").write_text("precious")
    swap_in(target, "new")
    (found,) = target.parent.rglob("model")
    assert found.read_text() == "precious"


@pytest.mark.parametrize("link", ["kept", "kept/envs", "old"])
def test_links_in_the_staging_directory_are_not_followed(target: Path, tmp_path: Path, link: str) -> None:
    swap_in(target, "old")
    shutil.rmtree(target / "lib", ignore_errors=True)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "envs" / "other" / "conda-meta").mkdir(parents=True)
    (elsewhere / "pkgs").mkdir()
    before = tree_of(elsewhere)
    planted = target.parent / ".work.snapper" / link
    planted.parent.mkdir(parents=True, mode=0o700)
    (target.parent / ".work.snapper").chmod(0o700)
    sign_lock(target.parent / ".work.snapper")
    planted.symlink_to(elsewhere / "envs" if link == "kept/envs" else elsewhere)
    swap_in(target, "new")
    assert text_in(target) == "new"
    assert tree_of(elsewhere) == before
    # A link in place of `envs` is not part of the environment, so it is moved back.
    assert names(target) == ["bin", *(["envs"] if link == "kept/envs" else []), "lib"]


@pytest.mark.parametrize("kept", ["kept", "nothing"])
def test_leftovers_of_0_1_0_are_recovered(target: Path, kept: str) -> None:
    """They have the same names, and modes that depend on the umask."""
    make_base(target)
    before = foreign_entries(target)
    holder = target.parent / ".work.snapper"
    holder.mkdir(mode=0o700)
    sign_lock(holder)
    (holder / "treeab12_xyz" / "conda-meta").mkdir(parents=True)
    (target / "envs").chmod(0o755)
    if kept == "kept":
        (holder / "kept" / "envs").mkdir(parents=True)
        (target / "envs" / "other").chmod(0o755)
        for path in ("envs/other", "envs/away", "pkgs"):
            (target / path).rename(holder / "kept" / path)
        (target / "envs" / "other").parent.chmod(0o555)
    target.rename(holder / "old")
    assert find_leftovers(target.parent) == [holder]
    remove_leftover_staging(target)
    (target / "envs" / "other").chmod(0o555)
    (target / "envs").chmod(0o555)
    assert foreign_entries(target) == before
    assert names(target.parent) == ["work"]


# --- targets of other users, and targets that are replaced meanwhile --------------------------------------


def test_target_of_another_user_is_not_replaced(target: Path, swap_method: str) -> None:
    need_two_users()
    swap_in(target, "theirs")
    os.chown(target, NOBODY, NOBODY)
    before = tree_of(target.parent)
    with pytest.raises(TargetOccupied) as caught:
        swap_in(target, "new")
    assert caught.value.message == f"cannot overwrite {target}: it belongs to the user nobody"
    assert "nobody" in caught.value.hint
    assert tree_of(target.parent) == before


def test_directory_of_root_is_not_replaced(public: Path) -> None:
    """A user who may write to the directory above could do so."""
    need_two_users()

    def work() -> None:
        with pytest.raises(TargetOccupied) as caught:
            swap_in(public / "work", "new")
        assert "root" in caught.value.message

    swap_in(public / "work", "old")
    (public / "work").chmod(0o777)
    as_nobody(public, work)
    assert text_in(public / "work") == "old"


@pytest.fixture
def new_is_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trees of these tests have no index; only `new` counts as unchanged since it was written."""

    def is_as_written(directory: int, _: Path) -> bool:
        with open(os.open("lib/deep/file", os.O_RDONLY, dir_fd=directory)) as file:
            return file.read() == "new"

    monkeypatch.setattr(remains, "is_as_written", is_as_written)


def check_too_late(old: int, target: Path, how: str) -> None:
    """Check what was replaced: a program has just saved something in it, and goes on in what is at the path now."""
    assert text_in(target) == "new"
    assert "notebook" in os.listdir(old)
    if how == "killed":
        kill_self()
    raise KeyError


@pytest.mark.parametrize("how", ["refused", "killed"])
def test_what_is_saved_right_before_the_swap_is_not_lost(
    target: Path, swap_method: str, how: str, new_is_as_written: None
) -> None:
    """It is checked when no program finds it by its path any more, so no change is missed."""
    make_base(target)
    target.chmod(0o755)
    (target / "notebook").write_text("saved a moment ago")
    before = tree_of(target)

    def swap() -> None:
        with staging_directory(target) as staged:
            build_tree(staged.tree, "new")
            staged.swap(lambda old: check_too_late(old, target, how))

    assert in_process(swap) != 0
    remove_leftover_staging(target)
    if how == "refused":
        assert tree_of(target) == before
        assert names(target.parent) == ["work"]
        return
    assert text_in(target) == "new", "the user may have worked in it since"
    assert foreign_entries(target).keys() == {path for path in before if path.startswith(("envs", "pkgs"))}
    kept, _ = names(target.parent)[::-1]
    assert kept.startswith("work.replaced-")
    assert (target.with_name(kept) / "notebook").read_text() == "saved a moment ago"


def test_what_is_saved_while_the_replaced_directory_is_checked_is_not_lost(
    target: Path, swap_method: str
) -> None:
    """It is saved in the new directory, which gives way to the old one again."""
    swap_in(target, "old")
    build_tree(target.with_name("app"), "deployed")

    def check(_: int) -> None:
        (target / "log").write_text("written by a program that is running")
        (target / "lib").chmod(0o755)
        (target / "lib").rename(target / "lib.old")
        target.with_name("app").joinpath("lib").rename(target / "lib")
        raise KeyError

    with pytest.raises(KeyError), staging_directory(target) as staged:
        build_tree(staged.tree, "new")
        write_index(staged.tree)
        staged.swap(check)
    assert text_in(target) == "old"
    shutil.rmtree(target.with_name("app"))
    kept, _ = names(target.parent)[::-1]
    assert (target.with_name(kept) / "log").exists()
    assert (target.with_name(kept) / "lib/deep/file").read_text() == "deployed"


# --- programs that work in the replaced directory ---------------------------------------------------------

MINUTES_AGO = time.time_ns() - 10**11


def write_old(path: str) -> None:
    """Write a file that looks as if it were older, as `cp -p` does."""
    Path(path).write_text("mine")
    os.utime(path, ns=(MINUTES_AGO, MINUTES_AGO))


def rename_in(path: str) -> None:
    write_old("../../outside/file")
    os.rename("../../outside/file", path)


def rename_directory_in(path: str) -> None:
    os.rename("../../outside", path)


def replace_directory(path: str) -> None:
    os.rename(path, path + ".old")
    os.rename("../../outside", path)


def append(path: str) -> None:
    with open(path, "a") as file:
        file.write("mine")


def make_directory(path: str) -> None:
    os.makedirs(path)
    write_old(f"{path}/mine")


WRITES: dict[str, tuple[Callable[[str], None], str]] = {
    "a new file": (write_old, "new"),
    "a file in a deep directory": (write_old, "lib/a/b/c/d/new"),
    "an existing file": (append, "lib/file"),
    "over an existing file": (write_old, "lib/file"),
    "a directory": (make_directory, "lib/new/deep"),
    "a renamed file": (rename_in, "lib/new"),
    "a file renamed over another": (rename_in, "lib/a/file"),
    "a renamed directory": (rename_directory_in, "lib/new"),
    "a directory in place of another": (replace_directory, "lib/a"),
    "a link": (lambda path: os.link("lib/file", path), "lib/a/new"),
    "a symlink": (lambda path: os.symlink("elsewhere", path), "lib/a/new"),
}


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *((kind, "removed") for kind in WRITES),
        ("a file in a deep directory", "removed by workers"),
        ("a renamed directory", "removed by workers"),
        ("a directory in place of another", "removed by workers"),
        ("a directory in place of another", "written while workers remove"),
        ("a new file", "killed"),
        ("a directory in place of another", "killed"),
        ("a new file", "killed, and the clock is set back"),
        *((kind, "removed, with shared files") for kind in WRITES if "existing" not in kind),
        ("a directory in place of another", "removed by workers, with shared files"),
    ],
)
def test_what_programs_write_to_the_replaced_directory_is_not_lost(
    target: Path, monkeypatch: pytest.MonkeyPatch, kind: str, how: str
) -> None:
    """Paths relative to the working directory still lead to it. The check may have passed there already."""
    write, path = WRITES[kind]
    (target / "lib/a/b/c/d").mkdir(parents=True)
    for parent in ("lib", "lib/a", "lib/a/b/c/d"):
        (target / parent / "file").write_text("old")
        os.link(target / parent / "file", target / f"other link to {parent.replace('/', ' ')}")
    write_index(target)
    (target.parent / "outside/b/c/d").mkdir(parents=True)
    (target.parent / "outside/b/c/d/file").write_text("mine")
    monkeypatch.chdir(target)

    def check(old: int) -> Tree:
        seen = walk(PinnedDirectory(target, os.dup(old)))
        if how != "written while workers remove":
            write(path)
        return seen

    def list_and_write(*arguments: Any) -> list[str]:
        paths = list(real_old_directories(*arguments))
        write(path)
        return paths

    def swap() -> None:
        if "clock" in how:
            monkeypatch.setattr(staging, "next_tick", lambda _: time.time_ns() + 10**12)
        with staging_directory(target) as staged:
            build_tree(staged.tree, "new")
            shared = link_files(target, staged.tree) if "shared" in how else frozenset()
            staged.swap(check, shared)
            if "killed" in how:
                kill_self()
            if how == "written while workers remove":
                monkeypatch.setattr(replaced, "_old_directories", list_and_write)
            if "workers" in how:
                with WorkerPool[Any](None, 1) as workers:
                    staged.remove_replaced(workers)

    assert in_process(swap) in (0, -signal.SIGKILL)
    monkeypatch.chdir("/")
    remove_leftover_staging(target)
    assert text_in(target) == "new"
    shutil.rmtree(target.parent / "outside", ignore_errors=True)
    kept, _ = names(target.parent)[::-1]
    assert os.path.lexists(target.with_name(kept) / path)
    if write in (rename_directory_in, replace_directory):
        assert (target.with_name(kept) / path / "b/c/d/file").read_text() == "mine"
    if write is not replace_directory:
        assert not (target.with_name(kept) / "lib/a/b/c/d/file").exists()
        assert not (target.with_name(kept) / "other link to lib a b").exists()


def link_files(source: Path, tree: Path) -> frozenset[int]:
    """Link the files in `lib` of a directory into a tree, by their inodes; return these."""
    inodes = {file.stat().st_ino: file for file in (source / "lib").rglob("file")}
    for inode, file in inodes.items():
        os.link(file, tree / f"{inode}")
    return frozenset(inodes)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("write", [append, write_old])
def test_what_programs_write_to_files_that_the_new_tree_shares_is_there(
    target: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[str], None], workers: int
) -> None:
    path = "lib/a/b/c/d/file"
    (target / path).parent.mkdir(parents=True)
    (target / path).write_text("old")
    monkeypatch.chdir(target)

    def check(old: int) -> Tree:
        seen = walk(PinnedDirectory(target, os.dup(old)))
        write(path)
        return seen

    with staging_directory(target) as staged:
        shared = link_files(target, staged.tree)
        staged.swap(check, shared)
        if workers:
            with WorkerPool[Any](None, workers) as pool:
                staged.remove_replaced(pool)
    assert names(target.parent) == ["work"]
    assert [(target / f"{inode}").read_text()[-4:] for inode in shared] == ["mine"]


def test_workers_remove_nothing_that_others_put_at_the_path_of_the_replaced_directory(target: Path) -> None:
    """Others may be able to rename the staging directory, and see what is in it as their working directory."""
    file = Path("lib/a/b/c/file")
    prepared, away = target.parent / "prepared", target.parent / "away"
    for top in (target, prepared):
        (top / file).parent.mkdir(parents=True)
        (top / file).touch()
    with staging_directory(target) as staged:
        build_tree(staged.tree, "new")
        staged.swap(lambda old: walk(PinnedDirectory(target, os.dup(old))))
        (name,) = staged.seen
        directory = staged.tree.parent
        directory.rename(away)
        directory.mkdir()
        prepared.rename(directory / name)
        with WorkerPool[Any](None, 1) as workers:
            staged.remove_replaced(workers)
        assert (directory / name / file).exists()
        assert not (away / name / file).exists()
        shutil.rmtree(directory)
        away.rename(directory)
    assert names(target.parent) == ["work"]


def test_what_others_moved_to_where_no_check_looks_is_kept(target: Path) -> None:
    """They may be able to move it, but not to remove it."""
    moved = (Path(".snapper/project/data"), Path(".condatmp/project/data"))
    for path in moved:
        (target / path).parent.mkdir(parents=True)
        (target / path).write_text("mine")
    (target / ".snapper/index").touch()
    with staging_directory(target) as staged:
        build_tree(staged.tree, "new")
        staged.swap(lambda old: scan_of(target, old))
    (kept,) = target.parent.glob("work.replaced-*")
    assert [(kept / path).read_text() for path in moved] == ["mine", "mine"]
    assert not (kept / ".snapper/index").exists()


def scan_of(target: Path, directory: int) -> Tree:
    os.mkdir("conda-meta", dir_fd=directory)
    return scan(PinnedDirectory(target, os.dup(directory)))


def test_files_that_replace_shared_ones_while_their_directory_is_emptied_are_kept(target: Path) -> None:
    """In whatever order the directory is listed, some of them come after the subdirectory."""
    lib = target / "lib"
    lib.mkdir(parents=True)
    files = [lib / name for name in "abcdefgh"]
    for file in files[:4]:
        file.touch()
    (lib / "sub").mkdir()
    (lib / "sub/last").touch()
    for file in files[4:]:
        file.touch()
    for file in files:
        os.link(file, target.parent / file.name)
    shared = frozenset(file.stat().st_ino for file in files)

    def save_files(path: str, _: os.stat_result) -> bool:
        if path != "lib/sub/last":
            return False
        for file in files:
            (target / "saved").write_text("mine")
            (target / "saved").rename(file)
        return True

    with opened_directory(target) as directory:
        since = next_tick(directory)
        os.utime(lib / "sub/last")
        remove_older(directory, since, save_files, shared=shared)
    assert names(lib) == [file.name for file in files]


def test_replaced_directory_with_several_links_to_files_is_removed(target: Path, swap_method: str) -> None:
    """Removing one changes the ctime of the others."""
    for name in ("lib/one", "lib/two", "bin/one", "bin/two"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if name == "lib/one":
            (target / name).write_text("old")
        else:
            os.link(target / "lib/one", target / name)
    with staging_directory(target) as staged:
        build_tree(staged.tree, "new")
        staged.swap(lambda old: walk(PinnedDirectory(target, os.dup(old))))
    assert names(target.parent) == ["work"]


def test_deep_directories_are_removed_by_workers(target: Path) -> None:
    deep = target / "lib/a/b/c" / "/".join("d" * 110)
    deep.mkdir(parents=True)
    (deep / "file").touch()

    def swap() -> None:
        with staging_directory(target) as staged:
            build_tree(staged.tree, "new")
            staged.swap(lambda old: walk(PinnedDirectory(target, os.dup(old))))
            with WorkerPool[Any](None, 1) as workers:
                staged.remove_replaced(workers)

    assert in_process(swap) == 0
    assert names(target.parent) == ["work"]


def test_replaced_directory_from_the_future_is_removed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock ran ahead when it was restored, so all that is in it has a later ctime."""
    swap_in(target, "old")
    monkeypatch.setattr(staging, "next_tick", lambda _: 1)

    def check(old: int) -> Tree:
        seen = walk(PinnedDirectory(target, os.dup(old)))
        future = time.time_ns() + 10**12
        return Tree(tuple(file._replace(ctime_ns=future) for file in seen.files), ())

    with staging_directory(target) as staged:
        build_tree(staged.tree, "new")
        staged.swap(check)
    assert names(target.parent) == ["work"]


def test_directories_and_sockets_without_data_do_not_keep_the_replaced_directory(target: Path) -> None:
    swap_in(target, "old")

    def check(old: int) -> Tree:
        os.mkdir("empty", dir_fd=old)
        os.mkfifo("pipe", dir_fd=old)
        os.mkdir("__pycache__", dir_fd=old)
        return Tree((), ())

    with staging_directory(target) as staged:
        build_tree(staged.tree, "new")
        staged.swap(check)
    assert names(target.parent) == ["work"]


@pytest.mark.parametrize("failing", ["killed", "cannot be put back"])
def test_directory_of_others_that_was_exchanged_is_not_lost(
    target: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone puts it at the target in the last moment; it is found there only once it has been exchanged."""
    swap_in(target, "old")
    away, precious = target.with_name("away"), target.with_name("precious")
    build_tree(precious, "precious")

    def exchange_too_late(one: Entry, two: Entry) -> bool:
        if away.exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        target.rename(away)
        precious.rename(target)
        exchange(one, two)
        if failing == "killed":
            kill_self()
        return True

    def swap() -> None:
        monkeypatch.setattr(staging, "exchange", exchange_too_late)
        with staging_directory(target) as staged:
            build_tree(staged.tree, "new")
            staged.swap()

    assert in_process(swap) != 0
    remove_leftover_staging(target)
    assert "precious" in [text_in(path) for path in target.parent.iterdir()]
    assert text_in(away) == "old"


def test_directory_of_others_that_is_at_the_target_when_it_is_put_back_is_not_lost(
    target: Path, swap_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone puts it there in the last moment, after it was made sure that the new directory is there."""
    swap_in(target, "old")
    away, precious = target.with_name("away"), target.with_name("precious")
    build_tree(precious, "precious")

    def too_late(real: Callable[[Entry, Entry], Any]) -> Callable[[Entry, Entry], Any]:
        def run(one: Entry, two: Entry) -> Any:
            if not away.exists() and target.name in (one.name, two.name) and text_in(target) == "new":
                target.rename(away)
                precious.rename(target)
            return real(one, two)

        return run

    def check(_: int) -> None:
        for name in ("exchange", "move"):
            monkeypatch.setattr(staging, name, too_late(getattr(staging, name)))
        raise KeyError

    with pytest.raises(KeyError), staging_directory(target) as staged:
        build_tree(staged.tree, "new")
        staged.swap(check)
    assert [text_in(path) for path in (away, target)] == ["new", "old"]
    (kept,) = target.parent.glob("work.replaced-*")
    assert text_in(kept) == "precious"


def test_target_that_is_replaced_meanwhile_is_kept(
    target: Path, swap_method: str, new_is_as_written: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write to the directory above puts another directory in place of the one that was opened."""
    make_base(target)
    away, other = target.with_name("away"), target.with_name("other")
    build_tree(other, "other")
    before = tree_of(target), tree_of(other)

    def replace_it() -> None:
        target.rename(away)
        other.rename(target)

    def exchange_after(one: Entry, two: Entry) -> bool:
        if away.exists():
            return swap_method == "exchange" and exchange(one, two)
        replace_it()
        return exchange_after(one, two)

    monkeypatch.setattr(staging, "exchange", exchange_after)
    with pytest.raises(TargetOccupied) as caught, staging_directory(target) as staged:
        build_tree(staged.tree, "new")
        staged.swap()
    assert "replaced" in caught.value.message
    assert (tree_of(away), tree_of(target)) == before
    assert names(target.parent) == ["away", "work"]


def test_directory_above_the_target_is_opened_once(tmp_path: Path, swap_method: str) -> None:
    """Whoever may write to the directories above replaces one by a link to an environment that is to be replaced."""
    above, victim = tmp_path / "shared" / "envs", tmp_path / "mine"
    for directory in (above, victim):
        make_base(directory / "work")
    before = tree_of(victim)
    with staging_directory(above / "work") as staged:
        build_tree(staged.tree, "new")
        above.rename(tmp_path / "moved")
        above.symlink_to(victim)
        staged.swap()
    assert tree_of(victim) == before
    assert text_in(tmp_path / "moved" / "work") == "new"
    assert names(tmp_path / "moved") == ["work"]


def test_path_for_other_programs_leads_to_the_tree(target: Path) -> None:
    """All users can see the arguments of programs, and could put something else at the path of the tree."""
    with staging_directory(target) as staged:
        (staged.tree / "mine").touch()
        path = staged.path_by_descriptor
        if path == staged.tree:
            pytest.skip("this system has no paths of open files")
        target.parent.rename(target.parent.with_name("moved"))
        staged.tree.mkdir(parents=True)
        assert names(path) == ["mine"]


def test_nested_environments_of_other_users_survive_a_swap_by_root(target: Path, swap_method: str) -> None:
    need_two_users()
    before = make_base(target)
    for path in ("envs", "envs/other", "envs/unpacked"):
        os.chown(target / path, NOBODY, NOBODY)
    swap_in(target, "new")
    assert foreign_entries(target) == before
    assert (target / "envs" / "other").stat().st_uid == NOBODY


def test_nested_environments_are_not_moved_through_a_link_of_the_snapshot(
    target: Path, tmp_path: Path, swap_method: str
) -> None:
    make_base(target)
    (tmp_path / "outside").mkdir()
    before = tree_of(tmp_path)
    with pytest.raises(TargetOccupied), staging_directory(target) as staged:
        build_tree(staged.tree, "new")
        (staged.tree / "envs").symlink_to(tmp_path / "outside")
        staged.swap()
    assert tree_of(tmp_path) == before


@pytest.mark.parametrize("when", ["during the swap", "after the swap"])
@pytest.mark.parametrize("killed", [False, True])
def test_environments_created_at_the_same_time_survive(
    target: Path, swap_method: str, when: str, killed: bool
) -> None:
    """Others may create some by a path, or in a directory that they have opened before."""
    make_base(target)
    for directory in (target, target / "envs"):
        directory.chmod(0o755)
    opened = os.open(target, os.O_RDONLY)
    envs = os.open(target / "envs", os.O_RDONLY)

    def create() -> None:
        os.mkdir("one", dir_fd=envs)
        with suppress(FileExistsError):
            os.mkdir("envs", dir_fd=opened)
        os.mkdir("envs/two", dir_fd=opened)

    real = Staging._exchange

    def create_and_exchange(self: Staging, old: int, replaced: Entry) -> Entry:
        create()
        return real(self, old, replaced)

    def swap() -> None:
        if when == "during the swap":
            Staging._exchange = create_and_exchange  # type: ignore[method-assign]
        with staging_directory(target) as staged:
            build_tree(staged.tree, "new")
            staged.swap()
            if when == "after the swap":
                create()
            if killed:
                kill_self()

    in_process(swap)
    os.close(opened)
    os.close(envs)
    remove_leftover_staging(target)
    assert text_in(target) == "new"
    assert names(target / "envs") == ["away", "notes", "one", "other", "two", "unpacked"]
    assert names(target.parent) == ["work"]


def test_directory_for_environments_stays_shared_if_the_snapshot_has_one(
    target: Path, swap_method: str
) -> None:
    need_two_users()
    swap_in(target, "old")
    (target / "envs").mkdir()
    os.chown(target / "envs", -1, NOBODY)
    (target / "envs").chmod(0o2775)
    with staging_directory(target) as staged:
        build_tree(staged.tree, "new")
        (staged.tree / "envs").mkdir(mode=0o755)
        staged.swap()
    status = (target / "envs").stat()
    assert (status.st_gid, status.st_mode & 0o7777) == (NOBODY, 0o2775)


def test_what_others_have_in_the_directory_for_environments_survives_as_it_is(
    target: Path, swap_method: str
) -> None:
    """It is moved as a whole: to list or remove it would have no end if its owner adds to it meanwhile."""
    need_two_users()
    make_base(target)
    hidden = target / "envs" / ".theirs"
    hidden.mkdir()
    (hidden / "precious").touch()
    os.chown(hidden, NOBODY, NOBODY)
    before = hidden.stat().st_ino
    (target / "conda-meta").mkdir()
    assert not [file.path for file in scan(target).files if "theirs" in file.path]
    swap_in(target, "new")
    assert hidden.stat().st_ino == before
    assert names(hidden) == ["precious"]


@pytest.mark.parametrize("kind", ["directory", "pipe", "locked"])
def test_staging_directories_of_others_inside_the_target_do_not_block_a_swap(target: Path, kind: str) -> None:
    need_two_users()
    make_base(target)
    planted = target / "envs" / ".x.snapper"
    planted.mkdir()
    with ExitStack() as held:
        if kind == "directory":
            (planted / "lock").mkdir()
        elif kind == "pipe":
            os.mkfifo(planted / "lock")
        else:
            fcntl.flock(held.enter_context((planted / "lock").open("w")), fcntl.LOCK_EX)
        os.chown(planted, NOBODY, NOBODY)
        swap_in(target, "new")
    assert text_in(target) == "new"
    assert names(target / "envs" / ".x.snapper") == ["lock"]


def test_directory_for_environments_keeps_its_group(target: Path, swap_method: str) -> None:
    need_two_users()
    make_base(target)
    os.chown(target / "envs", -1, NOBODY)
    (target / "envs").chmod(0o2775)
    swap_in(target, "new")
    status = (target / "envs").stat()
    assert (status.st_gid, status.st_mode & 0o7777) == (NOBODY, 0o2775)


# --- concurrency ------------------------------------------------------------------------------------------


def hold(target: Path, held: str, release: str) -> None:
    """Stage the target, report on one pipe, and swap after a line from the other."""
    with staging_directory(target) as staged:
        build_tree(staged.tree, "held")
        with open(held, "w") as out:
            out.write("held")
        with open(release) as waiting:
            waiting.read()
        staged.swap()


def test_target_is_locked_while_another_process_stages_it(target: Path, tmp_path: Path) -> None:
    held, release = str(tmp_path / "held"), str(tmp_path / "release")
    os.mkfifo(held)
    os.mkfifo(release)
    process = forking.Process(target=hold, args=(target, held, release))
    process.start()
    with open(held) as waiting:
        assert waiting.read() == "held"
    for _ in range(2):
        with pytest.raises(TargetLocked) as caught, staging_directory(target):
            pass
        assert str(target) in caught.value.message
        assert caught.value.code == 11
    remove_leftover_staging(target)
    swap_in(target.with_name("other"), "new")
    with open(release, "w") as out:
        out.write("now")
    process.join(30)
    assert process.exitcode == 0
    assert text_in(target) == "held"
    swap_in(target, "new")
    assert names(target.parent) == ["other", "work"]


def test_concurrent_swaps_succeed_or_find_the_target_locked(target: Path) -> None:
    barrier = forking.Barrier(6)

    def work(number: int) -> None:
        for _ in range(15):
            barrier.wait(30)
            try:
                swap_in(target, str(number))
            except TargetLocked:
                continue
            assert target.is_dir()  # others may have replaced and removed what is in it

    processes = [forking.Process(target=work, args=(number,)) for number in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    assert text_in(target) in "012345"
    assert names(target.parent) == ["work"]


def test_clock_has_advanced_even_if_the_process_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else, what was written just before could count as written later, and be kept."""
    times: list[int] = []

    def touch(_: int) -> int:
        times.append(time.monotonic_ns() // 10_000_000)
        if len(times) == 2:
            time.sleep(2 * replaced._LONGEST_TICK)
        return times[-1]

    monkeypatch.setattr(replaced, "_touch", touch)
    assert replaced.next_tick(0) > times[0]


def test_lock_is_on_a_writable_file_as_nfs_requires(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[bool] = []
    lock = fcntl.flock

    def watched(descriptor: int, operation: int) -> None:
        writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        locked.append(writable and os.path.isfile(f"/proc/self/fd/{descriptor}"))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", watched)
    swap_in(target, "new")
    assert locked == [True]


# --- removing ---------------------------------------------------------------------------------------------


@pytest.fixture
def public() -> Iterator[Path]:
    """Give a directory for a user who is not exempt from permissions."""
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    yield top
    shutil.rmtree(top)


def as_nobody(top: Path, action: Callable[[], None]) -> None:
    """Run the action in a child process as an unprivileged user who owns `top`."""

    def begin() -> None:
        if os.getuid() == 0:
            os.chown(top, NOBODY, NOBODY)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        action()

    assert in_process(begin) == 0


def test_remove_tree_removes_directories_without_permissions(public: Path) -> None:
    def work() -> None:
        top = public / "top"
        for mode in (0o500, 0o300, 0o100, 0):
            for inner in (0o500, 0):
                directory = top / f"{mode:o}" / f"{inner:o}" / "below"
                directory.mkdir(parents=True)
                (directory / "file").touch(0o400)
                (directory / "link").symlink_to("/")
                directory.chmod(inner)
                directory.parent.chmod(inner)
            (top / f"{mode:o}").chmod(mode)
        top.chmod(0)
        remove_tree(top)
        assert not top.exists()

    as_nobody(public, work)


def test_unprivileged_user_replaces_read_only_directories(public: Path) -> None:
    def work() -> None:
        swap_in(public / "work", "old")
        (public / "work").chmod(0o555)
        swap_in(public / "work", "new")
        assert text_in(public / "work") == "new"
        assert names(public) == ["work"]

    as_nobody(public, work)


def test_only_files_of_another_user_that_cannot_be_removed_are_kept(public: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make directories of two users")

    def work() -> None:
        for text in ("new", "newer"):
            swap_in(public / "work", text)
            assert text_in(public / "work") == text

    swap_in(public / "work", "old")
    (public / "work" / "roots").mkdir()
    (public / "work" / "roots" / "file").touch()
    for path in ("work", "work/lib", "work/lib/deep"):
        os.chown(public / path, NOBODY, NOBODY)
    as_nobody(public, work)
    kept, _ = names(public)[::-1]
    assert kept.startswith("work.replaced-")
    assert names(public / kept) == ["roots"]


@pytest.mark.parametrize("mode", [0o755, 0o555])
def test_deep_directories_are_removed(tmp_path: Path, mode: int) -> None:
    """Neither the stack nor the number of open files limits the depth."""
    top = tmp_path / "top"
    top.mkdir()
    directory = os.open(top, os.O_RDONLY)
    for number in range(1200):
        os.mkdir("d", dir_fd=directory)
        os.close(os.open(f"file{number}", os.O_CREAT, dir_fd=directory))
        below = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.fchmod(directory, mode)
        os.close(directory)
        directory = below
    os.close(directory)
    remove_tree(top)
    assert names(tmp_path) == []


@pytest.mark.parametrize("before", ["open", "chmod"])
def test_remove_tree_follows_no_link_that_replaces_a_directory(
    public: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a directory cannot be opened, another user could put a link in its place."""

    def work() -> None:
        (public / "mine").mkdir(mode=0o755)
        closed = public / "top" / "closed"
        closed.mkdir(parents=True)
        closed.chmod(0)
        real_open, real_chmod = os.open, os.chmod

        def put_link() -> None:
            closed.rmdir()
            closed.symlink_to(public / "mine")

        def open_and_put_link(path: Any, *arguments: Any, **options: Any) -> int:
            try:
                return real_open(path, *arguments, **options)
            except PermissionError:
                put_link()
                raise

        def put_link_and_chmod(path: Any, *arguments: Any, **options: Any) -> None:
            put_link()
            real_chmod(path, *arguments, **options)

        monkeypatch.setattr(os, before, open_and_put_link if before == "open" else put_link_and_chmod)
        with pytest.raises(OSError):
            remove_tree(public / "top")
        assert (public / "mine").stat().st_mode & 0o777 == 0o755

    as_nobody(public, work)


def test_staging_directory_is_private(target: Path) -> None:
    with staging_directory(target) as staged:
        assert staged.tree.stat().st_mode & 0o777 == 0o700
        assert staged.tree.parent.stat().st_mode & 0o777 == 0o700
        assert list(staged.tree.iterdir()) == []
