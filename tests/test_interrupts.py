"""Ctrl-C, signals and SIGKILL at every stage: nothing is left half-done, and running the command again completes it.

To interrupt a command at a certain stage, tests halt it (SIGSTOP) there, so that results do not depend on its speed; a
command that was too fast is started again.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Machine, tree_of
from tests.support.commands import (
    RunningCommand,
    halt_between,
    staging_has,
    start_blocked_pack,
    start_command,
    wait_until,
)
from tests.support.environments import make_data, make_many
from tests.support.stores import check_store, layer_files

TERMINATION = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
KILL = signal.SIGKILL


def name(number: object) -> str:
    return number.name if isinstance(number, signal.Signals) else str(number)


Tree = dict[str, tuple[str, int, bytes]]


class Packed(NamedTuple):
    """A machine with an environment that takes long enough to interrupt a command, and a store that contains it."""

    machine: Machine
    source: Path
    snapshot: str


@pytest.fixture(scope="module")
def packed() -> Iterator[Packed]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as directory:
        top = Path(directory)
        machine = Machine(top / "home", top / "home" / "envs", top / "store")
        machine.envs.mkdir(parents=True)
        source = make_many(top / "source" / "many")
        yield Packed(machine, source, machine.run_json("pack", "-p", source)["snapshot"])


@pytest.fixture(scope="module")
def complete(packed: Packed) -> Tree:
    """The files of the environment after an uninterrupted restore to the path that these tests use."""
    packed.machine.run_json("restore", "many", "--envs-dir", packed.machine.envs)
    tree = tree_of(packed.machine.envs / "many")
    shutil.rmtree(packed.machine.envs / "many")
    return tree


def interrupt(running: RunningCommand, number: signal.Signals) -> None:
    """Interrupt the command like a terminal or a shutdown, or kill only its main process; check how it ends."""
    if number == KILL:
        running.process.kill()
        assert running.finish().code == -KILL
    else:
        running.send(number)
        running.send(signal.SIGCONT)
        outcome = running.finish()
        assert outcome.code == 130, outcome
        assert outcome.out == ""
        assert outcome.err.count("snapper: ") == 1
        assert "snapper: interrupted\n" in outcome.err
    wait_until(running.all_ended)


# --- pack -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [*TERMINATION, KILL], ids=name)
def test_pack_interrupted_before_reading_stores_nothing(number: signal.Signals, machine: Machine) -> None:
    prefix = make_data(machine.envs / "data")
    running, held = start_blocked_pack(machine, prefix, "data")
    interrupt(running, number)
    os.close(held)
    assert check_store(machine.store) == {}
    machine.run_json("pack", "data")
    assert check_store(machine.store).keys() == {"data"}


@pytest.mark.parametrize(
    ("layers", "number"),
    [(1, signal.SIGINT), (4, signal.SIGTERM), (2, signal.SIGHUP), (3, KILL)],
    ids=name,
)
def test_pack_interrupted_while_reading_publishes_nothing(
    layers: int, number: signal.Signals, packed: Packed, machine: Machine
) -> None:
    def start() -> RunningCommand:
        shutil.rmtree(machine.store, ignore_errors=True)
        return start_command(machine, "pack", "-p", packed.source, "--level", 12)

    state = tree_of(packed.source / ".snapper")
    entries = machine.store / "environments"
    running = halt_between(start, lambda: len(layer_files(machine.store)) >= layers, entries.exists)
    interrupt(running, number)
    assert check_store(machine.store, killed=number == KILL) == {}
    assert tree_of(packed.source / ".snapper") == state
    if number == signal.SIGINT:
        assert machine.run_json("pack", "-p", packed.source)["environment"] == "many"
        check_store(machine.store)


def test_pack_interrupted_while_writing_a_layer_leaves_no_temporary_file(
    packed: Packed, machine: Machine
) -> None:
    """Workers are terminated while they write temporary files of layers."""

    def writing() -> list[Path]:
        return [*machine.store.glob("layers/*/.*")]

    def start() -> RunningCommand:
        shutil.rmtree(machine.store, ignore_errors=True)
        return start_command(machine, "pack", "-p", packed.source, "--jobs", 8)

    running = start()
    for _ in range(20):
        if running.reaches(writing):
            running.send(signal.SIGSTOP)
            if writing():
                break
        running.send(KILL)
        running.process.wait()
        running = start()
    interrupt(running, signal.SIGTERM)
    assert check_store(machine.store) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, KILL], ids=name)
def test_pack_interrupted_before_updating_the_ref_publishes_nothing(
    number: signal.Signals, machine: Machine
) -> None:
    """Another process holds the lock of the environment's ref, so the pack waits for it."""
    import fcntl

    prefix = make_data(machine.envs / "data")
    first = machine.run_json("pack", "data")["snapshot"]
    (prefix / "new").write_text("new")
    with (machine.store / "environments" / "data.json").open("r+b") as entry:
        fcntl.flock(entry, fcntl.LOCK_EX)
        running = start_command(machine, "pack", "data")
        assert running.reaches(lambda: len([*(machine.store / "snapshots").glob("[!.]*")]) == 2)
        interrupt(running, number)
    assert check_store(machine.store, killed=number == KILL) == {"data": first}
    assert machine.run_json("pack", "data")["snapshot"] != first


