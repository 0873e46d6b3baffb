"""A publisher chooses the prefix in an environment's history, but must not choose where a victim's restore writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.redteam import prefixes, publisher
from tests.support.redteam.accounts import withstood
from tests.support.redteam.publisher import file
from tests.support.redteam.variants import variants
from tests.support.redteam.world import World

_CREDENTIALS = file("config", "[default]\ncredential_process = evil")

#: Prefixes below a home, each with the name of the environment that is published there.
_IN_HOME = {
    ".aws/config": "config",
    ".ssh/authorized_keys": "authorized_keys",
    ".jupyter/custom": "custom",
    ".local/share/jupyter/kernels/python3": "python3",
    ".local/bin": "bin",
    ".config/autostart": "autostart",
    "work/project": "project",
    "bin": "bin",
    "envs/../.aws/config": "config",
    "envs/./..//.aws//config": "config",
    "envs/.hidden/work": "work",
    "envs/a/b/work": "work",
    "envs/.work": "work",
    "envs": "work",
    "SageMaker/.snapper/venv": "venv",
}


_USUALLY_IN_HOME = (
    ".aws/config",
    ".ssh/authorized_keys",
    ".jupyter/custom",
    "work/project",
    "envs/../.aws/config",
    "envs/.hidden/work",
    "envs",
)


@variants("place", _IN_HOME, usually=_USUALLY_IN_HOME)
def test_prefix_in_the_home(place: str, world: World) -> None:
    """An environment is said to have been packed at a path in the victim's home."""
    name = _IN_HOME[place]
    world.publish(name, _CREDENTIALS, prefix=f"{world.victim.home}/{place}")
    with world.unharmed(name):
        world.victim.snapper("restore", "--all")
    withstood((world.victim.envs / name / "conda-meta").is_dir(), "the environment is not restored")


def test_names_that_make_an_environment_of_the_envs_directory(world: World) -> None:
    """Where snapper has its own directory, start scripts would run nothing that seems to be in an environment."""
    for name in ("conda-meta", "Conda-Meta", "envs", "pkgs", "root"):
        world.publish(name, file("history", ""), prefix=world.victim.envs / name)
    world.publish("good", prefix=world.victim.envs / "good")
    with world.unharmed("good"):
        world.victim.snapper("restore", "--all")
        world.victim.snapper("restore", "conda-meta", "--envs-dir", world.victim.envs)
    withstood((world.victim.envs / "good/conda-meta").is_dir(), "another environment is not restored")


@pytest.mark.parametrize("name", ["work", "base"])
def test_prefix_that_is_the_home(name: str, world: World) -> None:
    """An environment is said to have been packed at a missing directory next to the victim's home."""
    world.publish(name, prefix=world.victim.home / "base")
    with world.unharmed(name):
        world.victim.snapper("restore", "--all")


def test_site_packages_of_another_environment(world: World) -> None:
    """A publisher of `team-*` names the packages of another environment as prefix: its code would run there."""
    prefixes.make(world.victim.envs / "mine", {"lib/python3.11/site-packages/x.py": "mine = 1\n"})
    world.victim.owns(world.victim.envs)
    site = world.victim.envs / "mine/lib/python3.11/site-packages"
    world.publish("team_x", file("__init__.py", "evil"), prefix=site / "team_x")
    with world.unharmed("team_x"):
        world.victim.snapper("restore", "--all")


def test_inside_of_another_environment(world: World) -> None:
    """A publisher names a path below the `envs/` of an environment that is no base environment."""
    prefixes.make(world.victim.envs / "mine", {})
    (world.victim.envs / "mine/envs").mkdir()
    world.victim.owns(world.victim.envs)
    world.publish("team_x", prefix=world.victim.envs / "mine/envs/team_x")
    with world.unharmed("team_x"):
        world.victim.snapper("restore", "--all")


def test_inside_of_another_published_environment(world: World) -> None:
    """A publisher names a path in an environment that somebody else has published and that is restored first."""
    world.publish("mine", prefix=world.victim.envs / "mine")
    world.publish("team_x", prefix=world.victim.envs / "mine/lib/python3.11/site-packages/team_x")
    with world.unharmed("mine", "team_x"):
        world.victim.snapper("restore", "--all")
    withstood(not (world.victim.envs / "mine/lib").exists(), "restored into another environment")


def test_prefix_of_another_environment(world: World) -> None:
    """A publisher names the prefix of an environment that the victim has made without snapper."""
    prefixes.make(world.victim.envs / "mine", {"bin/python": "mine"})
    world.victim.owns(world.victim.envs)
    world.publish("work", prefix=world.victim.envs / "mine")
    with world.unharmed("work"):
        world.victim.snapper("restore", "--all")


def test_state_of_another_environment(world: World) -> None:
    """A directory in the home has the state of an environment; a history of that name points there."""
    digest = world.publish("work", prefix=world.victim.home / "work/project")
    prefixes.make(world.victim.home / "work/project", {}, state=("work", "0" * 64))
    world.victim.owns(world.victim.home / "work")
    with world.unharmed("work"):
        world.victim.snapper("restore", "--all")
        world.victim.snapper("rollback", "work", digest)


