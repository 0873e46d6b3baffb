"""Modification times, in nanoseconds: which of them layers hold, and what restored files get.

Files that are created when a package is installed have other times in each installation. In layers, they have one time,
so that equal files are equal everywhere: 1980-01-01 UTC. That is still 1979 west of Greenwich, and zip archives hold
local times from 1980 on, so restored files get the day after.
"""

from __future__ import annotations

from typing import Final

NANOSECONDS: Final = 1_000_000_000

#: The latest time that a layer can hold, in 2242: the largest number of seconds that fits in a header of ustar.
LATEST: Final = (8**11 - 1) * NANOSECONDS

#: The time in layers of files that are created when a package is installed, in seconds.
LINK_TIME: Final = 315_532_800

#: What restored files have in place of LINK_TIME: it is in 1980 in every time zone.
RESTORED_LINK_TIME: Final = LINK_TIME + 24 * 60 * 60


def clamped(time: int) -> int:
    """Return the nearest time that a layer can hold."""
    return time if 0 <= time <= LATEST else (LATEST if time > 0 else 0)


def stored_time(time: int) -> int:
    """Return the time that a layer has for a file with this time on disk."""
    return LINK_TIME * NANOSECONDS if time == RESTORED_LINK_TIME * NANOSECONDS else clamped(time)


def restored_time(time: int) -> int:
    """Return the time on disk for a file with this time in a layer."""
    return RESTORED_LINK_TIME * NANOSECONDS if time == LINK_TIME * NANOSECONDS else time


def is_kept(time: int) -> bool:
    """Return whether a file with this time on disk still has it after it was packed and restored."""
    return 0 <= time <= LATEST and time != LINK_TIME * NANOSECONDS
