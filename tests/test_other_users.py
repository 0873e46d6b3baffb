"""Several users on one machine: what belongs to another user is neither trusted nor changed, and root's is shared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import tree_of
from tests.support.kernelspecs import add_kernel
from tests.support.redteam.accounts import Account
from tests.support.redteam.world import World, new_world

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run commands as several users")


@pytest.fixture
def world() -> Iterator[World]:
    with new_world(sys.executable) as made:
        yield made


@pytest.fixture
def shared(world: World) -> Path:
    """An envs directory that all users may write to, like that of a hub."""
    directory = world.top / "shared" / "envs"
    directory.mkdir(parents=True)
    directory.chmod(0o1777)
    return directory


def pack(owner: Account, prefix: Path, *options: object) -> str:
    """Make an environment with a kernel, pack it, and return the id of the snapshot; all belong to the account."""
    (prefix / "conda-meta").mkdir(parents=True, exist_ok=True)
    (prefix / "conda-meta" / "history").touch()
    if not (prefix / "share").exists():
        add_kernel(prefix, "python3", argv=["/bin/true"], display_name="Python 3", language="python")
    owner.store.mkdir(exist_ok=True)
    for path in (prefix, owner.store):
        owner.owns(path)
    snapshot: str = owner.run_json("pack", "-p", prefix, *options)["snapshot"]
    return snapshot


def test_environment_of_another_user_does_not_count_as_restored(world: World, shared: Path) -> None:
    """Its state says that it is the snapshot, and its owner can change it whenever the kernel is started."""
    victim, attacker = world.victim, world.attacker
    pack(victim, victim.envs / "work")
    attacker.run_json("restore", "work", "--envs-dir", shared)
    before = tree_of(shared)
    error = victim.expect_error(11, "restore", "work", "--envs-dir", shared)
    assert error["message"] == f"cannot overwrite {shared / 'work'}: it belongs to the user {attacker.uid}"
    assert "--prefix" in error["hint"] and str(attacker.uid) in error["hint"]
    assert tree_of(shared) == before
    assert victim.registered_kernels() == {}
    outcome = victim.snapper("restore", "--all", "--envs-dir", shared, "--replace")
    assert outcome.code == 11
    assert tree_of(shared) == before
    assert victim.registered_kernels() == {}


def test_status_does_not_trust_the_state_of_another_user(world: World, shared: Path) -> None:
    pack(world.attacker, shared / "work")
    status = world.victim.run_json("status", CONDA_ENVS_PATH=str(shared))
    assert [entry["condition"] for entry in status["environments"]] == ["absent"]
    (entry,) = world.victim.run_json("status", "-p", shared / "work")["environments"]
    assert (entry["condition"], entry["snapshot"]) == ("unknown", None)


@pytest.mark.parametrize("state", ["as it was", "writable", "pipe"])
def test_environment_of_a_colleague_is_packed(world: World, shared: Path, state: str) -> None:
    """What snapper recorded there is ignored and stays as it is."""
    prefix = shared / "work"
    first = pack(world.attacker, prefix)
    if state == "writable":
        (prefix / ".snapper").chmod(0o777)
    elif state == "pipe":
        (prefix / ".snapper" / "index").unlink()
        os.mkfifo(prefix / ".snapper" / "index")
    before = tree_of(shared)
    times = [path.lstat().st_mtime_ns for path in sorted((prefix / ".snapper").iterdir())]
    world.victim.owns(world.store)
    packed = world.victim.run_json("pack", "-p", prefix, "--name", "copy")
    assert packed["snapshot"] == first
    assert tree_of(shared) == before
    assert [path.lstat().st_mtime_ns for path in sorted((prefix / ".snapper").iterdir())] == times


def test_files_that_only_root_may_read_are_not_packed(world: World) -> None:
    """Their owner, or whoever owns the directory they are in, can move them into an environment, or link them there."""
    prefix, root = world.victim.envs / "work", world.root
    pack(world.victim, prefix)
    for name in ("public", "secret", "linked"):
        (prefix / name).write_text(name)
        (prefix / name).chmod(0o644 if name == "public" else 0o640)
    os.link(prefix / "linked", world.victim.home / "elsewhere")
    for name in ("cache", "listed"):
        (prefix / name).mkdir()
        (prefix / name / "file").write_text(name)
    (prefix / "cache").chmod(0o711)
    (prefix / "link").symlink_to("public")
    packed = root.run_json("pack", "-p", prefix, "--name", "copy")
    assert [item["path"] for item in packed["skipped"]] == ["cache", "linked", "secret"]
    root.run_json("restore", "copy", "--prefix", world.top / "restored")
    assert {"public", "listed/file", "link"} <= tree_of(world.top / "restored").keys()


def test_kernelspec_for_the_environment_of_a_colleague_is_named(world: World, shared: Path) -> None:
    """It would have to be copied into the environment; nothing is written there."""
    pack(world.attacker, shared / "team")
    kernel = world.victim.home / ".local/share/jupyter/kernels/mine"
    kernel.mkdir(parents=True)
    spec = {"argv": [f"{shared}/team/bin/run"], "display_name": "Mine", "language": "text"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    world.victim.owns(world.victim.home)
    before = tree_of(shared)
    outcome = world.victim.snapper("pack", "-p", shared / "team", "--json")
    assert outcome.code == 3
    result = json.loads(outcome.out)
    assert result["dependencies"] == [
        {"kind": "kernel", "path": str(kernel), "names": ["it belongs to the user 64202"]}
    ]
    assert tree_of(shared) == before


def test_environment_that_root_has_installed_is_shared(world: World) -> None:
    """All users count it as restored and get its kernels, and nobody but root can replace it."""
    root, victim, envs = world.root, world.victim, world.top / "opt" / "envs"
    envs.mkdir(parents=True)
    first = pack(root, envs / "work")
    (envs / "work" / "more").write_text("more")
    second = pack(root, envs / "work")
    (restored,) = victim.run_json("restore", "work", "--envs-dir", envs)["restored"]
    assert (restored["present"], restored["snapshot"]) == (True, second)
    assert victim.registered_kernels().keys()
    (entry,) = victim.run_json("status", CONDA_ENVS_PATH=str(envs))["environments"]
    assert (entry["environment"], entry["condition"]) == ("work", "unchanged")
    envs.chmod(0o777)
    before = tree_of(envs)
    error = victim.expect_error(11, "restore", f"work@{first}", "--envs-dir", envs, "--replace")
    assert "it belongs to the user root" in error["message"]
    assert tree_of(envs) == before
    root.run_json("restore", f"work@{first}", "--envs-dir", envs)
    assert not (envs / "work" / "more").exists()


def test_root_does_not_replace_the_environment_of_a_user(world: World) -> None:
    root, victim = world.root, world.victim
    pack(victim, victim.envs / "work")
    before = tree_of(victim.envs)
    for options in ((), ("--replace",)):
        error = root.expect_error(11, "restore", "work", "--envs-dir", victim.envs, *options)
        assert f"it belongs to the user {victim.uid}" in error["message"]
    assert tree_of(victim.envs) == before
    assert root.registered_kernels() == {}


@pytest.mark.parametrize("envs", ["link", "link/below", "link/new/below"])
def test_link_of_another_user_is_not_followed_to_the_destination(
    world: World, shared: Path, envs: str
) -> None:
    """Its owner could have any environment of this user replaced, and lead the kernel elsewhere afterwards."""
    victim, directory = world.victim, shared / envs
    (shared / "link").symlink_to(victim.envs)
    work = directory / "work"
    if "new" not in envs:
        work.mkdir(parents=True)
        pack(victim, work.resolve())
        victim.owns(victim.home)
    else:
        pack(victim, victim.home / "work")
    os.chown(shared / "link", world.attacker.uid, -1, follow_symlinks=False)
    before = tree_of(victim.envs)
    for options in ((), ("--replace",)):
        error = victim.expect_error(11, "restore", "work", "--envs-dir", directory, *options)
        assert error["message"].endswith(f"link is a link of the user {world.attacker.uid}")
    assert tree_of(victim.envs) == before
    assert victim.registered_kernels() == {}
    os.chown(shared / "link", victim.uid, -1, follow_symlinks=False)
    victim.run_json("restore", "work", "--envs-dir", directory)
    assert len(victim.registered_kernels()) == 1


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_link_of_another_user_is_not_followed_to_the_output_of_an_export(
    world: World, shared: Path, force: list[str]
) -> None:
    """Its owner could have any file of this user replaced."""
    victim = world.victim
    pack(victim, victim.envs / "work")
    backups = victim.home / "backups"
    backups.mkdir()
    if force:
        (backups / "work.tar.gz").write_text("the only backup")
    victim.owns(backups)
    (shared / "link").symlink_to(backups)
    os.chown(shared / "link", world.attacker.uid, -1, follow_symlinks=False)
    before = tree_of(backups)
    error = victim.expect_error(11, "export", "work", "-o", shared / "link" / "work.tar.gz", *force)
    assert error["message"].endswith(f"link is a link of the user {world.attacker.uid}")
    assert tree_of(backups) == before
    os.chown(shared / "link", victim.uid, -1, follow_symlinks=False)
    victim.run_json("export", "work", "-o", shared / "link" / "work.tar.gz", *force)
    assert (backups / "work.tar.gz").stat().st_size > 1000


def test_staging_directory_of_another_user_is_refused(world: World, shared: Path) -> None:
    """The owner of the directory above creates it in advance, with links to what is to be moved into it."""
    victim, attacker = world.victim, world.attacker
    pack(victim, victim.envs / "work")
    shutil.copytree(victim.envs / "work", shared / "work", ignore=shutil.ignore_patterns(".snapper"))
    victim.owns(shared / "work")
    for path in ("envs/other/conda-meta", "pkgs"):
        (shared / "work" / path).mkdir(parents=True)
    (shared / "work" / "pkgs" / "urls.txt").touch()
    victim.owns(shared / "work")
    holder = shared / ".work.snapper"
    (holder / "kept" / "envs").mkdir(parents=True)
    (holder / "kept" / "envs" / "planted").mkdir()
    attacker.owns(holder)
    os.chown(shared, attacker.uid, attacker.uid)
    before = tree_of(shared)
    error = victim.expect_error(11, "restore", "work", "--envs-dir", shared, "--replace")
    assert error["message"] == f"cannot overwrite {holder}: it belongs to the user {attacker.uid}"
    assert tree_of(shared) == before


def test_import_does_not_use_scratch_directories_of_other_users(world: World, tmp_path: Path) -> None:
    """A directory with such a name is neither used nor removed, whoever made it."""
    victim, attacker = world.victim, world.attacker
    pack(victim, victim.envs / "work")
    archive = victim.home / "work.tar.gz"
    victim.run_json("export", "work", "-o", archive)
    scratch = world.top / "scratch"
    for name, owner in (("snapper-scratch-theirs", attacker), ("snapper-scratch-mine", victim)):
        (scratch / name / "precious").mkdir(parents=True)
        owner.owns(scratch / name)
        (scratch / name).chmod(0o700)
    (scratch / "snapper-scratch-link").symlink_to(victim.home)
    scratch.chmod(0o777)
    before = tree_of(scratch)
    victim.run_json("import", archive, "--name", "imported", TMPDIR=str(scratch))
    assert tree_of(scratch) == before


#: A group that the victim and the attacker are in.
_GROUP = 64310


@pytest.fixture
def team(world: World) -> Path:
    """An envs directory in which the members of the group may create and rename."""
    directory = world.top / "team" / "envs"
    directory.mkdir(parents=True)
    os.chown(directory, 0, _GROUP)
    directory.chmod(0o2775)
    return directory


def test_directory_that_others_may_have_put_there_is_no_environment(world: World, team: Path) -> None:
    """Another user moves a directory of the victim there, such as one in a group store, or another environment."""
    victim, attacker = (replace(user, groups=(_GROUP,)) for user in (world.victim, world.attacker))
    variables = {"CONDA_ENVS_PATH": str(team)}
    pack(victim, team / "work")
    pack(victim, team / "other")
    (team / "filled").mkdir()
    os.chown(team / "filled", victim.uid, _GROUP)
    (team / "filled").chmod(0o775)

    def fill_and_move() -> None:
        for name in ("conda-meta", "share"):
            shutil.copytree(team / "work" / name, team / "filled" / name)
        (team / "work").rename(team / "moved")
        (team / "filled").rename(team / "work")

    attacker.do(fill_and_move)
    # In a group store, files of the victim can have any contents, too.
    victim.owns(shutil.copytree(team / "moved/.snapper", team / "work/.snapper"))
    assert (team / "work").stat().st_uid == victim.uid
    for command in ("pack", "kernels register"):
        outcome = victim.snapper(*command.split(), "work", **variables)
        assert outcome.code == 11
        assert f"others may have put {team}/work there: they may write to it\n" in outcome.err
        assert f"-p {team}/work" in outcome.err
    outcome = victim.snapper("status", "work", **variables)
    assert outcome.code == 3
    assert "pack it" not in outcome.out
    outcome = victim.snapper("restore", "--all", "--only", "work", **variables)
    assert outcome.code == 11
    assert "others may have put it there: they may write to it\n" in outcome.err

    (team / "work").rename(team / "filled")
    (team / "other").rename(team / "work")
    outcome = victim.snapper("pack", "work", **variables)
    assert outcome.code == 11
    assert f"{team}/work there: it was packed or restored at {team}/other" in outcome.err

    shutil.rmtree(team / "work/.snapper")
    (team / "work").chmod(0o700)
    outcome = victim.snapper("pack", "work", **variables)
    assert outcome.code == 11
    assert f"{team}/work there: only you may read it, but they may rename it" in outcome.err
    assert victim.registered_kernels() == {}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def let_group_write(owner: Account, prefix: Path) -> None:
    for path in (prefix, *prefix.rglob("*")):
        os.chown(path, owner.uid, _GROUP, follow_symlinks=False)
        path.chmod(path.stat().st_mode | 0o020)


def test_environment_that_a_group_may_change_is_used(world: World, team: Path) -> None:
    """A team's environment, as docs/fidelity.md describes. What the group has put there is never removed."""
    victim = replace(world.victim, groups=(_GROUP,))
    os.chown(team, victim.uid, _GROUP)
    team.chmod(0o2755)
    variables = {"CONDA_ENVS_PATH": str(team)}
    first = pack(victim, team / "work")
    shutil.rmtree(team / "work")
    for command in (["restore", "work"], ["pack", "work"], ["kernels", "register", "work"]):
        victim.run_json(*command, **variables)
        let_group_write(victim, team / "work")
    (restored,) = victim.run_json("restore", "--all", **variables)["restored"]
    assert restored["present"]
    script = victim.home / ".local/share/jupyter/kernels/work-python3/launch.sh"
    started = victim.do(lambda: subprocess.run(["sh", script, "/c.json"], capture_output=True, check=False))
    assert (started.returncode, started.stderr) == (0, b"")
    victim.owns(write(team / "work/new", "new"))
    victim.run_json("pack", "work", **variables)
    victim.run_json("rollback", "work", first, "--store-only", **variables)
    status = victim.snapper("status", "work", **variables).out
    assert "so move it away before you restore: snapper restore work" in status
    assert "--replace" not in status
    for option in ([], ["--replace"]):
        error = victim.expect_error(11, "restore", f"work@{first}", *option, **variables)
        assert (
            f"{team}/work: others may write to it, and may have moved files of yours there"
            in error["message"]
        )
        assert error["hint"].startswith("Move it away first, then restore again.")
    (team / "work").rename(team / "before")
    victim.run_json("restore", f"work@{first}", **variables)
    assert not (team / "work/new").exists()


