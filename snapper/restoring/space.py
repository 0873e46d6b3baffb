"""Space on file systems for several snapshots that are restored together."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from snapper.errors import InsufficientSpace
from snapper.format.growth import largest_growth
from snapper.format.member import expected_implied_directories
from snapper.format.model import Layer
from snapper.fs.space import free_space

#: What a directory takes, in bytes: a block.
_DIRECTORY_SIZE = 4096

#: What a file takes besides its data, in bytes: half a block, and its directory entry.
_FILE_OVERHEAD = 2304


@dataclass
class _Reserved:
    size: int = 0
    files: int = 0


@dataclass
class SpaceReservations:
    """What has been reserved so far on each file system, by device number."""

    _reserved: dict[int, _Reserved] = field(default_factory=dict)

    def reserve(self, directory: Path, layers: Iterable[Layer], prefix: str) -> None:
        """Reserve space for unpacking the layers below an existing directory, relocated to the prefix.

        Raise InsufficientSpace.
        """
        size = files = 0
        for layer in layers:
            size += layer.diff_size + largest_growth(layer, prefix)
            files += layer.members
        free = free_space(directory)
        reserved = self._reserved.setdefault(os.stat(directory).st_dev, _Reserved())
        needed = size + files * _FILE_OVERHEAD + expected_implied_directories(files) * _DIRECTORY_SIZE
        available = max(free.size - reserved.size, 0)
        if needed > available:
            raise InsufficientSpace(str(directory), needed, available)
        if free.inodes is not None:
            inodes = max(free.inodes - reserved.files, 0)
            if files > inodes:
                raise InsufficientSpace(str(directory), files, inodes, "inodes")
        reserved.size += needed
        reserved.files += files
