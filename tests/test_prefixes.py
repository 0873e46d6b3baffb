"""Environments whose files contain another prefix than the directory that is packed: moved, copied, or linked."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.maker import make
from snapper.environment import conda
from snapper.environment.embedded import find_prefixes
from snapper.environment.own_locations import remember_location
from snapper.environment.scan import scan
from snapper.format.model import LAYER_SIZE
from tests.conftest import Machine, tree_of, without_run_records
from tests.support.archives import Tree, conda_pack, conda_unpack, make_odd, unpack
from tests.support.programs import compile_program


@pytest.fixture
def restored_at(machine: Machine) -> Callable[[str], Tree]:
    """Return a function that restores an environment, always to the same prefix, and returns its files."""

    def restore(name: str) -> Tree:
        target = machine.envs / "restored"
        shutil.rmtree(target, ignore_errors=True)
        machine.run_json("restore", name, "--prefix", target)
        return without_run_records(tree_of(target))

    return restore


def pack(machine: Machine, prefix: Path, name: str) -> dict[str, Any]:
    """Pack the environment, completely, and check that packing it again changes nothing."""
    packed: dict[str, Any] = machine.run_json("pack", "-p", prefix, "--name", name)
    assert not packed["unrelocated"]
    assert not packed["dependencies"]
    assert machine.run_json("pack", "-p", prefix, "--name", name, "--full")["unchanged"]
    return packed


def check_other_directories_are_differences(machine: Machine, prefix: Path, script: str, own: Path) -> None:
    """Check that `verify` detects a script that names another directory in place of one of the environment's."""
    text = (prefix / script).read_text()
    (prefix / script).write_text(text.replace(str(own), str(own.parent / "elsewhere")))
    outcome = machine.snapper("verify", "-p", prefix, "--json")
    assert (outcome.code, outcome.json["different"]) == (12, [{"path": script, "what": "contents"}])
    (prefix / script).write_text(text)


def by_logical_path(prefix: Path) -> Path:
    """The home directory is a link; the environment is made through it, and packed by its real path."""
    return prefix.resolve()


def moved(prefix: Path) -> Path:
    """The environment is moved into a directory that did not exist when it was made."""
    new = prefix.parent / "deep" / "er" / "moved"
    new.parent.mkdir(parents=True)
    return prefix.rename(new)


def moved_up(prefix: Path) -> Path:
    """The environment is moved to where the directory was that contained it."""
    parent = prefix.parent
    new = prefix.rename(parent.parent / "temporary")
    parent.rmdir()
    return new.rename(parent)


def renamed(prefix: Path) -> Path:
    """The old name is the beginning of the new one."""
    return prefix.rename(f"{prefix}-2")


def copied(prefix: Path) -> Path:
    """The original is still there."""
    new = prefix.parent / "copy"
    subprocess.run(["cp", "-a", prefix, new], check=True)
    return new


FORMS = (by_logical_path, moved, moved_up, renamed, copied)


@pytest.mark.parametrize("move", FORMS, ids=lambda form: form.__name__)
def test_environments_are_relocated_from_the_prefix_in_their_files(
    machine: Machine,
    tmp_path: Path,
    restored_at: Callable[[str], Tree],
    move: Callable[[Path], Path],
) -> None:
    (tmp_path / "mnt/home/u").mkdir(parents=True)
    (tmp_path / "home").symlink_to("mnt/home")
    prefix = make_odd(tmp_path / "home/u/work")
    pack(machine, prefix, "reference")
    shutil.rmtree(prefix / ".snapper")
    current = move(prefix)
    packed = pack(machine, current, "moved")
    assert packed["found_prefixes"] == [str(prefix)]
    assert packed["snapshot"] == machine.run_json("show", "reference")["snapshot"]
    machine.run_json("verify", "-p", current)
    restored = restored_at("moved")
    assert not any(
        str(path).encode() in data for path in (prefix, current) for _, _, data in restored.values()
    )


