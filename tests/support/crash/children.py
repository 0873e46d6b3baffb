"""Run commands as processes and kill them, with their workers, after a number of steps or after a time.

A step is an event for Python's audit hooks: a file is opened, created, renamed, linked or removed, a connection made.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = frozenset(
    {
        *("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod"),
        *("os.utime", "os.truncate", "fcntl.flock", "socket.connect", "http.client.send", "ctypes.dlsym"),
    }
)


@dataclass(frozen=True)
class Kill:
    """When to kill a command: before the step of that number, or after `seconds`; never if both are 0."""

    step: int = 0
    seconds: float = 0.0


@dataclass
class Child:
    """A running command; the size of the file `steps` is the number of steps taken by it and its workers."""

    pid: int
    kill: Kill
    steps: Path
    output: Path
    started: float

    def wait(self) -> int:
        """Kill the command when it is time; return its exit code, negative for a signal."""
        if self.kill.seconds:
            self._await(self.started + self.kill.seconds)
            self._kill()
        self._await(self.started + 120)
        status = self._status
        if status is None:
            self._kill()
            raise AssertionError(f"a command did not end: {self.output.read_text()}")
        self._kill()  # kill its workers, too
        return os.waitstatus_to_exitcode(status)

    _status: int | None = None

    def _await(self, until: float) -> None:
        if self._status is not None:
            return
        process = os.pidfd_open(self.pid)
        try:
            ended, _, _ = select.select([process], [], [], max(0, until - time.monotonic()))
        finally:
            os.close(process)
        if ended:
            _, self._status = os.waitpid(self.pid, 0)

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def start_command(
    arguments: Sequence[str], variables: Mapping[str, str], kill: Kill, top: Path, name: str
) -> Child:
    """Start `snapper` with these arguments in its own process group."""
    steps, output = top / f"steps-{name}", top / f"output-{name}"
    steps.write_bytes(b"")
    output.write_bytes(b"")
    started = time.monotonic()
    pid = os.fork()
    if not pid:
        _run_command(arguments, variables, kill, steps, output)
    with suppress(OSError):
        os.setpgid(pid, pid)
    return Child(pid, kill, steps, output, started)


def _run_command(
    arguments: Sequence[str], variables: Mapping[str, str], kill: Kill, steps: Path, output: Path
) -> None:
    code = 99
    try:
        with suppress(OSError):
            os.setpgid(0, 0)
        os.environ.clear()
        os.environ.update(variables)
        null = os.open(os.devnull, os.O_RDONLY)
        out = os.open(output, os.O_WRONLY | os.O_APPEND)
        counter = os.open(steps, os.O_WRONLY | os.O_APPEND)
        for source, number in ((null, 0), (out, 1), (out, 2)):
            os.dup2(source, number)
        _count_steps(counter, kill.step)
        from snapper.cli.app import run

        code = run(list(arguments))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _count_steps(counter: int, last: int) -> None:
    """Count the steps of this process and its workers, and kill all of them before step `last`."""

    def hook(event: str, _arguments: tuple[Any, ...]) -> None:
        if event in STEPS:
            os.write(counter, b".")
            if last and os.fstat(counter).st_size >= last:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)
