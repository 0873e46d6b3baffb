"""What `snapper doctor` finds, and what it says to do about it."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.conftest import Machine
from tests.support.environments import make_data
from tests.support.kernelspecs import add_kernel


def findings(
    machine: Machine, *arguments: object, code: int, **variables: str
) -> dict[str, list[dict[str, str]]]:
    """What is found, by title; the command must end with that code."""
    outcome = machine.snapper("doctor", *arguments, "--json", **variables)
    assert outcome.code == code, outcome
    found: dict[str, list[dict[str, str]]] = {}
    for each in outcome.json["findings"]:
        found.setdefault(each["title"], []).append(each)
    return found


def healthy(machine: Machine) -> Path:
    prefix = make_data(machine.envs / "data")
    add_kernel(prefix, "text", argv=["true"], display_name="Text", language="text")
    machine.run_json("pack", "data")
    return prefix


def test_nothing_is_wrong(machine: Machine) -> None:
    healthy(machine)
    found = findings(machine, code=0)
    assert "1 environment" in found["Store"][0]["detail"]
    assert {each["level"] for title in found for each in found[title]} <= {"good", "note"}
    assert machine.snapper("doctor").out.endswith("Nothing is wrong.\n")


def test_what_is_wrong_with_environments_and_kernels(machine: Machine) -> None:
    prefix = healthy(machine)
    bare = make_data(machine.envs / "bare")
    source = machine.home / "source"
    source.mkdir()
    packages = bare / "lib/python3.12/site-packages"
    packages.mkdir(parents=True)
    (packages / "mine.pth").write_text(f"{source}\n")
    shutil.rmtree(prefix)
    machine.run_json("restore", "data")
    shutil.rmtree(prefix)
    left = machine.envs / ".other.snapper"
    left.mkdir()
    script = machine.home / "on-start.sh"
    script.write_bytes(b"#!/bin/bash\r\nsnapper restore --all\r\n")
    found = findings(machine, code=3)
    assert str(source) in found["Environment"][0]["detail"]
    assert "--editable" in found["Environment"][0]["hint"]
    assert found["Environment"][1]["hint"] == "Add one: conda install -n bare ipykernel"
    assert "snapper restore data" in found["Kernel"][0]["hint"]
    assert str(left) in found["Leftover"][0]["detail"]
    assert found["Script"][0]["level"] == "problem"
    assert str(script) in found["Script"][0]["hint"]


def test_what_is_wrong_with_store_and_settings(machine: Machine) -> None:
    (store,) = findings(machine, "--store", machine.home / "none", code=3)["Store"]
    assert store["level"] == "problem"
    assert "does not exist" in store["detail"]
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


def test_a_snapper_that_the_next_stop_wipes(machine: Machine) -> None:
    healthy(machine)
    (machine.home / "SageMaker").mkdir()
    (found,) = findings(machine, code=3)["snapper"]
    assert "which is deleted when the instance stops" in found["detail"]
    assert "snapper lifecycle on-start" in found["hint"]


def test_too_little_room(machine: Machine) -> None:
    """For what the store would restore, by what its entries say of sizes."""
    prefix = healthy(machine)
    shutil.rmtree(prefix)
    entry = machine.store / "environments/data.json"
    size = machine.run_json("list")["environments"][0]["size"]
    entry.write_text(entry.read_text().replace(f'"size":{size}', f'"size":{10**15}'))
    (found,) = (each for each in findings(machine, code=3)["Disk space"] if each["level"] == "problem")
    assert "1000000.0 GB to be restored there" in found["detail"]
