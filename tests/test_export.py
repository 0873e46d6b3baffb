"""Exported archives: unpacked with other programs, they equal what `snapper restore` creates."""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import signal
import stat
import sys
import zipapp
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scripts.maker import make
from snapper.commands.export import ExportRequest, export_snapshot
from snapper.errors import UsageError
from snapper.repository.specs import SnapshotSpec
from snapper.store import open_store
from tests.conftest import Machine, tree_of
from tests.support.archives import (
    ACTIVATION,
    ADDED,
    FORMATS,
    Tree,
    assert_same,
    conda_unpack,
    make_odd,
    need_tools,
    records_of,
    run,
    unpack,
    without,
)
from tests.support.commands import start_command
from tests.support.programs import compile_program


class Stock(NamedTuple):
    """A store with the environments `odd` and `compiled`."""

    store: Path
    snapshot: str


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    top = tmp_path_factory.mktemp("stock")
    machine = Machine(top / "home", top / "home" / "envs", top / "store")
    machine.envs.mkdir(parents=True)
    odd = machine.run_json("pack", "-p", make_odd(machine.envs / "odd"))
    return Stock(machine.store, odd["snapshot"])


@pytest.fixture
def stocked(stock: Stock, machine: Machine) -> Machine:
    """Return a machine with that store, which tests only read."""
    return Machine(machine.home, machine.envs, stock.store)


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.endswith(".snapper")]


def export_odd(machine: Machine, archive: Path, *options: object) -> Any:
    """Export the environment `odd`, one of whose files has a time that a zip cannot hold; return the JSON output."""
    outcome = machine.snapper("export", "odd", "-o", archive, *options, "--json")
    assert outcome.code == (3 if archive.suffix == ".zip" else 0), outcome
    return outcome.json


def export_and_restore(machine: Machine, form: str, directory: Path) -> tuple[Tree, Tree]:
    """Return the environment `odd` at one prefix: unpacked from an archive, and restored."""
    archive = machine.home / f"odd.{form}"
    export_odd(machine, archive)
    prefix = directory / "odd"
    conda_unpack(unpack(archive, prefix))
    unpacked = tree_of(prefix)
    shutil.rmtree(prefix)
    machine.run_json("restore", "odd", "--prefix", prefix)
    return unpacked, tree_of(prefix)


# --- equal to a restored environment --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_unpacked_archive_equals_restored_environment(form: str, stocked: Machine, scratch: Path) -> None:
    need_tools(form)
    unpacked, restored = export_and_restore(stocked, form, scratch)
    assert unpacked.keys() >= ADDED
    unpacked = without(unpacked, ADDED)

    for path, target in {"absolute": "../../share/textdata", "top": "../.."}.items():
        kind, mode, data = restored[f"share/own/{path}"]
        assert os.fsdecode(data).startswith(str(scratch))
        restored[f"share/own/{path}"] = kind, mode, target.encode()
    kind, mode, data = restored["share/own/read only.cfg"]
    assert mode == 0o444
    restored["share/own/read only.cfg"] = kind, 0o644, data

    said, known = records_of(unpacked), records_of(restored)
    assert said.keys() == known.keys()
    for path, record in said.items():
        for entry, true in zip(
            record["paths_data"]["paths"], known[path]["paths_data"]["paths"], strict=True
        ):
            if entry.get("prefix_placeholder"):
                assert entry.pop("sha256_in_prefix") is None
                true.pop("sha256_in_prefix")
                if entry["size_in_bytes"] is None:
                    entry["size_in_bytes"] = true["size_in_bytes"]
        assert record == known[path]
    assert_same(unpacked, restored)


@pytest.mark.parametrize("form", ["tar.gz", "zip", "squashfs"])
def test_environment_without_programs(form: str, machine: Machine, tmp_path: Path) -> None:
    """There is a directory for the scripts of conda-pack, which others can use, whatever the umask is."""
    need_tools(form)
    prefix = machine.envs / "data"
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "share").mkdir()
    (prefix / "share/data").write_text(f"{prefix}\n")
    machine.run_json("pack", "data")
    umask = os.umask(0o077)
    try:
        machine.run_json("export", "data", "-o", tmp_path / f"data.{form}")
    finally:
        os.umask(umask)
    unpacked = unpack(tmp_path / f"data.{form}", tmp_path / "unpacked")
    assert stat.S_IMODE((unpacked / "bin").stat().st_mode) == 0o755
    conda_unpack(unpacked)
    assert (unpacked / "share/data").read_text() == f"{unpacked}\n"


