"""Kernels of published environments must not take the place of others in the victim's Jupyter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from tests.support.redteam import publisher
from tests.support.redteam.accounts import withstood
from tests.support.redteam.publisher import kernelspec
from tests.support.redteam.variants import variants
from tests.support.redteam.world import World


def _kernels(*names: str) -> dict[str, object]:
    return {"kernels": [{"name": name, "display_name": "x", "language": "python"} for name in names]}


def _place_system_kernel(world: World, name: str) -> str:
    """Make a kernel of the system with this name; return Jupyter's path that has it."""
    directory = world.top / "system/kernels" / name
    directory.mkdir(parents=True)
    spec = {"argv": ["/usr/bin/python3"], "display_name": "Python 3 (system)", "language": "python"}
    (directory / "kernel.json").write_text(json.dumps(spec))
    return str(world.top / "system")


@pytest.mark.parametrize(
    ("template", "environment", "kernel"),
    [
        ("{env}", "python3", "python3"),
        ("{env}-{kernel}", "conda", "env-base-py"),
        ("{env}-{kernel}", "Python3", "X"),
        ("{env}", "PYTHON3", "x"),
    ],
)
def test_name_of_a_system_kernel(template: str, environment: str, kernel: str, world: World) -> None:
    """An environment and its kernel are named so that the kernel has the name of one of the system."""
    taken = template.format(env=environment, kernel=kernel).lower()
    path = _place_system_kernel(world, taken)
    world.publish(environment, kernelspec(kernel), prefix=world.victim.envs / "x", snapshot=_kernels(kernel))
    with world.unharmed(environment):
        world.victim.snapper("restore", "--all", JUPYTER_PATH=path, SNAPPER_KERNEL_NAME=template)
    withstood(taken not in world.victim.registered_kernels(), f"the kernel {taken} hides that of the system")


@variants("environment", ["python3", "python2", "Python3"], usually=("python3",))
def test_name_of_the_default_kernel(environment: str, world: World) -> None:
    """An environment's kernel gets the name of the kernel that Jupyter itself provides, without a kernelspec."""
    world.publish(environment, prefix=world.victim.envs / "x")
    with world.unharmed(environment):
        world.victim.snapper("restore", "--all", SNAPPER_KERNEL_NAME="{env}")
    withstood("python3" not in world.victim.registered_kernels(), "the kernel python3 is the attacker's")


def test_kernel_of_the_victim(world: World) -> None:
    """The victim has a kernel of the name that the published one would get."""
    own = world.victim.home / ".local/share/jupyter/kernels/work-python3"
    own.mkdir(parents=True)
    (own / "kernel.json").write_text(json.dumps({"argv": ["mine"], "display_name": "mine"}))
    world.victim.owns(world.victim.home / ".local")
    world.publish("work", prefix=world.victim.envs / "work")
    with world.unharmed("work"):
        world.victim.snapper("restore", "--all")
    withstood(
        world.victim.registered_kernels()["work-python3"]["argv"] == ["mine"], "replaced the victim's kernel"
    )


@variants(
    "name",
    ["..", "../../../../.ssh/x", "/etc/x", "a/b", "", ".", "-rf", "x" * 300, "\u202ex", "\ud800", "a\nb"],
    usually=("../../../../.ssh/x", "/etc/x", "x" * 300),
)
def test_hostile_kernel_name(name: str, world: World) -> None:
    """The snapshot has a kernel whose name is a path or cannot be one."""
    world.publish("work", prefix=world.victim.envs / "work", snapshot=_kernels(name))
    world.publish("good", prefix=world.victim.envs / "good")
    for template in ("{env}-{kernel}", "{kernel}{env}"):
        with world.unharmed("work", "good"):
            world.victim.snapper("restore", "--all", SNAPPER_KERNEL_NAME=template)
    withstood((world.victim.envs / "good").is_dir(), "other environments are not restored")


def test_many_kernels(world: World) -> None:
    """The snapshot has thousands of kernels of one name: each would be compared with all before."""
    kernels = _kernels(*["python3"] * 5000)
    world.publish("work", prefix=world.victim.envs / "work", snapshot=kernels)
    with world.unharmed("work"):
        world.victim.snapper("restore", "--all")


def test_link_in_the_victims_kernels(world: World) -> None:
    """A kernel directory is a link that the victim has made: removing the kernel must not empty its target."""
    world.publish("work", prefix=world.victim.envs / "work")
    world.victim.snapper("restore", "--all")
    kernels = world.victim.home / ".local/share/jupyter/kernels"
    (kernels / "work-python3").rename(world.victim.home / "work/kept")
    (kernels / "work-python3").symlink_to(world.victim.home / "work/kept")
    world.victim.owns(world.victim.home / ".local")
    world.victim.snapper("kernels", "remove", "work")
    withstood((world.victim.home / "work/kept/kernel.json").exists(), "removed files through a link")


