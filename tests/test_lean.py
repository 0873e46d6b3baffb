"""Commands import what they need and no more: where nothing is to be done, starting is most of what they take."""

from __future__ import annotations

import json
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

#: What is only needed to pack, restore, or compare files that have changed.
SELDOM = {
    *(
        "snapper.commands.snapshot_build",
        "snapper.packing.plan",
        "snapper.packing.build",
        "snapper.process.pool",
    ),
    *("snapper.environment.embedded", "snapper.environment.cached_links", "snapper.environment.user_site"),
    *(
        "snapper.format.canonicalize",
        "snapper.format.relocate",
        "snapper.format.shebang",
        "snapper.format.elf",
    ),
    *(
        "snapper.restoring.plan",
        "snapper.restoring.engine",
        "snapper.restoring.staging",
        "snapper.restoring.in_place",
    ),
}

_RUN = """
import json, re, sys
from snapper.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
own = [module for name, module in sys.modules.items() if name.partition(".")[0] == "snapper"]
patterns = sum(isinstance(value, re.Pattern) for module in own for value in vars(module).values())
print(json.dumps([[*sys.modules], len(own), patterns]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "modules", "patterns"),
    [
        (["--help"], 76, 11),
        (["restore", "--help"], 55, 11),
        (["list"], 72, 15),
        (["status"], 143, 33),
        (["restore", "--all"], 150, 32),
        (["pack", "data"], 160, 53),
    ],
)
def test_commands_import_little(
    arguments: list[str],
    modules: int,
    patterns: int,
    machine: Machine,
    pristine: Callable[[str], Path],
) -> None:
    """At most so many modules of snapper are imported, which compile at most so many regular expressions."""
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
    names, own, compiled = json.loads(done.stderr.splitlines()[-1])
    assert not {name.partition(".")[0] for name in names} & (
        SLOW - {"zstandard"} if "pack" in arguments else SLOW
    )
    assert not {*names} & SELDOM
    assert (own <= modules, compiled <= patterns) == (True, True), (own, compiled)
