"""Another user of the machine prepares what a victim's command will find in a shared directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.redteam import prefixes
from tests.support.redteam.accounts import withstood
from tests.support.redteam.variants import variants
from tests.support.redteam.world import World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run commands as several users")


@pytest.fixture
def envs(world: World) -> Path:
    """An envs directory in which every user may create environments, and only change their own."""
    path = world.top / "opt/envs"
    path.mkdir(parents=True)
    path.chmod(0o1777)
    return path


def _restore(world: World, envs: Path, *arguments: object) -> int:
    """Have the victim restore into the shared envs directory; return the exit code."""
    return world.victim.snapper(
        "restore", *(arguments or ["--all"]), CONDA_ENVS_PATH=f"{envs}:{world.victim.envs}"
    ).code


def _assert_kernels_are_not_in(world: World, place: Path) -> None:
    registered = f"{world.victim.registered_kernels()}{world.victim.kernel_scripts()}"
    withstood(str(place) not in registered, f"registered a kernel of {os.path.relpath(place, world.top)}")


# --- an environment of the attacker at the destination ----------------------------------------------------


@pytest.mark.parametrize("arguments", [["--all"], ["work"], ["work", "--replace"]])
def test_environment_that_claims_to_be_the_snapshot(arguments: list[str], world: World, envs: Path) -> None:
    """The attacker's environment has a state which says that it is the wanted snapshot, and a kernel of his."""
    digest = world.publish("work", prefix=envs / "work")
    world.attacker.owns(prefixes.make(envs / "work", {"bin/python": "evil"}, state=("work", digest)))
    with world.unharmed("work"):
        _restore(world, envs, *arguments)
    _assert_kernels_are_not_in(world, envs / "work")


def test_state_in_the_attackers_environment_changes_where_to_restore(world: World, envs: Path) -> None:
    """The attacker's environment of another name claims to be the one to restore: it would be replaced in place.

    Instead, the environment is restored beside it under its own name.
    """
    digest = world.publish("work", prefix=envs / "other")
    world.attacker.owns(prefixes.make(envs / "other", {}, state=("work", digest)))
    with world.unharmed("work", also=(envs / "work",)):
        _restore(world, envs, "work", "--replace")
    _assert_kernels_are_not_in(world, envs / "other")


def test_state_that_belongs_to_the_attacker_in_the_victims_environment(world: World, envs: Path) -> None:
    """The victim's environment is writable for a group, and the attacker has written the state in it."""
    digest = world.publish("work", prefix=envs / "work")
    prefixes.make(envs / "work", {"bin/python": "mine"}, state=("work", digest))
    world.victim.owns(envs / "work")
    world.attacker.owns(envs / "work/.snapper")
    with world.unharmed("work"):
        code = _restore(world, envs)
    withstood(code != 0, "believed a state that another user has written")


def test_link_to_the_attackers_environment(world: World, envs: Path) -> None:
    """At the destination is a link to an environment of the attacker that claims to be the snapshot."""
    digest = world.publish("work", prefix=envs / "work")
    real = prefixes.make(world.attacker.envs / "work", {}, state=("work", digest))
    world.attacker.owns(real)
    (envs / "work").symlink_to(real)
    world.attacker.owns(envs / "work")
    with world.unharmed("work"):
        _restore(world, envs)
    _assert_kernels_are_not_in(world, real)
    _assert_kernels_are_not_in(world, envs / "work")


def test_link_to_the_victims_environment(world: World, envs: Path) -> None:
    """At the destination is the attacker's link to an environment of the victim: it would be replaced."""
    world.publish("work", prefix=envs / "work")
    prefixes.make(world.victim.envs / "mine", {"bin/python": "mine"})
    world.victim.owns(world.victim.envs)
    (envs / "work").symlink_to(world.victim.envs / "mine")
    world.attacker.owns(envs / "work")
    with world.unharmed("work"):
        _restore(world, envs, "work", "--replace")


@pytest.mark.parametrize("mode", [0o000, 0o700, 0o777])
def test_directory_at_the_destination(mode: int, world: World, envs: Path) -> None:
    """At the destination is an empty directory of the attacker, who could replace what is restored there."""
    world.publish("work", prefix=envs / "work")
    (envs / "work").mkdir()
    world.attacker.owns(envs / "work").chmod(mode)
    with world.unharmed("work"):
        _restore(world, envs)
    withstood(not (envs / "work/conda-meta").exists(), "restored into a directory of the attacker")
    _assert_kernels_are_not_in(world, envs / "work")


@pytest.mark.parametrize("command", ["status", "doctor", "pack work", "kernels register work", "verify work"])
def test_environment_of_the_attacker_in_a_shared_directory(command: str, world: World, envs: Path) -> None:
    """The attacker's environment has a pipe in place of every file that snapper reads without being asked to."""
    world.publish("other")
    prefix = prefixes.make(envs / "work", {}, state=("work", "0" * 64))
    for name in (".snapper/state.json", ".snapper/index", ".snapper/snapshot", "conda-meta/state"):
        (prefix / name).unlink(missing_ok=True)
        os.mkfifo(prefix / name, 0o666)
    world.attacker.owns(prefix)
    with world.unharmed():
        world.victim.snapper(*command.split(), CONDA_ENVS_PATH=str(envs))


