"""Run cells in a kernel that `jupyter_client` starts from a registered kernelspec."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def run_cell(name: str, code: str, variables: Mapping[str, str]) -> str:
    """Start the kernel of that name, run one cell in it, and return the cell's output."""
    # Warnings of ipykernel and its dependencies are no failures of ours.
    environ = {variable: value for variable, value in variables.items() if variable != "PYTHONWARNINGS"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "scripts.cell", name, code],
        cwd=REPOSITORY,
        env=environ,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
