"""What snapper remembers of the last pack of an environment."""

from __future__ import annotations

from pathlib import Path

from snapper.environment.installed import InstalledEnvironment
from snapper.packing.reuse import PreviousPack, load_previous_pack


def previous_pack(prefix: Path) -> PreviousPack | None:
    """Return the previous pack of the environment, as if the store had all of its layers."""
    environment = InstalledEnvironment(prefix)
    assert environment.previous
    stored = frozenset(layer.digest for layer in environment.previous.snapshot.layers)
    return load_previous_pack(environment, stored)
