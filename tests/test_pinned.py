"""Directories are opened once: what is put at their path while a command works on them does not matter."""

from __future__ import annotations

import json
import os
import pkgutil
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zstandard

from snapper import kernels
from snapper.commands.pack import PackOptions, pack
from snapper.commands.pack_result import PackResult
from snapper.commands.restore import RestoreResult, restore
from snapper.errors import ChangedWhilePacking, EnvironmentOfOther, FileOperationFailed
from snapper.fs.directories import opened_directory, pin_directory
from snapper.fs.handles import directory_handle
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.requests import RestoreRequest
from snapper.store import open_store
from tests.conftest import Machine
from tests.support.kernelspecs import add_kernel

#: What must not get into a snapshot, a kernel, or the environment of someone else.
SECRET = "secret-of-the-packer"

OTHER = 64203


@pytest.fixture(autouse=True)
def _use(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in machine.variables.items():
        monkeypatch.setenv(name, value)


def make(prefix: Path, text: str) -> Path:
    """Make an environment in which every kind of file contains the text."""
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "conda-meta/history").write_text(text)
    metadata = prefix / f"lib/python3.12/site-packages/{text}-1.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Name: {text}\nVersion: 1\n")
    (prefix / "file").write_text(text)
    (prefix / "etc/conda/env_vars.d").mkdir(parents=True)
    (prefix / "etc/conda/env_vars.d/a.json").write_text(f'{{"VARIABLE": "{text}"}}')
    add_kernel(prefix, "python3", argv=["python", text], display_name=text, language=text)
    return prefix


def make_project(top: Path, text: str) -> Path:
    """Make a directory that looks like the project of an editable install."""
    top.mkdir(parents=True)
    (top / "pyproject.toml").touch()
    (top / "module.py").write_text(text)
    return top


def swap_before(monkeypatch: pytest.MonkeyPatch, target: str, path: Path, secret: Path) -> None:
    """Put a link to `secret` at the path right before the function `target` is called the first time."""
    original: Callable[..., Any] = pkgutil.resolve_name(target)

    def swap_and_call(*arguments: Any, **options: Any) -> Any:
        if not path.is_symlink():
            path.rename(path.with_name("aside"))
            path.symlink_to(secret)
        return original(*arguments, **options)

    monkeypatch.setattr(target, swap_and_call)


def pack_or_give_up(machine: Machine, prefix: Path, options: PackOptions) -> PackResult | None:
    """Pack the environment; return None if it has changed meanwhile. The secret must not be in the store."""
    packed = None
    with suppress(ChangedWhilePacking):
        packed = pack(open_store(str(machine.store), create=True), prefix, "work", options, jobs=1)
    for file in machine.store.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            if file.name.endswith(".zst"):
                data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
            assert SECRET.encode() not in data, file
    assert not (prefix / ".snapper").exists() or not prefix.is_symlink(), "wrote into the other directory"
    return packed


@pytest.mark.parametrize(
    ("moment", "is_packed"),
    [
        ("snapper.packing.source.clock.now", False),
        ("snapper.environment.installed.scan", False),
        ("snapper.packing.source.editable.find", False),
        ("snapper.commands.snapshot_build.make_plan", False),
        ("snapper.commands.snapshot_build.WorkerPool", False),
        ("snapper.commands.snapshot_build.shipped_kernels", True),
        ("snapper.commands.snapshot_build.find_credentials", False),
        ("snapper.commands.pack.state.write", True),
    ],
)
def test_environment_that_is_swapped_while_it_is_packed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, moment: str, is_packed: bool
) -> None:
    """Workers, which open it again, notice that it is another one; everything else reads the one that was opened."""
    prefix = make(machine.envs / "work", "good")
    secret = make(machine.home / "secret", SECRET)
    swap_before(monkeypatch, moment, prefix, secret)
    packed = pack_or_give_up(machine, prefix, PackOptions())
    assert prefix.is_symlink()
    assert (packed is not None) == is_packed
    if packed:
        assert [kernel.display_name for kernel in packed.snapshot.kernels] == ["good"]
        assert (prefix.with_name("aside") / ".snapper/state.json").exists()


