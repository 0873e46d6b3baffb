"""A directory that stays the same one while a command works on it, whatever others put at its path."""

from __future__ import annotations

import os
from pathlib import Path


class PinnedDirectory:
    """An open directory, and the path by which it was opened.

    The path is for messages, and for what is written down; what is at the path may change at any time. `status` is that
    of the directory when it was opened. It is closed when nothing refers to it any more.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.status = os.fstat(descriptor)

    def __del__(self) -> None:
        os.close(self.descriptor)

    def __str__(self) -> str:
        return str(self.path)

    def stat(self, path: str, *, follow: bool = True) -> os.stat_result | None:
        """Return the status of what is at a relative path; None if nothing is, or that cannot be known."""
        try:
            return os.stat(path, dir_fd=self.descriptor, follow_symlinks=follow)
        except (OSError, ValueError):
            return None


#: A directory to read from: pinned, or found by its path each time.
Top = str | Path | PinnedDirectory
