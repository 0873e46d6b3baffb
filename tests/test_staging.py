"""Staging: a directory appears whole in another's place, or nothing has happened."""

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
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapper.errors import (
    FileOperationFailed,
    InsufficientSpace,
    PermissionDenied,
    SnapperError,
    TargetLocked,
    TargetOccupied,
)
from snapper.fs.exchange import exchange
from snapper.fs.removal import remove_tree
from snapper.restoring import staging
from snapper.restoring.staging import (
    Staging,
    find_leftovers,
    remove_leftover_staging,
    staging_directory,
)
from tests.conftest import tree_of

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

NOBODY = 65534

real_move_in = Staging._move_in

forking = multiprocessing.get_context("fork")


def fill(top: Path, text: str) -> None:
    """An environment of sorts, with read-only directories as packages bring them."""
    (top / "lib" / "deep").mkdir(parents=True)
    (top / "lib" / "file").write_text(text)
    (top / "lib" / "deep" / "file").write_text(text)
    (top / "bin").symlink_to("lib")
    (top / "lib" / "deep").chmod(0o555)
    (top / "lib").chmod(0o555)


def text_in(top: Path) -> str:
    return (top / "bin" / "deep" / "file").read_text()


def put(target: Path, text: str) -> None:
    with staging_directory(target) as aside:
        fill(aside.tree, text)
        aside.swap()


def no_exchange(one: Path, other: Path) -> bool:
    return False


