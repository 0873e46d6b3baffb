"""A memory file system of a given size, for tests of a full disk."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

#: The unit in which a memory file system grows, in bytes.
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Disk:
    """A memory file system; `size` in bytes."""

    path: Path

    def mount(self, size: int, inodes: int = 0) -> None:
        self.path.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes}", "tmpfs", self.path)

    def set(self, *options: str) -> None:
        _run("mount", "-o", ",".join(["remount", *options]), self.path)

    def fill(self) -> Path:
        """Use up the remaining space, and return the file that does."""
        hog = self.path / "hog"
        with hog.open("wb", buffering=0) as out:
            try:
                while True:
                    out.write(bytes(PAGE_SIZE))
            except OSError:
                return hog


def _run(*command: object) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
