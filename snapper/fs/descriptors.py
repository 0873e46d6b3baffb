"""How many files a process can have open at the same time: often 1024, and 256 on macOS."""

from __future__ import annotations

import os

#: What is taken as the limit if there is none, or a very large one.
_MOST = 1 << 16


def most_descriptors() -> int:
    """Return how many descriptors this process can have."""
    limit = os.sysconf("SC_OPEN_MAX")
    return _MOST if limit < 0 else min(limit, _MOST)


def free_descriptors() -> int:
    """Return how many descriptors this process can open besides those that it has."""
    try:
        used = len(os.listdir("/dev/fd"))
    except OSError:
        used = 0
    return max(most_descriptors() - used, 0)
