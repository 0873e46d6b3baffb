"""Findings of `snapper doctor`, and its hints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from snapper.commands import dependency_report, environment_checks
from snapper.environment.dependencies import find_dependencies
from snapper.environment.dependency import Dependency
from snapper.environment.kept import kept_name
from snapper.environment.outside_paths import Surroundings
from tests.conftest import Machine
from tests.support.environments import make_data
from tests.support.kernelspecs import add_kernel
from tests.support.staging import sign_lock


def findings(
    machine: Machine, *arguments: object, code: int, **variables: str
) -> dict[str, list[dict[str, str]]]:
    """Return the findings by title, after checking the exit code."""
    outcome = machine.snapper("doctor", *arguments, "--json", **variables)
    assert outcome.code == code, outcome
    by_title: dict[str, list[dict[str, str]]] = {}
    for finding in outcome.json["findings"]:
        by_title.setdefault(finding["title"], []).append(finding)
    return by_title


def pack_with_kernel(machine: Machine) -> Path:
    """Pack an environment that has a kernel, and return its prefix."""
    prefix = make_data(machine.envs / "data")
    add_kernel(prefix, "text", argv=["true"], display_name="Text", language="text")
    machine.run_json("pack", "data")
    return prefix


def test_healthy_machine_has_no_problems(machine: Machine) -> None:
    pack_with_kernel(machine)
    found = findings(machine, code=0)
    assert "1 environment" in found["Store"][0]["detail"]
    assert {finding["level"] for titled in found.values() for finding in titled} <= {"good", "note"}
    assert machine.snapper("doctor").out.endswith("No problems found.\n")


def test_problems_of_environments_kernels_and_scripts(machine: Machine) -> None:
    prefix = pack_with_kernel(machine)
    bare = make_data(machine.envs / "bare")
    source = machine.home / "source"
    source.mkdir()
    packages = bare / "lib/python3.12/site-packages"
    packages.mkdir(parents=True)
    (packages / "mine.pth").write_text(f"{source}\n")
    shutil.rmtree(prefix)
    machine.run_json("restore", "data")
    shutil.rmtree(prefix)
    leftover = machine.envs / ".other.snapper"
    leftover.mkdir(mode=0o700)
    script = machine.home / "on-start.sh"
    script.write_bytes(b"#!/bin/bash\r\nsnapper restore --all\r\n")
    found = findings(machine, code=3)
    assert str(source) in found["Environment"][0]["detail"]
    assert "--editable" in found["Environment"][0]["hint"]
    assert found["Environment"][1]["hint"] == "Add one: conda install -n bare ipykernel"
    assert "snapper restore data" in found["Kernel"][0]["hint"]
    assert str(leftover) in found["Leftover"][0]["detail"]
    assert found["Script"][0]["level"] == "problem"
    assert str(script) in found["Script"][0]["hint"]


def test_what_a_restore_has_kept_is_named_and_is_no_environment(machine: Machine) -> None:
    prefix = pack_with_kernel(machine)
    kept = prefix.with_name(kept_name(prefix.name))
    shutil.copytree(prefix, kept)
    (status,) = machine.run_json("status")["environments"]
    assert (status["prefix"], status["kept"]) == (str(prefix), [str(kept)])
    assert machine.run_json("restore", "--all")["restored"][0]["kept"] == [str(kept)]
    for command in (("status",), ("restore", "--all")):
        outcome = machine.snapper(*command)
        assert f"{kept} has what would have been lost" in outcome.out + outcome.err
    assert machine.snapper("pack", kept.name).code == 10
    found = findings(machine, code=3)
    assert str(kept) not in str(found.get("Environment"))
    assert [finding["hint"].partition(",")[0] for finding in found["Leftover"]] == [
        f"It contains the environment {kept}"
    ]
    (kept / "envs").mkdir()
    (kept / "conda-meta").rename(kept / "metadata")
    assert [finding["hint"].rpartition(": ")[2] for finding in findings(machine, code=3)["Leftover"]] == [
        f"rm -r {kept}."
    ]
    make_data(kept / "envs/mine")
    assert f"{kept}/envs/mine" in findings(machine, code=3)["Leftover"][0]["hint"]


@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("kept", ("restore", "data")),
        ("old", ("restore", "--all", "--only", "nothing")),
        ("unchecked", ("restore", "--all", "--store", "/nowhere")),
        ("checking", ("restore", "data", "--store", "/nowhere")),
        ("old, and nothing is at the target", ("restore", "data")),
    ],
)
def test_environments_that_were_set_aside_are_named_and_put_back_by_any_restore(
    machine: Machine, place: str, command: tuple[str, ...]
) -> None:
    pack_with_kernel(machine)
    base, leftover = machine.home / "miniconda3", machine.home / ".miniconda3.snapper"
    place, *rest = place.split(", ")
    leftover.mkdir(mode=0o700)
    sign_lock(leftover)
    make_data(leftover / place if rest else base)
    make_data(leftover / place / "envs/mine")
    (found,) = findings(machine, code=3)["Leftover"]
    assert (found["level"], found["hint"].partition(":")[0]) == ("problem", "Do not remove it")
    machine.snapper(*command)
    assert (base / "envs/mine/conda-meta/history").exists()
    assert not leftover.exists()


def test_problems_of_store_and_settings(machine: Machine) -> None:
    (store,) = findings(machine, "--store", machine.home / "none", code=3)["Store"]
    assert store["level"] == "problem"
    assert "there is no store at" in store["detail"]
    assert store["hint"]
    machine.snapper("restore", "--all")
    assert "could not start" in findings(machine, code=3)["Restore"][0]["detail"]
    file = machine.home / ".config/snapper/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("jobs = 0\n")
    found = findings(machine, code=3)
    assert found["Settings"][0]["detail"].startswith(f"{file}:1: jobs cannot be 0")
    assert (found["Store"][0]["level"], found["Store"][0]["detail"].split(",")[0]) == (
        "note",
        "not checked",
    )
    assert "Jupyter" in found


def test_installation_that_is_lost_at_the_next_stop(machine: Machine) -> None:
    pack_with_kernel(machine)
    (machine.home / "SageMaker").mkdir()
    (found,) = findings(machine, code=3)["snapper"]
    assert "which is deleted when the instance stops" in found["detail"]
    assert "snapper lifecycle on-start" in found["hint"]


def test_too_little_space_for_what_would_be_restored(machine: Machine) -> None:
    """Sizes are taken from the entries in the store. The environment with the largest, which may be false, is named."""
    prefix = pack_with_kernel(machine)
    shutil.rmtree(prefix)
    entry = machine.store / "environments/data.json"
    size = machine.run_json("list")["environments"][0]["size"]
    entry.write_text(entry.read_text().replace(f'"size":{size}', f'"size":{10**13}'))
    disks = findings(machine, code=3)["Disk space"]
    (problem,) = (finding for finding in disks if finding["level"] == "problem")
    assert "need 10000.0 GB according to the store, data 10000.0 GB of it" in problem["detail"]


def test_snapper_that_runs_with_the_python_of_a_restored_environment(machine: Machine) -> None:
    """Whoever publishes that environment decides what snapper does."""
    base = make_data(machine.home / "miniconda3")
    (base / "lib").symlink_to(Path(sys.base_prefix) / "lib")
    variables = {"PYTHONHOME": str(base), "PYTHONPATH": os.pathsep.join(sys.path)}
    for directory in ("", ".snapper"):
        (base / directory).mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "snapper", "doctor", "--json"],
            env={**machine.variables, **variables},
            capture_output=True,
            check=False,
        )
        found = [finding for finding in json.loads(done.stdout)["findings"] if finding["title"] == "snapper"]
        reported = f"runs with the Python of an environment that it has packed or restored: {base}"
        assert (reported in [finding["detail"] for finding in found]) == bool(directory)


def test_errors_in_one_environment_are_findings(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others chose what is in it."""
    good, evil = make_data(machine.envs / "good"), make_data(machine.envs / "evil")
    for name, value in {"HOME": machine.home, "CONDA_ENVS_PATH": machine.envs}.items():
        monkeypatch.setenv(name, str(value))

    def fail_for_evil(around: Surroundings, *arguments: Any) -> tuple[Dependency, ...]:
        if around.environment.path == evil:
            raise RecursionError("too deep")
        return find_dependencies(around, *arguments)

    monkeypatch.setattr(dependency_report, "find_dependencies", fail_for_evil)
    found = [finding.detail for finding in environment_checks.check_environments()]
    assert f"{evil} could not be checked: RecursionError: too deep" in found
    assert any(str(good) in detail for detail in found)
