"""Room on file systems for several snapshots that are restored at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from snapper.errors import NoSpace
from snapper.format.model import Snapshot

#: What a file system takes for each file beside its data, in bytes: half a block, and the directory's entry.
_OVERHEAD = 2304


@dataclass
class _Promised:
    size: int = 0
    files: int = 0


@dataclass
class Space:
    """What has been promised on each file system so far."""

    _promised: dict[int, _Promised] = field(default_factory=dict)

    def reserve(self, directory: Path, snapshot: Snapshot) -> None:
        """Promises room for the snapshot below the directory, which is there; raises NoSpace where it is short."""
        status = os.statvfs(directory)
        promised = self._promised.setdefault(os.stat(directory).st_dev, _Promised())
        needed = snapshot.size + snapshot.files * _OVERHEAD
        free = max(status.f_bavail * status.f_frsize - promised.size, 0)
        if needed > free:
            raise NoSpace(str(directory), needed, free)
        inodes = max(status.f_favail - promised.files, 0)
        if status.f_files and snapshot.files > inodes:
            raise NoSpace(str(directory), snapshot.files, inodes, "inodes")
        promised.size += needed
        promised.files += snapshot.files
