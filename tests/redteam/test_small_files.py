"""An environment has something else in place of the small files that snapper reads when it registers or packs it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.redteam import publisher
from tests.support.redteam.accounts import withstood
from tests.support.redteam.publisher import file, link
from tests.support.redteam.world import World

_SITE = "lib/python3.11/site-packages"
_KERNELS = "share/jupyter/kernels"

#: The small files of an environment that snapper reads, apart from its own.
_FILES = (
    "conda-meta/state",
    "conda-meta/history",
    "conda-meta/evil-1-0.json",
    "etc/conda/env_vars.d/evil.json",
    f"{_KERNELS}/evil/kernel.json",
    f"{_KERNELS}/logo/logo-64x64.png",
    f"{_KERNELS}/logo/logo-svg.svg",
    f"{_KERNELS}/logo/kernel.js",
    f"{_SITE}/a-1.dist-info/METADATA",
    f"{_SITE}/b-1.dist-info/RECORD",
    f"{_SITE}/c-1.dist-info/direct_url.json",
    f"{_SITE}/evil.pth",
    f"{_SITE}/evil.egg-link",
    f"{_SITE}/__editable___evil_finder.py",
)
_STATE_FILES = (".snapper/state.json", ".snapper/snapshot", ".snapper/index")

#: What makes snapper read them.
_BESIDE = {
    "conda-meta/conda-1-0.json": json.dumps({"name": "conda", "version": "1", "build": "0"}),
    f"{_KERNELS}/logo/kernel.json": json.dumps({"argv": ["x"], "display_name": "x", "language": "x"}),
    f"{_SITE}/b-1.dist-info/METADATA": "Name: b\nVersion: 1\n",
    f"{_SITE}/c-1.dist-info/METADATA": "Name: c\nVersion: 1\n",
}


def _each(paths: tuple[str, ...]) -> pytest.MarkDecorator:
    """Attack with all of the paths at once, and with `--long` with each of them."""
    single = [pytest.param((path,), id=path, marks=pytest.mark.long) for path in paths]
    return pytest.mark.parametrize("paths", [pytest.param(paths, id="all"), *single])


def _publish(world: World, *members: bytes, more: tuple[publisher.Layer, ...] = ()) -> None:
    """Publish `evil` with the members, and `good`; `more` are further layers."""
    publisher.make_store(world.store)
    beside = [file(path, data) for path, data in _BESIDE.items()]
    layers = [publisher.put_layer(world.store, b"".join([*beside, *members])), *more]
    publisher.put_entry(
        world.store, "evil", publisher.put_snapshot(world.store, layers), world.victim.envs / "evil"
    )
    world.publish("good", prefix=world.victim.envs / "good")
    world.victim.owns(world.store)


def _restore_and(world: World, *commands: str) -> None:
    """Restore both environments, then run the commands."""
    with world.unharmed("good", "evil", also=(world.store,)):
        world.victim.snapper("restore", "--all")
        for command in commands:
            world.victim.snapper(*command.split())
    withstood((world.victim.envs / "good/conda-meta").is_dir(), "other environments are not restored")


def _is_json(path: str) -> bool:
    return path.endswith((".json", "state"))


# --- published --------------------------------------------------------------------------------------------


@_each(_FILES)
def test_published_link_to_a_device(paths: tuple[str, ...], world: World) -> None:
    """A small file is published as a link to /dev/zero."""
    _publish(world, *(link(path, "/dev/zero") for path in paths))
    _restore_and(world, "pack evil")


@_each(_FILES)
def test_published_link_to_a_secret(paths: tuple[str, ...], world: World) -> None:
    """A small file is published as a link to a file with mode 0600; its contents must not get into any other file."""
    _publish(world, *(link(path, world.secrets[0 if _is_json(path) else 1]) for path in paths))
    _restore_and(world, "pack evil", "status", "show evil")


@_each(_FILES)
def test_published_relative_link_to_a_secret(paths: tuple[str, ...], world: World) -> None:
    """As above, with a relative link that leads out of the environment."""
    members = []
    for path in paths:
        secret = world.secrets[0 if _is_json(path) else 1].relative_to(world.victim.home)
        members.append(link(path, "../" * (path.count("/") + 2) + str(secret)))
    _publish(world, *members)
    _restore_and(world, "pack evil")


@_each(_FILES)
def test_published_link_to_a_secret_for_root(paths: tuple[str, ...], world: World) -> None:
    """Root restores and packs such an environment; the secret is another user's."""
    _publish(world, *(link(path, world.secrets[0 if _is_json(path) else 1]) for path in paths))
    root = world.root
    with world.unharmed("good", "evil", account=root, also=(world.store,)):
        root.snapper("restore", "--all", "--envs-dir", root.envs)
        root.snapper("pack", "evil")


