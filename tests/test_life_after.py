"""Restored environments can be changed by conda's engine and pip, and then packed and restored exactly."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from scripts.maker import change, records
from tests.conftest import Machine, tree_of
from tests.support.pip import BUILD, pip, python_of, run, wheels

#: The last one vendors other distributions.
PIP = ("tabulate", "toolz", "cowsay", "click==8.1.8", BUILD)


def python(prefix: Path, code: str) -> str:
    """Run code in the environment's Python, and return its output."""
    return run([python_of(prefix)], ["-c", code], prefix.parent)


def versions(prefix: Path) -> dict[str, str]:
    """Return the versions of the environment's conda packages by name."""
    return {each.name: each.version for each in records(prefix)}


def test_restored_environment_changed_by_conda_and_pip_is_packed_exactly(
    pristine: Callable[[str], Path], machine: Machine, tmp_path: Path
) -> None:
    machine.run_json("pack", "-p", pristine("compiled"), "--name", "work")
    machine.run_json("restore", "work", "--envs-dir", machine.envs)
    work = machine.envs / "work"

    change(work, install=["click ==8.1.7", "tabulate"])
    assert versions(work)["click"] == "8.1.7"
    change(work, install=["click >8.1.7"])
    assert versions(work)["click"] != "8.1.7"
    change(work, remove=["tabulate"])
    assert "tabulate" not in versions(work)
    assert not list(work.glob("lib/python3*/site-packages/tabulate*"))

    pip(work, "install", "--no-index", "--no-deps", *wheels(*PIP))
    pip(work, "uninstall", "-y", "toolz")
    assert "Cow" in python(work, "import cowsay; cowsay.cow('Cow')")

    packed = machine.run_json("pack", "work")
    shown = machine.run_json("show", "work")
    assert {each["name"] for each in shown["pip"]} == {"tabulate", "cowsay", "click", "setuptools"}
    # pip has overwritten files of conda's click; the snapshot has pip's version and reports the others.
    for condition, path in (("altered", "click/core.py"), ("missing", ".dist-info/METADATA")):
        (deviation,) = packed[condition]
        assert deviation["package"].startswith("click-")
        assert any(each.endswith(path) for each in deviation["paths"])
    copy = tmp_path / "copy"
    machine.run_json("restore", "work", "--prefix", copy)
    relocated = {
        path for layer in shown["layers"] for group in layer["relocations"] for path in group["paths"]
    }
    before, after = tree_of(work), tree_of(copy)
    assert after.keys() == before.keys()
    for path, (kind, mode, data) in before.items():
        assert after[path][:2] == (kind, mode), path
        assert after[path][2] == data or path in relocated, path
        if path in relocated and not path.endswith(".json"):
            assert after[path][2] == data.replace(os.fsencode(work), os.fsencode(copy)) or b"\0" in data, path
    assert "Cow" in python(copy, "import cowsay; cowsay.cow('Cow')")
    assert python(copy, "import importlib.metadata as m; print(m.version('click'))") == "8.1.8\n"
    assert versions(copy) == versions(work)
    assert machine.run_json("pack", "-p", copy, "--name", "work")["snapshot"] == packed["snapshot"]
