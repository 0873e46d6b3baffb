"""When kernels of each environment were last used: the launcher touches `used/NAME` in the state directory."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from snapper.format.constraints import check_name
from snapper.settings.directories import state_directory


def used_file(environment: str) -> Path:
    """Return the file that the environment's kernels touch when they start.

    Raise ValueError if no environment has this name.
    """
    return state_directory() / "used" / check_name(environment)


def recently_used(environments: Iterable[str]) -> list[str]:
    """Return those environments whose kernels have been used, the most recently used first."""
    times: dict[str, float] = {}
    for name in environments:
        with suppress(OSError):
            times[name] = used_file(name).stat().st_mtime
    return sorted(times, key=lambda name: (-times[name], name))