def test_signals_during_worker_start_are_reported_once(machine: Machine) -> None:
    """Forked workers inherit the command's signal handlers, which would report an interruption."""
    make_data(machine.envs / "data")
    for number in TERMINATION * 2:
        running = start_command(machine, "pack", "data", "--jobs", 16, "--json")
        if running.reaches(running.has_workers):
            running.send(number)
        outcome = running.finish()
        assert outcome.err.strip() == ""
        if outcome.code:
            assert outcome.code == 130
            assert json.loads(outcome.out)["error"]["type"] == "Interrupted"
        wait_until(running.all_ended)


@pytest.mark.parametrize("number", TERMINATION, ids=name)
def test_signals_during_a_destructor_interrupt_the_command(number: signal.Signals, machine: Machine) -> None:
    """Python only reports exceptions that are raised in a destructor, and continues."""
    script = f"""
import os, time
from snapper.cli import main
class Resource:
    def __del__(self):
        os.kill(os.getpid(), {number:d})
        time.sleep(0)
def run():
    Resource()
    time.sleep(40)
main._run = run
main.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        env=machine.variables,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("snapper: interrupted\n")


# --- restore ----------------------------------------------------------------------------------------------


@pytest.fixture
def target(packed: Packed, complete: object) -> Iterator[Path]:
    """The path that the environment is restored to; it is removed after the test."""
    yield packed.machine.envs / "many"
    shutil.rmtree(packed.machine.envs)
    packed.machine.envs.mkdir()


def staging(target: Path) -> Path:
    return target.parent / f".{target.name}.snapper"


STAGES = {
    "started": "",
    "files": "lib/many*/*.py",
    "links": "share/textdata/link.txt",
}


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        *(("started", signal.SIGINT), ("files", signal.SIGTERM), ("files", signal.SIGHUP), ("files", KILL)),
        *(("links", signal.SIGINT), ("links", KILL)),
    ],
    ids=name,
)
def test_interrupted_restore_to_a_new_prefix_leaves_nothing(
    stage: str, number: signal.Signals, packed: Packed, complete: Tree, target: Path
) -> None:
    def start() -> RunningCommand:
        shutil.rmtree(target, ignore_errors=True)
        return start_command(packed.machine, "restore", "many", "--envs-dir", target.parent, "--jobs", 1)

    running = halt_between(start, staging_has(target, STAGES[stage]), lambda: os.path.lexists(target))
    interrupt(running, number)
    assert not os.path.lexists(target)
    if number != KILL:
        assert [*target.parent.iterdir()] == []
    if number == KILL:
        packed.machine.run_json("restore", "many", "--envs-dir", target.parent)
        assert tree_of(target) == complete
        assert [*target.parent.iterdir()] == [target]


def test_repeated_interrupts_do_not_break_the_cleanup(packed: Packed, target: Path) -> None:
    def start() -> RunningCommand:
        shutil.rmtree(target, ignore_errors=True)
        return start_command(packed.machine, "restore", "many", "--envs-dir", target.parent, "--jobs", 1)

    running = halt_between(start, staging_has(target, STAGES["files"]), target.exists)
    running.send(signal.SIGINT)
    running.process.send_signal(signal.SIGCONT)
    while not running.exited:
        running.send(signal.SIGINT)
    outcome = running.finish()
    assert outcome.code == 130, outcome
    assert [*target.parent.iterdir()] == []


@pytest.fixture
def old(packed: Packed, target: Path) -> Tree:
    """Another environment at the target, with local changes, that the restore is to replace."""
    make_old(target)
    return tree_of(target)


def make_old(target: Path) -> None:
    make_data(target)
    for number in range(2000):
        (target / f"mine{number}").write_text("mine")


@pytest.mark.parametrize(
    ("stage", "number"), [("started", signal.SIGTERM), ("files", KILL), ("links", signal.SIGINT)], ids=name
)
def test_interrupted_replacement_keeps_the_old_environment(
    stage: str, number: signal.Signals, packed: Packed, complete: Tree, target: Path, old: Tree
) -> None:
    command = ("restore", "many", "--envs-dir", target.parent, "--replace")

    def start() -> RunningCommand:
        if (target / ".snapper").exists():
            shutil.rmtree(target)
            make_old(target)
        return start_command(packed.machine, *command)

    running = halt_between(start, staging_has(target, STAGES[stage]), (target / ".snapper").exists)
    interrupt(running, number)
    assert tree_of(target) == old
    if number != KILL:
        assert [*target.parent.iterdir()] == [target]
    else:
        packed.machine.run_json(*command)
        assert tree_of(target) == complete
        assert [*target.parent.iterdir()] == [target]


@pytest.mark.parametrize("number", [signal.SIGINT, KILL], ids=name)
def test_interrupt_while_removing_the_old_environment_keeps_the_new_one(
    number: signal.Signals, packed: Packed, complete: Tree, target: Path, old: Tree
) -> None:
    """The new environment is in place; the old one was checked and is being removed: now, or by the next command."""

    def start() -> RunningCommand:
        if (target / ".snapper").exists():
            shutil.rmtree(target)
            make_old(target)
        return start_command(packed.machine, "restore", "many", "--envs-dir", target.parent, "--replace")

    def is_being_removed() -> bool:
        return any(staging(target).glob("replaced*"))

    running = halt_between(start, is_being_removed, lambda: not staging(target).exists())
    interrupt(running, number)
    assert tree_of(target) == complete
    (document,) = packed.machine.run_json("restore", "many", "--envs-dir", target.parent)["restored"]
    assert document["present"]
    assert [*target.parent.iterdir()] == [target]


def test_restore_does_not_replace_a_directory_created_meanwhile(packed: Packed, target: Path) -> None:
    def start() -> RunningCommand:
        shutil.rmtree(target, ignore_errors=True)
        return start_command(
            packed.machine, "restore", "many", "--envs-dir", target.parent, "--jobs", 1, "--json"
        )

    running = halt_between(start, staging_has(target, STAGES["files"]), target.exists)
    target.mkdir()
    (target / "thesis.tex").write_text("mine")
    running.process.send_signal(signal.SIGCONT)
    outcome = running.finish()
    assert outcome.code == 11, outcome
    assert outcome.json["error"]["type"] == "TargetOccupied"
    assert [*target.parent.iterdir()] == [target]
    assert [*target.iterdir()] == [target / "thesis.tex"]


def test_restore_does_not_discard_changes_made_meanwhile(
    packed: Packed, tmp_path: Path, target: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(packed.machine.store, store)
    there = ("--envs-dir", target.parent, "--store", store)
    packed.machine.run_json("restore", "many", *there)
    (target / "mine").write_text("mine")
    packed.machine.run_json("pack", "-p", target, "--store", store)

    def start() -> RunningCommand:
        if not (target / "mine").exists():
            packed.machine.run_json("restore", "many", *there)
        return start_command(packed.machine, "restore", "many@~1", *there, "--json")

    running = halt_between(
        start, staging_has(target, STAGES["files"]), lambda: not (target / "mine").exists()
    )
    (target / "thesis.tex").write_text("mine")
    running.process.send_signal(signal.SIGCONT)
    outcome = running.finish()
    assert outcome.code == 11, outcome
    assert "thesis.tex" in outcome.json["error"]["message"]
    assert (target / "thesis.tex").read_text() == "mine"
    assert (target / "mine").read_text() == "mine"
    assert [*target.parent.iterdir()] == [target]


# --- terminals and workers --------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal on which a command runs: its other end, and what was displayed."""

    def __init__(self, descriptor: int, command: RunningCommand) -> None:
        self.command = command
        self._descriptor = descriptor
        self._shown = bytearray()

    @property
    def shown(self) -> str:
        return self._shown.decode()

    def read(self) -> bool:
        """Wait for more output; return False when the command has ended."""
        try:
            self._shown += os.read(self._descriptor, 65536)
        except OSError:
            return False
        return True

    def press(self, key: bytes) -> None:
        os.write(self._descriptor, key)


