"""Runs commands and measures them: time, CPU time, and memory of the whole process tree."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """Seconds on the clock, seconds of all processors, and the most bytes of memory at once (shared counted once)."""

    seconds: float
    cpu: float
    memory: int


def measure(
    commands: Sequence[Sequence[str]], variables: Mapping[str, str], *, parallel: bool = False
) -> Measured:
    """Runs the commands one after another, or at once; raises CalledProcessError."""
    peak = _Peak()
    before, began = os.times(), time.monotonic()
    with peak:
        running: list[subprocess.Popen[bytes]] = []
        for command in commands:
            process = subprocess.Popen(
                command, env=dict(variables), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            peak.watch(process.pid)
            running.append(process)
            if not parallel:
                _finish(process)
        for process in running:
            _finish(process)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Measured(time.monotonic() - began, cpu, peak.bytes)


def _finish(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        _, error = process.communicate()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args, stderr=error)


class _Peak:
    """Samples the memory of processes and their descendants five times a second."""

    def __init__(self) -> None:
        self.bytes = 0
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
        while not self._ended.wait(0.2):
            self.bytes = max(self.bytes, sum(map(_proportional_size, _descendants(self._pids))))


def _descendants(pids: Sequence[int]) -> list[int]:
    found = list(pids)
    for pid in found:
        try:
            found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except OSError:
            continue
    return found


def _proportional_size(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