def test_hard_links_stay_hard_links(stocked: Machine, tmp_path: Path) -> None:
    stocked.run_json("export", "odd", "-o", tmp_path / "odd.tar")
    prefix = unpack(tmp_path / "odd.tar", tmp_path / "odd")
    conda_unpack(prefix)
    assert (prefix / "share/own/one.txt").samefile(prefix / "share/own/other.txt")
    assert (prefix / "share/own/one.txt").read_text() == f"{prefix}\n"


@pytest.mark.parametrize("options", [(), ("--dest-prefix", "/opt/elsewhere")])
def test_files_that_contain_another_prefix_are_reported(
    options: tuple[str, ...], machine: Machine, tmp_path: Path
) -> None:
    """What only debuggers read is not reported."""
    prefix = tmp_path / "work"
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "conda-meta/history").touch()
    constant = f'const char *p = "{prefix}/x"; int main(void) {{ return !p; }}'
    compile_program(prefix / "kept", f"-Wl,-rpath,{prefix}/lib", source=constant)
    debugged = f'#line 1 "{prefix}/source.c"\nint main(void) {{ return 0; }}\n'
    compile_program(prefix / "debugged", "-g", source=debugged)
    (prefix / "text").write_text(f"{prefix}\n")
    (prefix / "link").symlink_to(prefix / "text")
    assert machine.snapper("pack", "-p", prefix, "--name", "work").code == 3
    outcome = machine.snapper("export", "work", "-o", tmp_path / "work.tar", *options, "--json")
    assert (outcome.code, outcome.json["unrelocated"]) == (3, ["kept"])


@pytest.mark.parametrize("form", ["tar.zst", "zip"])
def test_archive_with_dest_prefix_needs_no_conda_unpack(form: str, stocked: Machine, scratch: Path) -> None:
    need_tools(form)
    prefix = scratch / "odd"
    archive = stocked.home / f"odd.{form}"
    document = export_odd(stocked, archive, "--dest-prefix", prefix)
    assert document["dest_prefix"] == str(prefix)
    assert document["unrelocated"] == []
    unpacked = tree_of(unpack(archive, prefix))
    shutil.rmtree(prefix)
    stocked.run_json("restore", "odd", "--prefix", prefix)
    assert_same(without(unpacked, ACTIVATION), tree_of(prefix))


def test_python_works_before_and_after_conda_unpack(
    pristine: Callable[[str], Path], machine: Machine, tmp_path: Path
) -> None:
    machine.run_json("pack", "-p", pristine("compiled"), "--name", "compiled")
    machine.run_json("export", "compiled", "-o", tmp_path / "compiled.tar.gz", "--level", "1")
    prefix = unpack(tmp_path / "compiled.tar.gz", tmp_path / "compiled")
    python = prefix / "bin" / "python"
    assert run(python, "-c", "import sys; print(sys.prefix)") == f"{prefix}\n"
    run(python, "-B", prefix / "bin" / "conda-unpack")
    assert run(prefix / "bin" / "whereami").startswith(f"{prefix}\n")
    assert str(prefix) in run(prefix / "bin" / "python3-config", "--prefix")
    activated = f". {prefix}/bin/activate && command -v whereami && echo $CONDA_PREFIX"
    assert run("bash", "-ec", activated).splitlines() == [f"{prefix}/bin/whereami", str(prefix)]