@pytest.mark.parametrize(
    "moment",
    [
        "snapper.environment.editable._why_not_project",
        "snapper.packing.source.editable.include",
        "snapper.commands.snapshot_build.make_plan",
        "snapper.commands.snapshot_build.WorkerPool",
    ],
)
def test_source_that_is_swapped_while_it_is_included(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    prefix = make(machine.envs / "work", "good")
    source = make_project(machine.home / "project", "good")
    secret = make_project(machine.home / "secret", SECRET)
    (prefix / "lib/python3.12/site-packages/mine.pth").write_text(f"{source}\n")
    swap_before(monkeypatch, moment, source, secret)
    try:
        assert pack_or_give_up(machine, prefix, PackOptions(editables="include")) is None
    except FileOperationFailed as error:
        assert "it was replaced while it was opened" in error.message
    assert source.is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
def test_source_of_another_user_is_not_included(machine: Machine) -> None:
    prefix = make(machine.envs / "work", "good")
    source = make_project(machine.home / "project", "good")
    (prefix / "lib/python3.12/site-packages/mine.pth").write_text(f"{source}\n")
    os.chown(source, OTHER, OTHER)
    error = machine.expect_error(1, "pack", "work", "--editable=include")
    assert f"it belongs to the user {OTHER}" in error["message"]
    os.chown(source, 0, 0)
    link = machine.home / "link"
    link.symlink_to(source)
    os.lchown(link, OTHER, OTHER)
    (prefix / "lib/python3.12/site-packages/mine.pth").write_text(f"{link}\n")
    error = machine.expect_error(1, "pack", "work", "--editable=include")
    assert f"link is a link of the user {OTHER}" in error["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
def test_environment_of_another_user_is_packed_without_files_that_only_others_may_read(
    machine: Machine, tmp_path: Path
) -> None:
    """Its owner can make links to files of others, where the system allows that."""
    prefix = make(machine.envs / "work", "good")
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    (prefix / "public").write_text("installed by root")
    for path in [prefix, *prefix.rglob("*")]:
        if path.name != "public":
            os.lchown(path, OTHER, OTHER)
    os.link(secret, prefix / "linked")
    (prefix / "third").write_text(SECRET)
    os.chown(prefix / "third", OTHER + 1, OTHER + 1)
    (prefix / "directory").mkdir()
    (prefix / "directory/inside").write_text(SECRET)
    os.chown(prefix / "directory", OTHER + 1, OTHER + 1)
    packed = pack_or_give_up(machine, prefix, PackOptions())
    assert packed is not None
    assert packed.owner == str(OTHER)
    assert dict(packed.skipped) == {
        "linked": "it belongs to the user root",
        "third": f"it belongs to the user {OTHER + 1}",
        "directory": f"it belongs to the user {OTHER + 1}",
    }
    assert {path for layer in packed.snapshot.layers for path in [layer.kind]} <= {"pip", "files"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
def test_name_leads_only_to_own_environments(machine: Machine) -> None:
    """In a shared directory, another user can put an environment where one has a name."""
    prefix = make(machine.envs / "work", "good")
    os.chown(prefix, OTHER, OTHER)
    for command in (["pack", "work"], ["kernels", "register", "work"]):
        error = machine.expect_error(11, *command)
        assert error["message"] == f"{prefix} belongs to the user {OTHER}, not to you"
        assert f"-p {prefix}" in error["hint"]
    packed = machine.snapper("pack", "-p", prefix)
    assert packed.code == 0
    assert f"{prefix} belongs to the user {OTHER}, who decides what is in it" in packed.out + packed.err
    assert machine.run_json("kernels", "register", "-p", prefix)["environments"][0]["kernels"]


@pytest.mark.parametrize(
    "moment",
    [
        "snapper.kernels.registration.find_kernelspecs",
        "snapper.kernels.registration.launcher.render_launch_script",
        "snapper.kernels.registration.replace_assets",
    ],
)
def test_environment_that_is_swapped_while_its_kernels_are_registered(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    prefix = make(machine.envs / "work", "good")
    swap_before(monkeypatch, moment, prefix, make(machine.home / "secret", SECRET))
    (outcome,) = kernels.register(pin_directory(prefix), "work")
    assert prefix.is_symlink()
    assert not outcome.problem
    for file in Path(outcome.path).iterdir():
        assert SECRET not in file.read_text()
    assert json.loads((Path(outcome.path) / "kernel.json").read_text())["language"] == "good"


@pytest.mark.parametrize("is_present", [False, True])
def test_environment_that_is_swapped_after_it_is_restored(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, is_present: bool
) -> None:
    """Kernels are those of what was inspected or written."""
    prefix = make(machine.envs / "work", "good")
    machine.run_json("pack", "work")
    if not is_present:
        shutil.rmtree(prefix)
    secret = make(machine.home / "secret", SECRET)
    swap_before(monkeypatch, "snapper.commands.restore.kernels.Registrar.register", prefix, secret)
    request = RestoreRequest(SnapshotSpec("work"), keep_changed=True)
    (result,) = restore(open_store(str(machine.store)), [request])
    assert isinstance(result, RestoreResult), result
    assert prefix.is_symlink() and result.present == is_present
    (kernel,) = result.kernels
    assert SECRET not in (Path(kernel.path) / "kernel.json").read_text()


@pytest.mark.parametrize(
    "moment",
    ["snapper.kernels.registration.remove_registered", "snapper.fs.own_directory.OwnDirectory.remove"],
)
def test_kernel_that_is_swapped_while_it_is_removed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """In a shared directory, another user can put what belongs to this one where the kernel was."""
    (outcome,) = kernels.register(make(machine.envs / "work", "good"), "work")
    path = Path(outcome.path)
    mine = add_kernel(machine.home, "mine", argv=["mine"], display_name="Mine")
    remove: Callable[..., Any] = pkgutil.resolve_name(moment)

    def swap_and_remove(*arguments: Any) -> Any:
        if mine.exists():
            path.rename(path.with_name("aside"))
            mine.rename(path)
        return remove(*arguments)

    monkeypatch.setattr(moment, swap_and_remove)
    with suppress(OSError):
        kernels.remove("work")
    assert not mine.exists()
    assert (path / "kernel.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
@pytest.mark.parametrize("command", [["list"], ["restore", "--all"], ["doctor"]], ids="-".join)
def test_default_store_of_another_user_is_not_used(machine: Machine, command: list[str]) -> None:
    store = machine.home / "SageMaker/.snapper"
    store.parent.mkdir()
    open_store(str(store), create=True)
    os.chown(store, OTHER, OTHER)
    outcome = machine.snapper(*command, SNAPPER_STORE="")
    assert outcome.code != 0
    reason = f"belongs to the user {OTHER}"
    shown = outcome.out + outcome.err
    assert "it is the default, but " in shown and reason in shown
    assert machine.snapper("list", "--store", store).code == 0


def test_error_names_who_owns_what_has_the_name() -> None:
    error = EnvironmentOfOther("/shared/my env", "bob")
    assert error.hint == "If you trust bob, give its directory instead of the name: -p '/shared/my env'."


# --- for workers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_descriptor", [True, False], ids=["by descriptor", "by path"])
def test_handle_leads_to_the_open_directory_or_nowhere(tmp_path: Path, by_descriptor: bool) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    with opened_directory(directory) as opened:
        handle = directory_handle(opened, directory)
        if not by_descriptor:
            handle = handle._replace(by_descriptor="")
        assert handle.pin().status.st_ino == handle.inode
        directory.rename(tmp_path / "moved")
        directory.mkdir()
        if handle.by_descriptor:
            assert handle.pin().status.st_ino == handle.inode
        else:
            with pytest.raises(OSError, match="replaced by another directory"):
                handle.pin()


def test_handle_does_not_follow_links_of_others(tmp_path: Path) -> None:
    """In a mount namespace of their own, such a link leads to the same directory with other things mounted below it."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a link to another user")
    directory = tmp_path / "above/directory"
    directory.mkdir(parents=True)
    with opened_directory(directory) as opened:
        handle = directory_handle(opened, directory)._replace(by_descriptor="")
        directory.parent.rename(tmp_path / "moved")
        directory.parent.symlink_to("moved")
        assert handle.pin().status.st_ino == handle.inode
        os.chown(directory.parent, OTHER, OTHER, follow_symlinks=False)
        with pytest.raises(OSError, match="a link of the user"):
            handle.pin()
