"""Room on file systems for several snapshots that are restored at once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from snapper.errors import InsufficientSpace
from snapper.format.model import Layer
from snapper.fs.space import free_space

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

    def reserve(self, directory: Path, layers: Iterable[Layer]) -> None:
        """Promises room for these layers below the directory, which is there; raises InsufficientSpace where it is
        short.
        """
        size = files = 0
        for layer in layers:
            size, files = size + layer.diff_size, files + layer.members
        available = free_space(directory)
        promised = self._promised.setdefault(os.stat(directory).st_dev, _Promised())
        needed = size + files * _OVERHEAD
        free = max(available.size - promised.size, 0)
        if needed > free:
            raise InsufficientSpace(str(directory), needed, free)
        if available.inodes is not None:
            inodes = max(available.inodes - promised.files, 0)
            if files > inodes:
                raise InsufficientSpace(str(directory), files, inodes, "inodes")
        promised.size += needed
        promised.files += files