def test_scripts_of_an_earlier_archive_are_replaced(
    stocked: Machine, machine: Machine, tmp_path: Path
) -> None:
    stocked.run_json("export", "odd", "-o", tmp_path / "odd.tar")
    first = unpack(tmp_path / "odd.tar", tmp_path / "first")
    conda_unpack(first)
    machine.run_json("pack", "-p", first)
    machine.run_json("export", "first", "-o", tmp_path / "again.tar")
    second = unpack(tmp_path / "again.tar", tmp_path / "second")
    conda_unpack(second)
    assert run(second / "bin" / "whereami").startswith(f"{second}\n")
    found = tree_of(second)
    assert not any(str(first).encode() in data for _, _, data in found.values())


def test_files_that_conda_unpack_cannot_relocate_keep_their_placeholder(
    machine: Machine, scratch: Path
) -> None:
    prefix = scratch / "own"
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "wide.txt").write_text(f"home = {prefix}\n", encoding="utf-16")
    (prefix / "module.py").write_text("print('hello')\n")
    py_compile.compile(str(prefix / "module.py"), cfile=str(prefix / "module.pyc"), doraise=True)
    script = f"#!{prefix}/bin/python\nprint('{prefix}')\n"
    (prefix / "bin" / "script").write_text(script)
    compile_program(prefix / "bin" / "python", f"-Wl,-rpath,{prefix}/lib")
    machine.run_json("pack", "-p", prefix)
    machine.run_json("export", "own", "-o", scratch / "own.tar")
    unpacked = unpack(scratch / "own.tar", scratch / ("long" * 40))
    conda_unpack(unpacked)
    for name, encoding in (("wide.txt", "utf-16-le"), ("module.pyc", "utf-8")):
        data = (unpacked / name).read_bytes()
        assert "/opt/snapper_prefix".encode(encoding) in data
        assert str(prefix).encode(encoding) not in data
    assert (unpacked / "bin" / "script").read_text() == script.replace(str(prefix), str(unpacked))
    assert b"/snapper" in (unpacked / "bin" / "python").read_bytes()
    machine.run_json("import", scratch / "own.tar", "--name", "again")
    machine.run_json("restore", "again", "--prefix", scratch / "back")
    assert (scratch / "back" / "wide.txt").read_text("utf-16") == f"home = {scratch}/back\n"
    assert f"{scratch}/back/module.py".encode() in (scratch / "back" / "module.pyc").read_bytes()


def test_scripts_owned_by_a_package_are_kept(machine: Machine, tmp_path: Path) -> None:
    prefix = machine.envs / "base"
    make("data", prefix, copy=True)
    (prefix / "bin" / "activate").write_text(f"echo {prefix}\n")
    (record,) = (prefix / "conda-meta").glob("*.json")
    fields = json.loads(record.read_text())
    fields["paths_data"]["paths"].append({"_path": "bin/activate", "path_type": "hardlink"})
    record.write_text(json.dumps(fields))
    machine.run_json("pack", "-p", prefix, "--name", "base")
    machine.run_json("export", "base", "-o", tmp_path / "base.tar")
    unpacked = unpack(tmp_path / "base.tar", tmp_path / "unpacked")
    conda_unpack(unpacked)
    assert (unpacked / "bin" / "activate").read_text() == f"echo {unpacked}\n"
    assert "conda_pack" in (unpacked / "bin" / "deactivate").read_text()


def test_binaries_that_may_not_fit_are_relocated_last(machine: Machine, scratch: Path) -> None:
    prefix = scratch / "own"
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "bin").mkdir()
    compile_program(prefix / "bin" / "program", f"-Wl,-rpath,{prefix}/share")
    (prefix / "text").write_text(f"{prefix}\n")
    machine.run_json("pack", "-p", prefix)
    document = machine.run_json("export", "own", "-o", scratch / "own.tar")
    assert document["longest_prefix"] == len(bytes(prefix))
    short = unpack(scratch / "own.tar", scratch / "it")
    conda_unpack(short)
    assert bytes(short) + b"/share\0" in (short / "bin" / "program").read_bytes()
    long = unpack(scratch / "own.tar", scratch / "much-longer")
    with pytest.raises(AssertionError, match="negative padding"):
        conda_unpack(long)
    assert (long / "text").read_text() == f"{long}\n"