def test_environments_made_at_their_real_path_are_packed_through_a_link(
    machine: Machine, tmp_path: Path
) -> None:
    prefix = make_odd(tmp_path / "mnt/work")
    pack(machine, prefix, "reference")
    (tmp_path / "link").symlink_to("mnt")
    shutil.rmtree(prefix / ".snapper")
    packed = pack(machine, tmp_path / "link/work", "moved")
    assert packed["found_prefixes"] == [str(prefix)]
    assert packed["snapshot"] == machine.run_json("show", "reference")["snapshot"]


def test_the_other_prefix_is_named(machine: Machine, tmp_path: Path) -> None:
    prefix = make_odd(tmp_path / "work")
    outcome = machine.snapper("pack", "-p", prefix.rename(tmp_path / "new"), "--name", "moved")
    assert outcome.code == 0
    assert f"refer to {prefix}, where it was installed" in outcome.err.replace("\n", " ")


def test_environments_that_were_moved_while_they_grew_are_relocated_from_every_prefix(
    machine: Machine, tmp_path: Path, restored_at: Callable[[str], Tree]
) -> None:
    """pip installs a script after the first move, conda installs a package again after the second."""
    first = make_odd(tmp_path / "first")
    second = first.rename(tmp_path / "second")
    install_script(second, "later", f"#!{second}/bin/whereami -x\n# {first}/share\n")
    (second / "share/both.txt").write_text(f"{first}/a {second}/b\n")
    (second / "share/absolute").symlink_to(second / "share/textdata")
    third = second.rename(tmp_path / "third")
    third.rename(tmp_path / "kept")
    make("no-python", third, copy=True)
    for path in ("share/textdata/config.ini", "bin/textdata-home"):
        (third / path).replace(tmp_path / "kept" / path)
    shutil.rmtree(third)
    (tmp_path / "kept").rename(third)
    (third / "share/third.txt").write_text(f"{third}\n")
    packed = pack(machine, third, "moved")
    assert sorted(packed["found_prefixes"]) == sorted(map(str, (first, second, third)))
    assert packed["altered"] == []
    machine.run_json("verify", "-p", third)
    check_other_directories_are_differences(machine, third, "bin/later", second)
    restored = restored_at("moved")
    target = machine.envs / "restored"
    assert restored["share/both.txt"][2].decode() == f"{target}/a {target}/b\n"
    assert restored["bin/later"][2].decode() == f"#!{target}/bin/whereami -x\n# {target}/share\n"
    assert os.readlink(target / "share/absolute") == f"{target}/share/textdata"
    for prefix in (first, second, third):
        assert not [path for path, entry in restored.items() if os.fsencode(prefix) in entry[2]]
    outcome = machine.snapper("pack", "-p", third, "--name", "moved", "--full")
    assert (outcome.code, "refer to several directories" in outcome.err) == (0, True)


@pytest.mark.parametrize("unpacked", [False, True], ids=["before conda-unpack", "after conda-unpack"])
def test_unpacked_archives_of_conda_pack(
    machine: Machine, tmp_path: Path, restored_at: Callable[[str], Tree], unpacked: bool
) -> None:
    prefix = make_odd(tmp_path / "work")
    (prefix / "share/own/other.txt").unlink()  # conda-pack corrupts archives with hard links
    top = unpack(conda_pack(prefix, tmp_path / "archive.tar.gz"), tmp_path / "unpacked")
    if unpacked:
        conda_unpack(top)
        top = top.rename(tmp_path / "moved")
    script = prefix / "bin/own-script"
    assert script.read_text().startswith(f"#!{prefix}/bin/python\n")
    packed = machine.run_json("pack", "-p", top, "--name", "archive")
    assert packed["found_prefixes"] == [str(tmp_path / "unpacked" if unpacked else prefix)]
    restored = restored_at("archive")
    target = machine.envs / "restored"
    for path, (_, _, data) in restored.items():
        if not path.startswith(("conda-meta/", "bin/conda")):
            assert os.fsencode(prefix) not in data, path
            assert b"placehold" not in data.replace(str(target).encode(), b""), path
    assert str(target) in subprocess.check_output([target / "bin/whereami"], text=True)


