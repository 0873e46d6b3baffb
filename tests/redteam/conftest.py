"""Fixtures of the red-team suite."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redteam.world import World, new_world


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A machine with a victim, an attacker and root, for the version of snapper that `--snapper` selects."""
    executable = request.config.getoption("--snapper")
    with new_world(str(Path(executable).parent / "python") if executable else sys.executable) as made:
        yield made
