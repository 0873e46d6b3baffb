"""Runs commands and measures them and all that they start: time, CPU time, memory, bytes read and written."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """Seconds on the clock, seconds of all processors, the most bytes of memory at once (shared ones counted once; 0 if
    that was not looked at), and the bytes that went through read and write calls, from disks or not.
    """

    seconds: float
    cpu: float
    memory: int
    read: int
    written: int


def measure(
    commands: Sequence[Sequence[str]], variables: Mapping[str, str], *, memory: bool = True
) -> Measured:
    """Runs the commands one after another; raises CalledProcessError. To look at their memory takes some of the time:
    a few percent of one processor, and more the more they have.
    """
    peak = _Peak()
    moved, before, began = _moved(), os.times(), time.monotonic()
    with peak if memory else nullcontext():
        for command in commands:
            process = subprocess.Popen(
                command, env=dict(variables), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            peak.watch(process.pid)
            _finish(process)
        ended = time.monotonic()
    after, read, written = os.times(), *(now - then for now, then in zip(_moved(), moved, strict=True))
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Measured(ended - began, cpu, peak.bytes, max(0, read - peak.read), written)


def _finish(process: subprocess.Popen[bytes]) -> None:
    _, error = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args, stderr=error)


def _moved() -> tuple[int, int]:
    """What this process and the children that it has waited for have read and written, in bytes."""
    lines = Path("/proc/self/io").read_text().splitlines()
    fields = dict(line.split(": ") for line in lines)
    return int(fields["rchar"]), int(fields["wchar"])


class _Peak:
    """Samples the memory of processes and their descendants ten times a second. `read` is what that has read."""

    def __init__(self) -> None:
        self.bytes = 0
        self.read = 0
        self._pids: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def watch(self, pid: int) -> None:
        self._pids.append(pid)

    def _sample(self) -> None:
        while not self._ended.wait(0.1):
            self.bytes = max(self.bytes, sum(map(self._proportional_size, self._descendants())))

    def _descendants(self) -> list[int]:
        found = list(self._pids)
        for pid in found:
            found += map(int, self._text(f"/proc/{pid}/task/{pid}/children").split())
        return found

    def _proportional_size(self, pid: int) -> int:
        lines = self._text(f"/proc/{pid}/smaps_rollup").splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))

    def _text(self, file: str) -> str:
        try:
            text = Path(file).read_text()
        except OSError:
            return ""
        self.read += len(text)
        return text
