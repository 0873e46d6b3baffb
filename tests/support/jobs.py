"""Jobs for worker processes, and waiting for processes. Child processes of tests import this module, too."""

from __future__ import annotations

import multiprocessing.connection
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snapper.errors import Corrupted


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.005)


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def add(context: int, number: int) -> int:
    return context + number


def return_pid(_: object, __: object) -> int:
    return os.getpid()


def fail(_: object, reason: str) -> None:
    raise Corrupted("the layer", reason)


def raise_unexpected(_: object, __: object) -> None:
    raise ZeroDivisionError("a bug")


def wait_for(_: object, file: Path) -> str:
    """Return once the file exists."""
    wait_until(file.exists)
    return file.name


def touch(_: object, file: Path) -> str:
    file.touch()
    return file.name


def search(_: object, started: Path) -> None:
    """Search in C code that takes longer than the universe exists, and does not notice signals."""
    started.touch()
    re.match("(a+)+b", "a" * 100)


def sleep(_: object, started: Path | None) -> None:
    if started:
        started.touch()
    threading.Event().wait()


def kill_worker(_: object, number: int) -> None:
    os.kill(os.getpid(), number)


def exit_with(_: object, status: int) -> None:
    os._exit(status)


def kill_worker_while_it_answers(_: object, __: object) -> bytes:
    """Kill the worker while it sends its result, as can happen when memory runs out."""

    def send(connection: Any, data: bytes) -> None:
        os.write(connection.fileno(), data[:1000])
        os.kill(os.getpid(), signal.SIGKILL)

    multiprocessing.connection.Connection._send = send  # type: ignore[attr-defined]
    return b"x" * 2000


def reverse(_: object, data: bytes) -> bytes:
    return data[::-1]
