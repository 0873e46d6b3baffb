"""Settings, and files of conda and SageMaker, are not what they should be; or another user can write to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.redteam import prefixes, publisher
from tests.support.redteam.accounts import withstood
from tests.support.redteam.publisher import file
from tests.support.redteam.variants import variants
from tests.support.redteam.world import SECRET, World

_DEEP_YAML = "envs_dirs: " + "[" * 2000
_BOMB_YAML = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

_CONTENTS: dict[str, str | bytes] = {
    "deep": _DEEP_YAML,
    "aliases": f"{_BOMB_YAML}envs_dirs: *i\n",
    "objects": "envs_dirs: !!python/object/apply:os.system ['touch PWNED']\n",
    "types": "envs_dirs: {a: 1}\nenvs_path: 3\n",
    "control characters": 'envs_dirs: ["a\\0b", "\\e[2J"]\n',
    "not UTF-8": b"\xff\xfe\x00envs_dirs",
    "tags": "envs_dirs: [!!binary aGk=, !!timestamp 2001-99-99]\n",
    "large numbers": f"envs_dirs: [{'9' * 100_000}]\n",
}


@variants("contents", _CONTENTS, usually=("deep", "objects"))
@variants("place", ["home/.condarc", "root/.condarc"], usually=("root/.condarc",))
def test_hostile_condarc(place: str, contents: str, world: World) -> None:
    """conda's settings, the victim's or those of an installation, are malformed."""
    world.publish("work", prefix=world.victim.envs / "work")
    conda = world.top / "opt/conda"
    (conda / "envs").mkdir(parents=True)
    target = world.victim.home / ".condarc" if place.startswith("home") else conda / ".condarc"
    data = _CONTENTS[contents]
    target.write_bytes(data if isinstance(data, bytes) else data.encode())
    with world.unharmed("work"):
        for command in ("restore --all", "status", "doctor"):
            world.victim.snapper(*command.split(), CONDA_EXE=str(conda / "bin/conda"))
    withstood((world.victim.envs / "work/conda-meta").is_dir(), "the environment is not restored")
    withstood(not list(world.top.rglob("PWNED")), "code was executed")


@variants("hazard", ["pipe", "sparse", "directory"], usually=("pipe",))
@pytest.mark.parametrize("place", [".condarc", ".conda/environments.txt", ".config/snapper/config.toml"])
def test_settings_that_are_no_files(place: str, hazard: str, world: World) -> None:
    """A file with settings is a pipe, huge, or a directory."""
    world.publish("work", prefix=world.victim.envs / "work")
    path = world.victim.home / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if hazard == "pipe":
        os.mkfifo(path)
    elif hazard == "sparse":
        path.touch()
        os.truncate(path, 2 << 30)
    else:
        path.mkdir()
    world.victim.owns(path.parent)
    with world.unharmed("work"):
        for command in ("restore --all", "status", "doctor", "config"):
            world.victim.snapper(*command.split())


@variants("where", ["CONDA_EXE", "MAMBA_ROOT_PREFIX", "CONDA_PREFIX"], usually=("CONDA_EXE",))
def test_settings_of_another_user(where: str, world: World) -> None:
    """An installation of conda belongs to the attacker, whose settings name the victim's directories."""
    world.publish("config", file("config", "evil"), prefix=world.victim.home / ".aws/config")
    conda = world.attacker.home / "conda"
    for name in ("envs", "condabin", "bin", "conda-meta"):
        (conda / name).mkdir(parents=True)
    (conda / "bin/conda").touch(mode=0o755)
    (conda / ".condarc").write_text(f"envs_dirs: [{world.victim.home}/.aws]\n")
    world.attacker.owns(conda)
    variables = {
        "CONDA_EXE": {"CONDA_EXE": str(conda / "bin/conda")},
        "MAMBA_ROOT_PREFIX": {"MAMBA_ROOT_PREFIX": str(conda)},
        "CONDA_PREFIX": {"CONDA_PREFIX": str(conda), "CONDA_DEFAULT_ENV": "base"},
    }[where]
    with world.unharmed("config"):
        world.victim.snapper("restore", "--all", **variables)


@variants(
    "name", ["yaml.py", "snapper.py", "json.py", "zstandard.py", "sitecustomize.py"], usually=("yaml.py",)
)
def test_modules_in_the_current_directory(name: str, world: World) -> None:
    """The victim runs snapper in a directory in which the attacker has put Python modules."""
    world.publish("work", prefix=world.victim.envs / "work")
    (world.temporary / name).write_text("open('PWNED', 'w')\n")
    world.temporary.chmod(0o777)
    world.victim.snapper("restore", "--all", PWD=str(world.temporary))
    withstood(not list(world.top.rglob("PWNED")), "imported a module of the attacker")


