"""The main job: an environment is packed, is gone, and comes back elsewhere as what it was."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.maker import change, make, records
from tests.conftest import Machine, tree_of
from tests.kernel import run_cell

NewMachine = Callable[[str], Machine]


def output(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def science(pristine: Callable[[str], Path]) -> Path:
    return pristine("science")


def test_science_environment_moves_to_another_home(science: Path, new_machine: NewMachine) -> None:
    one, two = new_machine("one"), new_machine("two")
    packed = one.done("pack", "-p", science, "--name", "science", "--message", "as delivered")
    assert packed["altered"] == packed["missing"] == packed["unrelocated"] == []

    document = two.done("restore", "--all", "--envs-dir", two.envs)
    assert document["failed"] == []
    (restored,) = document["restored"]
    prefix = two.envs / "science"
    assert restored["prefix"] == str(prefix)
    assert restored["snapshot"] == packed["snapshot"]

    python = prefix / "bin" / "python"
    assert output(python, "-c", "import sys; print(sys.prefix)") == f"{prefix}\n"
    assert (
        output(python, "-c", "import numpy, pandas; print(pandas.DataFrame(numpy.eye(2)).sum().sum())")
        == "2.0\n"
    )
    assert output(prefix / "bin" / "ipython", "-c", "print(6 * 7)") == "42\n"
    assert str(prefix) in output(prefix / "bin" / "pip", "--version")

    (kernel,) = restored["kernels"]
    assert kernel["display_name"] == "Python (science)"
    assert str(python) in (Path(kernel["path"]) / "command.sh").read_text()
    cell = "import sys, os, numpy; print(sys.prefix, os.environ['CONDA_PREFIX'], os.environ['CONDA_DEFAULT_ENV'])"
    assert run_cell(kernel["name"], cell, two.variables) == f"{prefix} {prefix} science\n"

    assert {each.name for each in records(prefix)} == {each.name for each in records(science)}
    change(prefix, install=["tabulate"])
    assert output(python, "-c", "import tabulate; print(tabulate.__file__)").startswith(str(prefix))
    again = two.done("pack", "science")
    assert again["packages"] == packed["packages"] + 1
    assert again["added_size"] < 0.05 * again["stored_size"]


def test_compiled_in_prefix_and_activation(pristine: Callable[[str], Path], new_machine: NewMachine) -> None:
    source, two = pristine("no-python"), new_machine("two")
    new_machine("one").done("pack", "-p", source, "--name", "tools")
    two.done("restore", "tools", "--envs-dir", two.envs)
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
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    there = tmp_path_factory.getbasetemp() / "elsewhere" / f"with-{recipe}"
    make(recipe, there)
    installed = tree_of(there)
    shutil.rmtree(there)
    machine.done("pack", "-p", pristine(recipe), "--name", "there")
    machine.done("restore", "there", "--prefix", there)
    restored = tree_of(there)
    assert restored.keys() == installed.keys()
    for path in installed:
        assert restored[path] == installed[path], path


def test_layers_joined_are_one_tar(pristine: Callable[[str], Path], machine: Machine, tmp_path: Path) -> None:
    source = pristine("compiled")
    machine.done("pack", "-p", source, "--name", "compiled")
    layers = machine.done("show", "compiled")["layers"]
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
    found, original = tree_of(unpacked), tree_of(source)
    assert found.keys() == original.keys()
    for path, (kind, mode, data) in original.items():
        assert found[path][:2] == (kind, mode), path
        if path in relocated:
            assert relocated[path]["placeholder"].encode() in found[path][2], path
            assert str(source).encode() not in found[path][2], path
        else:
            assert found[path][2] == data, path


def test_packing_again_writes_nothing(pristine: Callable[[str], Path], machine: Machine) -> None:
    source = pristine("compiled")
    first = machine.done("pack", "-p", source, "--name", "same")
    objects = {path: path.stat().st_mtime_ns for path in machine.store.rglob("*") if path.is_file()}
    second = machine.done("pack", "-p", source, "--name", "same")
    assert second["unchanged"]
    assert second["snapshot"] == first["snapshot"]
    assert second["added_layers"] == second["added_size"] == 0
    assert {path: path.stat().st_mtime_ns for path in machine.store.rglob("*") if path.is_file()} == objects


def test_same_packages_elsewhere_share_layers(science: Path, machine: Machine, tmp_path: Path) -> None:
    first = machine.done("pack", "-p", science, "--name", "first")
    other = tmp_path / "elsewhere" / "with" / "a" / "longer" / "name"
    make("science", other)
    second = machine.done("pack", "-p", other, "--name", "second")
    share = (
        0.05 if sys.version_info >= (3, 11) else 0.10
    )  # before 3.11, modules were compiled in no fixed order
    assert second["added_size"] <= share * second["stored_size"]
    assert first["stored_size"] == pytest.approx(second["stored_size"], rel=0.01)


def test_restored_environment_packs_to_the_same_snapshot(
    pristine: Callable[[str], Path], machine: Machine, tmp_path: Path
) -> None:
    first = machine.done("pack", "-p", pristine("compiled"), "--name", "moving")
    for place in ("x", "a-much-longer-place-than-before"):
        prefix = tmp_path / place / "moving"
        machine.done("restore", "moving", "--prefix", prefix)
        again = machine.done("pack", "-p", prefix, "--name", "moving")
        assert again["snapshot"] == first["snapshot"]
        assert again["unchanged"]


def test_restoring_what_is_there_does_nothing(pristine: Callable[[str], Path], machine: Machine) -> None:
    machine.done("pack", "-p", pristine("no-python"), "--name", "tools")
    machine.done("restore", "tools", "--envs-dir", machine.envs)
    before = {path: path.lstat().st_mtime_ns for path in machine.envs.rglob("*")}
    outcome = machine.snapper("restore", "tools", "--envs-dir", machine.envs)
    assert outcome.code == 0
    assert "is there already" in outcome.out
    assert {path: path.lstat().st_mtime_ns for path in machine.envs.rglob("*")} == before


def test_list_show_and_lock_files(science: Path, machine: Machine) -> None:
    empty = machine.refused(13, "list")
    assert "does not exist" in empty["message"]
    packed = machine.done("pack", "-p", science, "--name", "science", "-m", "first")
    (entry,) = machine.done("list")["environments"]
    assert entry["environment"] == "science"
    assert entry["snapshot"] == packed["snapshot"]
    assert entry["prefix"] == str(science)
    assert entry["packages"] == packed["packages"]
    lines = machine.snapper("list").out.splitlines()
    assert lines[1].split()[:2] == ["science", packed["snapshot"][:12]]

    shown = machine.done("show", f"science@{packed['snapshot'][:6]}")
    assert shown["snapshot"] == packed["snapshot"]
    assert shown["kernels"] == [
        {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    ]
    assert {each["name"] for each in shown["packages"]} >= {"python", "numpy", "pandas", "ipykernel"}
    assert "numpy" in machine.snapper("show", "science").out

    explicit = machine.snapper("show", "science", "--explicit").out.splitlines()
    assert "@EXPLICIT" in explicit
    urls = [line for line in explicit if "://" in line]
    assert len(urls) == packed["packages"]
    assert all(len(line.partition("#")[2]) == 32 for line in urls)
    document = machine.snapper("show", "science", "--yaml").out
    assert document.startswith("name: science\n")
    assert "- numpy=" in document
