"""Imported archives: restored, they equal the same environment installed at the new prefix."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scripts.maker import make
from tests.conftest import Machine, tree_of
from tests.support.archives import (
    FORMATS,
    Tree,
    archives_of,
    assert_same,
    conda_pack,
    conda_unpack,
    installed,
    make_odd,
    member,
    need_tools,
    records_of,
    run,
    unpack,
    write_tar,
)
from tests.support.commands import start_command


class Archived(NamedTuple):
    """The environment `no-python` packed by conda-pack in each format, and installed at `destination`."""

    archives: dict[str, Path]
    destination: Path
    installed: Tree


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Archived:
    top = tmp_path_factory.mktemp("archived")
    prefix = top / "tools"
    make("no-python", prefix)
    archives = archives_of(prefix)
    destination = top / "elsewhere" / "with-another-name"
    return Archived(archives, destination, installed("no-python", destination))


@pytest.fixture
def temporary(machine: Machine) -> Path:
    """Return the directory for the machine's temporary files."""
    directory = machine.home / "tmp"
    directory.mkdir()
    return directory


def restore_tree(machine: Machine, name: str, prefix: Path) -> Tree:
    machine.run_json("restore", name, "--prefix", prefix)
    return tree_of(prefix)


def assert_as_installed(restored: Tree, expected: Tree) -> None:
    """Assert that the trees differ only in the paths of the package cache, which conda-pack removes from records."""
    expected = dict(expected)
    said, true = records_of(restored), records_of(expected)
    assert said.keys() == true.keys()
    for path, record in said.items():
        assert record["link"].pop("source") == record.pop("extracted_package_dir") == ""
        true[path]["link"].pop("source")
        true[path].pop("extracted_package_dir")
        assert record == true[path]
    assert_same(restored, expected)


# --- made by conda-pack -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [*FORMATS, "tar.xz"])
def test_restored_archive_equals_installed_environment(
    form: str, archived: Archived, machine: Machine, temporary: Path
) -> None:
    need_tools(form)
    document = machine.run_json("import", archived.archives[form], "--name", "tools", TMPDIR=str(temporary))
    assert list(temporary.iterdir()) == []
    assert document["altered"] == document["missing"] == document["unrelocated"] == []
    moved_away = machine.home / "with-another-name"
    restored = restore_tree(machine, "tools", archived.destination)
    os.rename(archived.destination, moved_away)
    assert_as_installed(restored, archived.installed)


def test_python_and_its_modules_work(
    pristine: Callable[[str], Path], machine: Machine, beside_packages: Path
) -> None:
    archive = conda_pack(pristine("compiled"), machine.home / "compiled.tar.zst")
    machine.run_json("import", archive)
    destination = beside_packages / "elsewhere" / "compiled"
    expected = installed("compiled", destination)
    restored = restore_tree(machine, "compiled", destination)
    for path, (kind, mode, data) in expected.items():
        if path.endswith(".pyc") and data != restored[path][2]:
            assert restored[path][2][16:] == data[16:], "only the time of the source may differ"
            expected[path] = kind, mode, restored[path][2]
    assert_as_installed(restored, expected)
    assert run(destination / "bin" / "python", "-c", "import sys; print(sys.prefix)") == f"{destination}\n"


def test_archive_with_dest_prefix(archived: Archived, machine: Machine, tmp_path: Path) -> None:
    make("no-python", tmp_path / "tools")
    archive = conda_pack(tmp_path / "tools", tmp_path / "tools.tar.gz", dest_prefix="/opt/some/where")
    document = machine.run_json("import", archive, "--name", "tools")
    assert document["altered"] == document["unrelocated"] == []
    restored = restore_tree(machine, "tools", tmp_path / "destination")
    assert not any(b"/opt/some/where" in data for _, _, data in restored.values())
    assert run(tmp_path / "destination" / "bin" / "whereami").startswith(f"{tmp_path}/destination\n")
    assert (
        f"home = {tmp_path}/destination\n" in (tmp_path / "destination/share/textdata/config.ini").read_text()
    )


@pytest.fixture
def uncached(tmp_path: Path) -> Path:
    """Return the environment `no-python` without its package cache."""
    prefix = tmp_path / "tools"
    make("no-python", prefix, copy=True)
    for file in (prefix / "conda-meta").glob("*.json"):
        record = json.loads(file.read_text())
        record["link"]["source"] = record["extracted_package_dir"] = "/nowhere"
        file.write_text(json.dumps(record))
    return prefix


def test_archive_made_without_a_package_cache(uncached: Path, machine: Machine, tmp_path: Path) -> None:
    """conda-pack then cannot list the binaries that contain the prefix; checksums in conda's records prove them."""
    document = machine.run_json("import", conda_pack(uncached, tmp_path / "tools.tar.gz"))
    assert document["altered"] == []
    restore_tree(machine, "tools", tmp_path / "destination")
    assert run(tmp_path / "destination" / "bin" / "whereami").startswith(f"{tmp_path}/destination\n")


