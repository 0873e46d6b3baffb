"""The publisher of a base environment ships files that affect the environments restored inside it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.redteam.accounts import withstood
from tests.support.redteam.publisher import directory, encode, file, kernelspec, link
from tests.support.redteam.variants import variants
from tests.support.redteam.world import World


@pytest.fixture
def base(world: World) -> Path:
    """The prefix of the victim's base environment, which does not exist yet."""
    return world.victim.home / "miniconda3"


def _publish(world: World, base: Path, *members: bytes) -> str:
    """Publish `base` with these members and, in its `envs` directory, `team`; return the latter's snapshot."""
    team = world.publish("team", file("bin/program", "team's"), prefix=base / "envs/team")
    world.publish("base", *members, prefix=base)
    return team


def _restore(world: World, base: Path) -> None:
    """Restore everything twice; only the two environments may change, and `team` is what it was published as."""
    with world.unharmed("base", "team", also=(base, world.victim.home / ".conda/envs/team")):
        for _ in range(2):
            world.victim.snapper("restore", "--all", CONDA_ENVS_PATH="")
            world.victim.snapper("status", CONDA_ENVS_PATH="")
    programs = {path.read_text() for path in world.victim.home.rglob("envs/team/bin/program")}
    withstood(programs <= {"team's"}, "changed another environment")
    withstood(
        "EVIL" not in f"{world.victim.kernel_scripts()}", "registered its own kernel as another environment's"
    )


_IN_PLACE_OF_TEAM = {
    "directory": [directory("envs/team")],
    "directory with a file": [file("envs/team/x")],
    "file": [file("envs/team")],
    "in capitals": [file("ENVS/team/x")],
}


@variants("planted", _IN_PLACE_OF_TEAM, usually=("directory with a file", "file"))
def test_files_in_place_of_another_environment(planted: str, world: World, base: Path) -> None:
    """It has something at the path of another environment, which is not an environment and so in the way."""
    _publish(world, base, *_IN_PLACE_OF_TEAM[planted])
    _restore(world, base)
    withstood(
        [*world.victim.home.rglob("envs/team/bin/program")], "prevented the restore of another environment"
    )


_TARGETS = ("../.ssh", "../.local/share/jupyter/kernels", "../.config", "/tmp", "..", ".", "lib", "envs")


@variants("target", _TARGETS, usually=("../.ssh", "envs"))
@variants("name", ["envs", "envs/team", "ENVS"], usually=("envs", "envs/team"))
def test_link_in_place_of_envs(name: str, target: str, world: World, base: Path) -> None:
    """`envs`, or another environment in it, is a link."""
    (world.victim.home / ".config").mkdir()
    world.victim.owns(world.victim.home)
    up = "../" * name.count("/")
    _publish(world, base, link(name, target if target.startswith("/") else f"{up}{target}"), directory("lib"))
    _restore(world, base)


def test_file_in_place_of_envs(world: World, base: Path) -> None:
    """`envs` is a file."""
    _publish(world, base, file("envs"))
    _restore(world, base)


@variants("hidden", ["envs/team", "envs/Team", "lib/../envs/team", "share"], usually=("envs/team",))
def test_state_of_another_environment(hidden: str, world: World, base: Path) -> None:
    """There is another environment in it, with a state which says that it is the wanted snapshot of `team`."""
    team = world.publish("team", file("bin/program", "team's"), prefix=base / "envs/team")
    state = {"format": 1, "environment": "team", "snapshot": team, "prefix": str(base / "envs/team")}
    members = [
        file(f"{hidden}/.snapper/state.json", encode(state)),
        file(f"{hidden}/conda-meta/history", ""),
        file(f"{hidden}/bin/program", "evil"),
        file(
            f"{hidden}/share/jupyter/kernels/python3/kernel.json",
            '{"argv": ["EVIL"], "display_name": "x", "language": "x"}',
        ),
    ]
    world.publish("base", *members, prefix=base)
    _restore(world, base)


_STAGED = {
    "link": [link("envs/.team.snapper", "../..")],
    "link in place of kept": [link("envs/.team.snapper/kept", "../../..")],
    "link in place of old": [link("envs/.team.snapper/old", "../../../work")],
    "link in place of the lock": [link("envs/.team.snapper/lock", "../../../.profile")],
    "old": [
        file("envs/.team.snapper/old/conda-meta/history"),
        file("envs/.team.snapper/old/bin/program", "evil"),
    ],
    "kept": [file("envs/.team.snapper/kept/pkgs/evil")],
    "lock": [file("envs/.team.snapper/lock", "root@host (process 1, since 2026-01-01)")],
    "unreadable": [directory("envs/.team.snapper", 0)],
    "in capitals": [link("envs/.TEAM.snapper/kept", "../../..")],
}


@variants("staged", _STAGED, usually=("link in place of kept", "old"))
def test_staging_directory(staged: str, world: World, base: Path) -> None:
    """There is a staging directory in it, for the environment that is restored next."""
    for place in ("pkgs", "envs/mine/conda-meta"):
        (world.victim.home / place).mkdir(parents=True)
        (world.victim.home / place / "precious").touch()
    world.victim.owns(world.victim.home)
    _publish(world, base, *_STAGED[staged])
    _restore(world, base)