def test_environments_without_files_of_packages_that_contain_the_prefix(
    machine: Machine, tmp_path: Path, restored_at: Callable[[str], Tree]
) -> None:
    """Only a script and a kernelspec tell where the environment was."""
    old, new = tmp_path / "old", tmp_path / "new"
    kernel = new / "share/jupyter/kernels/python3/kernel.json"
    kernel.parent.mkdir(parents=True)
    (new / "conda-meta").mkdir()
    (new / "bin").mkdir()
    (new / "bin/python").write_text("#!/bin/sh\n")
    kernel.write_text(json.dumps({"argv": [f"{old}/bin/python", "-m", "ipykernel_launcher"]}))
    (new / "bin/tool").write_text(f"#!{old}/bin/python\n")
    (new / "bin/foreign").write_text(f"#!{tmp_path}/other/bin/unknown\n")
    outcome = machine.snapper("pack", "-p", new, "--name", "moved", "--json")
    assert (outcome.code, outcome.json["found_prefixes"]) == (3, [str(old)])
    assert [dependency["path"] for dependency in outcome.json["dependencies"]] == [
        f"{tmp_path}/other/bin/unknown"
    ]
    restored = restored_at("moved")
    assert restored["bin/tool"][2].decode() == f"#!{machine.envs}/restored/bin/python\n"
    assert restored["bin/foreign"][2].decode() == f"#!{tmp_path}/other/bin/unknown\n"


def test_other_environments_are_no_former_prefix(
    machine: Machine, tmp_path: Path, restored_at: Callable[[str], Tree]
) -> None:
    """Scripts and kernelspecs name another environment, which is removed after the first pack."""
    prefix, other = make_odd(tmp_path / "work"), tmp_path / "other"
    (other / "bin").mkdir(parents=True)
    for path in (prefix / "bin/python", other / "bin/python"):
        path.write_text("#!/bin/sh\n")
    kept = {f"bin/foreign{number}": f"#!{other}/bin/python\n" for number in range(9)}
    kept["share/jupyter/kernels/other/kernel.json"] = json.dumps({"argv": [f"{other}/bin/python", "-m", "x"]})
    kept["share/own/worker.cfg"] = f"{other}/bin/worker\n"
    kept["bin/example"] = "#!/usr/local/bin/no-such-program\n"
    for name, text in kept.items():
        (prefix / name).parent.mkdir(parents=True, exist_ok=True)
        (prefix / name).write_text(text)
    present = machine.snapper("pack", "-p", prefix, "--name", "work", "--json")
    shutil.rmtree(other)
    missing = machine.snapper("pack", "-p", prefix, "--name", "work", "--json", "--full")
    for outcome in (present, missing):
        assert (outcome.code, outcome.json["found_prefixes"]) == (3, [])
        assert [(found["kind"], found["path"]) for found in outcome.json["dependencies"]] == [
            ("command", f"{other}/bin/python"),
            ("library", f"{other}/bin/python"),
        ]
    restored = restored_at("work")
    assert {name: restored[name][2].decode() for name in kept} == kept


def find(prefix: Path, *recorded: Path) -> tuple[str, ...]:
    directory = conda.pin_environment(prefix)
    return find_prefixes(
        directory, conda.read_records(prefix), scan(directory).files, [*map(str, recorded)]
    ).found


def make_with_scripts(prefix: Path, *interpreters: Path) -> None:
    """Create an environment with Python, and scripts of the user that name these prefixes."""
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin/python").touch()
    for number, interpreter in enumerate(interpreters):
        (prefix / f"bin/script{number}").write_text(f"#!{interpreter}/bin/python\n")


def install_entry_point(prefix: Path, interpreter: Path) -> None:
    """Add a script that conda has generated, of a package whose placeholder only begins like the prefix."""
    (prefix / "bin/own").write_text(f"#!{interpreter}/bin/python\n")
    entry = {"_path": "bin/own", "path_type": "unix_python_entry_point"}
    other = {"_path": "lib/own", "prefix_placeholder": f"{interpreter}1anaconda2", "file_mode": "text"}
    paths = [entry, {"path_type": "hardlink", **other}]
    record = {"name": "own", "version": "1", "build_string": "0", "paths_data": {"paths": paths}}
    (prefix / "conda-meta/own-1-0.json").write_text(json.dumps(record))


