"""A publisher chooses the prefix in an environment's history, but must not choose where a victim's restore writes."""

from __future__ import annotations

import pytest

from tests.support.redteam.publisher import file
from tests.support.redteam.world import World

_PLACES = (
    ".aws/config",
    ".ssh/authorized_keys",
    ".jupyter/custom",
    "work/project",
    "bin",
    "../victim/.aws/config",
)


@pytest.mark.parametrize("place", _PLACES)
def test_prefix_in_the_home(place: str, world: World) -> None:
    """An environment is said to have been packed at a path in the victim's home."""
    name = place.rpartition("/")[2].strip(".")
    world.publish(
        name, file("config", "[default]\ncredential_process = evil"), prefix=world.victim.home / place
    )
    with world.unharmed(name):
        world.victim.snapper("restore", "--all")


def test_prefix_in_the_home_of_another_user(world: World) -> None:
    """An environment is said to have been packed in the attacker's own home, where the victim may not write."""
    world.publish("work", prefix=world.attacker.envs / "work")
    with world.unharmed("work"):
        world.victim.snapper("restore", "--all")