# --- levels and threads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "low", "high"), [("tar.gz", 1, 9), ("tar.zst", 1, 19), ("zip", 0, 9)])
def test_higher_levels_give_smaller_archives(form: str, low: int, high: int, stocked: Machine) -> None:
    sizes = [
        export_odd(stocked, stocked.home / f"{level}.{form}", "--level", level)["size"]
        for level in (low, high)
    ]
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize("form", ["tar.gz", "tar.zst", "tar.bz2"])
def test_several_threads_give_other_bytes(form: str, stocked: Machine) -> None:
    """Several threads compress separate blocks of the data."""
    archives = [stocked.home / f"{threads}.{form}" for threads in (1, 2)]
    for threads, archive in enumerate(archives, 1):
        stocked.run_json("export", "odd", "-o", archive, "--threads", threads, "--format", form)
    assert archives[0].read_bytes() != archives[1].read_bytes()


# --- refusals ---------------------------------------------------------------------------------------------


def test_existing_output_is_only_replaced_with_force(stocked: Machine, tmp_path: Path) -> None:
    archive = tmp_path / "odd.tar"
    archive.write_text("precious")
    assert "--force" in stocked.expect_error(11, "export", "odd", "-o", archive)["hint"]
    assert archive.read_text() == "precious"
    document = stocked.run_json("export", "odd", "-o", archive, "--force")
    assert document["size"] == archive.stat().st_size
    (tmp_path / "directory.tar").mkdir()
    stocked.expect_error(11, "export", "odd", "-o", tmp_path / "directory.tar", "--force")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"output": "a.rar"}, ".tar.gz"),
        ({"output": "a", "format": "rar"}, "tar.gz"),
        ({"output": "a.tgz", "level": 10}, "0 to 9"),
        ({"output": "a.tar.zst", "level": 0}, "1 to 19"),
        ({"output": "a.tar", "level": 1}, "none"),
        ({"output": "a.zip", "threads": 2}, "single thread"),
        ({"output": "a.tar", "dest_prefix": "relative/path"}, "/opt"),
        ({"output": "a.tar", "dest_prefix": "/opt/../etc"}, "/opt"),
        ({"output": "a.tar", "dest_prefix": "/"}, "/opt"),
    ],
)
def test_invalid_options_are_refused(
    options: dict[str, Any], hint: str, stock: Stock, tmp_path: Path
) -> None:
    request = ExportRequest(SnapshotSpec("odd"), **{**options, "output": tmp_path / options["output"]})
    with pytest.raises(UsageError) as caught:
        export_snapshot(open_store(str(stock.store)), request)
    assert hint in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_missing_environment_directory_and_output_are_refused(stocked: Machine, tmp_path: Path) -> None:
    stocked.expect_error(10, "export", "nothing", "-o", tmp_path / "a.tar")
    stocked.expect_error(1, "export", "odd", "-o", tmp_path / "missing" / "a.tar")
    assert "--output" in stocked.expect_error(2, "export", "odd")["message"]


def test_dest_prefix_too_long_for_binaries_is_refused(stocked: Machine, tmp_path: Path) -> None:
    error = stocked.expect_error(
        1, "export", "odd", "-o", tmp_path / "a.tar", "--dest-prefix", "/" + "p" * 300
    )
    assert "--dest-prefix" in error["hint"]


@pytest.mark.parametrize("name", [b"\xff\xfe", b"two\nlines"])
def test_names_that_a_zip_cannot_contain_are_refused(name: bytes, machine: Machine, tmp_path: Path) -> None:
    prefix = machine.envs / "bytes"
    (prefix / "conda-meta").mkdir(parents=True)
    Path(os.fsdecode(bytes(prefix) + b"/" + name)).write_text(f"{prefix}\n")
    machine.run_json("pack", "bytes")
    assert "tar" in machine.expect_error(2, "export", "bytes", "-o", tmp_path / "a.zip")["hint"]
    machine.run_json("export", "bytes", "-o", tmp_path / "a.tar")
    unpacked = unpack(tmp_path / "a.tar", tmp_path / "unpacked")
    conda_unpack(unpacked)
    assert Path(os.fsdecode(bytes(unpacked) + b"/" + name)).read_text() == f"{unpacked}\n"