def install_script(prefix: Path, name: str, text: str, entry_points: str = "") -> None:
    """Add a script as pip does."""
    (prefix / "bin" / name).write_text(text)
    metadata = prefix / "lib/python3.11/site-packages" / f"{name}-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(entry_points)
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
    (metadata / "RECORD").write_text(f"../../../bin/{name},sha256={digest},{len(text)}\n")


@pytest.mark.parametrize(
    ("form", "counts"),
    [
        ("installed", True),
        ("entry point, relocated", True),
        ("changed", False),
        ("not of pip", False),
        ("present", False),
        ("of another environment", False),
    ],
)
def test_scripts_of_pip_are_evidence_of_a_former_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, counts: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    prefix, old = tmp_path / "work", tmp_path / "old"
    make_with_scripts(prefix, old, old)
    install_entry_point(prefix, prefix)
    text = f"#!{old}/bin/python\n"
    if form != "not of pip":
        entry_points = "[console_scripts]\ntool = module:main\n" if form.startswith("entry point") else ""
        install_script(prefix, "tool", text, entry_points)
    if form in ("changed", "entry point, relocated"):
        (prefix / "bin/tool").write_text(f"{text}# changed\n")
    if form == "present":
        (old / "bin").mkdir(parents=True)
        (old / "bin/python").touch()
    if form == "of another environment":
        remember_location("other", old)
    assert sorted(find(prefix)) == sorted([str(prefix), *[str(old)] * counts])


def test_scripts_of_conda_are_evidence_whatever_else_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment was packed under another name before it was moved."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    prefix, old = tmp_path / "work", tmp_path / "old"
    make_with_scripts(prefix, prefix, old)
    install_entry_point(prefix, old)
    remember_location("other", old)
    assert find(prefix) == (str(old), str(prefix))


@pytest.mark.parametrize(("count", "counts"), [(1, False), (2, False), (3, True)])
def test_without_evidence_the_majority_of_scripts_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, counts: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    prefix, old = tmp_path / "work", tmp_path / "old"
    make_with_scripts(prefix, prefix, prefix, *[old] * count)
    assert sorted(find(prefix)) == sorted([str(prefix), *[str(old)] * counts])
    remember_location("earlier name", old)
    assert find(prefix) == (str(prefix),)
    assert str(old) in find(prefix, old)