def test_archive_with_dest_prefix_made_without_a_package_cache(
    uncached: Path, machine: Machine, tmp_path: Path
) -> None:
    archive = conda_pack(uncached, tmp_path / "tools.tar.gz", dest_prefix="/opt/some/where")
    assert machine.run_json("import", archive)["altered"] == []
    restored = restore_tree(machine, "tools", tmp_path / "destination")
    assert restored["share/textdata/config.ini"][2].startswith(
        f"[paths]\nhome = {tmp_path}/destination\n".encode()
    )
    assert run(tmp_path / "destination" / "bin" / "whereami").startswith(f"{tmp_path}/destination\n")


def test_environment_in_a_subdirectory_of_the_archive(
    archived: Archived, machine: Machine, tmp_path: Path
) -> None:
    make("no-python", tmp_path / "tools")
    archive = conda_pack(tmp_path / "tools", tmp_path / "tools.tar.gz", arcroot="my/environment")
    machine.run_json("import", archive)
    assert_as_installed(restore_tree(machine, "tools", archived.destination), archived.installed)


def test_interpreters_of_scripts_are_restored(machine: Machine, tmp_path: Path) -> None:
    """conda-pack makes scripts look up Python on PATH; the checksums that pip recorded prove what they were."""
    prefix = tmp_path / "tools"
    make("data", prefix, copy=True)
    (prefix / "bin" / "python3").write_text("#!/bin/sh\n")
    script = f"#!{prefix}/bin/python3\nprint('own')\n"
    (prefix / "bin" / "own").write_text(script)
    (prefix / "bin" / "foreign").write_text("#!/usr/bin/env python3\nprint('foreign')\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(script.encode()).digest()).decode().rstrip("=")
    metadata = prefix / "lib/python3.11/site-packages/own-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Name: own\nVersion: 1.0\n")
    (metadata / "RECORD").write_text(f"../../../bin/own,sha256={digest},{len(script)}\n")
    archive = conda_pack(prefix, tmp_path / "tools.tar")
    assert run("tar", "-xOf", archive, "bin/own").startswith("#!/usr/bin/env python3\n")
    document = machine.run_json("import", archive)
    assert document["pip_packages"] == 1
    restored = restore_tree(machine, "tools", tmp_path / "destination")
    assert restored["bin/own"][2] == f"#!{tmp_path}/destination/bin/python3\nprint('own')\n".encode()
    assert restored["bin/foreign"][2] == b"#!/usr/bin/env python3\nprint('foreign')\n"


def test_package_scripts_named_like_those_of_conda_pack_are_kept(machine: Machine, tmp_path: Path) -> None:
    prefix = tmp_path / "base"
    make("data", prefix, copy=True)
    (prefix / "bin" / "activate").write_text("conda's own\n")
    (record,) = (prefix / "conda-meta").glob("*.json")
    fields = json.loads(record.read_text())
    fields["link"]["source"] = "/nowhere"
    fields["files"].append("bin/activate")
    fields["paths_data"]["paths"].append({"_path": "bin/activate", "path_type": "hardlink"})
    record.write_text(json.dumps(fields))
    machine.run_json("import", conda_pack(prefix, tmp_path / "base.tar.gz"))
    restored = restore_tree(machine, "base", tmp_path / "destination")
    assert restored["bin/activate"][2] == b"conda's own\n"
    assert not {"bin/deactivate", "bin/conda-unpack"} & restored.keys()


def test_hard_links_with_data_are_read(machine: Machine, tmp_path: Path) -> None:
    """conda-pack writes the second name of a file without a package as a link with data, which tar cannot read."""
    prefix = tmp_path / "linked"
    make("data", prefix, copy=True)
    (prefix / "a.txt").write_text("twice\n")
    os.link(prefix / "a.txt", prefix / "b.txt")
    (prefix / "c.txt").write_text("behind\n")
    machine.run_json("import", conda_pack(prefix, tmp_path / "linked.tar"))
    restored = restore_tree(machine, "linked", tmp_path / "destination")
    assert [restored[f"{name}.txt"][2] for name in "abc"] == [b"twice\n", b"twice\n", b"behind\n"]
    assert (tmp_path / "destination" / "a.txt").samefile(tmp_path / "destination" / "b.txt")


def test_snapper_directory_in_an_archive_is_ignored(
    archived: Archived, machine: Machine, tmp_path: Path
) -> None:
    machine.run_json("import", archived.archives["tar.gz"])
    restore_tree(machine, "tools", tmp_path / "tools")
    machine.run_json("import", conda_pack(tmp_path / "tools", tmp_path / "again.tar"), "--name", "again")
    assert not (tmp_path / "tools" / "bin" / "conda-unpack").exists()
    again = machine.run_json("show", "again")
    assert again["files"] == machine.run_json("show", "tools")["files"]


