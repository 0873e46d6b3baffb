"""The file system in memory: tests keep their files there if there is room, as they mostly wait for a disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

MEMORY = Path("/dev/shm")

#: More than two processes of tests need at any time.
_NEEDED = 8 << 30


def has_room_in_memory() -> bool:
    """Return whether the file system and the memory have room for the tests' files, which include programs."""
    if not os.access(MEMORY, os.W_OK):
        return False
    status = os.statvfs(MEMORY)
    available = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    return (
        not status.f_flag & os.ST_NOEXEC
        and status.f_bavail * status.f_frsize >= _NEEDED
        and available is not None
        and int(available[1]) * 1024 >= _NEEDED
    )
