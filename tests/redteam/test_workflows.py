"""The documented workflows, with several users and no other options than the documentation has.

What protects users from each other must not get in their way: no command here may ask, refuse, or need to be told more.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.redteam import prefixes
from tests.support.redteam.accounts import Account
from tests.support.redteam.bucket import Bucket, serving
from tests.support.redteam.publisher import make_store
from tests.support.redteam.world import World

#: A group that both users are in.
_GROUP = 64300


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with serving() as served:
        yield served


def _succeed(account: Account, command: str, **variables: str) -> Any:
    """Run a command that must succeed; return its JSON output."""
    outcome = account.snapper(*command.split(), "--json", **variables)
    assert outcome.code == 0, outcome
    return outcome.json


def _make(account: Account, prefix: Path, text: str = "1") -> Path:
    """Make an environment of the user, and the directories above it in the user's home."""
    prefixes.make(prefix, {"bin/program": f"#!{prefix}/bin/python\n{text}\n"})
    account.owns(account.home)
    return prefix


def _assert_restored(prefix: Path, text: str = "1") -> None:
    assert (prefix / "bin/program").read_text() == f"#!{prefix}/bin/python\n{text}\n"


def _assert_kernel_starts_in(account: Account, kernel: str, prefix: Path) -> None:
    """Assert that the user has the kernel, that only the user can change it, and that it is for the prefix."""
    assert kernel in account.registered_kernels()
    script = account.home / f".local/share/jupyter/kernels/{kernel}/launch.sh"
    assert str(prefix) in script.read_text()
    assert script.stat().st_uid == account.uid


# --- a notebook instance ----------------------------------------------------------------------------------


@pytest.fixture
def instance(world: World) -> Account:
    """The user of a notebook instance, whose conda is in the home and whose volume is at `SageMaker`."""
    user = world.victim
    for directory in ("SageMaker", "anaconda3/conda-meta", "anaconda3/condabin", "anaconda3/envs"):
        (user.home / directory).mkdir(parents=True)
    user.owns(user.home)
    return replace(user, envs=user.home / "anaconda3/envs", store=user.home / "SageMaker/.snapper")


def test_one_instance(instance: Account) -> None:
    """Pack; stop, which loses all but the volume; restore at the start, and again at the next."""
    prefix = _make(instance, instance.envs / "myenv")
    _succeed(instance, "pack myenv")
    for directory in (".local", ".conda", "anaconda3/envs/myenv"):
        shutil.rmtree(instance.home / directory)
    (result,) = _succeed(instance, "restore --all --budget 240")["restored"]
    assert result["prefix"] == str(prefix)
    _assert_restored(prefix)
    _assert_kernel_starts_in(instance, "myenv-python3", prefix)
    assert _succeed(instance, "restore --all")["restored"][0]["present"]
    assert _succeed(instance, "status")["environments"]


def test_change_and_roll_back(instance: Account) -> None:
    """Pack a change, tag it, return to what was before, prune; the environment stays where it is."""
    prefix = _make(instance, instance.envs / "myenv")
    _succeed(instance, "pack myenv")
    (prefix / "bin/program").write_text(f"#!{prefix}/bin/python\n2\n")
    _succeed(instance, "pack myenv --message change")
    _succeed(instance, "tag myenv changed")
    _succeed(instance, "rollback myenv")
    _assert_restored(prefix, "1")
    _succeed(instance, "restore myenv@changed")
    _assert_restored(prefix, "2")
    _succeed(instance, "prune --keep-last 5 --yes")
    _succeed(instance, "verify --data")
    _succeed(instance, "verify myenv@changed")


def test_base_environment(instance: Account) -> None:
    """The base environment and one in it are replaced together on a new disk; the package cache stays."""
    base = instance.home / "anaconda3"
    shutil.rmtree(base)
    _make(instance, base)
    (base / "condabin").mkdir()
    _make(instance, base / "envs/myenv")
    (base / "pkgs").mkdir()
    (base / "pkgs/urls.txt").touch()
    instance.owns(instance.home)
    _succeed(instance, "pack base")
    _succeed(instance, "pack myenv")
    (base / "bin/program").write_text("changed")
    shutil.rmtree(base / "envs/myenv")
    _succeed(instance, "restore base myenv --replace")
    _assert_restored(base)
    _assert_restored(base / "envs/myenv")
    assert (base / "pkgs/urls.txt").is_file()


def test_export_and_import(instance: Account) -> None:
    """Write an archive, import it under another name, and restore that."""
    _make(instance, instance.envs / "myenv")
    _succeed(instance, "pack myenv")
    _succeed(instance, f"export myenv -o {instance.home}/myenv.tar.gz")
    _succeed(instance, f"import {instance.home}/myenv.tar.gz --name imported")
    (result,) = _succeed(instance, "restore imported")["restored"]
    assert result["prefix"] == str(instance.envs / "imported")


# --- a team -----------------------------------------------------------------------------------------------


