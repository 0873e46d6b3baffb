"""What every case works with: the environment, a scratch directory, and commands run and measured."""

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

from benchmarks.measure import Measured, measure

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Bench:
    """The environment at `prefix`, and `place`, a scratch directory on the same file system. `figures` are sizes in
    bytes that cases note, by name.
    """

    prefix: Path
    place: Path
    figures: dict[str, int] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        path = f"{BIN}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.place / "home"), "SNAPPER_STORE": str(self.place / "store")}

    def run(self, *commands: list[str]) -> Measured:
        return measure(commands, self.variables)

    def snapper(self, *arguments: object) -> Measured:
        """Runs and measures one command of snapper."""
        return self.run([str(BIN / "snapper"), *map(str, arguments)])

    def done(self, *arguments: object) -> Any:
        """Runs one command of snapper unmeasured; returns its JSON document."""
        command = [str(BIN / "snapper"), *map(str, arguments), "--json"]
        return json.loads(subprocess.run(command, env=self.variables, check=True, capture_output=True).stdout)

    def fresh(self, name: str) -> Path:
        """An empty directory of that name."""
        shutil.rmtree(self.place / name, ignore_errors=True)
        (self.place / name).mkdir()
        return self.place / name

    def gone(self, name: str) -> Path:
        """A path at which nothing is."""
        target = self.place / name
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        return target

    def size(self, name: str) -> int:
        """What a file or all files below a directory take, in bytes."""
        top = self.place / name
        if top.is_file():
            return top.stat().st_size
        return sum(file.lstat().st_size for file in top.rglob("*") if not file.is_dir())


@dataclass(frozen=True)
class Case:
    """Something to measure, once in each round."""

    name: str
    run: Callable[[Bench], Measured]


@dataclass(frozen=True)
class Phase:
    """Cases that alternate, on what `prepare` makes; what is in the scratch directory goes when they are done."""

    name: str
    prepare: Callable[[Bench], None]
    cases: tuple[Case, ...]