@pytest.fixture(params=["exchange", "two steps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where renameat2 works, and where it does not: NFS, macOS, old kernels."""
    if request.param == "two steps":
        monkeypatch.setattr(staging, "exchange", no_exchange)
    return str(request.param)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "envs" / "work"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def in_process(action: Callable[[], object]) -> int | None:
    """Runs the action in a process of its own; how that ended."""
    process = forking.Process(target=action)
    process.start()
    process.join(30)
    return process.exitcode


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# --- swapping ---------------------------------------------------------------------------------------------


def test_onto_nothing(target: Path, way: str) -> None:
    put(target, "new")
    assert text_in(target) == "new"
    assert names(target.parent) == ["work"]


def test_onto_an_empty_directory(target: Path, way: str) -> None:
    target.mkdir(parents=True)
    put(target, "new")
    assert text_in(target) == "new"
    assert names(target.parent) == ["work"]


def test_onto_a_tree(target: Path, way: str) -> None:
    put(target, "old")
    (target / "extra").write_text("of old")
    put(target, "new")
    assert text_in(target) == "new"
    assert names(target) == ["bin", "lib"]
    assert names(target.parent) == ["work"]


def test_again_and_again(target: Path, way: str) -> None:
    for turn in range(5):
        put(target, str(turn))
        assert text_in(target) == str(turn)
    assert names(target.parent) == ["work"]


def test_a_swap_is_one_step_here(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target is never missing where the system can exchange directories."""
    seen: list[bool] = []
    real = exchange

    def watched(one: Path, other: Path) -> bool:
        seen.append(real(one, other))
        return seen[-1]

    put(target, "old")
    monkeypatch.setattr(staging, "exchange", watched)
    put(target, "new")
    if seen == [False]:
        pytest.skip("this file system cannot exchange directories")
    assert seen == [True]


def test_long_names(target: Path) -> None:
    long = target.with_name("n" * 240)
    put(long, "new")
    assert text_in(long) == "new"


@pytest.mark.parametrize("points_to", [None, "nowhere", "/"])
def test_what_is_no_directory_stays(target: Path, way: str, points_to: str | None) -> None:
    with pytest.raises(TargetOccupied) as caught, staging_directory(target) as aside:
        fill(aside.tree, "new")
        if points_to:
            target.symlink_to(points_to)
        else:
            target.write_text("mine")
        aside.swap()
    assert caught.value.code == 11
    assert os.readlink(target) == points_to if points_to else target.read_text() == "mine"
    assert names(target.parent) == ["work"]


def test_a_target_that_comes_to_be_is_not_lost(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(self: Staging) -> None:
        fill(target, "somebody else's")
        real_move_in(self)

    monkeypatch.setattr(Staging, "_move_in", meanwhile)
    with pytest.raises(TargetOccupied):
        put(target, "new")
    assert text_in(target) == "somebody else's"
    assert names(target.parent) == ["work"]


# --- what stands inside of an environment and is not part of it -------------------------------------------


def base(target: Path) -> dict[str, tuple[str, int, bytes]]:
    """A base environment with others in it and a package cache; those alone, as they are to be afterwards."""
    put(target, "old")
    for directory in ("envs/other", "envs/unpacked"):
        (target / directory / "conda-meta").mkdir(parents=True)
        (target / directory / "precious").write_text(directory)
    (target / "envs" / "away").symlink_to("../../../elsewhere")
    (target.parent.parent / "elsewhere" / "conda-meta").mkdir(parents=True)
    (target / "envs" / "mine").write_text("of base")
    (target / "pkgs").mkdir()
    (target / "pkgs" / "urls.txt").touch()
    for directory in ("envs/other", "envs", "pkgs", ""):
        (target / directory).chmod(0o555)
    return lodgers(target)


def lodgers(target: Path) -> dict[str, tuple[str, int, bytes]]:
    return {path: entry for path, entry in tree_of(target).items() if re.match("pkgs|envs/(?!mine)", path)}


def test_other_environments_and_the_package_cache_outlive_a_base_environment(public: Path, way: str) -> None:
    def work() -> None:
        target = public / "envs" / "base"
        before = base(target)
        assert len(before) == 9
        put(target, "new")
        assert text_in(target) == "new"
        assert lodgers(target) == before
        assert not (target / "envs" / "mine").exists()
        assert names(target.parent) == ["base"]
        remove_tree(target)

    as_nobody(public, work)


@pytest.mark.parametrize("how", ["killed", "failed"])
def test_other_environments_outlive_a_swap_that_is_cut_off(tmp_path: Path, way: str, how: str) -> None:
    def put_new(target: Path, at: int) -> None:
        steps = itertools.count()

        def cutting(real: Callable[..., object]) -> Callable[..., object]:
            def cut(*arguments: object) -> object:
                if next(steps) == at:
                    if how == "killed":
                        be_killed()
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return real(*arguments)

            return cut

        for owner, name in ((staging, "_move"), (staging, "exchange"), (Staging, "_move_in")):
            setattr(owner, name, cutting(getattr(owner, name)))
        put(target, "new")

    steps = 0
    texts = []
    for at in range(4 + (1 if way == "exchange" else 2) + 4):
        target = tmp_path / str(at) / "envs" / "work"
        before = base(target)
        steps += in_process(lambda: put_new(target, at)) != 0  # noqa: B023 - it is called here
        remove_leftover_staging(target)
        texts.append(text_in(target))
        assert lodgers(target) == before
        assert names(target.parent) == ["work"]
    assert steps == at + 1
    assert texts == ["old"] * (at - 3) + ["new"] * 4


def test_an_environment_whose_place_the_snapshot_has_a_file_at_is_in_the_way(target: Path, way: str) -> None:
    base(target)
    before = tree_of(target)
    for place in ("envs/other", "envs", "pkgs"):
        with pytest.raises(TargetOccupied) as caught, staging_directory(target) as aside:
            fill(aside.tree, "new")
            (aside.tree / place).parent.mkdir(exist_ok=True)
            (aside.tree / place).write_text("of the snapshot")
            aside.swap()
        assert str(target / place) in caught.value.message
        assert tree_of(target) == before
        assert names(target.parent) == ["work"]


def test_an_environment_that_is_being_restored_is_not_moved(target: Path) -> None:
    base(target)
    before = tree_of(target)
    (target / "envs").chmod(0o755)
    with staging_directory(target / "envs" / "third"), pytest.raises(TargetLocked):
        put(target, "new")
    (target / "envs").chmod(0o555)
    assert tree_of(target) == before


# --- failing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [False, True])
def test_an_error_leaves_what_was(target: Path, existing: bool, kind: type[BaseException]) -> None:
    if existing:
        put(target, "old")
    before = tree_of(target.parent)
    with pytest.raises(kind), staging_directory(target) as aside:
        fill(aside.tree, "new")
        raise kind
    assert tree_of(target.parent) == before


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_a_swap_that_fails_between_its_steps_leaves_what_was(
    target: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def fail(self: Staging) -> None:
        assert not self.target.exists()
        raise kind

    put(target, "old")
    before = tree_of(target.parent)
    monkeypatch.setattr(staging, "exchange", no_exchange)
    monkeypatch.setattr(Staging, "_move_in", fail)
    with pytest.raises((SnapperError, KeyboardInterrupt)):
        put(target, "new")
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
def test_errors_of_the_system_are_told(target: Path, number: int, kind: type[SnapperError]) -> None:
    with pytest.raises(kind) as caught, staging_directory(target):
        raise OSError(number, os.strerror(number), "some/file")
    assert str(target.parent) in caught.value.message or "some/file" in caught.value.message
    assert names(target.parent) == []


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SnapperError), staging_directory(tmp_path / "file" / "work"):
        pass
    assert (tmp_path / "file").read_text() == "mine"


# --- killed -----------------------------------------------------------------------------------------------


def test_what_a_killed_process_left_is_cleared_by_the_next(target: Path) -> None:
    def killed() -> None:
        with staging_directory(target) as aside:
            fill(aside.tree, "half")
            be_killed()

    for _ in range(2):
        assert in_process(killed) == -signal.SIGKILL
        assert not target.exists()
        assert names(target.parent) == [".work.snapper"]
    put(target, "new")
    assert text_in(target) == "new"
    assert names(target.parent) == ["work"]


def test_sweep_clears_what_a_killed_process_left(target: Path) -> None:
    def killed() -> None:
        with staging_directory(target) as aside:
            fill(aside.tree, "half")
            be_killed()

    put(target, "old")
    assert in_process(killed) == -signal.SIGKILL
    remove_leftover_staging(target)
    assert text_in(target) == "old"
    assert names(target.parent) == ["work"]
    remove_leftover_staging(target)
    assert names(target.parent) == ["work"]


def test_a_swap_cut_off_between_its_steps_is_undone_by_the_next(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(target, "old")
    before = tree_of(target.parent)
    with monkeypatch.context() as patch:
        patch.setattr(staging, "exchange", no_exchange)
        patch.setattr(Staging, "_move_in", lambda _: be_killed())
        assert in_process(lambda: put(target, "new")) == -signal.SIGKILL
    assert not target.exists()
    with staging_directory(target):
        assert text_in(target) == "old"
    assert tree_of(target.parent) == before


def test_a_swap_cut_off_after_its_steps_is_done(target: Path, way: str) -> None:
    def killed() -> None:
        with staging_directory(target) as aside:
            fill(aside.tree, "new")
            aside.swap()
            be_killed()

    put(target, "old")
    assert in_process(killed) == -signal.SIGKILL
    assert text_in(target) == "new"
    remove_leftover_staging(target)
    assert text_in(target) == "new"
    assert names(target.parent) == ["work"]


# --- planted ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["symlink", "of another user"])
def test_nothing_is_removed_where_somebody_else_says(target: Path, tmp_path: Path, kind: str) -> None:
    """Neither where a staging directory leads elsewhere, nor where it is another user's."""
    holder, theirs = target.parent / ".work.snapper", tmp_path / "project"
    put(target, "old")
    if kind == "symlink":
        holder.symlink_to(theirs)
    elif os.getuid() != 0:
        pytest.skip("only root can make directories of two users")
    else:
        theirs = holder
    (theirs / "precious").mkdir(parents=True)
    (theirs / "precious" / "file").touch()
    os.chown(theirs, NOBODY if kind == "of another user" else -1, -1)
    before = tree_of(tmp_path)
    remove_leftover_staging(target)
    assert find_leftovers(target.parent) == []
    with pytest.raises(TargetOccupied) as caught:
        put(target, "new")
    assert str(holder) in caught.value.message
    assert tree_of(tmp_path) == before


# --- at the same time -------------------------------------------------------------------------------------


def hold(target: Path, held: str, release: str) -> None:
    """Stages the target from one line on a pipe to another."""
    with staging_directory(target) as aside:
        fill(aside.tree, "held")
        with open(held, "w") as out:
            out.write("held")
        with open(release) as waiting:
            waiting.read()
        aside.swap()


def test_busy_while_another_process_is_at_work(target: Path, tmp_path: Path) -> None:
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
    put(target.with_name("other"), "new")
    with open(release, "w") as out:
        out.write("now")
    process.join(30)
    assert process.exitcode == 0
    assert text_in(target) == "held"
    put(target, "new")
    assert names(target.parent) == ["other", "work"]


def test_of_many_at_once_each_is_done_or_busy(target: Path) -> None:
    barrier = forking.Barrier(6)

    def work(number: int) -> None:
        for _ in range(15):
            barrier.wait(30)
            try:
                put(target, str(number))
            except TargetLocked:
                continue
            assert text_in(target) in "012345"

    processes = [forking.Process(target=work, args=(number,)) for number in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    assert text_in(target) in "012345"
    assert names(target.parent) == ["work"]


def test_the_lock_is_one_that_machines_share_on_nfs(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[bool] = []
    lock = fcntl.flock

    def watched(descriptor: int, operation: int) -> None:
        writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        locked.append(writable and os.path.isfile(f"/proc/self/fd/{descriptor}"))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", watched)
    put(target, "new")
    assert locked == [True]


# --- removing ---------------------------------------------------------------------------------------------


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory of a user whom permissions bind."""
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    yield top
    shutil.rmtree(top)


def as_nobody(top: Path, action: Callable[[], None]) -> None:
    """Runs the action in a process that may not do everything, but owns `top`."""

    def begin() -> None:
        if os.getuid() == 0:
            os.chown(top, NOBODY, NOBODY)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        action()

    assert in_process(begin) == 0


def test_directories_that_may_not_be_written_or_entered_are_removed(public: Path) -> None:
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


def test_a_user_replaces_an_environment_with_read_only_directories(public: Path) -> None:
    def work() -> None:
        put(public / "work", "old")
        (public / "work").chmod(0o555)
        put(public / "work", "new")
        assert text_in(public / "work") == "new"
        assert names(public) == ["work"]

    as_nobody(public, work)


def test_what_is_another_users_does_not_fail_what_is_done(public: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make directories of two users")

    def work() -> None:
        for text in ("new", "newer"):
            put(public / "work", text)
            assert text_in(public / "work") == text

    put(public / "work", "old")
    (public / "work" / "roots").mkdir()
    (public / "work" / "roots" / "file").touch()
    for path in ("work", "work/lib", "work/lib/deep"):
        os.chown(public / path, NOBODY, NOBODY)
    as_nobody(public, work)
    remove_leftover_staging(public / "work")
    assert names(public) == ["work"]


def test_the_staging_directory_is_private(target: Path) -> None:
    with staging_directory(target) as aside:
        assert aside.tree.stat().st_mode & 0o777 == 0o700
        assert aside.tree.parent.stat().st_mode & 0o777 == 0o700
        assert list(aside.tree.iterdir()) == []
