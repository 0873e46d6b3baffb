"""Start `snapper` without waiting for it, and halt, signal or observe it while it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import Machine, Outcome


def wait_until(condition: Callable[[], object], *, seconds: float = 60) -> None:
    """Wait until the condition holds; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition did not become true within {seconds} s"
        time.sleep(0.001)


@dataclass
class RunningCommand:
    """A command running in its own process group, like a job of a shell."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def exited(self) -> bool:
        return self.process.poll() is not None

    @property
    def err(self) -> str:
        return (self.log / "err").read_text()

    def reaches(self, condition: Callable[[], object]) -> bool:
        """Wait until the condition holds or the command exits; return whether it is still running."""
        wait_until(lambda: condition() or self.exited)
        return not self.exited

    def halt(self) -> bool:
        """Stop (SIGSTOP) the command but not its workers; return False if it had already exited."""
        self.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: self.exited or _state(self.process.pid) == "T")
        return not self.exited

    def send(self, number: int) -> None:
        """Send a signal to the command and all its workers, as a terminal does. Do nothing if all have ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def finish(self, *, seconds: float = 60) -> Outcome:
        """Wait for the command to exit; kill it after `seconds`."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            raise
        out = (self.log / "out").read_text()
        assert "Traceback" not in self.err, self.err
        return Outcome(code, out, self.err)

    def has_workers(self) -> bool:
        return len(self.members()) > 1

    def all_ended(self) -> bool:
        """Return whether the command and all its workers have ended."""
        return not self.members()

    def members(self) -> list[int]:
        """Return the PIDs of the group's live processes."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if fields[2] == str(self.process.pid) and fields[0] not in "ZX":
                    found.append(int(entry.name))
        return found


def _state(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def start_command(machine: Machine, *arguments: object, **variables: str) -> RunningCommand:
    """Start `snapper` and return at once. Warnings are off: an interrupt may leave files for Python to close."""
    log = Path(tempfile.mkdtemp(prefix="log", dir=machine.home))
    with (log / "out").open("wb") as out, (log / "err").open("wb") as err:
        process = subprocess.Popen(
            machine.command(*arguments),
            env={**machine.variables, "PYTHONWARNINGS": "", **variables},
            cwd=machine.home,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    return RunningCommand(process, log)


def halt_between(
    start: Callable[[], RunningCommand], reached: Callable[[], object], passed: Callable[[], object]
) -> RunningCommand:
    """Start a command, and halt it after `reached` and before `passed` becomes true; try again if it was too fast."""
    for _ in range(20):
        running = start()
        if running.reaches(reached) and running.halt() and not passed():
            return running
        running.send(signal.SIGKILL)
        running.process.wait()
        wait_until(running.all_ended)
    raise AssertionError("the command was too fast every time")


def staging_has(target: Path, pattern: str) -> Callable[[], bool]:
    """Return a condition: a restore to the target has created a path that matches the pattern."""
    holder = target.parent / f".{target.name}.snapper"
    return lambda: any(holder.glob(f"tree*/{pattern}"))


def start_blocked_pack(machine: Machine, prefix: Path, *arguments: object) -> tuple[RunningCommand, int]:
    """Start `snapper pack` with these arguments, which name the environment at the prefix.

    It blocks after listing the environment's files and before reading them: it then reads which snapshot it made last.
    That is lost. Return the command, and a descriptor: closing it lets the command continue.
    """
    snapshot = prefix / ".snapper" / "snapshot"
    snapshot.parent.mkdir(exist_ok=True)
    snapshot.write_bytes(b"")
    pipe = Path(tempfile.mkdtemp(prefix="pause", dir=machine.home)) / "pipe"
    os.mkfifo(pipe)
    variables = {
        "PYTHONPATH": str(Path(__file__).parent / "pause"),
        "TEST_PAUSE_BEFORE": snapshot.name,
        "TEST_PAUSE_PIPE": str(pipe),
    }
    running = start_command(machine, "pack", *arguments, **variables)
    return running, _wait_for_reader(pipe, running)


def _wait_for_reader(pipe: Path, running: RunningCommand) -> int:
    """Wait until the command reads from the pipe; return a descriptor that keeps it reading."""
    found: list[int] = []

    def opened() -> bool:
        try:
            found.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    assert running.reaches(opened), running.err
    pid = running.process.pid
    # Wait until it has opened it: a KeyboardInterrupt there can be lost in CPython's io.open.
    wait_until(lambda: pipe in _open_files(pid) and _state(pid) == "S")
    return found[0]


def _open_files(pid: int) -> list[Path]:
    return [Path(os.readlink(entry)) for entry in (Path("/proc") / str(pid) / "fd").iterdir()]
