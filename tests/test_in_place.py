"""Directories that cannot be replaced, such as mount points and parts of container images: their contents are."""

from __future__ import annotations

import errno
import getpass
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from snapper.commands.restore import RestoreResult, restore
from snapper.environment import conda, contents, state
from snapper.environment.index import IndexHeader, encode_block, index_entry
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.staging_lock import ENTERING, INSIDE, OLD
from snapper.environment.tree import walk
from snapper.errors import SnapperError
from snapper.fs import placement, removal
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.in_place import staging_in_place
from snapper.restoring.leftovers import remove_leftover_staging
from snapper.restoring.requests import RestoreRequest
from snapper.restoring.swap import stage
from snapper.store import open_store
from tests.conftest import Machine, tree_of
from tests.support.environments import make_data
from tests.support.layers import META, encode_member, file, pack_members
from tests.support.processes import forking, run_as
from tests.support.sandbox import publish_layers
from tests.support.staging import sign_lock
from tests.support.users import unprivileged
from tests.support.volumes import MOUNTS, in_image, mounted

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

Entries = dict[str, tuple[str, int, bytes]]

#: What a swap calls for each of its steps.
STEPS = (
    *((contents, "move"), (placement, "move"), (contents, "open_if_directory")),
    *((removal, "_remove_file"), (removal, "_remove_empty")),
)


def build(top: Path, text: str) -> None:
    """Build an environment in an existing directory."""
    for directory in ("conda-meta", "lib/deep", "bin"):
        (top / directory).mkdir(parents=True)
        (top / directory / "file").write_text(text)
    (top / text).write_text(text)
    (top / "link").symlink_to(text)
    (top / "lib" / "deep").chmod(0o555)
    entries = [index_entry(file) for file in walk(top).files]
    state.write_index(top, IndexHeader("0" * 64, str(top), time.time_ns()), [encode_block(0, entries)])


def make_base(target: Path) -> Entries:
    """Build an environment with others in it and a package cache; return what is not part of it."""
    target.mkdir(parents=True)
    build(target, "old")
    for directory in ("envs/other/conda-meta", "pkgs", "lost+found"):
        (target / directory).mkdir(parents=True)
        (target / directory / "precious").write_text("precious")
    return foreign(target)


def foreign(target: Path) -> Entries:
    return {path: entry for path, entry in tree_of(target).items() if not is_part(path)}


def is_part(path: str) -> bool:
    top = path.partition("/")[0]
    return top not in ("envs", "pkgs", "lost+found", ".snapper", INSIDE) and ".replaced-" not in top


def own(target: Path) -> Entries:
    """Return what is part of the environment, without what programs have saved in it."""
    found = tree_of(target).items()
    return {path: entry for path, entry in found if is_part(path) and "results" not in path}


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Entries]:
    """The entries of the environment before and after a swap."""
    found = {}
    for text in ("old", "new"):
        top = tmp_path_factory.mktemp("versions") / text
        top.mkdir()
        build(top, text)
        found[text] = own(top)
    return found


def swap(target: Path, check: Callable[[int], None] = lambda _: None) -> None:
    with staging_in_place(target) as staged:
        build(staged.tree, "new")
        staged.swap(check)


@contextmanager
def interrupted(at: int, how: str, target: Path) -> Iterator[None]:
    """Kill the process, or fail, before a step; before each, a program saves something; report the steps taken."""
    steps = itertools.count()

    def before(real: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            number = next(steps)
            (target.parent / "steps").write_text(f"{number + 1}")
            if number == at:
                (target / "lib").mkdir(exist_ok=True)
                (target / "lib" / "results").write_text("work")
            if number == at and how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if number == at and how == "failed":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*arguments)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, before(getattr(owner, name)))
        yield