def test_team_with_a_bucket(world: World, bucket: Bucket) -> None:
    """One user packs to a bucket; another, with another home, restores all; later starts use the cache."""
    alice, bob = world.victim, world.attacker
    for user in (alice, bob):
        for directory in ("SageMaker", "anaconda3/condabin", "anaconda3/envs", "anaconda3/conda-meta"):
            (user.home / directory).mkdir(parents=True)
        user.owns(user.home)
    alice, bob = (replace(user, envs=user.home / "anaconda3/envs") for user in (alice, bob))
    _make(alice, alice.envs / "team-research")
    _make(alice, alice.envs / "other")
    variables = bucket.variables()
    _succeed(alice, f"config set store {variables.pop('SNAPPER_STORE')}", SNAPPER_STORE="")
    store = {"SNAPPER_STORE": "s3://bucket/store"}
    for name in ("team-research", "other"):
        _succeed(alice, f"pack {name}", **variables, **store)
    done = _succeed(bob, "restore --all --only team-*", **variables, **store)
    assert [result["prefix"] for result in done["restored"]] == [str(bob.envs / "team-research")]
    _assert_restored(bob.envs / "team-research")
    _assert_kernel_starts_in(bob, "team-research-python3", bob.envs / "team-research")
    shutil.rmtree(bob.envs / "team-research")
    bucket.asked.clear()
    _succeed(bob, "restore --all --only team-*", **variables, **store)
    _assert_restored(bob.envs / "team-research")
    assert not [key for key in bucket.asked if "/layers/" in key]


def test_copy_between_stores(world: World, bucket: Bucket) -> None:
    """Copy an environment from one's own store to the team's bucket, and from there to another user's store."""
    alice, bob = world.victim, world.attacker
    alice, bob = (replace(user, store=user.home / "store") for user in (alice, bob))
    _make(alice, alice.envs / "myenv")
    _succeed(alice, "pack myenv")
    variables = {**bucket.variables(), "SNAPPER_STORE": str(alice.store)}
    _succeed(alice, "push myenv --to s3://bucket/store", **variables)
    _succeed(bob, "pull --all --from s3://bucket/store", **{**variables, "SNAPPER_STORE": str(bob.store)})
    _succeed(bob, "restore myenv")
    _assert_restored(bob.envs / "myenv")


# --- a store for a group ----------------------------------------------------------------------------------


@pytest.fixture
def group_store(world: World) -> Iterator[Path]:
    """A store in a directory that a group may write to, with the setgid bit, and a umask that suits it."""
    store = world.top / "srv/snapper"
    store.mkdir(parents=True)
    os.chown(store, 0, _GROUP)
    store.chmod(0o2775)
    before = os.umask(0o002)
    yield store
    os.umask(before)


def test_group_store(world: World, group_store: Path) -> None:
    """Two users pack their own environments and each other's, prune, tag and remove; all in one directory."""
    alice, bob = (
        replace(user, store=group_store, groups=(_GROUP,)) for user in (world.victim, world.attacker)
    )
    _make(alice, alice.envs / "ours")
    _make(alice, alice.envs / "hers")
    _succeed(alice, "pack ours")
    _succeed(alice, "pack hers")
    _succeed(bob, "restore ours")
    _assert_restored(bob.envs / "ours")
    (bob.envs / "ours/bin/program").write_text(f"#!{bob.envs}/ours/bin/python\n2\n")
    _succeed(bob, "pack ours")
    _succeed(alice, "restore ours")
    _assert_restored(alice.envs / "ours", "2")
    _succeed(bob, "tag ours stable")
    _succeed(alice, "tag ours stable --delete")
    _succeed(bob, "prune --keep-last 1 --yes --grace 0h")
    _succeed(alice, "verify --data")
    _succeed(bob, "remove hers --yes")
    _succeed(alice, "list")
    _succeed(alice, "prune --keep-last 1 --yes --grace 0h")


def test_readers_of_a_store(world: World) -> None:
    """One user publishes in a directory that only this user may write to; others restore."""
    alice, bob = (replace(user, store=world.top / "srv/snapper") for user in (world.victim, world.attacker))
    alice.store.parent.mkdir()
    alice.owns(make_store(alice.store))
    _make(alice, alice.envs / "myenv")
    _succeed(alice, "pack myenv")
    for command in (
        "restore --all",
        "list",
        "show myenv",
        "log myenv",
        "status",
        "diff myenv",
        "verify --data",
    ):
        _succeed(bob, command)
    _assert_restored(bob.envs / "myenv")
    bob_again = _succeed(bob, "restore --all")["restored"][0]
    assert bob_again["present"]
    assert bob_again["prefix"] == str(bob.envs / "myenv")


# --- installed by root ------------------------------------------------------------------------------------


@pytest.fixture
def conda(world: World) -> Path:
    """An installation of conda that belongs to root, like /opt/conda."""
    root = world.top / "opt/conda"
    for directory in ("conda-meta", "condabin", "bin", "envs"):
        (root / directory).mkdir(parents=True)
    (root / "bin/conda").touch(0o755)
    return root


