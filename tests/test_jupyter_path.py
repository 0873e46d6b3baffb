"""Kernels are registered where Jupyter finds them, whatever its variables say, and under names that it finds first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Machine
from tests.support.environments import make_data

#: Jupyter's variables; `~` is the home directory.
SETTINGS: dict[str, dict[str, str]] = {
    "defaults": {},
    "data directory": {"JUPYTER_DATA_DIR": "~/data"},
    "XDG": {"XDG_DATA_HOME": "~/xdg"},
    "further directories": {"JUPYTER_PATH": "~/first:~/second/"},
    "environment first": {"JUPYTER_PREFER_ENV_PATH": "1"},
    "user first": {"JUPYTER_PREFER_ENV_PATH": "0"},
    "platform's directories": {"JUPYTER_PLATFORM_DIRS": "1", "XDG_DATA_HOME": "~/xdg"},
    "all": {"JUPYTER_PLATFORM_DIRS": "1", "JUPYTER_PATH": "~/first", "JUPYTER_DATA_DIR": "~/data"},
}


def add_kernel(directory: Path, name: str, program: str) -> None:
    (directory / name).mkdir(parents=True)
    spec = {"argv": [program], "display_name": "Mine", "language": "mine"}
    (directory / name / "kernel.json").write_text(json.dumps(spec))


def found_by_jupyter(machine: Machine, variables: dict[str, str]) -> dict[str, Any]:
    """Return what `jupyter kernelspec list` prints: the kernels by name."""
    command = [sys.executable, "-m", "jupyter_client.kernelspecapp", "list", "--json"]
    environment = {**machine.variables, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    kernels: dict[str, Any] = json.loads(done.stdout)["kernelspecs"]
    return kernels


@pytest.mark.parametrize("setting", SETTINGS)
def test_kernels_are_registered_where_jupyter_finds_them(setting: str, machine: Machine) -> None:
    variables = {name: value.replace("~", str(machine.home)) for name, value in SETTINGS[setting].items()}
    prefix = make_data(machine.envs / "work")
    add_kernel(prefix / "share/jupyter/kernels", "mine", f"{prefix}/bin/mine")
    (prefix / "share/jupyter/kernels/._mine").write_bytes(b"\0\5\x16\7")
    for directory in variables.get("JUPYTER_PATH", "").split(os.pathsep):
        if directory:  # a kernel that Jupyter would find in place of the environment's
            add_kernel(Path(directory) / "kernels", "work-mine", "/somewhere/else")
    machine.run_json("pack", "work", **variables)
    (restored,) = machine.run_json("restore", "work", **variables)["restored"]
    (kernel,) = restored["kernels"]
    found = found_by_jupyter(machine, variables)
    assert found[kernel["name"]]["resource_dir"] == kernel["path"]
    assert (kernel["name"] == "work-mine") == ("JUPYTER_PATH" not in variables)
    (listed,) = machine.run_json("kernels", "list", **variables)["kernels"]
    assert listed["name"] == kernel["name"]