@pytest.mark.parametrize("how", ["killed", "failed"])
@pytest.mark.parametrize("place", ["directory", "image"])
def test_interrupted_swap_leaves_the_old_or_the_new_environment(
    tmp_path: Path, place: str, how: str, versions: dict[str, Entries]
) -> None:
    """The next command that looks at it finds one of both, whichever step is the last, and nothing is lost."""
    found = []
    for at in itertools.count():
        top = tmp_path / str(at)
        target = top / "envs" / "work"
        before = make_base(target)

        def work(at: int = at, target: Path = target) -> None:
            with suppress(SnapperError), interrupted(at, how, target):
                swap(target)

        with in_image(target.parent, top / "layers") if place == "image" else nullcontext():
            process = forking.Process(target=work)
            process.start()
            process.join(30)
            assert conda.is_environment(target)
            entries = own(target)
            assert entries in versions.values(), at
            assert before.items() <= foreign(target).items()
            remove_leftover_staging(target)
            assert own(target) == entries
            assert not (target / INSIDE).exists()
            steps = int((target.parent / "steps").read_text())
            saved = {path.read_text() for path in target.rglob("results")}
            assert saved == ({"work"} if at < steps else set()), at
            kept = [path for top in target.glob("work.replaced-*") for path in top.rglob("*")]
            assert {path.name for path in kept if not path.is_dir()} == ({"results"} if kept else set())
            assert all(list(top.iterdir()) for top in target.glob("work.replaced-*"))
        found.append("new" if entries == versions["new"] else "old")
        shutil.rmtree(top)
        if at >= steps:
            break
    assert len(found) > 8
    assert found[-1] == "new"
    assert "old" in found


# --- what cannot be replaced ------------------------------------------------------------------------------

NOBODY = 65534


