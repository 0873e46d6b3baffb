"""Kernelspecs written by hand, and what the launchers of registered kernels would execute."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

#: The shells that run launchers in tests.
SHELLS = [shell for shell in ("dash", "bash", "busybox", "ksh", "zsh") if shutil.which(shell)]


def add_kernel(prefix: Path, name: str, **fields: object) -> Path:
    """Write a kernelspec into the environment, and return its directory."""
    directory = prefix / "share/jupyter/kernels" / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "kernel.json").write_text(json.dumps(fields))
    return directory


class Launched(NamedTuple):
    """The command that a launcher would execute, with the variables that it would have, and what it said."""

    command: list[str]
    variables: dict[str, str]
    errors: str


def launch(directory: Path, *arguments: str, shell: str = "bash", **variables: str) -> Launched:
    """Run the launcher in the directory of a registered kernel up to where it becomes the kernel."""
    script = (directory / "launch.sh").read_text(errors="surrogateescape")
    before, found, after = script.partition('    exec "$@"\n')
    assert found
    show = "    env -0; printf '\\0'; printf '%s\\0' \"$@\"; exit\n"
    program = [shell, *(["sh"] if shell == "busybox" else []), "-c", before + show + after]
    own = {} if shell == "bash" else {"BASH_VERSION": "this"}  # so that it stays in this shell
    done = subprocess.run(
        [
            *map(os.fsencode, program),
            directory / "launch.sh",
            *(arguments or ("/c.json", "prefix=/usr", f"registered={directory}", "--")),
        ],
        env={"PATH": os.environ["PATH"], **own, **variables},
        capture_output=True,
        check=False,
    )
    shown, _, words = os.fsdecode(done.stdout).partition("\0\0")
    pairs = (line.partition("=") for line in shown.split("\0"))
    return Launched(
        words.split("\0")[:-1], {name: value for name, _, value in pairs}, os.fsdecode(done.stderr)
    )