# --- made by snapper export -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["tar.gz", "tar.zst", "tar.bz2", "tar", "squashfs"])
def test_importing_an_export_gives_the_same_snapshot(form: str, machine: Machine, tmp_path: Path) -> None:
    need_tools(form)
    prefix = tmp_path / "tools"
    make("no-python", prefix, copy=True)
    if form == "squashfs":  # it has no fractions of a second
        for file in (prefix / "conda-meta" / "history", prefix / "CACHEDIR.TAG"):
            os.utime(file, (1_700_000_000, 1_700_000_000))
    packed = machine.run_json("pack", "-p", prefix, "--name", "tools")
    archive = machine.home / f"tools.{form}"
    machine.run_json("export", "tools", "-o", archive)
    document = machine.run_json("import", archive, "--name", "again")
    assert document["snapshot"] == packed["snapshot"]
    assert document["added_size"] == 0


@pytest.mark.parametrize("options", [(), ("--dest-prefix", "/opt/odd")])
def test_odd_files_survive_export_and_import(
    options: tuple[str, ...], machine: Machine, tmp_path: Path
) -> None:
    machine.run_json("pack", "-p", make_odd(machine.envs / "odd"))
    machine.run_json("export", "odd", "-o", "odd.tar.gz", "--level", "1", *options)
    machine.run_json("import", "odd.tar.gz", "--name", "again")
    expected = restore_tree(machine, "odd", tmp_path / "destination" / "odd")
    os.rename(tmp_path / "destination" / "odd", tmp_path / "odd")
    restored = restore_tree(machine, "again", tmp_path / "destination" / "odd")
    if not options:
        expected["share/own/absolute"] = "symlink", 0o777, b"../../share/textdata"
        expected["share/own/top"] = "symlink", 0o777, b"../.."
        expected["share/own/read only.cfg"] = "file", 0o644, expected["share/own/read only.cfg"][2]
    assert_same(restored, expected)


# --- what is recorded -------------------------------------------------------------------------------------


def test_history_records_the_import(archived: Archived, machine: Machine) -> None:
    outcome = machine.snapper("import", archived.archives["tar"])
    assert outcome.code == 0, outcome
    (entry,) = machine.run_json("list")["environments"]
    first = entry["snapshot"]
    assert (entry["environment"], entry["action"], entry["prefix"]) == ("tools", "import", "")
    assert entry["message"] == "from tools.tar"
    assert "imported" in machine.snapper("list").out
    assert "imported" in machine.snapper("show", "tools").out
    again = machine.run_json("import", archived.archives["tar"])
    assert again["unchanged"]
    document = machine.run_json("restore", "tools")
    assert document["restored"][0]["prefix"] == str(machine.envs / "tools")
    (machine.envs / "tools/new").touch()
    machine.run_json("pack", "tools")
    error = machine.expect_error(11, "import", archived.archives["tar"])
    assert error["type"] == "EnvironmentExists"
    assert "--name tools" in error["hint"]
    outcome = machine.snapper("import", archived.archives["tar"], "--name", "tools", "--quiet")
    assert "which this environment is not based on" in outcome.err
    assert machine.run_json("list")["environments"][0]["snapshot"] == first


# --- refusals and interruptions ---------------------------------------------------------------------------


def test_refused_archives_leave_nothing(machine: Machine, temporary: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.tar.gz"
    text.write_text("Not an archive.")
    error = machine.expect_error(10, "import", text, TMPDIR=str(temporary))
    assert error["message"].startswith(f"cannot import {text}: ")
    hostile = write_tar(tmp_path / "hostile.tar.gz", member("../escaped", b"bad"))
    error = machine.expect_error(12, "import", hostile, TMPDIR=str(temporary))
    assert "'../escaped'" in error["message"]
    machine.expect_error(2, "import", text, "--name", "no/name")
    assert list(temporary.iterdir()) == []
    assert not machine.store.exists()
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_import_leaves_nothing(
    number: int, archived: Archived, machine: Machine, temporary: Path
) -> None:
    running = start_command(machine, "import", archived.archives["tar.bz2"], TMPDIR=str(temporary))
    if running.reaches(lambda: any(temporary.glob("*/tree/*"))):
        running.send(number)
    assert running.finish().code in (0, 130)
    assert list(temporary.iterdir()) == []
    assert running.members() == []


def test_archive_unpacked_by_hand_packs_to_the_same_files(
    archived: Archived, machine: Machine, tmp_path: Path
) -> None:
    """The hint for refused archives leads to the same environment, except for what conda-pack adds."""
    prefix = unpack(archived.archives["tar.gz"], tmp_path / "by-hand")
    conda_unpack(prefix)
    machine.run_json("pack", "-p", prefix)
    machine.run_json("import", archived.archives["tar.gz"])
    by_hand: dict[str, Any] = machine.run_json("show", "by-hand")
    assert by_hand["files"] == machine.run_json("show", "tools")["files"] + 5
