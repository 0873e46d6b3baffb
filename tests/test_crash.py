"""Commands killed at random moments: stores and environments are always in their old or new state, never in between.

The tests run `python -m tests.support.crash`, which takes a seed and reports the run that failed. The engine is in
tests/support/crash; the reader that checks the results is tests/support/reader.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.support.s3server import S3Server

#: The commands that replace an environment whose directory has to stay where it is.
IN_PLACE = ("--only", "restore,delta,rollback", "--place")

#: Options and how many commands are killed with them.
SHARDS = [
    *(((), 44), (("--pairs",), 44)),
    *((("--s3",), 12), (("--s3", "--pairs"), 12)),
    *(((*IN_PLACE, "mount"), 6), ((*IN_PLACE, "image"), 6)),
]
LONG = 30


@pytest.mark.skipif(
    sys.platform != "linux", reason="forks commands and counts their steps, which works on Linux only"
)
@pytest.mark.parametrize("seed", range(len(SHARDS)), ids=lambda seed: " ".join([str(seed), *SHARDS[seed][0]]))
def test_killed_commands_leave_the_old_or_the_new_state(seed: int, request: pytest.FixtureRequest) -> None:
    options, kills = SHARDS[seed]
    if "--place" in options and os.geteuid() != 0:
        pytest.skip("only root may mount")
    if "--s3" in options:
        server: S3Server = request.getfixturevalue("s3_server")
        options = (*options, "--endpoint", server.endpoint)
    if request.config.getoption("--long"):
        kills *= LONG
    command = [
        sys.executable,
        "-m",
        "tests.support.crash",
        "--seed",
        str(seed),
        "--kills",
        str(kills),
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (killed,) = re.findall(r"\Akilled (\d+): ", done.stdout)
    assert int(killed) >= kills


def test_shards_kill_3000_commands_together() -> None:
    assert sum(kills for _, kills in SHARDS) * LONG >= 3000
