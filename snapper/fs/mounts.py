"""Find file systems that are mounted below a directory: their contents are not the directory's own."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

#: One line for each mount (proc(5)). The fifth field is where it is, with spaces and the like as `\040`.
_MOUNTS = Path("/proc/self/mountinfo")

_ESCAPE = re.compile(rb"\\([0-7]{3})")


def mount_points_below(directory: str | Path | int) -> list[str]:
    """Return the paths below a directory, relative to it, at which something is mounted, sorted.

    It is given by its path or a descriptor. Return none where the system does not tell, as on macOS.
    """
    path = f"/proc/self/fd/{directory}" if isinstance(directory, int) else directory
    top = os.fsencode(os.path.realpath(path)).rstrip(b"/") + b"/"
    found = set()
    with suppress(OSError):
        for line in _MOUNTS.read_bytes().splitlines():
            point = _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), line.split(b" ", 5)[4])
            if point.startswith(top):
                found.add(os.fsdecode(point[len(top) :]))
    return sorted(found)
