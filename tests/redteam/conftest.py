"""Fixtures of the red-team suite."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redteam.world import World, new_world


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: an attack that only runs with `--long`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        items[:] = [item for item in items if item.get_closest_marker("long") is None]


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A machine with a victim, an attacker and root, for the version of snapper that `--snapper` selects."""
    executable = request.config.getoption("--snapper")
    with new_world(str(Path(executable).parent / "python") if executable else sys.executable) as made:
        yield made
