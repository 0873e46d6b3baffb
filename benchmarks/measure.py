"""Measure commands and their descendants: wall time, CPU time, peak memory, bytes read and written."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measurement:
    """The cost of a command and its descendants.

    `seconds` is wall time and `cpu` the CPU seconds of all processes; `memory` is the peak in bytes with shared pages
    counted once (0 if not sampled); `read` and `written` are bytes passed through system calls, from disk or not.
    """

    seconds: float
    cpu: float
    memory: int
    read: int
    written: int


def measure(
    commands: Sequence[Sequence[str]], variables: Mapping[str, str], *, memory: bool = True
) -> Measurement:
    """Run the commands one after another and return their total cost.

    Sampling their memory takes a few percent of one CPU, more for larger processes. Raises CalledProcessError.
    """
    peak = _Peak()
    moved, before, began = _io_bytes(), os.times(), time.monotonic()
    with peak if memory else nullcontext():
        for command in commands:
            process = subprocess.Popen(
                command, env=dict(variables), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            peak.watch(process.pid)
            _finish(process)
        ended = time.monotonic()
    after, read, written = os.times(), *(now - then for now, then in zip(_io_bytes(), moved, strict=True))
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Measurement(ended - began, cpu, peak.bytes, max(0, read - peak.read), written)


def _finish(process: subprocess.Popen[bytes]) -> None:
    _, error = process.communicate()
    if process.returncode:
        print(error.decode(errors="replace"), file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, process.args, stderr=error)


def _io_bytes() -> tuple[int, int]:
    """Return the bytes read and written by this process and the children it has waited for."""
    lines = Path("/proc/self/io").read_text().splitlines()
    fields = dict(line.split(": ") for line in lines)
    return int(fields["rchar"]), int(fields["wchar"])


class _Peak:
    """Sample the memory of processes and their descendants ten times a second; `read` counts its own reads."""

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
