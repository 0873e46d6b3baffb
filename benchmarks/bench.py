"""The environment, workspace and commands that benchmark cases share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Measurement, measure

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Bench:
    """An environment at `prefix` and a `workspace` directory on the same file system.

    `figures` collects sizes in bytes that cases record, by name. `program` is the snapper executable under test.
    """

    prefix: Path
    workspace: Path
    figures: dict[str, int] = field(default_factory=dict)
    program: Path = BIN / "snapper"

    @property
    def variables(self) -> dict[str, str]:
        path = f"{BIN}:{os.environ['PATH']}"
        return {
            "PATH": path,
            "HOME": str(self.workspace / "home"),
            "SNAPPER_STORE": str(self.workspace / "store"),
        }

    def run(self, *commands: list[str]) -> Measurement:
        return measure(commands, self.variables)

    def snapper(self, *arguments: object) -> Measurement:
        """Run and measure one snapper command."""
        return self.run([str(self.program), *map(str, arguments)])

    def run_json(self, *arguments: object) -> Any:
        """Run one snapper command without measuring it; return its JSON document."""
        command = [str(self.program), *map(str, arguments), "--json"]
        return json.loads(subprocess.run(command, env=self.variables, check=True, capture_output=True).stdout)

    def empty(self, name: str) -> Path:
        """Create an empty directory of that name."""
        shutil.rmtree(self.workspace / name, ignore_errors=True)
        (self.workspace / name).mkdir()
        return self.workspace / name

    def absent(self, name: str) -> Path:
        """Return a path in the workspace after removing what is there."""
        target = self.workspace / name
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        return target

    def size(self, name: str) -> int:
        """Return the size of a file, or of all files below a directory, in bytes."""
        top = self.workspace / name
        if top.is_file():
            return top.stat().st_size
        return sum(file.lstat().st_size for file in top.rglob("*") if not file.is_dir())


@dataclass(frozen=True)
class Case:
    """A command to measure once per round."""

    name: str
    run: Callable[[Bench], Measurement]


@dataclass(frozen=True)
class Phase:
    """Cases that run in alternation on what `prepare` creates; the workspace is cleared afterwards."""

    name: str
    prepare: Callable[[Bench], None]
    cases: tuple[Case, ...]