# --- staging directories ----------------------------------------------------------------------------------


def _own_base(world: World) -> Path:
    """Make a base environment of the victim, with a package cache and another environment; return its prefix."""
    base = prefixes.make(
        world.victim.home / "base",
        {"pkgs/urls.txt": "", "pkgs/numpy-1/x": "mine", "envs/mine/conda-meta/history": ""},
    )
    return world.victim.owns(base)


def _plant_link(world: World, staging: Path) -> None:
    staging.symlink_to(world.victim.home)


def _plant_directory(world: World, staging: Path) -> None:
    (staging / "tree1/evil").mkdir(parents=True)
    (staging / "lock").touch()


def _plant_link_in_place_of_kept(world: World, staging: Path) -> None:
    staging.mkdir(mode=0o777)
    (staging / "kept").symlink_to(_own_base(world))


def _plant_links_in_kept(world: World, staging: Path) -> None:
    base = _own_base(world)
    (staging / "kept").mkdir(parents=True)
    for name in ("pkgs", "envs"):
        (staging / "kept" / name).symlink_to(base / name)


def _plant_old(world: World, staging: Path) -> None:
    prefixes.make(staging / "old", {"bin/python": "evil"})


def _plant_link_in_place_of_old(world: World, staging: Path) -> None:
    staging.mkdir(mode=0o777)
    (staging / "old").symlink_to(_own_base(world))


def _plant_link_in_place_of_the_lock(world: World, staging: Path) -> None:
    staging.mkdir(mode=0o777)
    (staging / "lock").symlink_to(world.victim.home / ".profile")


def _plant_hard_link_in_place_of_the_lock(world: World, staging: Path) -> None:
    staging.mkdir(mode=0o777)
    os.link(world.victim.home / ".profile", staging / "lock")


def _plant_pipe_in_place_of_the_lock(world: World, staging: Path) -> None:
    staging.mkdir(mode=0o777)
    os.mkfifo(staging / "lock", 0o666)


def _plant_file(world: World, staging: Path) -> None:
    staging.write_text("a file")


_PLANTS = [
    _plant_link,
    _plant_directory,
    _plant_link_in_place_of_kept,
    _plant_links_in_kept,
    _plant_old,
    _plant_link_in_place_of_old,
    _plant_link_in_place_of_the_lock,
    _plant_hard_link_in_place_of_the_lock,
    _plant_pipe_in_place_of_the_lock,
    _plant_file,
]


_USUAL_PLANTS = [
    _plant_link_in_place_of_kept,
    _plant_links_in_kept,
    _plant_hard_link_in_place_of_the_lock,
    _plant_pipe_in_place_of_the_lock,
]


@variants("plant", _PLANTS, usually=_USUAL_PLANTS)
@pytest.mark.parametrize("parent", ["sticky", "attacker"])
def test_planted_staging(parent: str, plant: Callable[[World, Path], None], world: World, envs: Path) -> None:
    """The attacker has prepared the staging directory of the environment, and an environment to be replaced.

    It is in a sticky directory, or in one of the attacker that everyone may write to.
    """
    world.publish("work", prefix=envs / "work")
    prefixes.make(envs / "work", {}, state=("work", "0" * 64))
    world.attacker.owns(envs / "work").chmod(0o777)
    plant(world, envs / ".work.snapper")
    _give(world, envs / ".work.snapper")
    if parent == "attacker":
        os.chown(envs, world.attacker.uid, -1)
        envs.chmod(0o777)
    with world.unharmed("work", also=(envs,)):
        _restore(world, envs, "work", "--replace")
        _restore(world, envs, "work", "--replace", "--envs-dir", envs)
        world.victim.snapper("doctor", CONDA_ENVS_PATH=str(envs))


@variants("plant", _PLANTS, usually=_USUAL_PLANTS)
def test_planted_staging_for_root(plant: Callable[[World, Path], None], world: World) -> None:
    """Root restores into an envs directory of the attacker, who has prepared the staging directory."""
    envs = world.attacker.envs
    world.publish("work", prefix=envs / "work")
    prefixes.make(envs / "work", {}, state=("work", "0" * 64))
    plant(world, envs / ".work.snapper")
    world.attacker.owns(envs / "work")
    _give(world, envs / ".work.snapper")
    with world.unharmed(account=world.root, also=(envs,)):
        world.root.snapper("restore", "work", "--replace", "--envs-dir", envs)


def _give(world: World, path: Path) -> None:
    """Give the path to the attacker, open to everyone, except for hard links to files of others."""
    for child in (path, *path.rglob("*")):
        status = child.lstat()
        if stat.S_ISDIR(status.st_mode):
            child.chmod(0o777)
        if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1:
            os.chown(child, world.attacker.uid, world.attacker.uid, follow_symlinks=False)
