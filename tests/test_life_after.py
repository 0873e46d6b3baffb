"""A restored environment lives on: conda's engine and pip change it, and it packs and restores exactly again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from scripts.maker import change, records
from tests.conftest import Machine, tree_of


def python(prefix: Path, *arguments: str) -> str:
    variables = {"PATH": os.environ["PATH"], "HOME": str(prefix.parent), "PIP_CONFIG_FILE": os.devnull}
    command = [str(prefix / "bin" / "python"), *arguments]
    return subprocess.run(
        command, env=variables, check=True, capture_output=True, text=True, timeout=300
    ).stdout


def versions(prefix: Path) -> dict[str, str]:
    return {each.name: each.version for each in records(prefix)}


def test_conda_and_pip_go_on_in_it(pristine: Callable[[str], Path], machine: Machine, tmp_path: Path) -> None:
    machine.done("pack", "-p", pristine("science"), "--name", "work")
    machine.done("restore", "work", "--envs-dir", machine.envs)
    work = machine.envs / "work"

    change(work, install=["click ==8.1.7", "tabulate"])
    assert versions(work)["click"] == "8.1.7"
    change(work, install=["click >8.1.7"])
    assert versions(work)["click"] != "8.1.7"
    change(work, remove=["tabulate"])
    assert "tabulate" not in versions(work)
    assert not list(work.glob("lib/python3*/site-packages/tabulate*"))

    wheels = tmp_path / "wheels"
    download = ["-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), "tabulate", "toolz", "cowsay"]
    subprocess.run([sys.executable, "-W", "ignore", *download], check=True, timeout=300)
    pip = ("-m", "pip", "-q", "--disable-pip-version-check")
    python(work, *pip, "install", "--no-index", "--no-deps", *map(str, wheels.iterdir()))
    python(work, *pip, "uninstall", "-y", "toolz")
    assert "Cow" in python(work, "-c", "import cowsay; cowsay.cow('Cow')")

    packed = machine.done("pack", "work")
    shown = machine.done("show", "work")
    assert {each["name"] for each in shown["pip"]} == {"tabulate", "cowsay"}
    assert packed["missing"] == packed["altered"] == []
    copy = tmp_path / "copy"
    machine.done("restore", "work", "--prefix", copy)
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
    assert "Cow" in python(copy, "-c", "import cowsay, numpy, click; cowsay.cow('Cow')")
    assert versions(copy) == versions(work)
    assert machine.done("pack", "-p", copy, "--name", "work")["snapshot"] == packed["snapshot"]