@pytest.fixture
def of_nobody(versions: dict[str, Entries]) -> Iterator[Path]:
    """An environment of a user who can create nothing beside it."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a process of another user")
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    target = top / "envs" / "work"
    make_base(target)
    for path in (target, *target.rglob("*")):
        os.lchown(path, NOBODY, NOBODY)
    yield target
    shutil.rmtree(top)


def replace(target: Path) -> str:
    """Replace an environment as `restore` does; return what prevents that, "" if nothing does."""
    try:
        with stage(target) as staged:
            build(staged.tree, "new")
            staged.swap()
    except SnapperError as error:
        return f"{error.message} {error.hint}"
    return ""


def test_user_who_can_create_nothing_beside_an_environment_replaces_it(
    of_nobody: Path, versions: dict[str, Entries]
) -> None:
    before = foreign(of_nobody)
    assert run_as(NOBODY, lambda: replace(of_nobody)) == ""
    assert own(of_nobody) == versions["new"]
    assert foreign(of_nobody) == before
    assert os.listdir(of_nobody.parent) == ["work"]


@pytest.mark.parametrize("place", ["directory", "image"])
def test_directories_of_other_users_are_found_before_anything_is_written(
    of_nobody: Path, place: str, versions: dict[str, Entries]
) -> None:
    """In an image, those further down have to be moved as well."""
    path = of_nobody / ("lib" if place == "directory" else "lib/deep")
    os.chown(path, 0, 0)
    layers = of_nobody.parent.with_name("layers")
    with in_image(of_nobody.parent, layers) if place == "image" else nullcontext():
        message = run_as(NOBODY, lambda: replace(of_nobody))
        assert message.startswith(f"cannot overwrite {path}: it belongs to the user root")
        assert own(of_nobody) == versions["old"]
        assert not (of_nobody / INSIDE).exists()


def test_directory_of_another_user_that_has_to_stay_can_be_given_away(machine: Machine) -> None:
    user = unprivileged(machine)
    prefix = make_data(machine.envs / "data")
    machine.run_json("pack", "data")
    shutil.rmtree(prefix)
    prefix.mkdir()
    if os.geteuid() == 0:
        os.chown(prefix, NOBODY, NOBODY)
        user.envs.chmod(0o555)
        refused = user.snapper("restore", "data", "--prefix", prefix)
        assert (refused.code, f"chown {getpass.getuser()} {prefix}" in refused.err) == (11, True), refused
        os.chown(prefix, 0, 0)
    user.run_json("restore", "data", "--prefix", prefix)


# --- commands ---------------------------------------------------------------------------------------------


def publish_two(machine: Machine) -> str:
    """Pack two versions of `data`; return the first. The second is in place, and has a file `new` more."""
    prefix = make_data(machine.envs / "data")
    first: str = machine.run_json("pack", "data")["snapshot"]
    (prefix / "new").write_text("new")
    machine.run_json("pack", "data")
    return first


def assert_updates(machine: Machine, first: str) -> None:
    """Assert that the first version is restored, and then the second one, and that nothing else is left."""
    prefix = machine.envs / "data"
    machine.run_json("restore", f"data@{first}")
    assert not (prefix / "new").exists()
    beside = os.listdir(machine.envs)
    (restored,) = machine.run_json("restore", "--all")["restored"]
    assert (restored["prefix"], restored["present"], restored["kept"]) == (str(prefix), False, [])
    assert (prefix / "new").read_text() == "new"
    assert os.listdir(machine.envs) == beside
    assert not (prefix / INSIDE).exists()
    (status,) = machine.run_json("status")["environments"]
    assert status["condition"] == "unchanged"
    (restored,) = machine.run_json("restore", "--all")["restored"]
    assert restored["present"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("kind", MOUNTS)
def test_environment_is_restored_into_a_file_system_of_its_own(
    machine: Machine, kind: str, tmp_path: Path
) -> None:
    prefix = machine.envs / "data"
    first = publish_two(machine)
    shutil.rmtree(prefix)
    prefix.mkdir()
    with mounted(kind, prefix, tmp_path / "scratch"):
        furniture = set(os.listdir(prefix))
        assert_updates(machine, first)
        assert furniture <= set(os.listdir(prefix))
        assert os.path.ismount(prefix) or kind == "bind"
    assert os.listdir(prefix) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("fuse", [False, True])
def test_environment_of_a_container_image_is_replaced(machine: Machine, fuse: bool, tmp_path: Path) -> None:
    first = publish_two(machine)
    machine.run_json("restore", f"data@{first}")
    with in_image(machine.envs, tmp_path / "layers", fuse=fuse):
        (restored,) = machine.run_json("restore", "--all")["restored"]
        assert not restored["present"]
        assert_updates(machine, first)
    assert not (tmp_path / "layers/lowerdir/data/new").exists()


def test_environment_in_a_directory_that_cannot_be_written_to_is_replaced(machine: Machine) -> None:
    user = unprivileged(machine)
    first = publish_two(machine)
    user.envs.chmod(0o555)
    assert_updates(user, first)


def interrupt(prefix: Path) -> None:
    """Leave an environment as a killed swap does, which has put half of it in place."""
    staging = prefix / INSIDE
    for directory in (staging, staging / OLD, staging / f"{ENTERING}_1"):
        directory.mkdir(mode=0o700)
    sign_lock(staging)
    for name in ("conda-meta", ".snapper", "bin"):
        (prefix / name).rename(staging / f"{ENTERING}_1" / name)


def test_every_command_completes_an_interrupted_swap_first(machine: Machine) -> None:
    prefix = make_data(machine.envs / "data")
    machine.run_json("pack", "data")
    before = tree_of(prefix)
    for command in (
        *("status", "status data", "doctor", "pack data", "diff data", "verify data"),
        *("kernels register data", "restore --all", "restore data"),
    ):
        interrupt(prefix)
        outcome = machine.snapper(*command.split())
        assert outcome.code in (0, 3), outcome
        assert "absent" not in outcome.out
        after = tree_of(prefix)
        assert {path: after.get(path) for path in before} == before, command
        shutil.rmtree(prefix / INSIDE, ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("option", ["ro", "size=64k", "nr_inodes=5"])
def test_what_prevents_a_restore_into_a_file_system_is_found_before_unpacking(
    machine: Machine, option: str, tmp_path: Path
) -> None:
    prefix = make_data(machine.envs / "data")
    machine.run_json("pack", "data")
    shutil.rmtree(prefix)
    prefix.mkdir()
    with mounted("tmpfs", prefix, tmp_path / "scratch"):
        subprocess.run(["mount", "-o", f"remount,{option}", str(prefix)], check=True)
        outcome = machine.snapper("restore", "data", "--prefix", prefix, "--json")
        (failed,) = outcome.json["failed"]
        kind = "FileOperationFailed" if option == "ro" else "InsufficientSpace"
        assert (failed["type"], str(prefix) in failed["message"]) == (kind, True), failed
        assert os.listdir(prefix) == []


def test_swap_that_cannot_be_completed_is_a_problem(machine: Machine) -> None:
    user = unprivileged(machine)
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory to another user")
    prefix = make_data(machine.envs / "data")
    machine.run_json("pack", "data")
    interrupt(prefix)
    moved = prefix / INSIDE / f"{ENTERING}_1" / "bin"
    os.chown(moved, NOBODY, NOBODY)
    findings = user.snapper("doctor", "--json").json["findings"]
    (problem,) = [finding for finding in findings if finding["title"] == "Leftover"]
    assert problem["detail"].startswith(f"{prefix} is only partly replaced"), problem
    (status,) = user.snapper("status", "--json").json["environments"]
    assert "cannot be completed" in status["error"]["message"]
    for command in ("pack data", "restore --all --replace"):
        done = user.snapper(*command.split())
        assert done.code == 1, done
        assert f"{prefix}: an interrupted restore to it cannot be completed" in done.err
    os.chown(moved, 0, 0)
    assert "unchanged" in user.snapper("status").out


def test_published_files_with_names_that_are_never_part_of_an_environment_are_left_out(sandbox: Path) -> None:
    """Else the environment would count as changed for good."""
    store = open_store(str(sandbox / "store"))
    members = [encode_member(META), file("lost+found/y"), file("work.replaced-20260101-000000-abcd/x")]
    publish_layers(store, [pack_members(*members, file("a"))])
    (outcome,) = restore(store, [RestoreRequest(SnapshotSpec("work"), prefix=sandbox / "new")])
    assert isinstance(outcome, RestoreResult), outcome
    assert sorted(os.listdir(outcome.prefix)) == [".snapper", "a", "conda-meta"]
    drift = InstalledEnvironment(Path(outcome.prefix)).drift()
    assert drift and not drift.paths


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("place", ["tmpfs", "image"])
def test_changed_environment_is_kept_inside_of_a_directory_that_has_to_stay(
    machine: Machine, place: str, tmp_path: Path
) -> None:
    """Nothing can be put beside it. What is kept survives further restores, and is never packed."""
    prefix, scratch = machine.envs / "data", tmp_path / "scratch"
    first = publish_two(machine)
    shutil.rmtree(prefix)
    prefix.mkdir()
    if place == "image":
        machine.run_json("restore", f"data@{first}")
    with in_image(machine.envs, scratch) if place == "image" else mounted(place, prefix, scratch):
        if place != "image":
            machine.run_json("restore", f"data@{first}")
        (prefix / "bin" / "mine").write_text("mine")
        (restored,) = machine.run_json("restore", "--all", SNAPPER_ON_CHANGE="aside")["restored"]
        (kept,) = map(Path, restored["kept"])
        assert kept.parent == prefix
        assert (kept / "bin/mine").read_text() == "mine"
        assert (kept / "bin/textdata-home").exists()
        machine.run_json("restore", f"data@{first}")
        assert (kept / "bin/mine").read_text() == "mine"
        assert machine.run_json("pack", "data")["unchanged"]