def test_environment_that_root_lets_a_group_change_counts_for_its_members(world: World, team: Path) -> None:
    """Members cannot know what root has written there, but only root may write to `.snapper`."""
    root, victim = world.root, replace(world.victim, groups=(_GROUP,))
    variables = {"CONDA_ENVS_PATH": str(team)}
    pack(root, team / "work")
    let_group_write(root, team / "work")
    assert victim.snapper("restore", "work", **variables).code == 11
    root.run_json("pack", "-p", team / "work", **variables)
    assert (team / "work").stat().st_mode & 0o020
    (restored,) = victim.run_json("restore", "work", **variables)["restored"]
    assert restored["present"]


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("part", [".", "lib"])
def test_what_others_have_moved_into_an_environment_is_not_removed(
    part: str, world: World, team: Path, is_shared: bool
) -> None:
    """Another user moves a project of the victim to where an equal one was packed that this user had put there."""
    victim, attacker = (replace(user, groups=(_GROUP,)) for user in (world.victim, world.attacker))
    prefix = (team if is_shared else victim.envs) / "work"
    victim.owns(write(prefix / "lib/new", "1").parent)
    first = pack(victim, prefix)
    victim.owns(write(prefix / "lib/new", "2"))
    for path in (prefix, prefix / part):
        path.chmod(0o755 if path == prefix != prefix / part else 0o775)
        os.chown(path, victim.uid, _GROUP)
    project = team.parent / "project"
    victim.owns(write(project / "data/results", "of some weeks").parents[1])
    for directory in (team.parent, project):
        os.chown(directory, -1, _GROUP)
        directory.chmod(0o775)
    attacker.do(lambda: shutil.copytree(project, prefix / part / "project"))
    victim.run_json("pack", "-p", prefix)

    def exchange() -> None:
        (prefix / part / "project").rename(team.parent / "equal")
        project.rename(prefix / part / "project")

    attacker.do(exchange)
    for option in ([], ["--replace"]):
        error = victim.expect_error(11, "restore", f"work@{first}", "-p", prefix, *option)
        assert "others may" in error["message"]
    assert (prefix / part / "project/data/results").read_text() == "of some weeks"