def test_squashfs_without_squashfs_tools_is_refused(stocked: Machine, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    error = stocked.expect_error(1, "export", "odd", "-o", tmp_path / "a.squashfs", PATH=str(programs))
    assert error["message"] == "the squashfs format needs mksquashfs, which is not installed"


_MKSQUASHFS = """#!/bin/sh
find "$1" -name config.ini -delete
{ printf hsqs; tar -cC "$1" .; } > "$2"
"""
_UNSQUASHFS = """#!/bin/sh
[ "$1" = -lln ] && exec echo "-rw-r--r-- 0/0 9000000 2026-01-01 00:00 files"
while [ "$1" != -d ]; do shift; done
mkdir "$2" && tail -c +5 "$3" | tar -xpC "$2"
"""


def test_incomplete_archive_is_detected_and_removed(stocked: Machine, tmp_path: Path) -> None:
    """Programs that omit a file stand in for a failing disk."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("mksquashfs", _MKSQUASHFS), ("unsquashfs", _UNSQUASHFS)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    error = stocked.expect_error(1, "export", "odd", "-o", tmp_path / "a.squashfs", PATH=path)
    assert error["message"].startswith("share/textdata/config.ini: ")
    assert list(tmp_path.glob("*.squashfs*")) == []


class Limited(Machine):
    """A machine whose files are limited to 1 MiB."""

    def command(self, *arguments: object) -> list[str]:
        limit = "import resource as r, os, sys; r.setrlimit(r.RLIMIT_FSIZE, (2**20, 2**20)); "
        return [
            sys.executable,
            "-c",
            limit + "os.execv(sys.argv[1], sys.argv[1:])",
            *super().command(*arguments),
        ]


@pytest.mark.parametrize("form", ["tar.gz", "zip"])
def test_failing_write_ends_the_export(form: str, machine: Machine, tmp_path: Path) -> None:
    prefix = machine.envs / "random"
    (prefix / "conda-meta").mkdir(parents=True)
    for number in range(6):
        (prefix / str(number)).write_bytes(os.urandom(500_000))
    machine.run_json("pack", "random")
    threads = () if form == "zip" else ("--threads", "2")
    limited = Limited(machine.home, machine.envs, machine.store)
    error = limited.expect_error(1, "export", "random", "-o", tmp_path / f"a.{form}", *threads)
    assert "large" in error["message"]
    assert list(tmp_path.glob("*a.*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_export_leaves_nothing(number: int, stocked: Machine, tmp_path: Path) -> None:
    running = start_command(stocked, "export", "odd", "-o", tmp_path / "a.tar.bz2", "--threads", "1")
    if running.reaches((tmp_path / ".a.tar.bz2.snapper" / "tree" / "archive").exists):
        running.send(number)
    outcome = running.finish()
    assert outcome.code in (0, 130), outcome
    assert list(tmp_path.glob("*a.tar.bz2*")) == ([tmp_path / "a.tar.bz2"] if outcome.code == 0 else [])
    assert running.members() == []


def test_output_for_people_and_programs(stocked: Machine, stock: Stock) -> None:
    outcome = stocked.snapper("export", f"odd@{stock.snapshot[:8]}", "-o", "relative.tgz")
    assert outcome.code == 0, outcome
    assert f"Exported odd@{stock.snapshot[:12]} to {stocked.home}/relative.tgz" in outcome.out
    assert "conda-unpack" in outcome.out
    document = stocked.run_json("export", "odd", "-o", "other.tar")
    assert document["snapshot"] == stock.snapshot
    assert document["format"] == "tar"
    assert document["output"] == str(stocked.home / "other.tar")
    assert document["longest_prefix"] > 200
    members = run("tar", "--numeric-owner", "-tvf", document["output"]).splitlines()
    assert document["files"] + len(ADDED) == sum(not line.startswith("d") for line in members)
    assert all(line.split()[1] == "0/0" for line in members)


# --- used without conda-unpack, as Spark, YARN, and Dask do ---------------------------------------------------------


def test_scripts_run_in_an_activated_environment_before_conda_unpack(
    machine: Machine, tmp_path: Path
) -> None:
    """So do conda-pack's, but not with options. Afterwards, the lines are those that they had."""
    prefix = tmp_path / "work"
    make("no-python", prefix, copy=True)
    lines = {
        "python": b"import sys; print(sys.argv[1:])\n",
        "python -s": b"# coding: latin-1\nimport sys; print(sys.argv[1:], sys.flags.no_user_site) # \xe9\n",
        "python ": b"# coding: latin-1\nimport sys; print(sys.argv[1:]) # \xe9\n",
        "perl -w": b'print "$^W @ARGV\\n";\n',
        "bash": b'echo "$0" "$@"\n',
        "node": b"console.log(process.argv.slice(2))\n",
    }
    for name in {line.split()[0] for line in lines} - {"python"}:
        if shutil.which(name):
            (prefix / "bin" / name).symlink_to(shutil.which(name) or "")
    (prefix / "bin/python").symlink_to(sys.executable)
    for number, (line, body) in enumerate(lines.items()):
        script = prefix / "bin" / f"script{number}"
        script.write_bytes(f"#!{prefix}/bin/{line}\n".encode() + body + b"# " + os.fsencode(prefix) + b"\n")
        script.chmod(0o755)
    (prefix / "bin/script5").write_bytes(f"#!{prefix}/bin/node\n".encode() + lines["node"])
    machine.run_json("pack", "-p", prefix, "--name", "work")
    machine.run_json("export", "work", "-o", tmp_path / "work.tar")
    unpacked = unpack(tmp_path / "work.tar", tmp_path / "unpacked")
    machine.run_json("restore", "work", "--prefix", tmp_path / "restored")
    for number, line in enumerate(lines):
        if (prefix / "bin" / line.split()[0]).exists():
            expected = run(tmp_path / "restored" / "bin" / f"script{number}", "a b", "-x")
            command = f'. "{unpacked}/bin/activate" && script{number} "a b" -x'
            assert run("bash", "-ec", command).replace(str(unpacked), str(tmp_path / "restored")) == expected
    conda_unpack(unpacked)
    for number in range(len(lines)):
        restored = (tmp_path / "restored" / "bin" / f"script{number}").read_bytes()
        relocated = restored.replace(os.fsencode(tmp_path / "restored"), os.fsencode(unpacked))
        assert (unpacked / "bin" / f"script{number}").read_bytes() == relocated


def test_zipapps_run_in_an_activated_environment_before_and_after_conda_unpack(
    machine: Machine, tmp_path: Path
) -> None:
    prefix = tmp_path / ("a-long-name-for-a-directory" * 2)
    make("no-python", prefix, copy=True)
    (prefix / "bin/python").symlink_to(sys.executable)
    source = tmp_path / "source"
    source.mkdir()
    (source / "__main__.py").write_text("print('zipped')\n")
    zipapp.create_archive(source, prefix / "bin/app", f"{prefix}/bin/python -s")
    machine.run_json("pack", "-p", prefix, "--name", "work")
    machine.run_json("export", "work", "-o", tmp_path / "work.tar")
    unpacked = unpack(tmp_path / "work.tar", tmp_path / "u")
    for _ in range(2):
        assert run("bash", "-ec", f'. "{unpacked}/bin/activate" && app') == "zipped\n"
        conda_unpack(unpacked)


def test_exported_scripts_are_the_same_when_they_are_imported(machine: Machine, tmp_path: Path) -> None:
    prefix = tmp_path / "work"
    make("no-python", prefix, copy=True)
    (prefix / "bin/python").write_text("")
    script = prefix / "bin/tool"
    script.write_text(f"#!{prefix}/bin/python -s\nprint('{prefix}')\n")
    packed = machine.run_json("pack", "-p", prefix, "--name", "work")
    machine.run_json("export", "work", "-o", tmp_path / "work.tar")
    assert (
        machine.run_json("import", tmp_path / "work.tar", "--name", "again")["snapshot"] == packed["snapshot"]
    )
