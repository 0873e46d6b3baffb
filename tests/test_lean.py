"""Commands import what they need and no more: where nothing is to be done, starting is most of what they take."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Machine

#: What takes time to import, each with a command that needs it.
SLOW = {
    "boto3",
    "botocore",
    "conda_pack",
    "multiprocessing",
    "rich",
    "tomlkit",
    "yaml",
    "zstandard",
    "asyncio",
    "ctypes",
}

_RUN = """
import sys
from snapper.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["restore", "--help"], ["list"], ["restore", "--all"]])
def test_slow_libraries_are_left_out(
    arguments: list[str], machine: Machine, pristine: Callable[[str], Path]
) -> None:
    if "--help" not in arguments:
        machine.run_json("pack", "-p", pristine("data"), "-n", "data")
        machine.run_json("restore", "data", "--prefix", machine.envs / "data")
    command = [sys.executable, "-c", _RUN, *arguments]
    variables = {**machine.variables, "SNAPPER_ENVS_DIR": str(machine.envs)}
    done = subprocess.run(
        command,
        env=variables,
        cwd=machine.home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}
    assert "snapper" in loaded
    assert not loaded & SLOW