def test_kernelspec_that_claims_to_be_anothers(world: World) -> None:
    """A published kernelspec has snapper's own mark, of another environment's kernel with another prefix."""
    mark = {"snapper": {"environment": "mine", "kernel": "python3", "prefix": str(world.victim.home)}}
    world.publish("mine", prefix=world.victim.envs / "mine")
    world.publish("work", kernelspec("python3", metadata=mark), prefix=world.victim.envs / "work")
    with world.unharmed("mine", "work"):
        world.victim.snapper("restore", "--all")
        world.victim.snapper("kernels", "remove", "work")
    kernels = world.victim.registered_kernels()
    withstood("mine-python3" in kernels, "removed the kernel of another environment")
    withstood(set(kernels) == {"mine-python3"}, f"did not remove its own kernel: {sorted(kernels)}")


def test_kernel_program_outside_of_the_environment(world: World) -> None:
    """A kernel's program is named so that it would be found in another directory than the environment's `bin`."""
    evil = kernelspec("python3", argv=["../../../work/evil", "{connection_file}"])
    world.publish("work", evil, prefix=world.victim.envs / "work")
    program = world.victim.home / "work/evil"
    program.write_text("#!/bin/sh\necho EVIL\n")
    program.chmod(0o755)
    with world.unharmed("work"):
        world.victim.snapper("restore", "--all")
    launcher = world.victim.home / ".local/share/jupyter/kernels/work-python3/launch.sh"
    done = subprocess.run(["/bin/sh", launcher, "/c.json"], cwd="/", capture_output=True, check=False)
    withstood(launcher.is_file() and b"EVIL" not in done.stdout, "ran a program outside")


@pytest.mark.parametrize("place", [".snapper/state", "snapper"])
def test_state_in_a_shared_directory(place: str, world: World) -> None:
    """The attacker was the first to create snapper's directory on a shared volume, with what kernels read and touch."""
    shared, state = world.temporary, world.temporary / place
    if place.startswith("."):
        (world.victim.home / "SageMaker").symlink_to(shared)
        world.victim.owns(world.victim.home / "SageMaker")
    target = world.victim.home / ".ssh/touched"

    def plant() -> None:
        for name in ("used", "waiting"):
            (state / name).mkdir(parents=True)
        (state / "used/work").symlink_to(target)
        os.mkfifo(state / "waiting/work")

    def start() -> int:
        (script,) = world.victim.home.glob(".local/share/jupyter/kernels/work-*/launch.sh")
        return subprocess.run(
            ["/bin/sh", script, "x"], capture_output=True, timeout=60, check=False
        ).returncode

    world.attacker.do(plant)
    world.publish("work", prefix=world.victim.envs / "work")
    world.victim.snapper("restore", "--all", XDG_STATE_HOME=str(shared))
    world.victim.do(start)
    withstood(not target.exists(), "created a file in the victim's home")
    shutil.rmtree(world.victim.envs / "work")
    withstood(world.victim.do(start) == 1, "started a kernel")


def test_generated_files_are_private(world: World) -> None:
    """Other users want to read the variables of an environment, such as tokens, from what is generated for kernels."""
    variables = json.dumps({"env_vars": {"TOKEN": "private"}})
    members = publisher.file("conda-meta/state", variables, mode=0o600)
    world.publish("work", members, prefix=world.victim.envs / "work")
    world.victim.snapper("restore", "--all")
    top = world.victim.home / ".local/share/jupyter/kernels"
    holding = [path for path in top.glob("*/*") if b"private" in path.read_bytes()]
    readable = world.attacker.do(lambda: [path.name for path in holding if os.access(path, os.R_OK)])
    withstood(not readable, f"everyone can read {readable}")


@variants("text", ["NaN", "Infinity", "1e999"], usually=("NaN",))
def test_kernelspec_that_browsers_cannot_read(text: str, world: World) -> None:
    """A kernelspec has values that Python reads and writes, and that break the list of kernels in a browser."""
    spec = (
        f'{{"argv":["x"],"display_name":"x","language":"x","metadata":{{"a":{text}}},"env":{{"A":{text}}}}}'
    )
    world.publish("evil", publisher.file("share/jupyter/kernels/evil/kernel.json", spec))
    world.publish("good")
    with world.unharmed("evil", "good"):
        world.victim.snapper("restore", "--all", "--envs-dir", world.victim.envs)
    for path in (world.victim.home / ".local/share/jupyter/kernels").glob("*/kernel.json"):
        json.loads(path.read_text(), parse_constant=_refuse)


def _refuse(constant: str) -> None:
    withstood(False, f"wrote {constant}, which is no JSON")


@variants(
    "other",
    ["team+gpu", "Team-gpu", "team_gpu", "team.gpu", "TEAM-GPU", "team-gpu-"],
    usually=("team+gpu", "Team-gpu"),
)
def test_similar_name(other: str, world: World) -> None:
    """An environment has a name which, as a kernel's, is that of another environment that is restored at once."""
    world.publish(other, publisher.kernelspec("python3", argv=["EVIL"]), prefix="/nowhere/envs/x")
    world.publish("team-gpu", prefix="/nowhere/envs/team-gpu")
    world.victim.snapper("restore", "--all")
    scripts = world.victim.kernel_scripts()
    evil = [path for path, text in scripts.items() if "EVIL" in text]
    withstood(
        not any(path.startswith("team-gpu-python3/") for path in evil),
        "took the name of another environment's kernel",
    )