@contextmanager
def on_a_terminal(machine: Machine, *arguments: object) -> Iterator[Terminal]:
    """Run `snapper` on a pseudo-terminal, which is closed at the end."""
    ours, theirs = pty.openpty()
    take_terminal = (
        "import fcntl, os, sys, termios;"
        "fcntl.ioctl(2, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", take_terminal, *machine.command(*arguments)],
        env={**machine.variables, "TERM": "xterm", "PYTHONWARNINGS": ""},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            yield Terminal(ours, RunningCommand(process, machine.home))
        finally:
            os.close(ours)


def halted_on_a_terminal(machine: Machine, stack: ExitStack, target: Path, *arguments: object) -> Terminal:
    """Run a restore on a terminal, and halt it when it has displayed that it restores, and before it is complete."""
    is_late = staging_has(target, STAGES["links"])
    for _ in range(20):
        terminal = stack.enter_context(on_a_terminal(machine, *arguments))
        while "Restoring many" not in terminal.shown and terminal.read():
            pass
        if terminal.command.halt() and not is_late() and not os.path.lexists(target):
            return terminal
        terminal.command.send(KILL)
        terminal.command.process.wait()
        shutil.rmtree(target, ignore_errors=True)
    raise AssertionError("the command was too fast every time")


def test_ctrl_c_on_a_terminal_is_reported_once(packed: Packed, target: Path) -> None:
    with ExitStack() as stack:
        terminal = halted_on_a_terminal(
            packed.machine, stack, target, "restore", "many", "--envs-dir", target.parent
        )
        terminal.press(b"\x03")
        terminal.command.process.send_signal(signal.SIGCONT)
        while terminal.read():
            pass
        assert terminal.command.process.wait(60) == 130
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.shown)  # without colors
    assert "Traceback" not in shown
    assert shown.count("snapper: interrupted") == 1
    assert shown.endswith("finish.\r\n")
    assert [*target.parent.iterdir()] == []


