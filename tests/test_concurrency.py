"""Simultaneous commands on one store, one environment, or one target directory."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import Machine, tree_of
from tests.support.commands import (
    RunningCommand,
    halt_between,
    staging_has,
    start_blocked_pack,
    start_command,
)
from tests.support.environments import make_data, make_many
from tests.support.stores import check_store, layer_files


def staging(target: Path) -> Path:
    return target.parent / f".{target.name}.snapper"


def start_halted_restore(machine: Machine, target: Path) -> RunningCommand:
    """Start a restore of `many` and stop its processes after they have written some of the files."""

    def start() -> RunningCommand:
        shutil.rmtree(target, ignore_errors=True)
        return start_command(machine, "restore", "many", "--prefix", target, "--jobs", 1, "--json")

    return halt_between(start, staging_has(target, "lib/*"), target.exists)


def resume(running: RunningCommand) -> None:
    running.process.send_signal(signal.SIGCONT)


# --- packs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_simultaneous_packs_of_one_name(known: bool, machine: Machine) -> None:
    """Both have read the entry before either replaces it."""
    prefixes = [make_data(machine.envs / name) for name in ("one", "two")]
    for prefix in prefixes:
        (prefix / "which").write_text(prefix.name)
    if known:
        machine.run_json("pack", "-p", make_data(machine.envs / "zero"), "--name", "shared")
    blocked = [
        start_blocked_pack(machine, prefix, "-p", prefix, "--name", "shared", "--json") for prefix in prefixes
    ]
    for _, held in blocked:
        os.close(held)
    outcomes = [run.finish() for run, _ in blocked]
    assert sorted(outcome.code for outcome in outcomes) == [0, 11], outcomes
    loser = outcomes.index(next(outcome for outcome in outcomes if outcome.code))
    error = outcomes[loser].json["error"]
    assert error["type"] == "ConcurrentUpdate"
    assert f"{getpass.getuser()}@{socket.gethostname()}" in error["message"]
    check_store(machine.store)

    machine.run_json("pack", "-p", prefixes[loser], "--name", "shared")
    check_store(machine.store)
    for back, prefix in enumerate((prefixes[loser], prefixes[1 - loser])):
        place = machine.home / f"back{back}"
        machine.run_json("restore", f"shared@~{back}", "--prefix", place)
        assert (place / "which").read_text() == prefix.name


def test_simultaneous_packs_of_one_environment_under_two_names(machine: Machine) -> None:
    make_many(machine.envs / "many")
    runs = [start_command(machine, "pack", "many", "--name", name, "--json") for name in ("one", "two")]
    outcomes = [run.finish() for run in runs]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    current = check_store(machine.store)
    assert current["one"] == current["two"]
    assert [path for path in machine.store.rglob(".*") if path.name != ".lock"] == []


def test_simultaneous_packs_create_one_store(machine: Machine) -> None:
    prefixes = [make_data(machine.envs / f"env{number}") for number in range(4)]
    outcomes = [
        run.finish()
        for run in [start_command(machine, "pack", "-p", prefix, "--json") for prefix in prefixes]
    ]
    assert [outcome.code for outcome in outcomes] == [0] * 4, outcomes
    assert check_store(machine.store).keys() == {prefix.name for prefix in prefixes}


# --- restores ---------------------------------------------------------------------------------------------


def test_second_restore_to_one_prefix_is_refused(machine: Machine) -> None:
    prefix = make_many(machine.envs / "many")
    machine.run_json("pack", "many")
    whole = tree_of(prefix)
    shutil.rmtree(prefix)
    first = start_halted_restore(machine, prefix)
    before = {path.name: path.lstat().st_ino for path in staging(prefix).iterdir()}
    error = machine.expect_error(11, "restore", "many", "--prefix", prefix)
    assert error["type"] == "TargetLocked"
    assert str(prefix) in error["message"]
    assert f"@{socket.gethostname()} (process {first.process.pid}, since " in error["message"]
    assert error["hint"]
    assert {path.name: path.lstat().st_ino for path in staging(prefix).iterdir()} == before
    resume(first)
    outcome = first.finish()
    assert outcome.code == 0, outcome
    assert tree_of(prefix) == whole
    assert machine.run_json("restore", "many", "--prefix", prefix)["restored"][0]["present"]
    assert [*machine.envs.iterdir()] == [prefix]


def test_many_simultaneous_restores_to_one_prefix(machine: Machine) -> None:
    prefix = make_many(machine.envs / "many")
    machine.run_json("pack", "many")
    whole = tree_of(prefix)
    shutil.rmtree(prefix)
    runs = [
        start_command(machine, "restore", "many", "--prefix", prefix, "--jobs", 1, "--json") for _ in range(4)
    ]
    ends = Counter(
        (run.json.get("error", {}).get("type"), run.code) for run in [run.finish() for run in runs]
    )
    assert ends[None, 0] >= 1
    assert set(ends) <= {(None, 0), ("TargetLocked", 11)}, ends
    assert tree_of(prefix) == whole
    assert [*machine.envs.iterdir()] == [prefix]


def test_simultaneous_restores_are_all_registered_with_conda(machine: Machine) -> None:
    prefix = make_data(machine.envs / "data")
    machine.run_json("pack", "data")
    shutil.rmtree(prefix)
    places = [machine.envs / f"place{number}" for number in range(4)]
    runs = [start_command(machine, "restore", "data", "--prefix", place) for place in places]
    assert [run.finish().code for run in runs] == [0] * 4
    listed = (machine.home / ".conda" / "environments.txt").read_text().splitlines()
    assert sorted(listed) == [str(place) for place in places]


# --- packs and restores -----------------------------------------------------------------------------------


def test_pack_during_a_restore(machine: Machine) -> None:
    prefix = make_many(machine.envs / "many")
    first = machine.run_json("pack", "many")["snapshot"]
    whole = tree_of(prefix)
    target = machine.home / "elsewhere" / "many"
    reading = start_halted_restore(machine, target)
    (prefix / "new").write_text("new")
    second = machine.run_json("pack", "many")["snapshot"]
    resume(reading)
    outcome = reading.finish()
    assert outcome.code == 0, outcome
    assert outcome.json["restored"][0]["snapshot"] == first
    assert tree_of(target).keys() == whole.keys()
    assert check_store(machine.store) == {"many": second}


def test_restore_during_a_pack(machine: Machine) -> None:
    prefix = make_many(machine.envs / "many")
    first = machine.run_json("pack", "many")["snapshot"]
    stored = len(layer_files(machine.store))
    (prefix / "lib" / "many0" / "random.bin").write_bytes(os.urandom(1024 * 1024))
    (prefix / "lib" / "many1" / "random.bin").write_bytes(os.urandom(1024 * 1024))
    writing, held = start_blocked_pack(machine, prefix, "many", "--json")
    target = machine.home / "elsewhere" / "many"
    (document,) = machine.run_json("restore", "many", "--prefix", target)["restored"]
    assert document["snapshot"] == first
    os.close(held)
    writing.reaches(lambda: len(layer_files(machine.store)) > stored)
    shutil.rmtree(target)
    machine.run_json("restore", f"many@{first[:8]}", "--prefix", target)
    outcome = writing.finish()
    assert outcome.code == 0, outcome
    assert check_store(machine.store) == {"many": outcome.json["snapshot"]}
    assert outcome.json["snapshot"] != first