@pytest.mark.parametrize(
    "claimed", ["/usr", "/", "/usr/local", "/usr/bin/env", "/home", "~", "parent", "/etc"]
)
def test_system_directories_are_never_taken_for_a_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claimed: str
) -> None:
    """A record and a checksum prove nothing about a directory that holds more than environments."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    claimed = {"~": str(tmp_path / "home"), "parent": str(tmp_path)}.get(claimed, claimed)
    prefix = tmp_path / "envs" / "evil"
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "bin").mkdir()
    original, placeholder = b"#!/placeholder/bin/env python\n", "/placeholder"
    data = original.replace(placeholder.encode(), claimed.encode())
    for name in ("claim", "env", "python"):
        (prefix / "bin" / name).write_bytes(data)
    record = {
        "name": "evil",
        "version": "1",
        "build_string": "0",
        "paths_data": {
            "paths": [
                {
                    "_path": "bin/claim",
                    "path_type": "hardlink",
                    "sha256": hashlib.sha256(original).hexdigest(),
                    "prefix_placeholder": placeholder,
                    "file_mode": "text",
                }
            ]
        },
    }
    (prefix / "conda-meta/evil-1-0.json").write_text(json.dumps(record))
    assert find(prefix) == ()


def test_files_larger_than_a_layer_are_relocated_from_the_other_prefix(
    machine: Machine, tmp_path: Path
) -> None:
    prefix = tmp_path / "work"
    make("no-python", prefix, copy=True)
    text = (f"{prefix}/share " + "x" * 10_000 + "\n") * 3_500
    (prefix / "share/large.txt").write_text(text)
    new = prefix.rename(tmp_path / "new")
    machine.run_json("pack", "-p", new, "--name", "moved")
    target = machine.envs / "restored"
    machine.run_json("restore", "moved", "--prefix", target)
    assert (target / "share/large.txt").read_text() == text.replace(str(prefix), str(target))


def test_stores_are_repaired_with_moved_environments(machine: Machine) -> None:
    prefix = make_odd(machine.envs / "work").rename(machine.envs / "new")
    machine.run_json("pack", "-p", prefix, "--name", "moved")
    for layer in (machine.store / "layers").rglob("*"):
        if layer.is_file():
            layer.chmod(0o600)
            layer.write_bytes(b"corrupted")
    machine.run_json("verify", "--repair")
    machine.run_json("verify")


def test_accepted_prefixes_remain_prefixes(
    machine: Machine, tmp_path: Path, restored_at: Callable[[str], Tree]
) -> None:
    """Everything but a script of pip and a file of the user is written again after the environment was renamed."""
    old, new = tmp_path / "old", tmp_path / "new"
    make_with_scripts(old)
    install_script(old, "tool", f"#!{old}/bin/python\n")
    (old / "own.pc").write_text(f"prefix={old}\n")
    machine.run_json("pack", "-p", old, "--name", "earlier")
    old.rename(new)
    install_entry_point(new, new)
    for change in range(2):
        (new / "file").write_text(f"{change}")
        packed = machine.run_json("pack", "-p", new, "--name", "work")
        assert (sorted(packed["found_prefixes"]), packed["dependencies"]) == ([str(new), str(old)], [])
        restored = restored_at("work")
        prefix = machine.envs / "restored"
        assert restored["bin/tool"][2].decode() == f"#!{prefix}/bin/python\n"
        assert restored["own.pc"][2].decode() == f"prefix={prefix}\n"
    (new / "bin/tool").unlink()
    (new / "own.pc").write_text(f"prefix={old}\nversion=2\n")
    found = machine.run_json("pack", "-p", new, "--name", "work")["found_prefixes"]
    assert sorted(found) == [str(new), str(old)]
    assert restored_at("work")["own.pc"][2].decode() == f"prefix={prefix}\nversion=2\n"


def test_what_is_known_of_prefixes_follows_files_that_are_renamed_or_copied(
    machine: Machine, tmp_path: Path
) -> None:
    """A restored environment has a database with the first prefix, and a program with room for a longer one."""
    first, second, third = tmp_path / "the-first-one", tmp_path / "second", tmp_path / "the-third-one"
    (first / "conda-meta").mkdir(parents=True)
    (first / "work").mkdir()
    database = f"{first}/x".encode() + bytes(40)
    (first / "work/database").write_bytes(database)
    compile_program(first / "work/program", f"-Wl,-rpath,{first}/lib")
    machine.snapper("pack", "-p", first, "--name", "work")
    machine.snapper("restore", "work", "--prefix", second)
    (second / "work").rename(second / "renamed")
    shutil.copyfile(second / "renamed/database", second / "copy")
    (second / "log").write_text(f"copied from {first}\n")
    with (second / "large").open("wb") as large:
        large.truncate(LAYER_SIZE)
        large.seek(0, os.SEEK_END)
        large.write(database)
    expected = ["copy", "large", "renamed/database"]
    packed = machine.snapper("pack", "-p", second, "--name", "work", "--json")
    assert (packed.code, sorted(packed.json["unrelocated"])) == (3, expected)
    restored = machine.snapper("restore", "work", "--prefix", third, "--json")
    assert (restored.code, sorted(restored.json["restored"][0]["unrelocated"])) == (3, expected)
    assert (third / "copy").read_bytes() == database
    assert f"{third}/lib".encode() in (third / "renamed/program").read_bytes()