@pytest.mark.parametrize("command", ["pack", "restore"])
def test_killed_worker_is_reported_and_leaves_nothing_half_done(
    command: str, packed: Packed, machine: Machine, target: Path
) -> None:
    """The system kills processes when memory runs out. Other environments are restored all the same."""
    if command == "restore":
        shutil.copytree(packed.machine.store, machine.store)
        make_data(machine.envs / "data")
        machine.run_json("pack", "data")
        shutil.rmtree(machine.envs / "data")

    def start() -> RunningCommand:
        if command == "pack":
            shutil.rmtree(machine.store, ignore_errors=True)
            words: tuple[object, ...] = ("pack", "-p", packed.source, "--level", 19)
        else:
            shutil.rmtree(target.parent)
            target.parent.mkdir()
            words = ("restore", "many", "data", "--envs-dir", target.parent, "--json")
        started.append(start_command(machine, *words))
        return started[-1]

    def has_workers() -> bool:
        return started[-1].has_workers()

    started: list[RunningCommand] = []
    running = halt_between(start, has_workers, lambda: not has_workers())
    os.kill(max({*running.members()} - {running.process.pid}), KILL)
    running.process.send_signal(signal.SIGCONT)
    outcome = running.finish()
    assert outcome.code == 1, outcome
    if command == "pack":
        assert "killed by signal 9 while packing many" in outcome.err
        assert "--jobs" in outcome.err
        assert check_store(machine.store, killed=True) == {}
    else:
        assert [each["type"] for each in outcome.json["failed"]] == ["WorkerDied"]
        (restored,) = (each["environment"] for each in outcome.json["restored"])
        (failed,) = (each["environment"] for each in outcome.json["failed"])
        assert {restored, failed} == {"many", "data"}
        assert [*target.parent.iterdir()] == [target.parent / restored]