@pytest.mark.parametrize(
    "directory",
    ["conda-meta", "etc/conda", "etc/conda/env_vars.d", "share/jupyter", _KERNELS, f"{_KERNELS}/python3"],
)
def test_published_link_to_a_directory_of_secrets(directory: str, world: World) -> None:
    """A directory with small files is published as a link to a directory of the victim's with such files."""
    secrets = world.victim.home / ".config/secrets"
    for name in (
        "state",
        "kernel.json",
        "x.json",
        "env_vars.d/x.json",
        "python3/kernel.json",
        "logo-64x64.png",
    ):
        (secrets / name).parent.mkdir(parents=True, exist_ok=True)
        (secrets / name).write_bytes(world.secrets[0].read_bytes())
    (secrets / "kernels").mkdir()
    (secrets / "kernels/python3").symlink_to("../python3")
    world.victim.owns(world.victim.home / ".config")
    publisher.make_store(world.store)
    history = [] if directory == "conda-meta" else [file("conda-meta/history", "")]
    layer = publisher.put_layer(world.store, b"".join([link(directory, secrets), *history]))
    snapshot = publisher.put_snapshot(world.store, [layer])
    publisher.put_entry(world.store, "evil", snapshot, world.victim.envs / "evil")
    world.publish("good", prefix=world.victim.envs / "good")
    world.victim.owns(world.store)
    _restore_and(world, "pack evil")


@_each(tuple(filter(_is_json, _FILES)))
def test_published_deep_json(paths: tuple[str, ...], world: World) -> None:
    """A small JSON file is nested so deeply that parsing it exhausts the stack."""
    _publish(world, *(file(path, b'{"env_vars":' * 50_000 + b"1" + b"}" * 50_000) for path in paths))
    _restore_and(world, "pack evil", "kernels register evil")


@_each(tuple(filter(_is_json, _FILES)))
def test_published_json_of_other_types(paths: tuple[str, ...], world: World) -> None:
    """A small JSON file has values of unexpected types."""
    document = '{"env_vars":[1],"argv":{"a":1},"display_name":[],"metadata":3,"paths_data":{"paths":[[],7]},"files":1}'
    _publish(world, *(file(path, document) for path in paths))
    _restore_and(world, "pack evil", "kernels register evil")


@_each(tuple(path for path in _FILES if path.startswith((_KERNELS, "etc/", "conda-meta/state"))))
def test_published_huge_file(paths: tuple[str, ...], world: World) -> None:
    """A small file is published with 480 MB of zeros, in a store of some kilobytes."""
    piece, pieces = 120 << 20, 4
    size = piece * pieces
    publisher.make_store(world.store)
    first = publisher.put_layer(world.store, publisher.header("huge", size) + bytes(piece), members=1)
    rest = [
        publisher.put_layer(
            world.store,
            bytes(piece),
            members=0,
            begins={"path": "huge", "offset": number * piece, "size": size, "replaced": 0},
        )
        for number in range(1, pieces)
    ]
    _publish(world, *(publisher.hard_link(path, "huge") for path in paths), more=(first, *rest))
    _restore_and(world)


# --- on disk ----------------------------------------------------------------------------------------------


def _pipe(path: Path) -> None:
    os.mkfifo(path, 0o666)


def _zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2 << 30)


def _directory(path: Path) -> None:
    path.mkdir()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(path.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


@_each(_FILES + _STATE_FILES)
@pytest.mark.parametrize(
    "plant", [_pipe, _zero, _sparse, _directory, _socket], ids=lambda plant: plant.__name__[1:]
)
def test_environment_on_disk(plant: Callable[[Path], None], paths: tuple[str, ...], world: World) -> None:
    """An environment has been restored; then somebody who may write to it replaces small files."""
    _publish(world, *(file(path, "{}") for path in paths if not path.startswith(".snapper")))
    world.victim.snapper("restore", "--all")
    for path in paths:
        (world.victim.envs / "evil" / path).unlink()
        plant(world.victim.envs / "evil" / path)
    commands = ["status", "doctor", "kernels register evil", "diff evil", "restore --all"]
    if plant is not _sparse:  # two gigabytes of zeros may well be packed and compared
        commands += ["pack evil", "verify evil", "restore evil --replace"]
    world.victim.owns(world.victim.envs)
    with world.unharmed("evil", "good", also=(world.store,)):
        for command in commands:
            world.victim.snapper(*command.split())
