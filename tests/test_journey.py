"""Pack an environment, and restore it elsewhere as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.maker import change, make, records
from tests.conftest import Machine, tree_of
from tests.support.kernel import run_cell
from tests.support.kernelspecs import launch

NewMachine = Callable[[str], Machine]


def output(*command: object) -> str:
    """Run a command that must succeed, and return its output."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Journey:
    """The science environment, packed on machine one and restored as `prefix` on machine two.

    `packed` and `restored` are what the two commands printed. Tests must not change it.
    """

    source: Path
    one: Machine
    two: Machine
    prefix: Path
    packed: dict[str, Any]
    restored: dict[str, Any]

    def new_machine(self, home: Path) -> Machine:
        """Return another machine with a copy of the store."""
        machine = Machine(home, home / "envs", home / "store")
        machine.envs.mkdir(parents=True)
        shutil.copytree(self.one.store, machine.store, copy_function=os.link)
        return machine


@pytest.fixture(scope="module")
def journey(pristine: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Journey:
    top, source = tmp_path_factory.mktemp("journey"), pristine("science")
    one, two = [Machine(top / name, top / name / "envs", top / "store") for name in ("one", "two")]
    for machine in (one, two):
        machine.envs.mkdir(parents=True)
    packed = one.run_json("pack", "-p", source, "--name", "science", "--message", "first")
    restored = two.run_json("restore", "--all", "--envs-dir", two.envs)
    return Journey(source, one, two, two.envs / "science", packed, restored)


def test_restored_environment_works_in_another_directory(journey: Journey) -> None:
    packed, prefix = journey.packed, journey.prefix
    assert packed["altered"] == packed["missing"] == packed["unrelocated"] == []
    assert journey.restored["failed"] == []
    (restored,) = journey.restored["restored"]
    assert restored["prefix"] == str(prefix)
    assert restored["snapshot"] == packed["snapshot"]

    python = prefix / "bin" / "python"
    code = "import sys, numpy; print(sys.prefix, numpy.linalg.inv(numpy.eye(2)).sum())"
    assert output(python, "-c", code) == f"{prefix} 2.0\n"
    assert output(prefix / "bin" / "ipython", "-c", "print(6 * 7)") == "42\n"
    assert str(prefix) in output(prefix / "bin" / "pip", "--version")
    for config in prefix.glob("bin/python3.*-config"):
        assert output(config, "--prefix") == f"{prefix}\n"
    assert not [
        path
        for path, (_, _, data) in tree_of(prefix).items()
        if os.fsencode(journey.source) in data and not path.endswith(".pyc")
    ]


def test_registered_kernel_runs_in_the_restored_environment(journey: Journey) -> None:
    (kernel,) = journey.restored["restored"][0]["kernels"]
    assert kernel["display_name"] == "Python (science)"
    assert launch(Path(kernel["path"])).command[0] == f"{journey.prefix}/bin/python"
    cell = "import sys, os, numpy; print(sys.prefix, os.environ['CONDA_PREFIX'], os.environ['CONDA_DEFAULT_ENV'])"
    assert (
        run_cell(kernel["name"], cell, journey.two.variables)
        == f"{journey.prefix} {journey.prefix} science\n"
    )


def test_restored_modules_are_not_recompiled(journey: Journey) -> None:
    def compiled(prefix: Path) -> set[str]:
        code = "import numpy, IPython, sysconfig; sysconfig.get_config_vars()"
        done = subprocess.run(
            [prefix / "bin" / "python", "-v", "-c", code],
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        return {
            line.rpartition("site-packages")[2].rpartition("/lib/")[2]
            for line in done.stderr.splitlines()
            if line.startswith("# code object from") and ".pyc" not in line
        }

    assert compiled(journey.prefix) <= compiled(journey.source)


def test_conda_installs_into_a_restored_environment(journey: Journey, tmp_path: Path) -> None:
    machine = journey.new_machine(tmp_path)
    machine.run_json("restore", "science", "--envs-dir", machine.envs)
    prefix = machine.envs / "science"
    assert {each.name for each in records(prefix)} == {each.name for each in records(journey.source)}
    change(prefix, install=["tabulate"])
    code = "import tabulate; print(tabulate.__file__)"
    assert output(prefix / "bin" / "python", "-c", code).startswith(str(prefix))
    repacked = machine.run_json("pack", "science")
    assert repacked["packages"] == journey.packed["packages"] + 1
    assert repacked["added_size"] < 0.05 * repacked["stored_size"]


def test_same_packages_installed_elsewhere_share_layers(
    journey: Journey, beside_packages: Path, tmp_path: Path
) -> None:
    """Restoring there gives what installing there gives, except for modules that are compiled when installing."""
    machine, other = journey.new_machine(tmp_path), beside_packages / "with" / "a" / "longer" / "name"
    make("science", other)
    second = machine.run_json("pack", "-p", other, "--name", "second")
    # Before 3.11, the order in which modules are compiled is not fixed.
    share = 0.05 if sys.version_info >= (3, 11) else 0.10
    assert second["added_size"] <= share * second["stored_size"]
    assert journey.packed["stored_size"] == pytest.approx(second["stored_size"], rel=0.01)

    installed = {path: file for path, file in tree_of(other).items() if not path.endswith(".pyc")}
    shutil.rmtree(other)
    machine.run_json("restore", "science", "--prefix", other)
    restored = {path: file for path, file in tree_of(other).items() if not path.endswith(".pyc")}
    assert restored.keys() == installed.keys()
    for path, (kind, mode, data) in installed.items():
        assert restored[path] == (kind, mode if kind == "symlink" else mode & 0o755, data), path


def test_prefix_in_programs_and_activation_scripts_is_relocated(
    pristine: Callable[[str], Path], new_machine: NewMachine
) -> None:
    source, two = pristine("no-python"), new_machine("two")
    new_machine("one").run_json("pack", "-p", source, "--name", "tools")
    two.run_json("restore", "tools", "--envs-dir", two.envs)
    prefix = two.envs / "tools"
    shown = output(prefix / "bin" / "whereami").splitlines()
    assert shown[0] == str(prefix)
    assert f"{prefix}/a:{prefix}/b" in shown
    assert not any(str(source) in line for line in shown)
    activated = (
        f'export CONDA_PREFIX={prefix}; for f in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do . "$f"; done; '
        "echo $WHEREAMI_HOME"
    )
    assert output("bash", "-euc", activated) == f"{prefix}/share/whereami\n"


@pytest.mark.parametrize("recipe", ["compiled", "no-python"])
def test_restoring_gives_what_installing_there_gives(
    recipe: str,
    pristine: Callable[[str], Path],
    machine: Machine,
    beside_packages: Path,
) -> None:
    target = beside_packages / "elsewhere" / f"with-{recipe}"
    make(recipe, target)
    installed = tree_of(target)
    shutil.rmtree(target)
    machine.run_json("pack", "-p", pristine(recipe), "--name", "work")
    machine.run_json("restore", "work", "--prefix", target)
    restored = tree_of(target)
    assert restored.keys() == installed.keys()
    for path in installed:
        assert restored[path] == installed[path], path


def test_concatenated_layers_are_one_tar_archive(
    pristine: Callable[[str], Path], machine: Machine, tmp_path: Path
) -> None:
    source = pristine("compiled")
    machine.run_json("pack", "-p", source, "--name", "compiled")
    layers = machine.run_json("show", "compiled")["layers"]
    joined = tmp_path / "joined.tar.zst"
    with joined.open("wb") as out:
        for layer in layers:
            digest = layer["digest"]
            out.write((machine.store / "layers" / digest[:2] / f"{digest}.tar.zst").read_bytes())
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    decompress = "python3 -c 'import sys,zstandard; d=zstandard.ZstdDecompressor(); " + (
        "d.copy_stream(sys.stdin.buffer, sys.stdout.buffer)'"
    )
    program = "zstd" if shutil.which("zstd") else decompress
    output("tar", "--use-compress-program", program, "-xpf", joined, "-C", unpacked)

    relocated = {path: group for layer in layers for group in layer["relocations"] for path in group["paths"]}
    extracted, original = tree_of(unpacked), tree_of(source)
    assert extracted.keys() == original.keys()
    for path, (kind, mode, data) in original.items():
        assert extracted[path][:2] == (kind, mode), path
        if path in relocated:
            assert relocated[path]["placeholder"].encode() in extracted[path][2], path
            assert str(source).encode() not in extracted[path][2], path
        else:
            assert extracted[path][2] == data, path


def test_repacking_unchanged_environment_writes_nothing(
    pristine: Callable[[str], Path], machine: Machine
) -> None:
    source = pristine("compiled")
    first = machine.run_json("pack", "-p", source, "--name", "same")
    objects = {path: path.stat().st_mtime_ns for path in machine.store.rglob("*") if path.is_file()}
    second = machine.run_json("pack", "-p", source, "--name", "same")
    assert second["unchanged"]
    assert second["snapshot"] == first["snapshot"]
    assert second["added_layers"] == second["added_size"] == 0
    assert {path: path.stat().st_mtime_ns for path in machine.store.rglob("*") if path.is_file()} == objects


def test_restored_environment_packs_to_the_same_snapshot(
    pristine: Callable[[str], Path], machine: Machine, tmp_path: Path
) -> None:
    first = machine.run_json("pack", "-p", pristine("compiled"), "--name", "moving")
    for directory in ("x", "a-much-longer-directory-than-before"):
        prefix = tmp_path / directory / "moving"
        machine.run_json("restore", "moving", "--prefix", prefix)
        again = machine.run_json("pack", "-p", prefix, "--name", "moving")
        assert again["snapshot"] == first["snapshot"]
        assert again["unchanged"]


def test_restoring_an_environment_already_in_place_does_nothing(
    pristine: Callable[[str], Path], machine: Machine
) -> None:
    machine.run_json("pack", "-p", pristine("no-python"), "--name", "tools")
    machine.run_json("restore", "tools", "--envs-dir", machine.envs)
    before = {path: path.lstat().st_mtime_ns for path in machine.envs.rglob("*")}
    outcome = machine.snapper("restore", "tools", "--envs-dir", machine.envs)
    assert outcome.code == 0
    assert "is already in place" in outcome.out
    assert {path: path.lstat().st_mtime_ns for path in machine.envs.rglob("*")} == before


def test_list_show_and_lock_files_describe_the_snapshot(journey: Journey) -> None:
    machine, packed = journey.two, journey.packed
    (entry,) = machine.run_json("list")["environments"]
    assert entry["environment"] == "science"
    assert entry["snapshot"] == packed["snapshot"]
    assert entry["prefix"] == str(journey.source)
    assert entry["packages"] == packed["packages"]
    lines = machine.snapper("list").out.splitlines()
    assert lines[1].split()[:2] == ["science", packed["snapshot"][:12]]

    shown = machine.run_json("show", f"science@{packed['snapshot'][:6]}")
    assert shown["snapshot"] == packed["snapshot"]
    assert shown["kernels"] == [
        {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    ]
    assert {each["name"] for each in shown["packages"]} >= {"python", "numpy", "ipykernel"}
    assert "numpy" in machine.snapper("show", "science").out

    explicit = machine.snapper("show", "science", "--explicit").out.splitlines()
    assert "@EXPLICIT" in explicit
    urls = [line for line in explicit if "://" in line]
    assert len(urls) == packed["packages"]
    assert all(len(line.partition("#")[2]) == 32 for line in urls)
    document = machine.snapper("show", "science", "--yaml").out
    assert document.startswith("name: science\n")
    assert "- numpy=" in document
