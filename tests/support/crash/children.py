"""Commands in processes of their own that are killed, with their workers: after so many steps, or after a while.

A step is what Python tells its audit hooks of: a file opened, made, renamed, linked, removed, a connection made.
"""

from __future__ import annotations

import os
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
    """When: before the step of that number, or after so many seconds; not at all if neither is said."""

    step: int = 0
    seconds: float = 0.0


@dataclass
class Child:
    """A running command; `steps` is a file whose size is how many steps it and its workers have taken."""

    pid: int
    kill: Kill
    steps: Path
    output: Path
    began: float

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it. Kills it when its time has come."""
        if self.kill.seconds:
            self._await(self.began + self.kill.seconds)
            self._kill()
        self._await(self.began + 120)
        status = self._status
        if status is None:
            self._kill()
            raise AssertionError(f"a command did not end: {self.output.read_text()}")
        self._kill()  # workers that are still there
        return os.waitstatus_to_exitcode(status)

    _status: int | None = None

    def _await(self, until: float) -> None:
        while self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
            elif time.monotonic() > until:
                return
            else:
                time.sleep(0.0005)

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def begin(arguments: Sequence[str], variables: Mapping[str, str], kill: Kill, top: Path, name: str) -> Child:
    """Begins `snapper` with these arguments in a process group of its own."""
    steps, output = top / f"steps-{name}", top / f"output-{name}"
    steps.write_bytes(b"")
    output.write_bytes(b"")
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        _become(arguments, variables, kill, steps, output)
    with suppress(OSError):
        os.setpgid(pid, pid)
    return Child(pid, kill, steps, output, began)


def _become(
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
        _count(counter, kill.step)
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


def _count(counter: int, last: int) -> None:
    """Counts steps, of workers too, and ends all of them before the last one."""

    def hook(event: str, _arguments: tuple[Any, ...]) -> None:
        if event in STEPS:
            os.write(counter, b".")
            if last and os.fstat(counter).st_size >= last:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)
