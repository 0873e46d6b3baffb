"""File systems mounted inside an environment are not part of it: they are neither packed nor emptied."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapper.commands.restore import RestoreFailure, restore
from snapper.environment.scan import mounted_file_systems, scan
from snapper.fs import mounts
from snapper.fs.mounts import mount_points_below
from snapper.fs.removal import remove_tree
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.requests import RestoreRequest
from snapper.store import open_store
from tests.conftest import Machine
from tests.support.environments import make_data
from tests.support.layers import META, encode_member, file, pack_members
from tests.support.sandbox import publish_layers, restore_layers

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")

PLACE = "my results"


class Volume:
    """A file system with a file of the user's, which can be mounted in several places."""

    def __init__(self, kind: str, source: Path) -> None:
        self._command = ["mount", "--bind", str(source)] if kind == "bind" else ["mount", "-t", kind, "none"]
        self._mounted: list[Path] = []
        source.mkdir()

    def mount(self, point: Path) -> Path:
        """Mount it at a directory, and return a file in it; skip the test if that is impossible."""
        point.mkdir(parents=True, exist_ok=True)
        if subprocess.run([*self._command, str(point)], capture_output=True, check=False).returncode:
            pytest.skip("this system does not allow to mount")
        self._mounted.append(point)
        (point / "precious").write_text("the user's")
        return point / "precious"

    def unmount(self) -> None:
        for point in reversed(self._mounted):
            subprocess.run(["umount", "-l", str(point)], capture_output=True, check=False)


@pytest.fixture(params=["bind", "tmpfs"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    made = Volume(request.param, tmp_path / "volume")
    yield made
    made.unmount()


def publish_two(machine: Machine) -> Path:
    """Pack two snapshots of `data`, of which the first is in place; return its prefix."""
    prefix = make_data(machine.envs / "data")
    first = machine.run_json("pack", "data")["snapshot"]
    (prefix / "new").touch()
    machine.run_json("pack", "data")
    machine.run_json("restore", f"data@{first}")
    return prefix


@pytest.mark.parametrize("replace", [[], ["--replace"]])
@pytest.mark.parametrize("place", [PLACE, "lib/deep/below"])
def test_a_file_system_in_an_environment_is_not_emptied(
    machine: Machine, volume: Volume, place: str, replace: list[str]
) -> None:
    prefix = publish_two(machine)
    precious = volume.mount(prefix / place)
    error = machine.expect_error(11, "restore", "data", *replace)
    assert error["message"] == f"cannot overwrite {prefix / place}: another file system is mounted there"
    assert machine.snapper("restore", "--all").code == 11
    assert precious.read_text() == "the user's"
    assert not (prefix / "new").exists()
    volume.unmount()
    machine.run_json("restore", "data", *(replace or ["--replace"]))
    assert (prefix / "new").exists()


def test_a_file_system_in_an_environment_is_not_packed(machine: Machine, volume: Volume) -> None:
    prefix = make_data(machine.envs / "data")
    volume.mount(prefix / PLACE)
    packed = machine.run_json("pack", "data")
    assert packed["skipped"] == [{"path": PLACE, "reason": "another file system is mounted there"}]
    restored = machine.run_json("restore", "data", "--prefix", machine.envs / "copy")["restored"][0]
    assert not (Path(restored["prefix"]) / PLACE).exists()


@pytest.mark.parametrize("place", ["envs/other", "envs", "pkgs"])
def test_environments_and_packages_on_a_file_system_of_their_own_survive(
    machine: Machine, volume: Volume, place: str
) -> None:
    """What is mounted below `envs` moves along with it; what is mounted at it stays where it is."""
    prefix = publish_two(machine)
    precious = volume.mount(prefix / place)
    machine.run_json("restore", "data")
    assert (prefix / "new").exists()
    assert precious.read_text() == "the user's"


def test_mounted_file_systems_are_never_removed(tmp_path: Path, volume: Volume) -> None:
    precious = volume.mount(tmp_path / "tree" / "a" / PLACE)
    with pytest.raises(OSError, match="mounted"):
        remove_tree(tmp_path / "tree")
    assert precious.exists()
    assert mount_points_below(tmp_path / "tree") == [f"a/{PLACE}"]
    volume.unmount()
    assert mount_points_below(tmp_path / "tree") == []
    remove_tree(tmp_path / "tree")


@pytest.fixture
def unlisted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Volume]:
    """A volume where the system does not list what is mounted, as on macOS, or without /proc."""
    monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "no mountinfo")
    made = Volume("tmpfs", tmp_path / "volume")
    yield made
    made.unmount()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("place", [PLACE, "lib/deep/below", "envs"])
def test_file_systems_that_are_not_listed_are_neither_packed_nor_emptied(
    sandbox: Path, unlisted: Volume, place: str
) -> None:
    members = [encode_member(META), file("a", b"1")]
    prefix = restore_layers(sandbox, [pack_members(*members)])
    publish_layers(open_store(str(sandbox / "store")), [pack_members(*members, file("new"))])
    precious = unlisted.mount(prefix / place)
    assert [path for path, _ in scan(prefix).skipped] == [place]
    assert mounted_file_systems(scan(prefix)) == ([] if place == "envs" else [place])
    for replace in (False, True):
        request = RestoreRequest(SnapshotSpec("work"), prefix=prefix, replace=replace)
        (outcome,) = restore(open_store(str(sandbox / "store")), [request])
        assert isinstance(outcome, RestoreFailure), outcome
        assert outcome.error.code == 11
        assert precious.read_text() == "the user's"
    assert not (prefix / "new").exists()


def test_file_systems_that_are_not_listed_are_never_removed(tmp_path: Path, unlisted: Volume) -> None:
    precious = unlisted.mount(tmp_path / "tree" / "a" / PLACE)
    with pytest.raises(OSError, match="not empty"):
        remove_tree(tmp_path / "tree")
    assert precious.exists()
