"""Commands exit with the codes that docs/cli.md documents: each row of its table is tried."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from snapper.repository.locks import pack_intent
from snapper.store import open_store
from tests.conftest import Machine, Outcome
from tests.support.commands import start_blocked_pack, start_command, wait_until
from tests.support.environments import make_data
from tests.support.stores import layer_files

_DOCUMENT = Path(__file__).parent.parent / "docs" / "cli.md"
_ROW = re.compile(r"\| `(\w+)` \| (\d+) \| (.*) \|")


class Row(NamedTuple):
    """A documented exit code of a command, and when the command has it."""

    command: str
    code: int
    when: str


class Packed(NamedTuple):
    """A machine whose store has the environment `work`, and the environment's prefix."""

    machine: Machine
    prefix: Path

    def run(self, *arguments: object, **variables: str) -> Outcome:
        return self.machine.snapper(*arguments, **variables)


Scenario = Callable[[Packed, str], Outcome]

#: What brings about each row; commands that do the same have one scenario.
SCENARIOS: dict[str, Scenario] = {}


def scenario(when: str) -> Callable[[Scenario], Scenario]:
    def add(function: Scenario) -> Scenario:
        SCENARIOS[when] = function
        return function

    return add


def documented() -> list[Row]:
    _, _, section = _DOCUMENT.read_text().partition("### Exit codes of each command")
    return [Row(command, int(code), when) for command, code, when in _ROW.findall(section)]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a store and an environment that has been packed, to be copied."""
    top = tmp_path_factory.mktemp("ready")
    machine = Machine(top / "home", top / "home/envs", top / "store")
    machine.envs.mkdir(parents=True)
    make_data(machine.envs / "work")
    machine.run_json("pack", "work")
    return top / "store"


@pytest.fixture
def packed(ready: Path, machine: Machine) -> Packed:
    shutil.copytree(ready, machine.store, symlinks=True)
    prefix = machine.envs / "work"
    machine.run_json("restore", "work", "--prefix", prefix)
    return Packed(machine, prefix)


@pytest.mark.parametrize("row", documented(), ids=lambda row: f"{row.command}-{row.code}: {row.when}")
def test_exit_code_is_as_documented(row: Row, packed: Packed) -> None:
    assert row.when in SCENARIOS, "write a scenario for this row of docs/cli.md"
    outcome = SCENARIOS[row.when](packed, row.command)
    assert outcome.code == row.code, outcome


def test_all_codes_in_the_text_are_in_the_table() -> None:
    """Sections of commands name further codes, as "exit code N"; those of restore are in a table of their own."""
    text = _DOCUMENT.read_text()
    rows = {(row.command, row.code) for row in documented()}
    for section in re.split(r"^##+ ", text, flags=re.M):
        command = section.split(maxsplit=1)[0] if section.split() else ""
        if any(command == known for known, _ in rows):
            codes = {int(code) for code in re.findall(r"(?:exit|exits with) code (\d+)", section)}
            assert {(command, code) for code in codes} <= rows
    (table,) = re.findall(r"^\| exit code \| meaning \|\n(.*?)\n\n", text, re.M | re.S)
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)} - {0, 2} <= {
        code for _, code in rows
    } | {0}


# --- pack -----------------------------------------------------------------------------------------------------


def contain_prefix(prefix: Path) -> None:
    (prefix / "model.pkl").write_bytes(pickle.dumps({"data": f"{prefix}/data.csv"}))


@scenario("an editable install, without `--editable`")
def _(packed: Packed, command: str) -> Outcome:
    source = packed.machine.home / "project"
    source.mkdir()
    site = packed.prefix / "lib/python3.12/site-packages"
    site.mkdir(parents=True)
    (site / "project.pth").write_text(f"{source}\n")
    return packed.run(command, "-p", packed.prefix)


@scenario("a record of conda is malformed")
def _(packed: Packed, command: str) -> Outcome:
    (packed.prefix / "conda-meta/broken-1-0.json").write_text("{")
    return packed.run(command, "work")


@scenario("neither a name nor a directory, or both")
def _(packed: Packed, command: str) -> Outcome:
    assert packed.run(command, "work", "-p", packed.prefix).code == 2
    return packed.run(command)


@scenario("the environment contains the store")
def _(packed: Packed, command: str) -> Outcome:
    return packed.run(command, "work", "--store", packed.prefix / "store")


@scenario("a file with the prefix could not be relocated, other than caches and static libraries")
def _(packed: Packed, command: str) -> Outcome:
    contain_prefix(packed.prefix)
    outcome = packed.run("pack", "work")
    elsewhere = packed.machine.home / "elsewhere/longer"
    if command == "restore":
        outcome = packed.run(command, "work", "--prefix", elsewhere)
    elif command == "export":
        outcome = packed.run(command, "work", "-o", packed.machine.home / "x.tar", "--dest-prefix", elsewhere)
    assert "model.pkl" in outcome.err
    return outcome


@scenario("a file has a time that a snapshot cannot hold")
def _(packed: Packed, command: str) -> Outcome:
    (packed.prefix / "notes").write_text("x")
    os.utime(packed.prefix / "notes", (10**10, 10**10))
    outcome = packed.run(command, "work")
    assert "notes" in outcome.err
    return outcome


@scenario("the environment uses a directory outside of it")
def _(packed: Packed, command: str) -> Outcome:
    state = {"version": 1, "env_vars": {"PYTHONPATH": "/usr/share"}}
    (packed.prefix / "conda-meta/state").write_text(json.dumps(state))
    return packed.run(command, "work")


@scenario("there is no such environment")
def _(packed: Packed, command: str) -> Outcome:
    return packed.run(command, "absent")


@scenario("several environments have the name")
def _(packed: Packed, command: str) -> Outcome:
    for installation in ("miniforge3", "micromamba"):
        (packed.machine.home / installation / "envs/twice/conda-meta").mkdir(parents=True)
    return packed.run(command, "twice")


@scenario("someone else has packed the environment in the meantime")
def _(packed: Packed, command: str) -> Outcome:
    (packed.prefix / "notes").write_text("late")
    late, held = start_blocked_pack(packed.machine, packed.prefix, "work")
    (packed.prefix / "notes").write_text("first")
    assert packed.run("pack", "work").code == 0
    os.close(held)
    return late.finish()


@scenario("the store is of a newer format")
def _(packed: Packed, command: str) -> Outcome:
    (packed.machine.store / "snapper.json").write_text('{"format":99}')
    return packed.run(command, "work")


@scenario("interrupted")
def _(packed: Packed, command: str) -> Outcome:
    running, held = start_blocked_pack(packed.machine, packed.prefix, "work")
    running.send(signal.SIGINT)
    os.close(held)
    return running.finish()


# --- restore --------------------------------------------------------------------------------------------------


@scenario("the environment is for another platform")
def _(packed: Packed, command: str) -> Outcome:
    for record in packed.prefix.glob("conda-meta/*.json"):
        record.write_text(re.sub('"(noarch|linux-64)"', '"linux-s390x"', record.read_text()))
    assert packed.run("pack", "work").code == 0
    return packed.run(command, "work", "--prefix", packed.machine.home / "other")


def add_kernel(packed: Packed) -> None:
    directory = packed.prefix / "share/jupyter/kernels/mine"
    directory.mkdir(parents=True)
    spec = {"argv": [f"{packed.prefix}/bin/mine"], "display_name": "Mine", "language": "mine"}
    (directory / "kernel.json").write_text(json.dumps(spec))
    assert packed.run("pack", "work").code == 0


@scenario("a kernel could not be registered")
def _(packed: Packed, command: str) -> Outcome:
    add_kernel(packed)
    (packed.machine.home / "file").write_text("x")
    variables = {"JUPYTER_DATA_DIR": str(packed.machine.home / "file")}
    return packed.run(command, "work", "--prefix", packed.machine.home / "other", **variables)


@scenario("work continues in the background")
def _(packed: Packed, command: str) -> Outcome:
    layer = layer_files(packed.machine.store)[0]
    pipe = packed.machine.home / "pipe"
    os.mkfifo(pipe)
    variables = {
        "PYTHONPATH": str(Path(__file__).parent / "support/pause"),
        "TEST_PAUSE_BEFORE": layer.name,
        "TEST_PAUSE_PIPE": str(pipe),
    }
    arguments = (command, "work", "--prefix", packed.machine.home / "other", "--budget", "1")
    outcome = start_command(packed.machine, *arguments, **variables).finish()
    assert "continuing in the background" in outcome.out
    with pipe.open("wb"):
        pass
    wait_until((packed.machine.home / "other/conda-meta").is_dir)
    return outcome


@scenario("something is in the way")
def _(packed: Packed, command: str) -> Outcome:
    (packed.machine.home / "full").mkdir()
    (packed.machine.home / "full/file").write_text("x")
    return packed.run(command, "work", "--prefix", packed.machine.home / "full")


@scenario("the environment has changed since it was packed")
def _(packed: Packed, command: str) -> Outcome:
    (packed.prefix / "notes").write_text("first")
    assert packed.run("pack", "work").code == 0
    (packed.prefix / "notes").write_text("second, not packed")
    return packed.run(command, "work@~1" if command == "restore" else "work")


@scenario("a layer is corrupted")
def _(packed: Packed, command: str) -> Outcome:
    for layer in layer_files(packed.machine.store):
        layer.chmod(0o644)
        layer.write_bytes(bytes(layer.stat().st_size))
    return packed.run(command, "work", "--prefix", packed.machine.home / "other")


@scenario("there is no store")
def _(packed: Packed, command: str) -> Outcome:
    names = ["work"] if command == "restore" else []
    return packed.run(command, *names, "--store", packed.machine.home / "nowhere")


# --- looking, and changing a store ----------------------------------------------------------------------------


@scenario("there is no such environment or snapshot")
def _(packed: Packed, command: str) -> Outcome:
    other = packed.machine.home / "other"
    assert packed.run("push", "work", "--to", other).code == 0
    arguments = {
        "tag": ("{}", "stable"),
        "push": ("{}", "--to", other),
        "pull": ("{}", "--from", other),
        "export": ("{}", "-o", packed.machine.home / "x.tar"),
        "remove": ("{}", "--yes"),
        "kernels": ("register", "{}"),
    }.get(command, ("{}",))
    if command not in ("remove", "kernels", "log", "status", "rollback"):
        unknown = [str(argument).replace("{}", "work@feedfeed") for argument in arguments]
        assert packed.run(command, *unknown).code == 10
    return packed.run(command, *(str(argument).replace("{}", "absent") for argument in arguments))


@scenario("the store cannot be opened")
def _(packed: Packed, command: str) -> Outcome:
    return packed.run(command, "--store", packed.machine.home / "nowhere")


@scenario("something prevents an environment from being restored")
def _(packed: Packed, command: str) -> Outcome:
    shutil.rmtree(packed.prefix)
    packed.prefix.write_text("in the way")
    return packed.run(command)


@scenario("the tag is taken, without `--move`")
def _(packed: Packed, command: str) -> Outcome:
    assert packed.run(command, "work", "stable").code == 0
    (packed.prefix / "notes").write_text("x")
    assert packed.run("pack", "work").code == 0
    return packed.run(command, "work", "stable")


@scenario("an object in the store is corrupted or missing")
def _(packed: Packed, command: str) -> Outcome:
    layer_files(packed.machine.store)[0].unlink()
    return packed.run(command)


@scenario("the environment differs from its snapshot")
def _(packed: Packed, command: str) -> Outcome:
    (packed.prefix / "notes").write_text("x")
    return packed.run(command, "work")


@scenario("a pack is running")
def _(packed: Packed, command: str) -> Outcome:
    with pack_intent(open_store(str(packed.machine.store))) as intent:
        intent.declare()
        return packed.run(command, "--keep-last", "1", "--yes")


@scenario("an entry cannot be read")
def _(packed: Packed, command: str) -> Outcome:
    entry = packed.machine.store / "environments/work.json"
    entry.chmod(0o644)
    entry.write_text("{")
    return packed.run(command, "--keep-last", "1")


@scenario("the history in the target store has diverged")
def _(packed: Packed, command: str) -> Outcome:
    other = packed.machine.home / "other"
    for name, store in (("one", other), ("two", packed.machine.store)):
        (packed.prefix / "notes").write_text(name)
        assert packed.run("pack", "work", "--store", store).code == 0
    return packed.run(command, "work", "--to", other)


# --- archives, and this machine -------------------------------------------------------------------------------


@scenario("the file exists, without `--force`")
def _(packed: Packed, command: str) -> Outcome:
    (packed.machine.home / "x.tar").write_text("mine")
    return packed.run(command, "work", "-o", packed.machine.home / "x.tar")


@scenario("a file has a time that the format cannot hold")
def _(packed: Packed, command: str) -> Outcome:
    (packed.prefix / "notes").write_text("x")
    os.utime(packed.prefix / "notes", (1, 1))
    assert packed.run("pack", "work").code == 0
    assert packed.run(command, "work", "-o", packed.machine.home / "x.tar").code == 0
    outcome = packed.run(command, "work", "-o", packed.machine.home / "x.zip")
    assert "notes" in outcome.err
    return outcome


@scenario("there is no environment in the archive")
def _(packed: Packed, command: str) -> Outcome:
    archive = packed.machine.home / "x.tar"
    with tarfile.open(archive, "w") as out:
        out.add(_DOCUMENT, "file")
    return packed.run(command, archive)


@scenario("without `--name`: the store has another environment with the name of the file")
def _(packed: Packed, command: str) -> Outcome:
    archive = packed.machine.home / "work.tar"
    assert packed.run("export", "work", "-o", archive).code == 0
    (packed.prefix / "new").touch()
    assert packed.run("pack", "work").code == 0
    return packed.run(command, archive)


@scenario("the archive is corrupted")
def _(packed: Packed, command: str) -> Outcome:
    archive = packed.machine.home / "x.tar"
    assert packed.run("export", "work", "-o", archive).code == 0
    os.truncate(archive, archive.stat().st_size // 2)
    return packed.run(command, archive)


@scenario("something needs attention")
def _(packed: Packed, command: str) -> Outcome:
    (packed.machine.home / "start.sh").write_bytes(b"#!/bin/sh\r\n")
    return packed.run(command, packed.machine.home / "start.sh")


@scenario("a setting is unknown or invalid")
def _(packed: Packed, command: str) -> Outcome:
    (packed.machine.home / "config.toml").write_text("jobs = 1000\n")
    variables = {"SNAPPER_CONFIG": str(packed.machine.home / "config.toml")}
    assert packed.run("list", **variables).code == 2
    return packed.run(command, **variables)