@variants("name", ["pkgs", "condabin", "conda-meta", "share", "share/jupyter", ".condarc"], usually=("pkgs",))
def test_links_in_place_of_other_directories(name: str, world: World, base: Path) -> None:
    """A directory of conda, or its settings, is a link to a directory of the victim's."""
    (world.victim.home / "work/urls.txt").touch()
    world.victim.owns(world.victim.home)
    _publish(world, base, link(name, world.victim.home / "work"))
    _restore(world, base)


def test_settings_in_the_environment(world: World, base: Path) -> None:
    """The environment has settings of conda which say that environments are kept in the victim's own directories."""
    world.publish("team", file("config"), prefix=world.victim.home / ".aws/team")
    condarc = f"envs_dirs: [{world.victim.home}/.aws, {world.victim.home}/work]\n"
    world.publish("base", file(".condarc", condarc), prefix=base)
    _restore(world, base)


_PLANTED_CONDA = {
    "in a directory": [link("bin/conda", "../lib/y/bin/conda")],
    "by two links": [link("bin/conda", "../share/conda"), link("share/conda", "../lib/y/bin/conda")],
    "directory as a link": [link("bin", "lib/y/bin")],
    "hidden below envs": [link("bin/conda", "../envs/.y/bin/conda")],
    "elsewhere": [link("bin/conda", "../../work/bin/conda")],
    "without records": [link("bin/conda", "../lib/y/bin/conda"), link("conda-meta", "nowhere")],
}


@variants("variable", ["CONDA_EXE", "PATH"], usually=("CONDA_EXE", "PATH"))
@variants("planted", _PLANTED_CONDA, usually=("in a directory", "elsewhere", "without records"))
def test_program_that_leads_to_another_conda(planted: str, variable: str, world: World, base: Path) -> None:
    """Its `conda` is a link to one with settings of its own, and programs for the PATH of all kernels."""
    home = world.victim.home
    base.mkdir()
    (home / ".config").mkdir()
    (home / "work/bin").mkdir()
    (home / "work/.condarc").write_text("envs_dirs: [~/.config]\n")
    (home / "work/bin/conda").touch(0o755)
    world.victim.owns(home)
    members = [
        member
        for top in ("lib/y", "envs/.y")
        for member in (
            file(f"{top}/bin/conda", "#!/bin/sh\n", 0o755),
            file(f"{top}/condabin/ls", "evil", 0o755),
            file(f"{top}/.condarc", "envs_dirs: [~/.config]\n"),
        )
    ]
    variables = {
        variable: f"{base}/bin/conda" if variable == "CONDA_EXE" else f"{base}/bin:/usr/bin:/bin",
        "CONDA_ENVS_PATH": "",
    }
    world.publish("base", *members, *_PLANTED_CONDA[planted], prefix=base)
    world.victim.snapper("restore", "--all", **variables)
    world.publish("git", file("config", "evil"), prefix=home / ".config/git")
    world.publish("work", prefix="/nowhere/envs/work")
    also = [directory / "envs" / name for directory in (base, home / ".conda") for name in ("git", "work")]
    with world.unharmed("base", also=(base, *also)):
        world.victim.snapper("restore", "--all", **variables)
    on_path = [text for text in world.victim.kernel_scripts().values() if "y/condabin" in text]
    withstood(not on_path, "put its programs into the PATH of other environments")


@variants("how", [".condarc", "bin/conda", "environment"], usually=(".condarc", "bin/conda"))
def test_environment_that_is_found_by_name(how: str, world: World, base: Path) -> None:
    """It has something like an environment in it, and says that environments of the victim are there."""
    home = world.victim.home
    base.mkdir()
    world.victim.owns(base)
    planted = "lib/x/envs/team"
    members = {
        ".condarc": [file(".condarc", f"envs_dirs: [{base}/lib/x/envs]\n")],
        "bin/conda": [link("bin/conda", "../lib/x/bin/conda"), file("lib/x/bin/conda", "", 0o755)],
        "environment": [directory("lib/x/conda-meta")],
    }[how]
    evil = json.dumps({"argv": ["EVIL"], "display_name": "x", "language": "x"})
    world.publish(
        "base",
        *members,
        file(f"{planted}/conda-meta/history", ""),
        file(f"{planted}/share/jupyter/kernels/python3/kernel.json", evil),
        prefix=base,
    )
    variables = {"CONDA_ENVS_PATH": "", "PATH": f"{base}/bin:/usr/bin:/bin"}
    world.victim.snapper("restore", "--all", **variables)
    with world.unharmed("base", also=(base,)):
        for command in ("pack", "status", "kernels register"):
            outcome = world.victim.snapper(*command.split(), "team", **variables)
            withstood(outcome.code, f"`{command} team` works on its files")
    world.publish("team", prefix=home / ".conda/envs/team")
    world.victim.snapper("restore", "team", **variables)
    for command in ("status", "kernels register", "pack"):
        outcome = world.victim.snapper(*command.split(), "team", **variables)
        withstood(outcome.code == 0, f"`{command} team` fails: {outcome.err}")
    withstood("EVIL" not in f"{world.victim.kernel_scripts()}", "registered its kernel as another's")