def test_home_of_another_user(world: World) -> None:
    """The history names a directory in the attacker's home that everyone may write to."""
    shared = world.attacker.home / "shared/envs"
    shared.mkdir(parents=True)
    world.attacker.owns(world.attacker.home)
    shared.chmod(0o777)
    world.publish("work", prefix=shared / "work")
    with world.unharmed("work"):
        world.victim.snapper("restore", "--all")


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_directory_of_another_user_in_a_sticky_directory(mode: int, world: World) -> None:
    """The history names a directory that the attacker has made in a directory like /tmp."""
    envs = world.temporary / "scratch/envs"
    envs.mkdir(parents=True)
    world.attacker.owns(world.temporary / "scratch")
    envs.chmod(mode)
    world.publish("work", prefix=envs / "work")
    with world.unharmed("work"):
        world.victim.snapper("restore", "--all")


def test_link_of_another_user_in_a_sticky_directory(world: World) -> None:
    """The history names a path below a link to the victim's home that the attacker has made in /tmp."""
    (world.temporary / "envs").symlink_to(world.victim.home / ".aws")
    world.attacker.owns(world.temporary / "envs")
    world.publish("config", prefix=world.temporary / "envs/config")
    with world.unharmed("config"):
        world.victim.snapper("restore", "--all")


def test_sticky_directory(world: World) -> None:
    """The history names a path directly in a directory like /tmp."""
    world.publish("work", prefix=world.temporary / "work")
    with world.unharmed("work"):
        world.victim.snapper("restore", "--all")


def test_swapped_directory(world: World) -> None:
    """The victim has packed in a directory of the attacker's, who then replaces it by a link to the victim's home."""
    project = world.temporary / "project"
    project.mkdir()
    world.attacker.owns(project)
    project.chmod(0o777)
    prefixes.make(project / "config", {})
    world.victim.owns(project / "config")
    world.victim.snapper("pack", "-p", project / "config")
    project.rename(world.temporary / "moved")
    project.symlink_to(world.victim.home / ".aws")
    world.attacker.owns(project)
    with world.unharmed("config"):
        world.victim.snapper("restore", "--all")


def test_directory_of_the_system(world: World) -> None:
    """Root restores an environment whose history names a directory of the system, where root may write."""
    system = world.top / "etc/cron.d"
    system.mkdir(parents=True)
    world.publish("work", prefix=system / "work")
    with world.unharmed("work", account=world.root):
        world.root.snapper("restore", "--all")


def test_home_of_the_victim_for_root(world: World) -> None:
    """Root restores an environment whose history names the home of another user, where root may write."""
    world.publish("config", prefix=world.victim.home / ".aws/config")
    world.publish("work", prefix=world.victim.envs / "work")
    with world.unharmed("config", "work", account=world.root):
        world.root.snapper("restore", "--all")


def test_two_environments_at_one_prefix(world: World) -> None:
    """A publisher names the prefix of an environment that the victim is about to restore."""
    world.publish("mine", prefix=world.victim.envs / "mine")
    world.publish("also", file("bin/evil"), prefix=world.victim.envs / "mine")
    with world.unharmed("mine", "also"):
        world.victim.snapper("restore", "--all")
    withstood(not (world.victim.envs / "mine/bin/evil").exists(), "restored in place of another environment")
    withstood((world.victim.envs / "also/bin/evil").exists(), "the environment is not restored")


@pytest.mark.parametrize("command", ["restore --all", "status", "doctor", "rollback work ~0"])
def test_state_at_the_prefix(command: str, world: World) -> None:
    """The history names a directory with a pipe in place of snapper's state."""
    digest = world.publish("work", prefix=world.temporary / "work")
    planted = prefixes.make(world.temporary / "work", {}, state=("work", digest))
    (planted / ".snapper/state.json").unlink()
    os.mkfifo(planted / ".snapper/state.json", 0o666)
    with world.unharmed("work"):
        world.victim.snapper(*command.split())


def test_settings_that_name_a_directory_of_another_user(world: World) -> None:
    """conda's list of environments has a prefix where the attacker has put another environment since."""
    listed = world.temporary / "work"
    digest = world.publish("work", prefix=world.victim.envs / "work")
    prefixes.make(listed, {"bin/python": "evil"}, state=("work", digest))
    world.attacker.owns(listed)
    _list_with_conda(world, listed)
    with world.unharmed("work"):
        world.victim.snapper("restore", "--all")
    kernels = world.victim.registered_kernels()
    withstood(str(listed) not in str(kernels), "registered the attacker's kernel")


def _list_with_conda(world: World, prefix: Path) -> None:
    path = world.victim.home / ".conda/environments.txt"
    path.write_text(f"{prefix}\n")
    world.victim.owns(path)


def test_prefixes_in_the_archive_of_another(world: World) -> None:
    """`pull` brings a history with a prefix into the victim's own store; then it is restored from there."""
    other = publisher.make_store(world.top / "other")
    publisher.publish(other, "config", _CREDENTIALS, prefix=world.victim.home / ".aws/config")
    world.victim.owns(publisher.make_store(world.store))
    with world.unharmed("config"):
        world.victim.snapper("restore", "--all", SNAPPER_STORE=str(other))
    world.victim.snapper("pull", "config", "--from", other)
    with world.unharmed("config"):
        world.victim.snapper("restore", "--all")