def test_programs_in_a_directory_of_another_user(world: World) -> None:
    """PATH has a directory in which the attacker has put programs that snapper may look for."""
    programs = world.attacker.home / "bin"
    programs.mkdir()
    for name in (
        "conda",
        "mamba",
        "unsquashfs",
        "mksquashfs",
        "git",
        "aws",
        "sh",
        "jupyter",
        "nvidia-smi",
        "python3",
    ):
        (programs / name).write_text(f"#!/bin/sh\ntouch {world.temporary}/PWNED\n")
        (programs / name).chmod(0o755)
    world.attacker.owns(programs)
    world.publish("work", prefix=world.victim.envs / "work")
    for command in ("restore --all", "status", "pack work", "doctor", "kernels list"):
        world.victim.snapper(*command.split(), PATH=f"{programs}:{os.environ['PATH']}")
    withstood(not list(world.top.rglob("PWNED")), "ran a program of the attacker")


def test_aws_settings_of_a_user_for_root(world: World) -> None:
    """Root works with the home of the attacker (sudo -E), where AWS's settings name a program."""
    ran = world.attacker.home / "ran"
    settings = f"[default]\nregion = us-east-1\ncredential_process = /usr/bin/touch {ran}\n"
    (world.attacker.home / ".aws/config").write_text(settings)
    world.attacker.owns(world.attacker.home)
    where = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }
    outcome = world.root.snapper("list", "--store", "s3://bucket/x", HOME=str(world.attacker.home), **where)
    withstood(not ran.exists(), "ran a program of the attacker as root")
    withstood("belongs to another user; root uses" in outcome.err, "did not say which home is used")


# --- editable installs ------------------------------------------------------------------------------------

_SITE = "lib/python3.11/site-packages"


def _editables(directory: Path) -> dict[str, bytes]:
    """Return members that refer to the directory as the source of an editable install, in every way."""
    url = f'{{"dir_info": {{"editable": true}}, "url": "file://{directory}"}}'
    return {
        "direct_url.json": file(f"{_SITE}/x-1.dist-info/direct_url.json", url),
        "pth": file(f"{_SITE}/x.pth", f"{directory}\n"),
        "egg-link": file(f"{_SITE}/x.egg-link", f"{directory}\n.\n"),
        "finder": file(f"{_SITE}/__editable___x_finder.py", f"MAPPING = {{'x': '{directory}'}}\n"),
    }


@variants("way", ["direct_url.json", "pth", "egg-link", "finder"], usually=("direct_url.json", "pth"))
@variants("place", [".ssh", ".", "..", "/"], usually=(".ssh",))
def test_secrets_as_sources_of_an_editable_install(place: str, way: str, world: World) -> None:
    """A published environment says that the victim's private directory is the source of one of its packages."""
    directory = Path(os.path.normpath(world.victim.home / place))
    world.publish("work", _editables(directory)[way], prefix=world.victim.envs / "work")
    world.victim.owns(world.store)
    world.victim.snapper("restore", "--all", "--envs-dir", world.victim.envs)
    with world.unharmed("work", also=(world.store,)):
        world.victim.snapper("pack", "work", "--editable=include")


def test_project_as_the_source_of_another_package(world: World) -> None:
    """A published environment says that a project of the victim is the source of a package that everyone has."""
    project = world.victim.home / "work/payroll"
    project.mkdir()
    (project / "pyproject.toml").write_text("[project]\nname = 'payroll'\n")
    (project / "salaries.csv").write_bytes(SECRET)
    world.victim.owns(project)
    world.publish("work", _editables(project)["direct_url.json"], prefix=world.victim.envs / "work")
    world.victim.owns(world.store)
    world.victim.snapper("restore", "--all", "--envs-dir", world.victim.envs)
    with world.unharmed("work", also=(world.store,)):
        world.victim.snapper("pack", "work", "--editable=include")


def test_sources_of_an_editable_install(world: World) -> None:
    """The source of an editable install has links to secrets, pipes and devices."""
    source = world.victim.home / "work/project"
    source.mkdir()
    (source / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (source / "secret").symlink_to(world.secrets[0])
    (source / "zero").symlink_to("/dev/zero")
    os.mkfifo(source / "pipe")
    site = f"{_SITE}/x.pth"
    prefixes.make(world.victim.envs / "work", {site: f"{source}\n"})
    world.victim.owns(world.victim.home)
    world.victim.owns(publisher.make_store(world.store))
    with world.unharmed("work", also=(world.store,)):
        world.victim.snapper("pack", "work", "--editable=include")