@variants("when", ["at once", "later"], usually=("at once", "later"))
def test_kernel_with_the_name_of_anothers(when: str, world: World, base: Path) -> None:
    """It ships a kernel with the name that `team`'s has: Jupyter in base finds it if that gets another name."""
    base.mkdir()
    world.victim.owns(base)
    jupyter = [file("bin/jupyter", "", 0o755)]
    variables = {"PATH": f"{base}/bin:/usr/bin:/bin"}
    world.publish("team", prefix=world.victim.envs / "team")
    if when == "later":
        world.publish("base", prefix=base)
        world.victim.snapper("restore", "--all", **variables)
    world.publish("base", kernelspec("team-python3", argv=["EVIL"]), *jupyter, prefix=base)
    for _ in range(2):
        world.victim.snapper("restore", "--all", **variables)
    kernels = world.victim.registered_kernels()
    withstood("team-python3" in kernels, f"took the name; the victim has {sorted(kernels)}")
    mark = kernels["team-python3"]["metadata"]["snapper"]
    withstood(mark["environment"] == "team", "took the kernel")


def test_package_cache_of_the_victim(world: World, base: Path) -> None:
    """The victim's base environment has a package cache and environments; the next snapshot has files there."""
    world.publish("base", prefix=base)
    world.victim.snapper("restore", "base", CONDA_ENVS_PATH="")
    for path in ("pkgs/urls.txt", "pkgs/numpy/x", "envs/mine/conda-meta/history", "envs/mine/bin/x"):
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_text("mine")
    world.victim.owns(base)
    for members in (
        [file("pkgs/numpy/x", "evil"), file("envs/mine/bin/x", "evil")],
        [link("pkgs", "/tmp"), link("envs", "/tmp")],
        [link("envs/mine", "/tmp"), file("pkgs", "evil")],
    ):
        world.publish("base", *members, prefix=base)
        world.victim.snapper("restore", "base", CONDA_ENVS_PATH="")
        for path in ("pkgs/numpy/x", "envs/mine/bin/x"):
            withstood((base / path).read_text() == "mine", f"changed {path}")


_ALLOWED_BEFORE = {
    "nothing": [],
    "directories": [directory("envs"), directory("pkgs")],
}
_SHARED = {
    "another environment": file("envs/other/conda-meta"),
    "link in place of its records": link("envs/other/conda-meta", "../../share"),
    "list of packages": file("pkgs/urls.txt", "https://evil/numpy-1.conda"),
    "older list of packages": file("pkgs/urls"),
    "package": file("pkgs/numpy-1/info/index.json", "{}"),
    "link to a package": link("pkgs/numpy-1", "../share"),
    "archive": file("pkgs/numpy-1.conda"),
    "list of a channel": file("pkgs/cache/497deca9.json", "{}"),
    "package in capitals": file("PKGS/numpy-1/info/index.json", "{}"),
    "what a restore has kept": file("base.replaced-20260101-000000-abcd/bin/x"),
    "what a file system has": file("Lost+Found/x"),
}


@variants("before", _ALLOWED_BEFORE, usually=("nothing", "directories"))
@variants("shared", _SHARED, usually=("link in place of its records", "package", "what a file system has"))
def test_what_would_be_shared(shared: str, before: str, world: World, base: Path) -> None:
    """It has another environment or a package cache, from which conda would install packages elsewhere."""
    _publish(world, base, *_ALLOWED_BEFORE[before], _SHARED[shared])
    _restore(world, base)
    kept = ("base.replaced-20260101-000000-abcd", "Lost+Found")
    for path in ("envs/other/conda-meta", "pkgs/urls", "pkgs/urls.txt", "pkgs/numpy-1", "pkgs/cache", *kept):
        withstood(not os.path.lexists(base / path), f"restored {path}")
    done = world.victim.snapper("restore", "base", "--prefix", world.victim.envs / "copy")
    withstood("they are left out" in done.err, "had files left out without a message")


@variants("mode", [0o555, 0o000, 0o500, 0o077], usually=(0o555,))
@variants("closed", ["", "envs"], usually=("", "envs"))
def test_directories_that_nobody_may_write_to(closed: str, mode: int, world: World, base: Path) -> None:
    """It, or its `envs` directory, does not allow anyone to create environments in it."""
    members = [directory("envs", mode)] if closed else []
    world.publish("team", file("bin/program", "team's"), prefix=base / "envs/team")
    world.publish("base", *members, prefix=base, snapshot={} if closed else {"mode": mode})
    _restore(world, base)
    withstood((base / "envs/team/bin/program").exists(), "prevented the restore of another environment")
