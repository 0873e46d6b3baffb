"""Free space on file systems."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class FreeSpace(NamedTuple):
    """What the user may still write to a file system: bytes, and inodes unless they are unlimited (None)."""

    size: int
    inodes: int | None


def free_space(directory: Path) -> FreeSpace:
    """Return the free space of the file system that holds the directory. May raise OSError."""
    status = os.statvfs(directory)
    return FreeSpace(status.f_bavail * status.f_frsize, status.f_favail if status.f_files else None)