def test_environments_installed_by_root(world: World, conda: Path) -> None:
    """Root restores into the shared installation; users register its kernels and see its state, but write nothing."""
    root = replace(world.root, envs=conda / "envs")
    variables = {"CONDA_EXE": str(conda / "bin/conda"), "CONDA_ENVS_PATH": ""}
    prefixes.make(conda / "envs/shared", {"bin/program": f"#!{conda}/envs/shared/bin/python\n1\n"})
    _succeed(root, "pack shared", **variables)
    shutil.rmtree(conda / "envs/shared")
    _succeed(root, "restore --all", **variables)
    _assert_restored(conda / "envs/shared")
    for user in (world.victim, world.attacker):
        _succeed(user, "kernels register shared", **variables)
        _assert_kernel_starts_in(user, "shared-python3", conda / "envs/shared")
        (result,) = _succeed(user, "restore --all", **variables)["restored"]
        assert result["present"]
        assert result["prefix"] == str(conda / "envs/shared")
        _succeed(user, "status shared", **variables)
        _succeed(user, "verify shared", **variables)


def test_users_environments_beside_those_of_root(world: World, conda: Path) -> None:
    """What a user cannot restore into the shared installation goes into the user's own envs directory."""
    variables = {"CONDA_EXE": str(conda / "bin/conda"), "CONDA_ENVS_PATH": ""}
    prefixes.make(conda / "envs/shared", {"bin/program": f"#!{conda}/envs/shared/bin/python\n1\n"})
    _succeed(world.root, "pack shared", **variables)
    shutil.rmtree(conda / "envs/shared")
    _succeed(world.victim, "restore --all", **variables)
    _assert_restored(world.victim.home / ".conda/envs/shared")


def test_shared_directory_of_environments(world: World) -> None:
    """Users keep their environments in one sticky directory, each under its own name."""
    envs = world.top / "opt/envs"
    envs.mkdir(parents=True)
    envs.chmod(0o1777)
    alice, bob = (
        replace(user, envs=envs, store=user.home / "store") for user in (world.victim, world.attacker)
    )
    for user, name in ((alice, "hers"), (bob, "his")):
        user.owns(prefixes.make(envs / name, {"bin/program": f"#!{envs}/{name}/bin/python\n1\n"}))
        _succeed(user, f"pack {name}")
        shutil.rmtree(envs / name)
    for user, name in ((alice, "hers"), (bob, "his")):
        (result,) = _succeed(user, "restore --all")["restored"]
        assert result["prefix"] == str(envs / name)
        _assert_restored(envs / name)
        assert (envs / name).stat().st_uid == user.uid


# --- JupyterHub -------------------------------------------------------------------------------------------


def test_hub(world: World, conda: Path) -> None:
    """The containers of a hub share a store; conda is in each, owned by its user, and new at every start."""
    store = world.top / "shared/snapper"
    store.parent.mkdir(mode=0o777)
    store.parent.chmod(0o777)
    variables = {"CONDA_EXE": str(conda / "bin/conda"), "CONDA_ENVS_PATH": ""}
    alice, bob = (replace(user, store=store, envs=conda / "envs") for user in (world.victim, world.attacker))
    alice.owns(conda)
    alice.owns(prefixes.make(conda / "envs/myenv", {"bin/program": f"#!{conda}/envs/myenv/bin/python\n1\n"}))
    _succeed(alice, "pack myenv", **variables)
    for user in (alice, bob):
        shutil.rmtree(conda / "envs/myenv")
        user.owns(conda)
        (result,) = _succeed(user, "restore --all --budget 60", **variables)["restored"]
        assert result["prefix"] == str(conda / "envs/myenv")
        _assert_restored(conda / "envs/myenv")
        _assert_kernel_starts_in(user, "myenv-python3", conda / "envs/myenv")


# --- a container that runs with any user ------------------------------------------------------------------


@pytest.mark.parametrize("home", ["", "relative"])
def test_user_without_an_account_or_home(home: str, world: World) -> None:
    """What needs no home works, and nothing is written to the current directory."""
    if os.geteuid():
        pytest.skip("only root can run commands as a user without an account")
    user = replace(world.victim, envs=world.victim.home / "work/envs", store=world.victim.home / "store")
    prefix = _make(user, user.envs / "myenv")
    before = sorted(path.name for path in user.home.iterdir())
    _succeed(user, "pack myenv", HOME=home)
    shutil.rmtree(prefix)
    for command, code in (("restore --all", 3), ("list", 0), ("status", 0), ("config", 0), ("doctor", 0)):
        outcome = user.snapper(*command.split(), HOME=home)
        assert outcome.code == code, outcome
    _assert_restored(prefix)
    assert sorted(path.name for path in user.home.iterdir()) == sorted([*before, "store"])
